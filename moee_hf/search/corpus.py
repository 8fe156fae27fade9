"""A file with texts to search in: what it holds, and single texts of it by their numbers; no text stays in memory."""

from __future__ import annotations

import hashlib
import itertools
import os
from bisect import bisect_right
from collections.abc import Iterable

from ..files.lines import is_read_once
from ..files.locations import is_remote
from ..files.readers import has_lines, measure
from ..files.rows import Row, Span
from ..files.texts import TextFile

# lines that are read to find one of them
LINES_PER_BLOCK = 4096


class CorpusFile:
    """A file with texts, which is read once to check it, and in parts for single texts; empty ones are skipped.

    Args:
        source: The file, as `TextFile` takes it, here and below.
        column: The field that holds the text.
        delimiter: What separates the fields of a `.csv` or `.tsv` file.

    Attributes:
        path: The file.
        source: What messages call it.
        count: The number of its texts.
        skipped: The number of empty texts in it.
        digest: Of all texts in their order, in hexadecimal.

    Raises:
        ValueError: If the format is another, a row is damaged, there is no text, or the file can be read only once.
        OSError: If it cannot be read.
    """

    def __init__(self, source: str, column: str | None = None, delimiter: str | None = None):
        self.path, self._arguments = source, (source, column, delimiter)
        self.source = self.file().source
        if is_read_once(source):
            raise ValueError(
                f"{self.source}: expected a file, which is read again for the texts that are found; got one that can "
                "be read only once. Save it first."
            )
        self._version = self._version_now()
        self._spans: list[Span | None] = [None]
        if has_lines(source):
            self._spans = [*measure(self.file().request, LINES_PER_BLOCK)[0].spans(LINES_PER_BLOCK)]
        self._starts: list[int] = []  # the number of the first text of each span
        self.count = self.skipped = 0
        digest = hashlib.sha256()
        for span in self._spans:
            self._starts.append(self.count)
            part = self.file(span)
            for row in part.rows():
                text = row.text.encode()
                digest.update(len(text).to_bytes(8, "little") + text)
                self.count += 1
            self.skipped += part.skipped
        if not self.count:
            got = f"{self.skipped} empty ones" if self.skipped else "none"
            raise ValueError(f"{self.source}: expected texts; got {got}.")
        self.digest = digest.hexdigest()

    def file(self, span: Span | None = None) -> TextFile:
        """Return the file, or a part of it, as the rest of the package reads it."""
        return TextFile(*self._arguments, span=span)

    def rows(self, numbers: Iterable[int]) -> dict[int, Row]:
        """Return rows by the numbers of their texts, counted from 0.

        Raises:
            ValueError: If the file was changed since it was read.
            OSError: If it cannot be read.
        """
        self.check_unchanged()
        found = {}
        ordered = sorted(set(numbers))
        for block, members in itertools.groupby(ordered, key=lambda number: bisect_right(self._starts, number) - 1):
            rows, position = self.file(self._spans[block]).rows(), self._starts[block]
            for number in members:
                found[number] = next(itertools.islice(rows, number - position, None))
                position = number + 1
        return found

    def check_unchanged(self) -> None:
        """Raise `ValueError` if the file was changed since it was read; of an address that is not known."""
        if self._version_now() != self._version:
            raise ValueError(f"{self.source}: expected the file as it was read; it was changed since. Open it again.")

    def _version_now(self) -> tuple[int, int] | None:
        source = self._arguments[0]
        if is_remote(source) or not os.path.exists(source):  # its reader says so
            return None
        stat = os.stat(source)
        return stat.st_size, stat.st_mtime_ns
