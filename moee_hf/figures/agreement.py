"""How far the routing of each MoE layer agrees with HS, as bars."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from .style import WIDTH, Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_agreement(agreement: Sequence[float], layers: Collection[int], theme: Theme) -> Figure:
    """Draw a bar for each MoE layer of a calibrated model, inside a context of `drawing`.

    Args:
        agreement: How far each of L layers agrees with HS, as a rank correlation, of shape `(L,)`.
        layers: The numbers of those that are in RW, from 0.
        theme: The colours.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 3.6))
    axis: Any = figure.add_subplot()
    numbers = range(len(agreement))
    for kind, color, label in (
        (True, theme.routing, f"in the embedding ({len(layers)} of {len(agreement)} layers)"),
        (False, theme.faint, "left out"),
    ):
        shown = [number for number in numbers if (number in layers) == kind]
        if shown:
            axis.bar(shown, [agreement[number] for number in shown], color=color, width=0.8, label=label)
    axis.axhline(0, color=theme.faint, linewidth=0.8)
    axis.set_xlabel("MoE layer, counted from 0 at the input")
    axis.set_ylabel("rank correlation with HS")
    axis.set_xlim(-0.7, len(agreement) - 0.3)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(loc="lower left", bbox_to_anchor=(0, 0.98), ncols=2, borderaxespad=0, handlelength=1)
    title = "How far the routing of each layer agrees with the hidden state (HS)\non which texts are alike"
    axis.set_title(title, pad=24)  # above the legend
    return figure
