"""Texts from files, one by one, so that a file of any size takes no memory."""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import math
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from .parquet import import_pyarrow


def read_texts(source: str, column: str = "text") -> list[str]:
    """Read the texts of a file, all of them, in order; arguments and errors are those of `iter_texts`."""
    return list(iter_texts(source, column))


def check_input(source: str, column: str = "text") -> None:
    """Raise what `iter_texts` raises anywhere in a file: asked before the work, not in the middle of it.

    Standard input and pipes can be read only once; of them nothing is checked.
    """
    if source != "-" and not Path(source).is_fifo():
        for _ in iter_texts(source, column):
            pass


def iter_texts(source: str, column: str = "text") -> Iterator[str]:
    """Yield the texts of a file, in order.

    Args:
        source: A `.txt` (a text a line), `.jsonl` or `.csv` (with a header) file in UTF-8, which may be gzipped
            (`.jsonl.gz`), or a `.parquet` file; `-` is standard input, a text a line.
        column: The field that holds the text, where the format has fields.

    Raises:
        ValueError: If the format is another, a row has no text, there is no row, or the file is not UTF-8.
        OSError: If the file cannot be read.
    """
    suffix = ".txt" if source == "-" else _suffix(source)
    if suffix == ".parquet":
        rows = _parquet_rows(source, column)
    elif suffix in _READERS:
        rows = _READERS[suffix](_open(source), source, column)
    else:
        raise ValueError(f"{source}: expected a file ending in {', '.join([*_READERS, '.parquet'])}; got {suffix!r}.")
    empty = True
    with _readable(source):
        for where, text in rows:
            if not isinstance(text, str) or not text:
                raise ValueError(f"{source}, {where}: expected a text; got {text!r}. Leave the row out.")
            empty = False
            yield text
    if empty:
        raise ValueError(f"{source}: expected texts; got none.")


def read_fields(source: str, fields: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Read some fields of every row of a `.jsonl` file, which may be gzipped, as columns.

    Args:
        source: The file.
        fields: The type of each field's values, or several in a tuple; in a list, the type of the elements of a list.

    Raises:
        ValueError: If a row has no such field, a field has another type, or there is no row.
        OSError: If the file cannot be read.
    """
    columns: dict[str, list[Any]] = {field: [] for field in fields}
    with _readable(source):
        for where, line in _lines(_open(source)):
            row = _json_fields(line, source, where, fields)
            for field, kind in fields.items():
                if not _has_type(value := row[field], kind):
                    raise ValueError(
                        f"{source}, {where}: expected {field!r} of type {_type_name(kind)}; got {value!r}."
                    )
                columns[field].append(value)
    if not all(columns.values()):
        raise ValueError(f"{source}: expected rows; got none.")
    return columns


@contextlib.contextmanager
def _readable(source: str) -> Iterator[None]:
    """Turn what damaged files raise inside the context into errors that name the file."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{source}: expected a file packed by gzip; got a damaged one ({error}).") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: expected UTF-8; got something else ({error}). Convert the file.") from error
    except csv.Error as error:
        raise ValueError(f"{source}: expected CSV; got something else ({error}).") from error


def _has_type(value: Any, kind: Any) -> bool:
    if isinstance(kind, list):
        return isinstance(value, list) and all(_has_type(element, kind[0]) for element in value)
    if isinstance(value, bool) or not isinstance(value, kind):
        return False
    if isinstance(value, str):
        # JSON can spell half of a character, which no file in UTF-8 can hold
        return not any("\ud800" <= character <= "\udfff" for character in value)
    return not isinstance(value, int | float) or math.isfinite(value)


def _type_name(kind: Any) -> str:
    if isinstance(kind, list):
        return f"list of {_type_name(kind[0])}"
    return " or ".join(part.__name__ for part in (kind if isinstance(kind, tuple) else (kind,)))


def _open(source: str) -> TextIO:
    if source == "-":
        sys.stdin.reconfigure(encoding="utf-8-sig", newline=None)  # type: ignore[union-attr]
        return sys.stdin
    opened = gzip.open if source.lower().endswith(".gz") else open
    return opened(source, "rt", encoding="utf-8-sig", newline="" if _suffix(source) == ".csv" else None)


def _suffix(source: str) -> str:
    return Path(source.lower().removesuffix(".gz")).suffix


def _lines(file: TextIO) -> Iterator[tuple[str, str]]:
    with file:
        for number, line in enumerate(file, 1):
            yield f"line {number}", line.removesuffix("\n")


# the formats: `(where, text)` of every row, whatever stands in the place of the text


def _text_lines(file: TextIO, source: str, column: str) -> Iterator[tuple[str, Any]]:
    return _lines(file)


def _json_lines(file: TextIO, source: str, column: str) -> Iterator[tuple[str, Any]]:
    for where, line in _lines(file):
        yield where, _json_fields(line, source, where, [column])[column]


def _json_fields(line: str, source: str, where: str, fields: Iterable[str]) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{source}, {where}: expected a JSON object; got {line[:80]!r} ({error}). Leave the row out."
        ) from error
    for field in fields:
        if not isinstance(row, dict) or field not in row:
            raise ValueError(f"{source}, {where}: expected an object with the field {field!r}; got {line[:80]!r}.")
    return row


def _csv_rows(file: TextIO, source: str, column: str) -> Iterator[tuple[str, Any]]:
    with file:
        csv.field_size_limit(2**31 - 1)  # a text may be longer than the default of 128 KiB
        reader = csv.DictReader(file)
        _check_column(source, column, reader.fieldnames or [])
        for row in reader:
            where = f"line {reader.line_num}"
            if None in row:
                raise ValueError(
                    f"{source}, {where}: expected {len(reader.fieldnames or [])} fields; got more. Quote texts that "
                    "hold a comma."
                )
            yield where, row[column]


def _parquet_rows(source: str, column: str) -> Iterator[tuple[str, Any]]:
    file = import_pyarrow().parquet.ParquetFile(source)
    _check_column(source, column, file.schema_arrow.names)
    number = 0
    for batch in file.iter_batches(columns=[column]):
        for text in batch.column(0).to_pylist():
            number += 1
            yield f"row {number}", text


def _check_column(source: str, column: str, columns: Any) -> None:
    if list(columns).count(column) != 1:
        raise ValueError(
            f"{source}: expected one column {column!r}; got {', '.join(map(repr, columns)) or 'none'}. Name the "
            "column with texts by the argument column."
        )


_READERS: dict[str, Callable[[TextIO, str, str], Iterator[tuple[str, Any]]]] = {
    ".txt": _text_lines,
    ".jsonl": _json_lines,
    ".csv": _csv_rows,
}
