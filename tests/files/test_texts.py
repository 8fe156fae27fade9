"""Texts in: formats, and what is wrong with a file."""

import codecs
import gzip
import io
import json
import os
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.common import TEXTS

from moee_hf.files import json_rows
from moee_hf.files.texts import TextFile, read_fields, read_texts

LINES = [text for text in TEXTS if "\n" not in text]


def in_csv(texts, delimiter=","):
    rows = ['"{}"'.format(text.replace('"', '""')) for text in texts]
    return f"id{delimiter}text\n" + "".join(f"1{delimiter}{row}\n" for row in rows)


WRITTEN = {
    ".txt": lambda texts: "\n".join(texts) + "\n",
    ".jsonl": lambda texts: "\n".join(json.dumps({"id": 1, "text": text}) for text in texts),
    ".json": lambda texts: json.dumps([{"id": {"a": [1, "]"]}, "text": text} for text in texts], indent=1),
    ".csv": in_csv,
    ".tsv": lambda texts: in_csv(texts, "\t"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("suffix", WRITTEN)
def test_texts_arrive_as_they_were_written(tmp_path, monkeypatch, suffix, packed):
    monkeypatch.setattr(json_rows, "PIECE", 7)  # every element is in many pieces
    texts = LINES if suffix == ".txt" else TEXTS
    path = tmp_path / f"texts{suffix}{'.gz' if packed else ''}"
    content = codecs.BOM_UTF8 + WRITTEN[suffix](texts).encode()
    path.write_bytes(gzip.compress(content) if packed else content)
    assert read_texts(str(path)) == texts


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_parquet(tmp_path, kind):
    table = pa.table({"text": [1] * len(TEXTS), "body": pa.array(TEXTS).cast(kind)})
    pq.write_table(table, tmp_path / "a.parquet")
    assert read_texts(str(tmp_path / "a.parquet"), "body") == TEXTS


def test_arrays_of_strings(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(TEXTS))
    assert read_texts(str(tmp_path / "a.json")) == TEXTS


def test_other_delimiters(tmp_path):
    (tmp_path / "a.csv").write_text(in_csv(TEXTS, ";"), encoding="utf-8")
    assert [row.text for row in TextFile(str(tmp_path / "a.csv"), delimiter=";").rows()] == TEXTS


def test_standard_input(monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO("\r\n".join(LINES).encode("utf-8-sig")), encoding="latin-1", newline="")
    monkeypatch.setattr(sys, "stdin", stdin)
    assert read_texts("-") == LINES


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "one\n\n \t\ntwo\n\n"),
        ("a.jsonl", '{"text": "one"}\n\n{"text": ""}\n{"text": " "}\n{"text": "two"}\n{"text": null}\n  \n'),
        ("a.json", '["one", "", " \\t", "two", null]'),
        ("a.csv", 'id,text\n1,one\n2,\n\n3," "\n4,two\n5,""\n\n'),
        ("a.parquet", ["one", "", " ", "two", None]),
    ],
)
def test_empty_texts_are_skipped_and_counted_or_kept_in_their_places(tmp_path, name, content):
    path = tmp_path / name
    if isinstance(content, str):
        path.write_text(content)
    else:
        pq.write_table(pa.table({"text": content}), path)
    file = TextFile(str(path))
    file.check()
    assert (file.count, file.skipped, file.first_empty) == (2, 3, None)
    assert [row.text for row in file.rows()] == ["one", "two"]
    file = TextFile(str(path), keep_empty=True)
    file.check()
    assert (file.count, file.skipped) == (5, 0)
    assert file.first_empty.split()[1] in {"a.csv": "3", "a.jsonl": "3"}.get(name, "2")
    assert [row.text.strip() for row in file.rows()] == ["one", "", "", "two", ""]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "x"}\n{"body": "y"}\n', "a.jsonl, line 2: expected an object with the field 'text'"),
        ("a.jsonl", '{"text": "x"}\nnot json\n', "a.jsonl, line 2: expected a JSON object; got 'not json'"),
        (
            "a.jsonl",
            '[{"text": "x"},\n{"text": "y"}]',
            "a.jsonl, line 1: .* A file that is one array must end in .json",
        ),
        ("a.jsonl", '["a", "b"]\n', "a.jsonl, line 1: expected an object with the field 'text'; got "),
        ("a.jsonl", '{"text": 7}\n', "a.jsonl, line 1: expected a text; got 7"),
        (
            "a.jsonl",
            '{"text": "x"}\n{"text": "\\ud800"}\n',
            "a.jsonl, line 2: expected valid Unicode; got half a char",
        ),
        ("a.json", '{"text": "x"}', r"a.json, line 1: expected an array.*object a line must end in .jsonl"),
        ("a.json", '["a",\n 7]', r"a.json, element 2 \(line 2\): expected an object with the field 'text'; got 7"),
        ("a.json", '["a",\n "b"', "a.json, line 2: expected ',' or '].* got 'the end of the file'"),
        ("a.json", '["a",\n "b', "a.json, line 2: expected JSON; got '\"b'"),
        ("a.json", '["a"]\n["b"]', r"a.json, line 2: expected nothing behind the array; got '\['"),
        ("a.json", "[]", "a.json: expected texts; got none"),
        ("a.csv", "id,body\n1,x\n", "a.csv: expected one column 'text'; got 'id', 'body'. Name the column with texts"),
        (
            "a.csv",
            "A text\nAnother\n",
            "a.csv: expected one column 'text'; got 'A text'.*The first line has the names",
        ),
        ("a.csv", "id,text\n1,a,b\n", "a.csv, line 2: expected 2 fields; got 3. Quote texts that hold a comma"),
        ("a.csv", "id,text\n1\n", "a.csv, line 2: expected 2 fields; got 1"),
        ("a.csv", "text,text\n1,a\n", "a.csv: expected one column 'text'; got 'text', 'text'"),
        ("a.csv", "", "a.csv: expected one column 'text'; got none"),
        ("a.csv", "id;text\n1;a\n", "a.csv: expected fields separated by ','; .*delimiter: --delimiter ';'"),
        ("a.csv", "id\ttext\n1\ta\n", r"a.csv: expected fields separated by ','; .* --delimiter '\\t'"),
        ("a.tsv", "id,text\n1,a\n", r"a.tsv: expected fields separated by '\\t'; .* --delimiter ','"),
        ("a.csv", "id;name\n1;a\n", "a.csv: expected fields separated by ','; .* --delimiter ';'"),
        (
            "a.csv",
            'text\n"a\nb"\nc\n"an inch\n' + "d\n" * 500,
            "a.csv, line 5: expected a quotation mark .* to be closed",
        ),
        (
            "a.csv",
            'id,text\n"a\nb","c\n' + "1,d\n" * 2000 + '"',
            "a.csv, line 3: expected a quotation mark .* to be closed",
        ),
        ("a.csv", 'text\n"a\n' + "b\n" * 9 + '"c\n', "a.csv, line 2: expected a quotation mark .* to be closed"),
        ("a.csv", 'text\n"a ""b""\nc\n', "a.csv, line 2: expected a quotation mark .* to be closed"),
        ("a.txt", "", "a.txt: expected texts; got none"),
        ("a.txt", "\n \n", "a.txt: expected texts; got 2 empty ones"),
        ("a.txt", "a\nb\0c\n", "a.txt, line 2: expected text; got a NUL byte"),
        ("a.json", '["a",\n"b\0"]', "a.json, line 2: expected text; got a NUL byte"),
        ("a.csv", "text\na\nb\0\n", "a.csv, line 3: expected text; got a NUL byte"),
        ("a.txt", b"a\nb\nc caf\xe9\n", "a.txt, line 3: expected UTF-8; got the byte 0xe9"),
        ("a.csv", b'text\n"a\n\xff"\n', "a.csv, line 3: expected UTF-8; got the byte 0xff"),
        ("a.txt", "text".encode("utf-16"), "a.txt, line 1: expected UTF-8; got the byte 0xff"),
        (
            "a.txt.gz",
            gzip.compress(b"a\n" * 9, mtime=0)[:-9],
            r"a.txt.gz, line \d+: expected a file packed by gzip; got a damaged",
        ),
        ("a.txt.gz", b"a\nb\n", "a.txt.gz, line 1: expected a file packed by gzip"),
        ("a.parquet", "text", "a.parquet: expected a Parquet file; got a damaged one"),
        ("a.md", "text", "a.md: expected a file ending in .txt, .jsonl, .json, .csv, .tsv, .parquet; got '.md'"),
    ],
)
def test_bad_input_names_file_and_line(tmp_path, name, content, message):
    """Also what is at the end of a file, before the work."""
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        read_texts(str(tmp_path / name))
    with pytest.raises(ValueError, match=message):
        TextFile(str(tmp_path / name)).check()


