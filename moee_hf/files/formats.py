"""Formats of files with embeddings, each written chunk by chunk, so that any number of them takes no memory."""

from __future__ import annotations

import datetime
import decimal
import io
import json
import math
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np

from .parquet import import_pyarrow

if TYPE_CHECKING:
    import pyarrow


class Format(Protocol):
    """Chunks of n embeddings, of shape `(n, width)`, with n texts and n rows of other columns, if there are any."""

    def write(
        self, texts: Sequence[str] | None, embeddings: np.ndarray, columns: pyarrow.Table | None = None
    ) -> None: ...

    def close(self) -> None: ...


class _RawFile:
    """Numbers behind a header that says how many, and is written again at the end, at the same length."""

    def __init__(self, file: BinaryIO, header: Callable[[int], bytes]):
        self.file, self.header, self.count = file, header, 0
        file.write(header(0))

    def write(self, texts: Sequence[str] | None, embeddings: np.ndarray, columns: pyarrow.Table | None = None) -> None:
        little_endian = embeddings.dtype.newbyteorder("<")
        self.file.write(embeddings.astype(little_endian, copy=False).tobytes())
        self.count += len(embeddings)

    def close(self) -> None:
        self.file.seek(0)
        self.file.write(self.header(self.count))


def _npy(file: BinaryIO, width: int, dtype: np.dtype[Any], metadata: dict[str, str]) -> _RawFile:
    description = np.lib.format.dtype_to_descr(dtype.newbyteorder("<"))

    def header(count: int) -> bytes:
        content = io.BytesIO()  # numpy leaves room for the number of rows to grow
        fields = {"descr": description, "fortran_order": False, "shape": (count, width)}
        np.lib.format.write_array_header_1_0(content, fields)
        return content.getvalue()

    return _RawFile(file, header)


def _safetensors(file: BinaryIO, width: int, dtype: np.dtype[Any], metadata: dict[str, str]) -> _RawFile:
    # https://huggingface.co/docs/safetensors: 8 bytes that count those of a JSON object, which spaces may follow
    def header(count: int) -> bytes:
        end = dtype.itemsize * count * width
        tensor = {"dtype": SAFETENSORS_TYPES[dtype], "shape": [count, width], "data_offsets": [0, end]}
        return json.dumps({"__metadata__": metadata, "embeddings": tensor}).encode()

    room = -(-len(header(10**15)) // 8) * 8
    return _RawFile(file, lambda count: room.to_bytes(8, "little") + header(count).ljust(room))


class _ParquetFile:
    def __init__(self, file: BinaryIO, width: int, dtype: np.dtype[Any], metadata: dict[str, str]):
        self._pa = import_pyarrow()
        self._file, self._metadata = file, metadata
        self._type = self._pa.list_(self._pa.from_numpy_dtype(dtype), width)
        self._writer: Any = None

    def write(self, texts: Sequence[str] | None, embeddings: np.ndarray, columns: pyarrow.Table | None = None) -> None:
        pa = self._pa
        numbers = pa.array(embeddings.ravel())
        vectors = pa.FixedSizeListArray.from_arrays(numbers, self._type.list_size)
        table = pa.table({"embedding": vectors} if columns is None else {**_arrays(columns), "embedding": vectors})
        if texts is not None:
            table = table.add_column(0, "text", pa.array(texts, pa.large_string()))
        if self._writer is None:
            self._writer = self._open(table.schema)
        if len(table):  # some readers take no empty row groups
            self._writer.write_table(table.replace_schema_metadata(self._metadata))

    def _open(self, schema: pyarrow.Schema) -> Any:
        """Open the file. Few vectors have a number in common: each byte of float32 with its like packs best."""
        numbers = "embedding.list.element"
        floats = self._pa.types.is_floating(self._type.value_type)
        with_dictionary = [name for name in schema.names if name not in ("text", "embedding")]
        return self._pa.parquet.ParquetWriter(
            self._file,
            schema.with_metadata(self._metadata),
            compression="zstd",
            use_dictionary=with_dictionary if floats else [*with_dictionary, numbers],
            use_byte_stream_split=[numbers] if floats else False,
        )

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _arrays(columns: pyarrow.Table) -> dict[str, Any]:
    return dict(zip(columns.column_names, columns.columns, strict=True))


class _JsonLines:
    """An object a line, with `text`, the other columns and `embedding`."""

    def __init__(self, file: BinaryIO, width: int, dtype: np.dtype[Any], metadata: dict[str, str]):
        # nine digits say which float32 it is
        self._file, self._number = file, "%.9g" if dtype == np.float32 else "%d"

    def write(self, texts: Sequence[str] | None, embeddings: np.ndarray, columns: pyarrow.Table | None = None) -> None:
        rows = [{} for _ in embeddings] if columns is None else columns.to_pylist()
        template = ", ".join([self._number] * embeddings.shape[1])
        for number, (row, embedding) in enumerate(zip(rows, embeddings.tolist(), strict=True)):
            fields = {name: _json_value(value) for name, value in row.items()}
            fields = fields if texts is None else {"text": texts[number], **fields}
            start = json.dumps(fields, ensure_ascii=False)[:-1] + (", " if fields else "")
            self._file.write(f'{start}"embedding": [{template % tuple(embedding)}]}}\n'.encode())

    def close(self) -> None:
        pass


def _json_value(value: Any) -> Any:
    """A value of a column as JSON has it: a date or a number of any length as a string, and not a number as null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list | tuple):
        return [_json_value(element) for element in value]
    if isinstance(value, dict):
        return {str(name): _json_value(element) for name, element in value.items()}
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal | datetime.timedelta | uuid.UUID):
        return str(value)
    if isinstance(value, bytes):
        raise ValueError("columns to keep: expected values that JSON can hold; got bytes. Write .parquet.")
    return value


SAFETENSORS_TYPES = {np.dtype(np.float32): "F32", np.dtype(np.int8): "I8", np.dtype(np.uint8): "U8"}
FORMATS: dict[str, Callable[[BinaryIO, int, np.dtype[Any], dict[str, str]], Format]] = {
    ".npy": _npy,
    ".parquet": _ParquetFile,
    ".safetensors": _safetensors,
    ".jsonl": _JsonLines,
}
# those with columns beside the embeddings
WITH_COLUMNS = (".parquet", ".jsonl")
