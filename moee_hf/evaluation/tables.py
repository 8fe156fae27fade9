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
        averages: Rows that follow from the others, which CSV has not.
        compared: Rows, by their numbers, the averages' after the others', that are comparable with each other: the
            largest number among them is marked.
        columns: The columns, by their numbers, that are compared.
    """

    def __init__(
        self,
        header: Sequence[str],
        rows: Iterable[Sequence[Cell]],
        averages: Iterable[Sequence[Cell]] = (),
        compared: Iterable[Sequence[int]] = (),
        columns: Sequence[int] = (),
    ):
        self.header = list(header)
        self.rows = [list(row) for row in rows]
        self.averages = [list(row) for row in averages]
        self._best: set[tuple[int, int]] = set()
        for together in compared:
            numbers = {(row, i): v for row in together for i in columns if (v := self._body[row][i]) is not None}
            if len(numbers) > 1:
                self._best |= {place for place, value in numbers.items() if value == max(numbers.values())}

    @property
    def _body(self) -> list[list[Cell]]:
        return self.rows + self.averages

    def text(self) -> str:
        """Return the table for a terminal, in columns; a star is behind the best numbers."""
        cells = self._cells([self.header, *self._body])
        columns = zip(*self._body, strict=True) if self._body else ([] for _ in self.header)
        numbers = [all(value is None or isinstance(value, float) for value in column) for column in columns]
        for i in {column for _, column in self._best}:
            for number, row in enumerate(cells):
                row[i] = f"{row[i]}{'*' if (number - 1, i) in self._best else ' '}"
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if number else cell.ljust(width)
                for cell, width, number in zip(row, widths, numbers, strict=True)
            ).rstrip()
            for row in cells
        )

    def markdown(self) -> str:
        """Return the table as Markdown has it; the best numbers are bold."""
        cells = self._cells([self.header, *self._body])
        header, *rows = [[" ".join(cell.replace("|", "\\|").splitlines()) for cell in row] for row in cells]
        for row, column in self._best:
            rows[row][column] = f"**{rows[row][column]}**"
        return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows])

    def csv(self) -> str:
        """Return the table as CSV."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(self._cells([self.header, *self.rows]))
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

    @staticmethod
    def _cells(rows: Iterable[Sequence[Cell]]) -> list[list[str]]:
        def cell(value: Cell) -> str:
            return "" if value is None else value if isinstance(value, str) else f"{value:.2f}"

        return [[cell(value) for value in row] for row in rows]