def test_standard_input_that_is_no_text(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ncaf\xe9\n")))
    with pytest.raises(ValueError, match=r"^standard input, line 2: expected UTF-8; got the byte 0xe9"):
        read_texts("-")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ValueError, match="standard input: expected texts; it is closed"):
        read_texts("-")


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("a.txt", {"column": "text"}, "column: expected none of lines of text"),
        ("-", {"column": "body"}, "column: expected none of lines of text"),
        ("a.txt", {"keep": ("id",)}, "keep: expected none of lines of text"),
        ("a.jsonl", {"delimiter": ";"}, "delimiter: expected none but for .csv and .tsv; got ';'"),
        ("a.csv", {"delimiter": ";;"}, "delimiter: expected one character"),
        ("a.csv", {"delimiter": ""}, "delimiter: expected one character"),
        ("pipe.jsonl", {"keep": ("id",)}, "keep: expected a file, which is read twice"),
    ],
)
def test_arguments_without_use_are_refused(tmp_path, monkeypatch, source, options, message):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.jsonl")
    with pytest.raises(ValueError, match=message):
        TextFile(source, **options)


def test_a_column_of_strings_has_no_name(tmp_path):
    (tmp_path / "a.json").write_text('["a"]')
    with pytest.raises(ValueError, match=r"a.json, element 1 \(line 1\): expected an object with the field 'body'"):
        read_texts(str(tmp_path / "a.json"), "body")


