"""Rows of Parquet files, and the package that reads and writes them, which is optional."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .lines import check_readable
from .rows import Request, Row

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
    pa, source = import_pyarrow(), request.source
    check_readable(source)
    try:
        # the buffer lets a column be read as it is needed, however large its row group
        with pa.parquet.ParquetFile(source, buffer_size=1 << 20, pre_buffer=False) as file:
            schema = file.schema_arrow
            kept = request.columns_to_keep(schema.names)
            _check_strings(request, schema.field(request.text_column).type)
            number = 0
            for batch in file.iter_batches(ROWS, columns=list(dict.fromkeys([request.text_column, *kept]))):
                beside = batch.select(kept)
                for index, text in enumerate(batch.column(request.text_column).to_pylist()):
                    number += 1
                    yield Row(f"row {number}", text, (beside, index))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{source}: expected a Parquet file; got a damaged one, or another ({error}).") from error


def _check_strings(request: Request, kind: pyarrow.DataType) -> None:
    pa = import_pyarrow()
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    views = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    if not any(is_string(values) for is_string in views):
        raise ValueError(
            f"{request.source}: expected strings in the column {request.text_column!r}; got {kind}. Name the column "
            "with texts by the argument column."
        )
