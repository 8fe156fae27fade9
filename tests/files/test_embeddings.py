"""Embeddings out: complete or not at all."""

import resource

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open
from support.common import TEXTS

from moee_hf.files.embeddings import EmbeddingWriter, check_output


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.uint8])
@pytest.mark.parametrize("suffix", [".npy", ".parquet", ".safetensors"])
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


@pytest.fixture
def full_disk():
    """The limit of a file's size stands in for it; the header alone is under it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    writer = EmbeddingWriter(str(tmp_path / "vectors.npy"), {})
    with pytest.raises(OSError, match=r"\[Errno 27\] File too large"), writer:
        writer.write(["a"] * 900, np.zeros((900, 2), np.float32))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".npy", ".parquet", ".safetensors"])
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
    with pytest.raises(ValueError, match=r"expected a file ending in .npy, .parquet, .safetensors; got '.txt'"):
        check_output(str(tmp_path / "a.txt"))
    with pytest.raises(OSError, match=r"expected a folder to write to; .*nowhere' is not there"):
        check_output(str(tmp_path / "nowhere" / "a.npy"))
    with pytest.raises(ValueError, match=r"expected a file ending in"):
        EmbeddingWriter(str(tmp_path / "a.txt"), {})
