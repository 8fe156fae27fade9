"""Embeddings out: complete or not at all."""

import json
import multiprocessing
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open
from support.common import TEXTS

from moee_hf.files.columns import kept_columns
from moee_hf.files.embeddings import EmbeddingWriter, check_columns, check_output
from moee_hf.files.partial import remove_leftovers
from moee_hf.files.texts import TextFile

SUFFIXES = [".npy", ".parquet", ".safetensors", ".jsonl"]


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.uint8])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_embeddings_come_back_as_they_were(tmp_path, suffix, dtype):
    path = tmp_path / f"vectors{suffix}"
    numbers = np.random.default_rng(0).uniform(-128, 127, size=(len(TEXTS), 5))
    embeddings = (numbers if dtype == np.float32 else numbers.round() % 256).astype(dtype)
    check_output(str(path))
    with EmbeddingWriter(str(path), {"model": "m"}) as writer:
        writer.write(TEXTS[:3], embeddings[:3])
        writer.write(TEXTS[3:], embeddings[3:])
    assert (writer.count, writer.width) == (len(TEXTS), 5)
    match suffix:
        case ".npy":
            read = np.load(path)
        case ".safetensors":
            with safe_open(path, "np") as file:
                read, metadata = file.get_tensor("embeddings"), file.metadata()
            assert metadata == {"model": "m"}
        case ".parquet":
            table = pq.read_table(path)
            assert table.column("text").to_pylist() == TEXTS
            assert table.schema.field("embedding").type == pa.list_(pa.from_numpy_dtype(dtype), 5)
            assert table.schema.metadata == {b"model": b"m"}
            read = np.stack(table.column("embedding").to_numpy())
        case ".jsonl":
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            assert [row["text"] for row in rows] == TEXTS
            read = np.array([row["embedding"] for row in rows]).astype(dtype)
    assert read.dtype == dtype
    assert np.array_equal(read, embeddings)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("second", [np.zeros((1, 3), np.float32), np.zeros((1, 2), np.int8)], ids=["width", "type"])
def test_chunks_that_do_not_fit_together_are_refused(tmp_path, second):
    with EmbeddingWriter(str(tmp_path / "vectors.npy"), {}) as writer:
        writer.write(["a"], np.zeros((1, 2), np.float32))
        with pytest.raises(ValueError, match="expected float32 of width 2, as the first chunk; got"):
            writer.write(["a"], second)


def test_other_types_are_refused(tmp_path):
    writer = EmbeddingWriter(str(tmp_path / "vectors.npy"), {})
    with pytest.raises(ValueError, match="expected float32, int8 or uint8; got float64"), writer:
        writer.write(["a"], np.zeros((1, 2)))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, suffix):
    writer, numbers = EmbeddingWriter(str(tmp_path / f"vectors{suffix}"), {}), np.random.default_rng(0)
    with pytest.raises(OSError, match=f"vectors{suffix}: expected a place .*; got: .*too large"), writer:
        writer.write(["a"] * 900, numbers.random((900, 9), np.float32))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failed_write_leaves_what_was_there(tmp_path, suffix):
    def write_and_fail():
        with EmbeddingWriter(str(path), {"model": "m"}) as writer:
            writer.write(TEXTS[:1], np.zeros((1, 2), np.float32))
            raise ValueError("no more")

    path = tmp_path / f"vectors{suffix}"
    path.write_text("before")
    with pytest.raises(ValueError, match="no more"):
        write_and_fail()
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_no_embeddings_are_no_file(tmp_path):
    writer = EmbeddingWriter(str(tmp_path / "vectors.npy"), {})
    with pytest.raises(ValueError, match=r"vectors\.npy: expected embeddings to write; got none"), writer:
        pass
    assert list(tmp_path.iterdir()) == []


def test_bad_output_is_refused_before_the_work(tmp_path):
    with pytest.raises(ValueError, match=r".npy, .parquet, .safetensors, .jsonl; got '.txt'"):
        check_output(str(tmp_path / "a.txt"))
    with pytest.raises(OSError, match=r"expected a folder to write to; .*nowhere' is none, or not there"):
        check_output(str(tmp_path / "nowhere" / "a.npy"))
    with pytest.raises(ValueError, match=r"expected a file ending in"):
        EmbeddingWriter(str(tmp_path / "a.txt"), {})


def test_an_output_that_is_the_input_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.parquet").write_text("before")
    (tmp_path / "link.parquet").symlink_to("x.parquet")
    (tmp_path / "hard.jsonl").hardlink_to("x.parquet")
    for output in ("x.parquet", "./x.parquet", str(tmp_path / "x.parquet"), "link.parquet", "hard.jsonl"):
        with pytest.raises(ValueError, match="expected another file than the one with the texts; got the same"):
            check_output(output, "x.parquet")
    check_output("y.parquet", "x.parquet")


