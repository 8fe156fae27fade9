"""Embeddings to files, chunk by chunk, so that any number of them takes no memory."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from .parquet import import_pyarrow


def check_output(output: str) -> None:
    """Raise unless embeddings can be written to this file: asked before the work, not after.

    Raises:
        ValueError: If the format is none of `.npy`, `.parquet`, `.safetensors`.
        OSError: If the folder is not there or not writable.
        ImportError: If the format needs a package that is not installed.
    """
    path, suffix = Path(output), Path(output).suffix.lower()
    if suffix not in _FORMATS:
        raise ValueError(f"{output}: expected a file ending in {', '.join(_FORMATS)}; got {suffix!r}.")
    if path.is_dir():
        raise IsADirectoryError(f"{output}: expected a file to write; there is a folder of this name.")
    if not os.access(path.parent, os.W_OK):
        raise OSError(f"{output}: expected a folder to write to; {str(path.parent)!r} is not there or not writable.")
    if suffix == ".parquet":
        import_pyarrow()


class EmbeddingWriter:
    """A context that writes embeddings to a file chunk by chunk; the file is complete, or not there at all.

        with EmbeddingWriter("vectors.npy", {"model": "embedded"}) as writer:
            writer.write(texts, embeddings)

    Until the context ends without an error, a file of this name stays as it was.

    Args:
        output: `.npy` (the array), `.safetensors` (tensor `embeddings`, and the metadata) or `.parquet` (columns
            `text` and `embedding`, a fixed-size list, and the metadata).
        metadata: How the embeddings were made.

    Attributes:
        count: Number of the embeddings so far.
        width: Their width; 0 before the first.

    Raises:
        ValueError: If the format is another, or at the end nothing was written.
        OSError: If the file cannot be written.
    """

    def __init__(self, output: str, metadata: dict[str, str]):
        check_output(output)
        self.count = self.width = 0
        self._metadata = metadata
        self._path = Path(output)
        self._partial = self._path.with_name(f".{self._path.name}.partial")
        self._format: _Format | None = None
        self._dtype: np.dtype[Any] = np.dtype(np.float32)

    def __enter__(self) -> Self:
        return self

    def write(self, texts: Sequence[str], embeddings: np.ndarray) -> None:
        """Add a chunk.

        Args:
            texts: n texts, of which `.parquet` keeps a column.
            embeddings: Float32, int8 or uint8 of shape `(n, embedding_size)`, of the same texts.

        Raises:
            ValueError: If they are of another type, or not of the type and width of the first chunk.
        """
        if self._format is None:
            self.width, self._dtype = embeddings.shape[1], embeddings.dtype
            if self._dtype not in _SAFETENSORS_TYPES:
                raise ValueError(f"embeddings: expected float32, int8 or uint8; got {self._dtype}.")
            options = (self._partial, self.width, self._dtype, self._metadata)
            self._format = _FORMATS[self._path.suffix.lower()](*options)
        if (embeddings.dtype, embeddings.shape[1]) != (self._dtype, self.width):
            raise ValueError(
                f"embeddings: expected {self._dtype} of width {self.width}, as the first chunk; got "
                f"{embeddings.dtype} of width {embeddings.shape[1]}."
            )
        self._format.write(texts, embeddings)
        self.count += len(embeddings)

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        try:
            if self._format is not None:
                self._format.close()
            elif error is None:
                raise ValueError(f"{self._path}: expected embeddings to write; got none.")
            if error is None:
                self._partial.replace(self._path)
        except OSError:
            # after another error, that one is what the caller should see
            if error is None:
                raise
        finally:
            self._partial.unlink(missing_ok=True)


class _Format(Protocol):
    def write(self, texts: Sequence[str], embeddings: np.ndarray) -> None: ...

    def close(self) -> None: ...


class _RawFile:
    """Numbers behind a header that says how many, and is written again at the end, at the same length."""

    def __init__(self, path: Path, header: Callable[[int], bytes]):
        self.header, self.count = header, 0
        self.file = path.open("wb")
        self.file.write(header(0))

    def write(self, texts: Sequence[str], embeddings: np.ndarray) -> None:
        little_endian = embeddings.dtype.newbyteorder("<")
        self.file.write(embeddings.astype(little_endian, copy=False).tobytes())
        self.count += len(embeddings)

    def close(self) -> None:
        with self.file:
            self.file.seek(0)
            self.file.write(self.header(self.count))


def _npy(path: Path, width: int, dtype: np.dtype[Any], metadata: dict[str, str]) -> _RawFile:
    description = np.lib.format.dtype_to_descr(dtype.newbyteorder("<"))

    def header(count: int) -> bytes:
        file = io.BytesIO()  # numpy leaves room for the number of rows to grow
        content = {"descr": description, "fortran_order": False, "shape": (count, width)}
        np.lib.format.write_array_header_1_0(file, content)
        return file.getvalue()

    return _RawFile(path, header)


def _safetensors(path: Path, width: int, dtype: np.dtype[Any], metadata: dict[str, str]) -> _RawFile:
    # https://huggingface.co/docs/safetensors: 8 bytes that count those of a JSON object, which spaces may follow
    def header(count: int) -> bytes:
        end = dtype.itemsize * count * width
        tensor = {"dtype": _SAFETENSORS_TYPES[dtype], "shape": [count, width], "data_offsets": [0, end]}
        return json.dumps({"__metadata__": metadata, "embeddings": tensor}).encode()

    room = -(-len(header(10**15)) // 8) * 8
    return _RawFile(path, lambda count: room.to_bytes(8, "little") + header(count).ljust(room))


class _ParquetFile:
    def __init__(self, path: Path, width: int, dtype: np.dtype[Any], metadata: dict[str, str]):
        self.pa = pa = import_pyarrow()
        embedding = pa.list_(pa.from_numpy_dtype(dtype), width)
        self.schema = pa.schema([("text", pa.large_string()), ("embedding", embedding)], metadata=metadata)
        self.file = pa.parquet.ParquetWriter(path, self.schema)

    def write(self, texts: Sequence[str], embeddings: np.ndarray) -> None:
        vectors = self.pa.FixedSizeListArray.from_arrays(self.pa.array(embeddings.ravel()), embeddings.shape[1])
        self.file.write_table(self.pa.table([self.pa.array(texts, self.pa.large_string()), vectors], self.schema))

    def close(self) -> None:
        self.file.close()


_SAFETENSORS_TYPES = {np.dtype(np.float32): "F32", np.dtype(np.int8): "I8", np.dtype(np.uint8): "U8"}
_FORMATS: dict[str, Callable[[Path, int, np.dtype[Any], dict[str, str]], _Format]] = {
    ".npy": _npy,
    ".parquet": _ParquetFile,
    ".safetensors": _safetensors,
}
