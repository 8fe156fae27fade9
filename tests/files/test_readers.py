"""Files of any format, whole and in parts, on this machine and at addresses."""

import gzip
import json

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moee_hf.files import readers
from moee_hf.files.locations import find_files
from moee_hf.files.readers import measure
from moee_hf.files.rows import Request, Span
from moee_hf.files.texts import TextFile

LINES = ["first", "  ", "naïve café", 'say "it"', "", "日本語 and more", "x" * 50, "the\u2028last"]


def contents():
    """A file of each format with these texts, and what messages call its rows."""
    objects = [json.dumps({"text": line, "id": number}, ensure_ascii=False) for number, line in enumerate(LINES)]
    quoted = [f'{number},"{line}\n{number}"' for number, line in enumerate(LINES[:3])]
    table = pa.table({"text": LINES, "id": range(len(LINES))})
    parquet = pa.BufferOutputStream()
    pq.write_table(table, parquet, row_group_size=3)
    jsonl = "\n\n".join(objects)  # every other line is blank
    return {
        "a.txt": "\ufeff" + "\n".join(LINES),
        "b.txt": "\r\n".join(LINES) + "\r\n",
        "a.jsonl": jsonl,
        "b.jsonl": "".join(f"{line}\n" for line in objects),
        "a.jsonl.gz": gzip.compress(jsonl.encode()),
        "a.json": f"[{', '.join(objects)}]",
        "a.csv": "id,text\n" + "\n".join(quoted),
        "a.parquet": parquet.getvalue().to_pybytes(),
    }


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def rows(source, span=None):
    keep = ("id",) if ".txt" not in source else ()
    file = TextFile(source, keep=keep, keep_empty=True, span=span)
    return [(row.where, row.text, str(row.kept) if isinstance(row.kept, dict) else row.kept[1]) for row in file.rows()]


@pytest.mark.parametrize("name", contents())
@pytest.mark.parametrize("piece", [5, 1 << 20])
def test_parts_of_a_file_are_all_of_it(tmp_path, name, piece, monkeypatch):
    monkeypatch.setattr(readers, "PIECE", piece)
    source = write(tmp_path, name, contents()[name])
    whole = [(where, text) for where, text, _ in rows(source)]
    texts = [f"{line}\n{number}" for number, line in enumerate(LINES[:3])] if name == "a.csv" else LINES
    assert [text for _, text in whole] == texts
    for size in (1, 2, 3, 5, 100):
        extent, _ = measure(Request(source), size)
        spans = extent.spans(size)
        assert len(spans) == -(-extent.rows // size)
        parts = [rows(source, span) for span in spans]
        assert [row[:2] for part in parts for row in part] == whole
        assert max(map(len, parts)) <= size
        assert [span.start for span in spans] == [span.stop for span in [Span(stop=0), *spans[:-1]]]


@pytest.mark.parametrize("name", contents())
def test_files_at_an_address_are_those_on_the_disk(tmp_path, name):
    content = contents()[name]
    address = f"memory://texts/{name}"
    fsspec.filesystem("memory").pipe(f"/texts/{name}", content if isinstance(content, bytes) else content.encode())
    source = write(tmp_path, name, content)
    assert rows(address) == rows(source)
    (here, _), (there, _) = (measure(Request(place), 2) for place in (source, address))
    assert here == there
    assert rows(address, there.spans(2)[1]) == rows(source, here.spans(2)[1])


def test_an_empty_file_has_one_part_without_texts(tmp_path):
    for name, content in {"a.txt": "", "a.jsonl": "\n", "a.csv": "text\n", "a.json": "[]"}.items():
        source = write(tmp_path, name, content)
        (span,) = measure(Request(source), 10)[0].spans(10)
        assert list(TextFile(source, span=span).rows()) == []


def test_errors_in_a_part_name_the_line_of_the_file(tmp_path):
    source = write(tmp_path, "a.jsonl", '{"text": "a"}\n' * 5 + "no json\n")
    span = measure(Request(source), 4)[0].spans(4)[1]
    with pytest.raises(ValueError, match=r"a.jsonl, line 6: expected a JSON object"):
        list(TextFile(source, span=span).rows())


def test_columns_are_found_with_their_types(tmp_path):
    source = write(tmp_path, "a.jsonl", '{"text": "a", "id": 1}\n{"text": "b", "id": 2.5, "x": null}\n')
    assert measure(Request(source, keep=("*",)), 1)[1] == pa.schema([("id", pa.float64()), ("x", pa.null())])
    source = write(tmp_path, "a.parquet", contents()["a.parquet"])
    assert measure(Request(source, keep=("id",)), 1)[1] == pa.schema([("id", pa.int64())])


@pytest.mark.parametrize("remote", [False, True])
def test_folders_and_patterns(tmp_path, remote):
    names = ["b.txt", "a.txt", "sub/c.jsonl", ".hidden/d.txt", "sub/.e.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    base = str(tmp_path)
    if remote:
        base = "memory://found"
        for name in names:
            fsspec.filesystem("memory").pipe(f"/found/{name}", name.encode())

    def found(location):
        files = find_files(location)
        sizes = {name.rpartition("/")[2]: len(name) for name in names}  # each file holds its name
        assert all(file.size == sizes[file.name.rpartition("/")[2]] for file in files)
        return [file.name for file in files]

    assert found(base) == found(f"{base}/") == ["a.txt", "b.txt", "sub/c.jsonl"]
    assert found(f"{base}/*.txt") == ["a.txt", "b.txt"]
    assert found(f"{base}/**/*.jsonl") == ["sub/c.jsonl"]
    assert found(f"{base}/sub/*") == ["c.jsonl"]
    assert found(f"{base}/a.txt") == ["a.txt"]
    assert found(f"{base}/sub/.e.txt") == [".e.txt"]
    for nothing in (f"{base}/nothing", f"{base}/*.parquet"):
        with pytest.raises(FileNotFoundError, match="expected a file"):
            find_files(nothing)


@pytest.mark.parametrize(
    ("location", "error", "message"),
    [
        ("nothing://a/b.txt", ValueError, "nothing://a/b.txt: expected an address that fsspec knows"),
        (
            "memory://nowhere/b.txt",
            FileNotFoundError,
            "memory://nowhere/b.txt: expected a file or folder; there is none",
        ),
    ],
)
def test_addresses_that_cannot_be_used(location, error, message):
    for use in (find_files, lambda location: list(TextFile(location).rows())):
        with pytest.raises(error, match=message):
            use(location)
