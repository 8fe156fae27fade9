"""Rows of files in JSON: an object a line, or one array of objects or strings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from .lines import numbered_pieces, rows_of_lines
from .rows import Request, Row

# characters that are read of an array at once
PIECE = 1 << 20


def json_line_rows(request: Request) -> Iterator[Row]:
    """Yield the rows of a file with a JSON object a line; blank lines are none.

    Raises:
        ValueError: If a line is no object with the field of the texts.
        OSError: If the file cannot be read.
    """
    for where, line in rows_of_lines(request.source, request.span):
        if line.strip():
            fields = fields_of_line(line, request.source, where, [request.text_column])
            yield Row(where, fields[request.text_column], request.kept_fields(fields))


def fields_of_line(line: str, source: str, where: str, fields: Iterable[str]) -> dict[str, Any]:
    """Return a line as an object that has these fields.

    Raises:
        ValueError: If it is none.
    """
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        advice = " A file that is one array must end in .json." if line.strip().startswith("[") else ""
        raise ValueError(
            f"{source}, {where}: expected a JSON object; got {line[:80]!r} ({error}). Leave the row out.{advice}"
        ) from error
    return _checked(row, source, where, fields)


def json_array_rows(request: Request) -> Iterator[Row]:
    """Yield the elements of a file that is one array of objects or of strings; it may be larger than the memory.

    Raises:
        ValueError: If the file is no array, or an element is neither, or has no field with a text.
        OSError: If the file cannot be read.
    """
    for number, (line, element) in enumerate(_elements(request.source), 1):
        where = f"element {number} (line {line})"
        if isinstance(element, str) or element is None:
            if request.column is not None or request.keep:
                raise ValueError(
                    f"{request.source}, {where}: expected an object with the field {request.text_column!r}; got a "
                    "string. Of an array of strings name no column, and none to keep."
                )
            yield Row(where, element, {})
        else:
            fields = _checked(element, request.source, where, [request.text_column])
            yield Row(where, fields[request.text_column], request.kept_fields(fields))


def _checked(row: Any, source: str, where: str, fields: Iterable[str]) -> dict[str, Any]:
    for field in fields:
        if not isinstance(row, dict) or field not in row:
            got = json.dumps(row)[:80]
            advice = " Name the field by the argument column." if isinstance(row, dict) else ""
            raise ValueError(f"{source}, {where}: expected an object with the field {field!r}; got {got}.{advice}")
    return row


def _elements(source: str) -> Iterator[tuple[int, Any]]:
    """Yield the elements of the array that a file is, each with the line it begins in."""
    text = _Text(source)
    if (character := text.next_character()) != "[":
        advice = " A file of an object a line must end in .jsonl." if character == "{" else ""
        raise text.error(f"expected an array, which begins with '['; got {character!r}.{advice}")
    text.position += 1
    if text.next_character() == "]":
        text.position += 1
    else:
        character = ","
        while character == ",":
            text.next_character()
            yield text.line, text.value()
            character = text.next_character()
            if character not in (",", "]"):
                raise text.error(f"expected ',' or ']' behind an element; got {character or 'the end of the file'!r}.")
            text.position += 1
    if character := text.next_character():
        raise text.error(f"expected nothing behind the array; got {character!r}.")


class _Text:
    """The text of a file, read as far as it is looked at."""

    def __init__(self, source: str):
        self._source, self._pieces = source, numbered_pieces(source, PIECE)
        self._decoder = json.JSONDecoder()
        self._text = ""
        self.position, self._counted, self._line = 0, 0, 1

    @property
    def line(self) -> int:
        """The number of the line at the position."""
        self._count_lines()
        return self._line

    def error(self, problem: str) -> ValueError:
        return ValueError(f"{self._source}, line {self.line}: {problem}")

    def next_character(self) -> str:
        """Go to the next character that is no white space, and return it; `""` at the end of the file."""
        while True:
            while self._text[self.position : self.position + 1] in (" ", "\t", "\n", "\r"):
                self.position += 1
            if self.position < len(self._text) or not self._read_on():
                return self._text[self.position : self.position + 1]

    def value(self) -> Any:
        """Return the value at the position, and go behind it."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self.position)
            except json.JSONDecodeError as error:
                # the piece may end in the middle of a string, or of a word
                cut = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - 16
                if cut and self._read_on():
                    continue
                raise self.error(f"expected JSON; got {self._text[self.position :][:80]!r} ({error.msg}).") from error
            except RecursionError as error:
                raise self.error("expected an object or a string; got very many arrays in each other.") from error
            if end == len(self._text) and self._read_on():
                continue  # a number may go on
            self.position = end
            return value

    def _read_on(self) -> bool:
        """Forget what is behind, and read as much as is still ahead, or a piece; return whether there was more."""
        self._count_lines()
        parts = [self._text[self.position :]]
        wanted = len(parts[0])
        while wanted >= 0 and (piece := next(self._pieces, (0, ""))[1]):
            parts.append(piece)
            wanted -= len(piece)
        self._text = "".join(parts)
        self.position = self._counted = 0
        return len(parts) > 1

    def _count_lines(self) -> None:
        self._line += self._text.count("\n", self._counted, self.position)
        self._counted = self.position
