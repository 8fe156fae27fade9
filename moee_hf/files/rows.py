"""What a row of a file is, in any format, and which of its columns are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import pyarrow

# in place of names: every column but that of the texts
ALL = "*"

# the columns of a row that are kept: by their names, or the number of a row of a batch of Arrow's, with their types
Kept: TypeAlias = "Mapping[str, Any] | tuple[pyarrow.RecordBatch, int]"


class Row(NamedTuple):
    """A row: where it stands in its file, whatever stands in the place of the text, and the columns that are kept."""

    where: str
    text: Any
    kept: Kept


class Span(NamedTuple):
    """A part of the rows of a file.

    Args:
        start: The number of its first row, from 0; of a text file with a row a line, of its first line.
        stop: The number of the first row behind it. None: it ends with the file.
        begin: Where its lines begin in such a file, in bytes, if that is known; else rows before it are read over.
        end: Where they end. None: with the file.
    """

    start: int = 0
    stop: int | None = None
    begin: int | None = None
    end: int | None = None


@dataclass(frozen=True)
class Request:
    """What is asked of a file.

    Attributes:
        source: The file; `-` is standard input.
        column: The column with texts. None: `text`.
        delimiter: What separates the fields of a `.csv` or `.tsv`. None: a comma, or a tab.
        keep: The columns to keep; `("*",)`: every other.
        span: The rows. None: all.
    """

    source: str
    column: str | None = None
    delimiter: str | None = None
    keep: tuple[str, ...] = ()
    span: Span | None = None

    @property
    def text_column(self) -> str:
        """The name of the column with texts."""
        return "text" if self.column is None else self.column

    def columns_to_keep(self, columns: Sequence[str], advice: str = "") -> list[str]:
        """Return which of these columns are kept.

        Args:
            columns: All there are.
            advice: What else to say where one is missing.

        Raises:
            ValueError: If the column with texts, or one that is to be kept, is not among them once.
        """
        kept = [name for name in columns if name != self.text_column] if self.keep == (ALL,) else list(self.keep)
        for name in (self.text_column, *kept):
            if columns.count(name) != 1:
                argument = "to keep by the argument keep" if name in kept else "with texts by the argument column"
                raise ValueError(
                    f"{self.source}: expected one column {name!r}; got {', '.join(map(repr, columns)) or 'none'}. "
                    f"Name the column {argument}.{advice}"
                )
        return kept

    def kept_fields(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the fields of a row that are kept; one that it lacks is left out."""
        names = [name for name in row if name != self.text_column] if self.keep == (ALL,) else self.keep
        return {name: row[name] for name in names if name in row}
