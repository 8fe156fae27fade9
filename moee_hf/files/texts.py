"""Texts from files, one by one, so that a file of any size takes no memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .columns import ColumnTypes
from .json_rows import fields_of_line
from .lines import is_read_once, is_unicode, name_of, rows_of_lines, suffix_of
from .readers import READERS, rows_of
from .rows import Request, Row, Span

if TYPE_CHECKING:
    import pyarrow


def read_texts(source: str, column: str | None = None) -> list[str]:
    """Read the texts of a file, all of them, in order; arguments and errors are those of `iter_texts`."""
    return list(iter_texts(source, column))


def iter_texts(source: str, column: str | None = None) -> Iterator[str]:
    """Yield the texts of a file, in order, without the empty ones.

    Args:
        source: The file, as `TextFile` takes it, here and below.
        column: The field that holds the text, where the format has fields. None: `text`.

    Raises:
        ValueError: If the format is another, a row is damaged, there is no text, or the file is not UTF-8.
        OSError: If the file cannot be read.
    """
    return (row.text for row in TextFile(source, column).rows())


class Counted:
    """Texts that come one by one, and how many they are, which says how much is left.

    Args:
        texts: The texts.
        count: Their number.
    """

    def __init__(self, texts: Iterable[str], count: int):
        self._texts, self._count = texts, count

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return self._count


class TextFile:
    """A file with texts; what it holds is read anew at each call.

    A text is empty if there is nothing, or white space alone, or a null in its place; a row without a field for it is
    an error. Blank lines between rows of `.csv`, `.tsv` and `.jsonl` are no rows.

    Args:
        source: A `.txt` (a text a line), `.jsonl` (an object a line), `.json` (an array of objects, or of strings),
            `.csv` or `.tsv` (with a header) file in UTF-8, which may be gzipped (`.jsonl.gz`), or a `.parquet` file;
            `-` is standard input, a text a line.
        column: The field that holds the text, where the format has fields. None: `text`.
        delimiter: What separates the fields of a `.csv` or `.tsv` file. None: a comma, or a tab.
        keep: The columns to read beside the texts; `("*",)`: every other. `.csv` and `.tsv` have strings alone.
        keep_empty: Whether empty texts are texts like any other, as they are, a null as `""`. False: they are skipped.
        span: The rows to read, of which there may be none with a text. None: all.

    Attributes:
        source: What messages call the file.
        request: What is read of it.
        count: Number of the texts, from `check` on. None: not known.
        skipped: Number of the empty texts that were skipped, in as much as was read the last time.
        first_empty: Where the first empty text stands that was kept, in the same. None: nowhere.
        kept: Names and types of the columns to keep, from `check` on, as a schema of Arrow's. None: there are none.

    Raises:
        ValueError: If the format is another, or has no use for an argument.
    """

    def __init__(
        self,
        source: str,
        column: str | None = None,
        delimiter: str | None = None,
        keep: tuple[str, ...] = (),
        keep_empty: bool = False,
        span: Span | None = None,
    ):
        if not source:
            raise ValueError("input: expected the name of a file; got an empty one.")
        suffix = suffix_of(source)
        if suffix not in READERS or (suffix == ".parquet" and source.lower().endswith(".gz")):
            raise ValueError(f"{source}: expected a file ending in {', '.join(READERS)}; got {suffix!r}.")
        if suffix == ".txt" and column is not None:
            raise ValueError(f"column: expected none of lines of text, which have no columns; got {column!r}.")
        if suffix == ".txt" and keep:
            raise ValueError(f"keep: expected none of lines of text, which have no columns; got {', '.join(keep)!r}.")
        if keep and is_read_once(source):
            raise ValueError(f"keep: expected a file, which is read twice to find the types; {source} is a pipe.")
        if delimiter is not None and suffix not in (".csv", ".tsv"):
            raise ValueError(f"delimiter: expected none but for .csv and .tsv; got {delimiter!r}.")
        if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n\0' or not delimiter.isascii()):
            raise ValueError(f"delimiter: expected one character, such as ';' or '\\t'; got {delimiter!r}.")
        self.source, self._keep_empty = name_of(source), keep_empty
        self.count: int | None = None
        self.skipped = 0
        self.first_empty: str | None = None
        self.kept: pyarrow.Schema | None = None
        self.request = Request(source, column, delimiter, keep, span)

    def check(self) -> None:
        """Raise what `rows` raises anywhere in the file: asked before the work, not in the middle of it.

        Standard input and pipes can be read only once; of them nothing is checked.

        Raises:
            ValueError: As `rows`; or if there is no such column to keep, or it has values of several types.
            OSError: If the file cannot be read.
        """
        if is_read_once(self.request.source):
            return
        types, count = ColumnTypes(self.source, self.request.keep) if self.request.keep else None, 0
        for row in self.rows():
            count += 1
            if types is not None:
                types.add(row)
        self.count, self.kept = count, types and types.schema()

    def rows(self) -> Iterator[Row]:
        """Yield the rows with their texts, in order.

        Raises:
            ValueError: If a row is damaged, its text is no string, there is no text, or the file is not UTF-8.
            OSError: If the file cannot be read.
        """
        self.skipped, self.first_empty, found = 0, None, False
        for where, value, kept in rows_of(self.request):
            text = self._checked(where, "" if value is None else value)
            if text.strip():
                pass
            elif not self._keep_empty:
                self.skipped += 1
                continue
            elif self.first_empty is None:
                self.first_empty = where
            found = True
            yield Row(where, text, kept)
        if not found and self.request.span is None:
            got = f"{self.skipped} empty ones" if self.skipped else "none"
            raise ValueError(f"{self.source}: expected texts; got {got}.")

    def _checked(self, where: str, text: Any) -> str:
        if not isinstance(text, str):
            raise ValueError(f"{self.source}, {where}: expected a text; got {str(text)[:80]}. Leave the row out.")
        if not is_unicode(text):
            raise ValueError(
                f"{self.source}, {where}: expected valid Unicode; got half a character, such as '\\ud800', which "
                "another program has cut. Leave the row out."
            )
        return text


def read_fields(source: str, fields: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Read some fields of every row of a `.jsonl` file, which may be gzipped, as columns; blank lines are no rows.

    Args:
        source: The file.
        fields: The type of each field's values, or several in a tuple; in a list, the type of the elements of a list.

    Raises:
        ValueError: If a row has no such field, a field has another type, or there is no row.
        OSError: If the file cannot be read.
    """
    columns: dict[str, list[Any]] = {field: [] for field in fields}
    for where, line in rows_of_lines(source):
        if not line.strip():
            continue
        row = fields_of_line(line, source, where, fields)
        for field, kind in fields.items():
            if not _has_type(value := row[field], kind):
                raise ValueError(f"{source}, {where}: expected {field!r} of type {_type_name(kind)}; got {value!r}.")
            columns[field].append(value)
    if not all(columns.values()):
        raise ValueError(f"{source}: expected rows; got none.")
    return columns


def _has_type(value: Any, kind: Any) -> bool:
    if isinstance(kind, list):
        return isinstance(value, list) and all(_has_type(element, kind[0]) for element in value)
    if isinstance(value, bool) or not isinstance(value, kind):
        return False
    if isinstance(value, str):
        return is_unicode(value)
    return not isinstance(value, int | float) or math.isfinite(value)


def _type_name(kind: Any) -> str:
    if isinstance(kind, list):
        return f"list of {_type_name(kind[0])}"
    return " or ".join(part.__name__ for part in (kind if isinstance(kind, tuple) else (kind,)))
