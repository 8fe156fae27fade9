"""Rows of files with fields between delimiters: CSV and TSV with a header."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from .lines import numbered_lines, suffix_of
from .rows import Request, Row

# a quotation mark that is never closed would swallow the rest of the file
MAX_LINES = 1000

_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def delimited_rows(request: Request) -> Iterator[Row]:
    """Yield the rows of a `.csv` or `.tsv` file.

    Raises:
        ValueError: If the header lacks a column, or a row is no row.
        OSError: If the file cannot be read.
    """
    default = _DELIMITERS[suffix_of(request.source)]
    delimiter = default if request.delimiter is None else request.delimiter
    rows = _rows(request.source, delimiter)
    _, header = next(rows, (1, []))
    if request.delimiter is None and (other := _likely_delimiter(header, delimiter, request.text_column)):
        raise ValueError(
            f"{request.source}: expected fields separated by {delimiter!r}; got {delimiter.join(header)!r}, which "
            f"{other!r} seems to separate. Name it by the argument delimiter: --delimiter {other!r}."
        )
    kept = request.columns_to_keep(header, " The first line has the names of the columns: add it, if it is missing.")
    text, indices = header.index(request.text_column), [header.index(name) for name in kept]
    for line, fields in rows:
        if len(fields) != len(header):
            raise ValueError(
                f"{request.source}, line {line}: expected {len(header)} fields; got {len(fields)}. Quote texts that "
                f"hold {'a comma' if delimiter == ',' else repr(delimiter)}."
            )
        yield Row(f"line {line}", fields[text], {header[index]: fields[index] for index in indices})


class _Lines:
    """The lines of a file, which remembers those of the row that is being read."""

    def __init__(self, source: str):
        self._lines = numbered_lines(source, newline="")
        self.row: list[str] = []
        self.first = 1

    def __iter__(self) -> Iterator[str]:
        for number, line in self._lines:
            if not self.row:
                self.first = number
            if len(self.row) == MAX_LINES:
                raise csv.Error(f"a field of more than {MAX_LINES:,} lines")
            self.row.append(line)
            yield line


def _rows(source: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the fields of each row, with the number of its first line; blank lines are none."""
    csv.field_size_limit(2**31 - 1)  # a text may be longer than the default of 128 KiB
    lines = _Lines(source)
    try:
        for fields in csv.reader(lines, delimiter=delimiter, strict=True):
            if fields:
                yield lines.first, fields
            lines.row.clear()
    except csv.Error as error:
        line = lines.first + _line_of_last_quote(lines.row, delimiter)
        raise ValueError(
            f"{source}, line {line}: expected a quotation mark that opens a field to be closed at its end; got none, "
            f"or text behind it ({error}). Write a quotation mark in a text as two, and the field in quotation marks; "
            "texts of very many lines are better in .jsonl."
        ) from error


def _line_of_last_quote(lines: list[str], delimiter: str) -> int:
    """Return in which line the last quoted field of a row opens, counted from 0."""
    opened, quoted, before = 0, False, delimiter
    for number, line in enumerate(lines):
        for character in line:
            if character == '"':
                if before == delimiter and not quoted:
                    opened = number
                # a quotation mark in the middle of a field that has none around it is one like any character
                quoted = not quoted and (before == delimiter or before == '"')
            before = character
    return opened


def _likely_delimiter(header: list[str], delimiter: str, column: str) -> str | None:
    """Return what else may separate the names of a header that is one field, or lacks the column; or None."""
    if len(header) != 1 and column in header:
        return None
    line = delimiter.join(header)
    counts = {other: line.split(other) for other in ",;\t|" if other != delimiter and other in line}
    with_column = [other for other, names in counts.items() if column in (name.strip('"') for name in names)]
    if len(header) == 1:
        with_column += counts
    return next(iter(with_column), None)
