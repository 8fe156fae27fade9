"""Embeddings to files, part by part, so that any number of them takes no memory."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

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
    if suffix not in _WRITERS:
        raise ValueError(f"{output}: expected a file ending in {', '.join(_WRITERS)}; got {suffix!r}.")
    if path.is_dir():
        raise IsADirectoryError(f"{output}: expected a file to write; there is a folder of this name.")
    if not os.access(path.parent, os.W_OK):
        raise OSError(f"{output}: expected a folder to write to; {str(path.parent)!r} is not there or not writable.")
    if suffix == ".parquet":
        import_pyarrow()


def write_embeddings(
    output: str, texts: Iterable[str], parts: Iterable[np.ndarray], metadata: dict[str, str]
) -> tuple[int, int]:
    """Write embeddings, complete or not at all.

    Args:
        output: `.npy` (the array), `.safetensors` (tensor `embeddings`, and the metadata) or `.parquet` (columns
            `text` and `embedding`, a fixed-size list, and the metadata).
        texts: The texts, of which `.parquet` keeps a column; read no further ahead than the embeddings.
        parts: Float32 arrays of shape `(n, embedding_size)`, of the next n texts each; one or more.
        metadata: How the embeddings were made.

    Returns:
        Number and width of the embeddings.

    Raises:
        ValueError: If there are none.
        OSError: If the file cannot be written.
    """
    path, texts, count, width = Path(output), iter(texts), 0, 0
    partial = path.with_name(f".{path.name}.partial")
    writer: _Writer | None = None
    try:
        for part in parts:
            if writer is None:
                width = part.shape[1]
                writer = _WRITERS[path.suffix.lower()](partial, width, metadata)
            writer.write(list(islice(texts, len(part))), part)
            count += len(part)
        if writer is None:
            raise ValueError(f"{output}: expected embeddings to write; got none.")
        open_writer, writer = writer, None
        open_writer.close()
        partial.replace(path)
    finally:
        if writer is not None:
            with contextlib.suppress(OSError):  # what went wrong before is on its way up
                writer.close()
        partial.unlink(missing_ok=True)
    return count, width


class _Writer(Protocol):
    def write(self, texts: list[str], embeddings: np.ndarray) -> None: ...

    def close(self) -> None: ...


class _RawWriter:
    """Float32 numbers behind a header that says how many, and is written again at the end, at the same length."""

    def __init__(self, path: Path, header: Callable[[int], bytes]):
        self.header, self.count = header, 0
        self.file = path.open("wb")
        self.file.write(header(0))

    def write(self, texts: list[str], embeddings: np.ndarray) -> None:
        self.file.write(embeddings.astype("<f4", copy=False).tobytes())
        self.count += len(embeddings)

    def close(self) -> None:
        with self.file:
            self.file.seek(0)
            self.file.write(self.header(self.count))


def _npy(path: Path, width: int, metadata: dict[str, str]) -> _RawWriter:
    def header(count: int) -> bytes:
        file = io.BytesIO()  # numpy leaves room for the number of rows to grow
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (count, width)})
        return file.getvalue()

    return _RawWriter(path, header)


def _safetensors(path: Path, width: int, metadata: dict[str, str]) -> _RawWriter:
    # https://huggingface.co/docs/safetensors: 8 bytes that count those of a JSON object, which spaces may follow
    def header(count: int) -> bytes:
        tensor = {"dtype": "F32", "shape": [count, width], "data_offsets": [0, 4 * count * width]}
        return json.dumps({"__metadata__": metadata, "embeddings": tensor}).encode()

    room = -(-len(header(10**15)) // 8) * 8
    return _RawWriter(path, lambda count: room.to_bytes(8, "little") + header(count).ljust(room))


class _ParquetWriter:
    def __init__(self, path: Path, width: int, metadata: dict[str, str]):
        self.pa = pa = import_pyarrow()
        embedding = pa.list_(pa.float32(), width)
        self.schema = pa.schema([("text", pa.large_string()), ("embedding", embedding)], metadata=metadata)
        self.file = pa.parquet.ParquetWriter(path, self.schema)

    def write(self, texts: list[str], embeddings: np.ndarray) -> None:
        vectors = self.pa.FixedSizeListArray.from_arrays(self.pa.array(embeddings.ravel()), embeddings.shape[1])
        self.file.write_table(self.pa.table([self.pa.array(texts, self.pa.large_string()), vectors], self.schema))

    def close(self) -> None:
        self.file.close()


_WRITERS: dict[str, Callable[[Path, int, dict[str, str]], Any]] = {
    ".npy": _npy,
    ".parquet": _ParquetWriter,
    ".safetensors": _safetensors,
}