def test_a_whole_row_is_no_column(tmp_path):
    """The name of the only column that a header of another delimiter seems to have."""
    (tmp_path / "a.csv").write_text("id;text\n1;a\n")
    with pytest.raises(ValueError, match="--delimiter ';'"):
        read_texts(str(tmp_path / "a.csv"), "id;text")


def test_long_fields_and_upper_case_suffixes(tmp_path):
    text = "word " * 50_000 + '\n"quoted"\n' * 300
    (tmp_path / "A.CSV").write_text(in_csv([text]))
    assert read_texts(str(tmp_path / "A.CSV")) == [text]


def test_parquet_without_the_column_or_strings(tmp_path):
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"id": [1], "text": ["a"]}), path)
    with pytest.raises(ValueError, match="expected one column 'body'; got 'id', 'text'"):
        read_texts(path, "body")
    with pytest.raises(ValueError, match="expected strings in the column 'id'; got int64"):
        read_texts(path, "id")


def test_what_cannot_be_opened_is_said(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OSError, match=r"a.txt: expected a file to read; got: a folder"):
        read_texts(str(tmp_path / "a.txt"))
    for name in ("b.txt", "b.parquet"):
        with pytest.raises(FileNotFoundError, match=rf"{name}: expected a file to read; got: No such file"):
            read_texts(str(tmp_path / name))


def test_what_can_be_read_once_is_not_read_to_check_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    TextFile("-").check()
    os.mkfifo(tmp_path / "pipe.txt")
    TextFile(str(tmp_path / "pipe.txt")).check()


def test_fields_of_a_file_with_blank_lines(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n \n')
    assert read_fields(str(tmp_path / "a.jsonl"), {"a": int}) == {"a": [1, 2]}
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n{"a": "x"}')
    with pytest.raises(ValueError, match=r"a.jsonl, line 3: expected 'a' of type int; got 'x'"):
        read_fields(str(tmp_path / "a.jsonl"), {"a": int})
