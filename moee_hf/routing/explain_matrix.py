"""The figure of an explanation of several texts: every similarity, and what HS and RW give to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..figures.style import WIDTH, Theme
from ..figures.words import one_line
from .explain import Explanation
from .explain_words import HIDDEN, ROUTING, bounds, headline, parts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# characters of a text beside its row; inches of a row, and of a matrix
_LABEL, _ROW_HEIGHT, _HEIGHT = 44, 0.42, (1.8, 5.0)
# of so many texts, a matrix has room for its numbers; the smaller ones below have it for fewer
_NUMBERS, _SMALL_NUMBERS = 14, 7
# how far on a scale the largest number is: behind its hue, which is in the middle, and before black or white
_DEEPEST = 0.65


def draw_matrix(explanation: Explanation, theme: Theme) -> Figure:
    """Draw the similarities of three texts or more, inside a context of `drawing`, and below them HS and RW apart."""
    from matplotlib.figure import Figure

    count = len(explanation.texts)
    height = float(np.clip(count * _ROW_HEIGHT, *_HEIGHT))
    figure = Figure(figsize=(WIDTH, height + 0.75 * height + 2.4))
    grid = figure.add_gridspec(2, 2, height_ratios=[height, 0.75 * height])
    whole = figure.add_subplot(grid[0, :])
    first, second = explanation.nearest()
    title = f"How alike {count} texts are"
    whole.set_title("The stronger the colour, the more alike. On the diagonal 1: the same text.", fontsize=10)
    figure.suptitle(title, x=0.012, ha="left", fontsize=15, fontweight="bold")
    _matrix(whole, explanation.similarity, theme, theme.positive, count <= _NUMBERS)
    labels = [f"{one_line(text, _LABEL)}  {row}" for row, text in enumerate(explanation.texts, 1)]
    _number_texts(whole, labels, int(height / 0.17), 40)
    nearest = f"{headline(explanation, first, second)}, the most of all. {parts(explanation, first, second)}"
    figure.supxlabel(nearest, x=0.012, ha="left", fontsize=10)
    apart = [(HIDDEN, explanation.of_hidden, theme.hidden), (ROUTING, explanation.of_routing, theme.routing)]
    for column, (name, values, color) in enumerate(apart):
        axis = figure.add_subplot(grid[1, column])
        _matrix(axis, values, theme, color, count <= _SMALL_NUMBERS)
        axis.set_title(f"What the {name} gives")
        _number_texts(axis, [str(row) for row in range(1, count + 1)], int(0.75 * height / 0.17), 12)
    return figure


def _matrix(axis: Any, values: np.ndarray, theme: Theme, color: str, has_numbers: bool) -> None:
    """A heat map of numbers for each text with every other; a text with itself, which says little, is left out."""
    apart = np.where(np.eye(len(values), dtype=bool), np.nan, values)
    low, high = bounds(np.nan_to_num(apart))
    colors = theme.diverging() if low < 0 else theme.sequential(color)
    if low == 0 and (least := float(np.nanmin(apart))) < high:
        low = max(0.0, 2 * least - high)  # all are large, as those of a model that is not calibrated
    most = high if low < 0 else low + (high - low) / _DEEPEST
    image = axis.imshow(apart, cmap=colors, vmin=low, vmax=most, aspect="auto", interpolation="nearest")
    axis.spines[:].set(visible=True)
    if not has_numbers:
        axis.figure.colorbar(image, ax=axis, fraction=0.05, pad=0.02)
        return
    for (row, column), value in np.ndenumerate(values):
        red, green, blue, _ = image.cmap(image.norm(value)) if row != column else (0, 0, 0, 0)
        is_dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        letters = theme.faint if row == column else "#FFFFFF" if is_dark else "#1F2328"
        axis.text(column, row, f"{value:.3f}", ha="center", va="center", color=letters, fontsize=9)


def _number_texts(axis: Any, labels: list[str], most_rows: int, most_columns: int) -> None:
    """Name rows and number columns, no more than are legible."""
    step = -(-len(labels) // most_rows)
    axis.set_yticks(range(0, len(labels), step), labels[::step], fontsize=9)
    places = range(0, len(labels), -(-len(labels) // most_columns))
    axis.set_xticks(places, [str(place + 1) for place in places], fontsize=9)
    axis.tick_params(length=0)
