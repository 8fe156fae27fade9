"""Lines and pieces of text files in UTF-8, gzipped or not; what is damaged is said with its file and line."""

from __future__ import annotations

import contextlib
import gzip
import io
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from .locations import is_remote, open_bytes
from .rows import Span

STDIN = "-"


def name_of(source: str) -> str:
    """Return what messages call a file."""
    return "standard input" if source == STDIN else source


def suffix_of(source: str) -> str:
    """Return the ending that says the format of a file: `.csv` of `A.CSV.gz`; `.txt` of standard input."""
    return ".txt" if source == STDIN else Path(source.lower().removesuffix(".gz")).suffix


def is_read_once(source: str) -> bool:
    """Return whether this is standard input or a pipe, which cannot be read a second time."""
    return source == STDIN or Path(source).is_fifo()


def numbered_lines(source: str, newline: str | None = None, span: Span | None = None) -> Iterator[tuple[int, str]]:
    r"""Yield the lines of a text file with their numbers, from 1.

    Args:
        source: The file; `-` is standard input.
        newline: As in `open`: None makes every end of a line `\n`, `""` leaves it.
        span: Which lines, if it is known where they begin; else all.

    Raises:
        ValueError: If the file is not UTF-8, has a NUL byte, or is gzipped and damaged.
        OSError: If it cannot be read.
    """
    return _checked(source, newline, lambda file: file, lambda line: 1, span)


def numbered_pieces(source: str, size: int) -> Iterator[tuple[int, str]]:
    """Yield the text of a file in pieces of this many characters, each with the number of the line it begins in.

    Errors are those of `numbered_lines`.
    """
    return _checked(source, None, lambda file: iter(lambda: file.read(size), ""), lambda piece: piece.count("\n"))


def check_readable(source: str) -> None:
    """Raise unless there is a file to read.

    Raises:
        OSError: If there is none, or it is a folder, or it may not be read.
    """
    try:
        if source != STDIN and not Path(source).is_fifo():
            with open_bytes(source):
                pass
    except OSError as error:
        if is_remote(source):  # it says all of that
            raise
        got = "a folder" if isinstance(error, IsADirectoryError) else error.strerror
        raise type(error)(f"{source}: expected a file to read; got: {got}. Check the path.") from error


def is_unicode(text: str) -> bool:
    """Return whether UTF-8 can hold a text; JSON can spell half of a character."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return False
    return True


def _checked(
    source: str,
    newline: str | None,
    split: Callable[[TextIO], Iterable[str]],
    lines_of: Callable[[str], int],
    span: Span | None = None,
) -> Iterator[tuple[int, str]]:
    span = Span() if span is None or span.begin is None else span
    line = span.start + 1
    try:
        with _open(source, newline, span) as file:
            for piece in split(file):
                if "\0" in piece or not is_unicode(piece):
                    raise ValueError(_problem(source, line, piece))
                yield line, piece
                line += lines_of(piece)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{source}, line {line}: expected a file packed by gzip; got a damaged one, or the first part of one "
            f"({error}). Copy or pack it again."
        ) from error


@contextlib.contextmanager
def _open(source: str, newline: str | None, span: Span) -> Iterator[TextIO]:
    # bytes that are no UTF-8 become half characters, so that the line with them can be named
    if source == STDIN:
        if sys.stdin is None:
            raise ValueError(f"{name_of(source)}: expected texts; it is closed.")
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="surrogateescape", newline=newline)  # type: ignore[union-attr]
        yield sys.stdin
        return
    check_readable(source)
    with contextlib.ExitStack() as stack:
        file: Any = stack.enter_context(open_bytes(source))
        if source.lower().endswith(".gz"):
            file = stack.enter_context(gzip.GzipFile(fileobj=file))
        elif span.begin is not None:
            file = io.BufferedReader(_Piece(file, span.begin, span.end))
        encoding = "utf-8" if span.begin else "utf-8-sig"
        yield stack.enter_context(io.TextIOWrapper(file, encoding, "surrogateescape", newline))


class _Piece(io.RawIOBase):
    """A part of a file, which ends where another file would.

    Args:
        file: The file.
        begin: Where the part begins, in bytes.
        end: Where it ends. None: where the file does.
    """

    def __init__(self, file: BinaryIO, begin: int, end: int | None):
        self._file, self._left = file, None if end is None else end - begin
        file.seek(begin)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = len(buffer) if self._left is None else min(len(buffer), self._left)
        content = self._file.read(size)
        buffer[: len(content)] = content
        if self._left is not None:
            self._left -= len(content)
        return len(content)


def _problem(source: str, line: int, piece: str) -> str:
    """What is wrong with the first character that is wrong, in which line."""
    position, wrong = next(
        (position, character)
        for position, character in enumerate(piece)
        if character == "\0" or "\ud800" <= character <= "\udfff"
    )
    where = f"{name_of(source)}, line {line + piece.count(chr(10), 0, position)}"
    if wrong == "\0":
        return f"{where}: expected text; got a NUL byte. Convert the file to UTF-8, if it is text in UTF-16."
    return f"{where}: expected UTF-8; got the byte 0x{ord(wrong) - 0xDC00:02x}. Convert the file."


def rows_of_lines(source: str, span: Span | None = None) -> Iterator[tuple[str, str]]:
    """Yield the lines of a file, each with where it stands and without its end; arguments are as above."""
    for number, line in numbered_lines(source, span=span):
        yield f"line {number}", line.removesuffix("\n")