def test_what_is_no_file_is_no_output(tmp_path):
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(OSError, match="there is a device or a pipe of this name"):
        check_output(str(tmp_path / "pipe.npy"))
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(IsADirectoryError, match="there is a folder of this name"):
        check_output(str(tmp_path / "folder.npy"))
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"/proc/a.npy: expected a place that takes the file; got: "):
        check_output("/proc/a.npy")
    with pytest.raises(ValueError, match="output: expected the name of a file; got an empty one"):
        check_output("")
    with pytest.raises(OSError, match="expected a folder to write to"):
        check_output(str(tmp_path / "file" / "a.npy"))


def test_a_link_leads_to_the_file_that_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link.npy").symlink_to("there/vectors.npy")
    with EmbeddingWriter(str(tmp_path / "link.npy"), {}) as writer:
        writer.write(["a"], np.ones((1, 2), np.float32))
    assert (tmp_path / "link.npy").is_symlink()
    assert np.load(tmp_path / "there" / "vectors.npy").shape == (1, 2)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_of_two_writers_at_once_the_last_leaves_its_file(tmp_path, suffix):
    path = tmp_path / f"{'v' * 200}{suffix}"
    alone = tmp_path / f"alone{suffix}"
    chunks = np.random.default_rng(0).random((2, 3, 50, 4), np.float32)
    with EmbeddingWriter(str(path), {}) as second:
        with EmbeddingWriter(str(path), {}) as first:
            for pair in zip(*chunks, strict=True):
                for writer, chunk in zip((first, second), pair, strict=True):
                    writer.write(["a"] * 50, chunk)
        assert path.exists()
    with EmbeddingWriter(str(alone), {}) as writer:
        for chunk in chunks[1]:
            writer.write(["a"] * 50, chunk)
    assert path.read_bytes() == alone.read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {path.name, alone.name}


def _stop_while_writing(path):
    writer = EmbeddingWriter(path, {}).__enter__()
    writer.write(["a"], np.ones((1, 2), np.float32))
    os._exit(9)  # as if killed


def test_what_a_killed_process_leaves_is_removed_and_nothing_else(tmp_path):
    path = tmp_path / "vec*[1].npy"
    process = multiprocessing.get_context("fork").Process(target=_stop_while_writing, args=[str(path)])
    process.start()
    process.join()
    (left,) = tmp_path.iterdir()
    (tmp_path / ".vec*[1].npy.partial").touch()
    (tmp_path / "other.npy").touch()
    with EmbeddingWriter(str(path), {}) as writer:
        writer.write(["a"], np.ones((1, 2), np.float32))
        # one of a process that runs: the parent of this one
        running = left.with_name(left.name.replace(f"{process.pid}-", f"{os.getppid()}-"))
        running.touch()
        assert remove_leftovers(path) == [left]
        assert remove_leftovers(tmp_path / "other.npy") == []
    assert {p.name for p in tmp_path.iterdir()} == {path.name, ".vec*[1].npy.partial", "other.npy", running.name}


def test_parquet_is_packed_for_vectors(tmp_path):
    """Smaller than the numbers themselves, and than what PyArrow makes of them by itself."""
    vectors = np.random.default_rng(0).standard_normal((2000, 64)).astype(np.float32)
    with EmbeddingWriter(str(tmp_path / "a.parquet"), {}) as writer:
        writer.write(["text"] * 2000, vectors)
    array = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 64)
    pq.write_table(pa.table({"text": ["text"] * 2000, "embedding": array}), tmp_path / "b.parquet")
    size = (tmp_path / "a.parquet").stat().st_size
    assert size < 0.95 * vectors.nbytes
    assert size < 0.7 * (tmp_path / "b.parquet").stat().st_size
    metadata = pq.read_metadata(tmp_path / "a.parquet").row_group(0)
    columns = {metadata.column(i).path_in_schema: metadata.column(i) for i in range(metadata.num_columns)}
    assert "BYTE_STREAM_SPLIT" in columns["embedding.list.element"].encodings
    assert all(column.compression == "ZSTD" and not column.has_dictionary_page for column in columns.values())


COLUMNS = {
    "id": pa.array([3, None, 1, 2, 5, 4, 7]),
    "when": pa.array([1, 2, 3, None, 5, 6, 7], pa.timestamp("ns", "UTC")),
    "kind": pa.array(["a", "b", "a", None, "a", "b", "b"]).dictionary_encode(),
    "tags": pa.array([["x"], [], None, ["y", None], ["z"], ["x"], None]),
    "price": pa.array([1, 2, 3, 4, 5, 6, 7]).cast(pa.decimal128(21, 2)),
}


