"""Rows of Parquet files, and the package that reads and writes them, which is optional."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .lines import check_readable
from .locations import is_remote, open_bytes
from .rows import Request, Row, Span

if TYPE_CHECKING:
    import pyarrow

# rows in memory at once
ROWS = 1024


def import_pyarrow() -> pyarrow:
    """Return the package that reads and writes Parquet.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("Parquet files, and columns that are kept, need pyarrow: pip install pyarrow.") from error
    return pyarrow


def parquet_rows(request: Request) -> Iterator[Row]:
    """Yield the rows of a `.parquet` file.

    Raises:
        ValueError: If it is none, or it lacks a column.
        OSError: If it cannot be read.
        ImportError: If the package for it is not installed.
    """
    with _opened(request.source) as file:
        kept = checked_schema(request, file.schema_arrow).names
        wanted = list(dict.fromkeys([request.text_column, *kept]))
        for batch, first in _batches(file, wanted, request.span or Span()):
            beside = batch.select(kept)
            for index, text in enumerate(batch.column(request.text_column).to_pylist()):
                yield Row(f"row {first + index + 1}", text, (beside, index))


def parquet_summary(request: Request) -> tuple[int, pyarrow.Schema]:
    """Return the number of rows of a `.parquet` file, and the columns that are kept; errors are as above."""
    with _opened(request.source) as file:
        return file.metadata.num_rows, checked_schema(request, file.schema_arrow)


def checked_schema(request: Request, schema: pyarrow.Schema) -> pyarrow.Schema:
    """Return the columns that are kept of a file with these.

    Raises:
        ValueError: If a column is missing, or that of the texts has none.
    """
    kept = request.columns_to_keep(schema.names)
    _check_strings(request, schema.field(request.text_column).type)
    return import_pyarrow().schema([schema.field(name) for name in kept])


@contextlib.contextmanager
def _opened(source: str) -> Iterator[Any]:
    pa = import_pyarrow()
    check_readable(source)
    try:
        # the buffer lets a column be read as it is needed, however large its row group
        with (
            open_bytes(source) as content,
            pa.parquet.ParquetFile(content, buffer_size=1 << 20, pre_buffer=False) as file,
        ):
            yield file
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError, OSError) as error:
        kind = OSError if is_remote(source) and isinstance(error, OSError) else ValueError  # the network, or the file
        raise kind(f"{source}: expected a Parquet file; got a damaged one, or another ({error}).") from error


def _batches(file: Any, columns: list[str], span: Span) -> Iterator[tuple[pyarrow.RecordBatch, int]]:
    """Yield the rows of a span in batches, each with the number of its first row; other row groups are not read."""
    groups, first, position = [], None, 0
    stop = file.metadata.num_rows if span.stop is None else span.stop
    for group in range(file.num_row_groups):
        end = position + file.metadata.row_group(group).num_rows
        if end > span.start and position < stop:
            groups.append(group)
            first = position if first is None else first
        position = end
    number = first or 0
    for batch in file.iter_batches(ROWS, row_groups=groups, columns=columns) if groups else ():
        part = batch.slice(max(0, span.start - number), max(0, stop - max(number, span.start)))
        if len(part):
            yield part, max(number, span.start)
        number += len(batch)
        if number >= stop:
            return


def _check_strings(request: Request, kind: pyarrow.DataType) -> None:
    pa = import_pyarrow()
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    views = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    if not any(is_string(values) for is_string in views):
        raise ValueError(
            f"{request.source}: expected strings in the column {request.text_column!r}; got {kind}. Name the column "
            "with texts by the argument column."
        )
