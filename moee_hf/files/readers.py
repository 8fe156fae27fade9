"""The rows of a file of any format, and how many there are."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .columns import ColumnTypes
from .delimited import delimited_rows
from .json_rows import json_array_rows, json_line_rows
from .lines import check_readable, rows_of_lines, suffix_of
from .locations import open_bytes, remote_errors
from .parquet import parquet_rows, parquet_summary
from .rows import Request, Row, Span

if TYPE_CHECKING:
    import pyarrow

# bytes that are looked at together for ends of lines
PIECE = 1 << 20


def _text_rows(request: Request) -> Iterator[Row]:
    return (Row(where, line, {}) for where, line in rows_of_lines(request.source, request.span))


READERS: dict[str, Callable[[Request], Iterator[Row]]] = {
    ".txt": _text_rows,
    ".jsonl": json_line_rows,
    ".json": json_array_rows,
    ".csv": delimited_rows,
    ".tsv": delimited_rows,
    ".parquet": parquet_rows,
}


def rows_of(request: Request) -> Iterator[Row]:
    """Return the rows that are asked for; errors are those of the format's reader."""
    suffix, span = suffix_of(request.source), request.span
    rows = READERS[suffix](request)
    if span is None or span.begin is not None or suffix == ".parquet":  # where nothing else is read
        return rows
    return itertools.islice(rows, span.start, span.stop)


def has_lines(source: str) -> bool:
    """Return whether a file has a row a line, each of which can be found without reading those before it."""
    return suffix_of(source) in (".txt", ".jsonl") and not source.lower().endswith(".gz")


class Extent(NamedTuple):
    """How large a file is.

    Args:
        rows: Number of its rows; of the lines of a text file with a row a line.
        begins: Of such a file that is not gzipped, where every so many lines begin, in bytes.
    """

    rows: int
    begins: tuple[int, ...] = ()

    def spans(self, rows_per_span: int) -> list[Span]:
        """Return the parts of the file with so many rows each, one at least; `begins` are of as many lines."""
        starts = range(0, max(self.rows, 1), rows_per_span)
        ends = (*self.begins[1:], None)
        return [
            Span(
                start,
                min(start + rows_per_span, self.rows),
                self.begins[number] if self.begins else None,
                ends[number] if self.begins else None,
            )
            for number, start in enumerate(starts)
        ]


def measure(request: Request, rows_per_span: int) -> tuple[Extent, pyarrow.Schema | None]:
    """Count the rows of a file, and find the columns that are kept of it.

    A Parquet file says both. The lines of a text file are counted, without a look at them unless columns are kept; any
    other file is read.

    Args:
        request: The file; its span is not read.
        rows_per_span: After how many lines to remember where the next one begins.

    Raises:
        ValueError: If the file is damaged, or has no such columns.
        OSError: If it cannot be read.
    """
    if suffix_of(request.source) == ".parquet":
        rows, schema = parquet_summary(request)
        return Extent(rows), schema if request.keep else None
    count, types = 0, ColumnTypes(request.source, request.keep) if request.keep else None
    if types is not None or not has_lines(request.source):
        for row in rows_of(request):
            count += 1
            if types is not None:
                types.add(row)
    schema = None if types is None or not count else types.schema()
    return _lines(request.source, rows_per_span) if has_lines(request.source) else Extent(count), schema


def _lines(source: str, step: int) -> Extent:
    begins, lines, position, ended = [0], 0, 0, True
    check_readable(source)
    with open_bytes(source) as file, remote_errors(source):
        while piece := file.read(PIECE):
            ends = np.flatnonzero(np.frombuffer(piece, np.uint8) == ord("\n"))
            numbers = np.arange(lines + 1, lines + 1 + len(ends))
            begins += (position + 1 + ends[numbers % step == 0]).tolist()
            lines, position, ended = lines + len(ends), position + len(piece), piece.endswith(b"\n")
    if begins[-1] == position and lines:  # there is no line behind the last end
        begins.pop()
    return Extent(lines + (not ended), tuple(begins))