@pytest.mark.parametrize("keep", [("*",), ("when", "id")])
def test_kept_columns_are_those_of_the_input(tmp_path, monkeypatch, keep):
    """In a file of several batches, with an empty text and a chunk that ends inside of a batch."""
    monkeypatch.setattr("moee_hf.files.parquet.ROWS", 3)
    texts = [*TEXTS]
    texts[4] = ""
    table = pa.table(COLUMNS | {"body": texts})
    pq.write_table(table, tmp_path / "in.parquet")
    file = TextFile(str(tmp_path / "in.parquet"), "body", keep=keep)
    file.check()
    rows = list(file.rows())
    with EmbeddingWriter(str(tmp_path / "out.parquet"), {"model": "m"}) as writer:
        for part in (rows[:2], rows[2:]):
            vectors = np.ones((len(part), 2), np.float32)
            writer.write([row.text for row in part], vectors, kept_columns(part, file.kept))
    got = pq.read_table(tmp_path / "out.parquet")
    names = list(COLUMNS) if keep == ("*",) else list(keep)
    assert got.column_names == ["text", *names, "embedding"]
    expected = table.take([0, 1, 2, 3, 5, 6])
    assert got.column("text").to_pylist() == expected.column("body").to_pylist()
    assert got.select(names).equals(expected.select(names))


@pytest.mark.parametrize(
    ("name", "content", "keep", "expected"),
    [
        ("a.csv", "id,text,n\n01,a,1\n02,b,\n", ("n", "id"), {"n": ["1", ""], "id": ["01", "02"]}),
        (
            "a.jsonl",
            '{"text": "a", "n": 1, "m": null}\n{"id": "x", "text": "b", "n": 2.5, "m": {"k": [1]}}\n',
            ("*",),
            {"n": [1.0, 2.5], "m": [None, {"k": [1]}], "id": [None, "x"]},
        ),
        ("a.json", '[{"text": "a", "n": true}, {"text": "b"}]', ("n",), {"n": [True, None]}),
    ],
)
def test_kept_fields_have_the_types_of_all_rows(tmp_path, monkeypatch, name, content, keep, expected):
    monkeypatch.setattr("moee_hf.files.columns.ROWS", 1)
    (tmp_path / name).write_text(content)
    file = TextFile(str(tmp_path / name), keep=keep)
    file.check()
    rows = list(file.rows())
    for output in ("out.parquet", "out.jsonl"):
        with EmbeddingWriter(str(tmp_path / output), {}) as writer:
            for row in rows:  # alone, each has a type of its own
                writer.write(None, np.ones((1, 2), np.float32), kept_columns([row], file.kept))
    assert pq.read_table(tmp_path / "out.parquet").drop_columns("embedding").to_pydict() == expected
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {key: [line[key] for line in lines] for key in lines[0]} == expected | {"embedding": [[1, 1]] * 2}


@pytest.mark.parametrize(
    ("content", "keep", "message"),
    [
        ('{"text": "a", "n": 1}\n{"text": "b", "n": "x"}\n', ("n",), "a.jsonl, line 2 to line 2: .* one type in 'n'"),
        ('{"text": "a", "n": 100000000000000000000}', ("*",), "a.jsonl, line 1 to line 1: .* one type in 'n'"),
        ('{"text": "a", "n": "\\ud800"}', ("n",), "a.jsonl, line 1 to line 1: .* in 'n'"),
        ('{"text": "a", "n": {}}', ("n",), "a.jsonl: expected columns to keep that Parquet can hold"),
        ('{"text": "a", "n": 1}', ("id", "n"), "a.jsonl: expected a field 'id' to keep; no row has it"),
    ],
)
def test_columns_that_cannot_be_kept_are_said_before_the_work(tmp_path, monkeypatch, content, keep, message):
    monkeypatch.setattr("moee_hf.files.columns.ROWS", 1)
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(ValueError, match=message):
        TextFile(str(tmp_path / "a.jsonl"), keep=keep).check()


def test_columns_that_have_no_place_are_refused():
    columns = pa.schema([("id", pa.int64())])
    check_columns("a.parquet", columns, with_text=True)
    for output in ("a.npy", "a.safetensors"):
        with pytest.raises(ValueError, match=r"keep: expected an output in .parquet or .jsonl"):
            check_columns(output, columns, with_text=True)
        with pytest.raises(ValueError, match=r"no_text: expected an output in .parquet or .jsonl"):
            check_columns(output, None, with_text=False)
    for name in ("embedding", "text"):
        with pytest.raises(ValueError, match=f"keep: expected other columns than '{name}'"):
            check_columns("-", pa.schema([(name, pa.int64())]), with_text=True)
    check_columns("-", pa.schema([("text", pa.int64())]), with_text=False)
