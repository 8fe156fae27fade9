"""Columns that are kept beside the embeddings, with their types."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .parquet import import_pyarrow
from .rows import ALL, Row

if TYPE_CHECKING:
    import pyarrow

# rows whose values are looked at together, to find their types
ROWS = 1024


class ColumnTypes:
    """Finds the types of columns from all rows of a file, in flat memory.

    Args:
        source: The file, for messages.
        keep: The names of the columns, in order; `("*",)`: all that there are.
    """

    def __init__(self, source: str, keep: tuple[str, ...]):
        self._pa = import_pyarrow()
        self._source, self._keep = source, keep
        self._schema: pyarrow.Schema = self._pa.schema([])
        self._waiting: list[Row] = []

    def add(self, row: Row) -> None:
        """Take a row into account.

        Raises:
            ValueError: If the values of a column are of types that do not go together.
        """
        self._waiting.append(row)
        if len(self._waiting) == ROWS:
            self._look()

    def schema(self) -> pyarrow.Schema:
        """Return the names and types of the columns.

        Raises:
            ValueError: As above; or if no row has a column, or Parquet cannot hold one.
        """
        self._look()
        names = self._schema.names if self._keep == (ALL,) else self._keep
        for name in names:
            if name not in self._schema.names:
                raise ValueError(f"{self._source}: expected a field {name!r} to keep; no row has it. Name another.")
        schema = self._pa.schema([self._schema.field(name) for name in names])
        try:
            self._pa.parquet.ParquetWriter(io.BytesIO(), schema).close()
        except self._pa.ArrowException as error:
            problem = f"expected columns to keep that Parquet can hold; got another ({error}). Leave it out."
            raise ValueError(f"{self._source}: {problem}") from error
        return schema

    def _look(self) -> None:
        rows, self._waiting = self._waiting, []
        if not rows:
            return
        first = rows[0].kept
        if isinstance(first, tuple):
            self._schema = first[0].schema
            return
        columns: dict[str, list[Any]] = {}
        for row in rows:
            assert isinstance(row.kept, Mapping)
            for name, value in row.kept.items():
                columns.setdefault(name, []).append(value)
        for name, values in columns.items():
            try:
                found = self._pa.schema([(name, self._pa.array(values).type)])
                self._schema = self._pa.unify_schemas([self._schema, found], promote_options="permissive")
            except (ValueError, TypeError, OverflowError) as error:
                raise ValueError(
                    f"{self._source}, {rows[0].where} to {rows[-1].where}: expected values of one type in {name!r}; "
                    f"got several, or one that no column can hold ({error}). Leave {name!r} out."
                ) from error


def kept_columns(rows: Sequence[Row], schema: pyarrow.Schema) -> pyarrow.Table:
    """Return the columns of rows, as Arrow has them.

    Args:
        rows: One or more.
        schema: The names and types, as `ColumnTypes` found them.

    Raises:
        ValueError: If a value is not of the type.
    """
    pa = import_pyarrow()
    if isinstance(rows[0].kept, tuple):
        return pa.Table.from_batches(_parts(row.kept for row in rows)).select(schema.names).cast(schema)
    try:
        arrays = [pa.array([row.kept.get(field.name) for row in rows], field.type) for field in schema]  # type: ignore[union-attr]
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(
            f"{rows[0].where} to {rows[-1].where}: expected the columns to keep as before; got others ({error})."
        ) from error
    return pa.table(arrays, schema)


def _parts(rows: Iterable[Any]) -> Iterable[pyarrow.RecordBatch]:
    """The rows, each a batch and a number, taken out of the batches."""
    for _, group in itertools.groupby(rows, key=lambda row: id(row[0])):
        taken = list(group)
        yield taken[0][0].take(import_pyarrow().array([number for _, number in taken]))
