"""Texts in: formats, and what is wrong with a file."""

import io
import json
import os
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.common import TEXTS

from moee_hf.files.texts import check_input, read_texts

LINES = [text for text in TEXTS if "\n" not in text]


def write(path, texts):
    match path.suffix:
        case ".txt":
            path.write_text("\n".join(texts) + "\n", encoding="utf-8")
        case ".jsonl":
            path.write_text("\n".join(json.dumps({"id": 1, "text": text}) for text in texts), encoding="utf-8")
        case ".csv":
            rows = ['"{}"'.format(text.replace('"', '""')) for text in texts]
            path.write_text("id,text\n" + "\n".join(f"1,{row}" for row in rows), encoding="utf-8-sig")
        case ".parquet":
            pq.write_table(pa.table({"id": [1] * len(texts), "text": texts}), path)


@pytest.mark.parametrize(
    ("suffix", "texts"), [(".txt", LINES), (".jsonl", TEXTS), (".csv", TEXTS), (".parquet", TEXTS)]
)
def test_texts_arrive_as_they_were_written(tmp_path, suffix, texts):
    path = tmp_path / f"texts{suffix}"
    write(path, texts)
    assert read_texts(str(path)) == texts


def test_standard_input(monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO("\r\n".join(LINES).encode("utf-8-sig")), encoding="latin-1", newline="")
    monkeypatch.setattr(sys, "stdin", stdin)
    assert read_texts("-") == LINES


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "one\n\nthree\n", r"a.txt, line 2: expected a text; got ''. Leave the row out."),
        ("a.jsonl", '{"text": "x"}\n{"body": "y"}\n', "a.jsonl, line 2: expected an object with the field 'text'"),
        ("a.jsonl", '{"text": "x"}\nnot json\n', "a.jsonl, line 2: expected a JSON object; got 'not json'"),
        ("a.jsonl", '{"text": 7}\n', "a.jsonl, line 1: expected a text; got 7"),
        (
            "a.csv",
            "id,body\n1,x\n",
            "a.csv: expected one column 'text'; got 'id', 'body'. Name the column with texts by the argument column",
        ),
        ("a.csv", "id,text\n1,a,b\n", "a.csv, line 2: expected 2 fields; got more. Quote texts that hold a comma"),
        ("a.csv", "text,text\n1,a\n", "a.csv: expected one column 'text'; got 'text', 'text'"),
        ("a.csv", "", "a.csv: expected one column 'text'; got none"),
        ("a.csv", "id,text\n1,\n", "a.csv, line 2: expected a text; got ''"),
        ("a.csv", "id,text\n1\n", "a.csv, line 2: expected a text; got None"),
        ("a.txt", "", "a.txt: expected texts; got none"),
        ("a.md", "text", "a.md: expected a file ending in .txt, .jsonl, .csv, .parquet; got '.md'"),
    ],
)
def test_bad_input_names_file_and_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_texts(str(tmp_path / name))


def test_long_fields_and_upper_case_suffixes(tmp_path):
    write(tmp_path / "a.csv", ["word " * 50_000])
    (tmp_path / "a.csv").rename(tmp_path / "A.CSV")
    assert read_texts(str(tmp_path / "A.CSV")) == ["word " * 50_000]


def test_other_encodings_are_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a.txt: expected UTF-8"):
        read_texts(str(tmp_path / "a.txt"))


def test_parquet_without_the_column(tmp_path):
    write(tmp_path / "a.parquet", TEXTS)
    with pytest.raises(ValueError, match="expected one column 'body'; got 'id', 'text'"):
        read_texts(str(tmp_path / "a.parquet"), "body")


def test_all_of_a_file_is_checked_before_the_work(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n' * 5000 + '{"text": ""}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 5001: expected a text; got ''"):
        check_input(str(tmp_path / "a.jsonl"))


def test_what_can_be_read_once_is_not_read_to_check_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    check_input("-")
    os.mkfifo(tmp_path / "pipe.txt")
    check_input(str(tmp_path / "pipe.txt"))
