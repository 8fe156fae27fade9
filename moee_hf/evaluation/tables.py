"""Tables of scores, as text, Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..files.partial import written_aside

Cell = str | float | None


class Table:
    """Rows of names and numbers under a header; what could not be measured is None, and stays blank.

    Args:
        header: Names of the columns.
        rows: One cell a column.
    """

    def __init__(self, header: Sequence[str], rows: Iterable[Sequence[Cell]]):
        self.header = list(header)
        self.rows = [list(row) for row in rows]

    def text(self) -> str:
        """Return the table for a terminal, in columns."""
        cells = self._cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        numbers = [all(row[i] is None or isinstance(row[i], float) for row in self.rows) for i in range(len(widths))]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if number else cell.ljust(width)
                for cell, width, number in zip(row, widths, numbers, strict=True)
            ).rstrip()
            for row in cells
        )

    def markdown(self) -> str:
        """Return the table as Markdown has it."""
        header, *rows = [[" ".join(cell.replace("|", "\\|").splitlines()) for cell in row] for row in self._cells()]
        return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows])

    def csv(self) -> str:
        """Return the table as CSV."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(self._cells())
        return text.getvalue()

    def save(self, folder: Path, name: str, note: str = "") -> None:
        """Write the table as `name.md`, with a note below, and as `name.csv`.

        Raises:
            OSError: If a file cannot be written; names it.
        """
        text = self.markdown() + "\n" + (f"\n{note}\n" if note else "")
        for path, content in ((folder / f"{name}.md", text), (folder / f"{name}.csv", self.csv())):
            with written_aside(path) as partial:
                partial.write_text(content, encoding="utf-8")

    def _cells(self) -> list[list[str]]:
        def cell(value: Cell) -> str:
            return "" if value is None else value if isinstance(value, str) else f"{value:.2f}"

        return [self.header, *([cell(value) for value in row] for row in self.rows)]
