"""Figures of an explanation: of two texts its parts down to the experts, of more texts every similarity."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from ..figures.style import WIDTH, Theme
from ..figures.words import one_line
from .explain import Explanation
from .explain_words import (
    HIDDEN,
    MEASURES,
    PRODUCT,
    ROUTING,
    bounds,
    expert_name,
    headline,
    number,
    parts,
    percentages,
    remarks,
    routing_alone,
    routing_of,
    rule,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# characters of a text in one line across a figure
_LINE = 100
# inches: of a line of words; of a layer in a heat map, and of such a map
_LINE_HEIGHT, _LAYER_HEIGHT, _MAP_HEIGHT = 0.25, 0.17, (0.9, 2.4)
# inches from the label of a layer to the next one, so that both are legible
_LABEL_HEIGHT = 0.15
# so many layers have room for the values of their bars
_VALUES = 12
# characters of words for each text beside the bar of an expert
_WORDS = 24


def draw_pair(explanation: Explanation, theme: Theme, first: int = 0, second: int = 1) -> Figure:
    """Draw the similarity of two texts, given by their numbers, inside a context of `drawing`.

    From above: the texts; what HS and RW give; RW by layer; the routing of both texts and its product, layers x
    experts; the experts that make them alike and differ most, with the words that choose them if those are known.
    """
    from matplotlib.figure import Figure

    num_layers = len(explanation.layers)
    heights = [5 * _LINE_HEIGHT + 0.1, 0.9]
    if num_layers:
        strongest = sum(map(len, explanation.strongest(first, second)))
        height = float(np.clip(num_layers * _LAYER_HEIGHT, *_MAP_HEIGHT))
        heights += [1.5, height, height, height, 0.7 + _LINE_HEIGHT * max(1, strongest)]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.6 * (len(heights) - 1)))
    figure.set_layout_engine("constrained", hspace=0.02, h_pad=0.08)
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    axes = [figure.add_subplot(grid[row]) for row in range(len(heights))]
    sentences = [headline(explanation, first, second), parts(explanation, first, second), routing_alone(explanation)]
    _texts(axes[0], sentences, explanation, first, second)
    _parts(axes[1], explanation, theme, first, second)
    if num_layers:
        _layers(axes[2], explanation, theme, first, second)
        _maps(axes[3:6], explanation, theme, first, second)
        _strongest(axes[6], explanation, theme, first, second)
    return figure


def _texts(axis: Any, sentences: list[str], explanation: Explanation, *numbers: int) -> None:
    """Write sentences, the first one large, and texts with their numbers, from the left edge of the figure on."""
    from matplotlib.transforms import blended_transform_factory

    axis.axis("off")
    lines = list(filter(None, sentences)) + [
        f"{text + 1}  {one_line(explanation.texts[text], _LINE)}" for text in numbers
    ]
    across = blended_transform_factory(axis.figure.transFigure, axis.transAxes)
    for row, line in enumerate(lines):
        style: dict[str, Any] = {"fontsize": 15, "fontweight": "bold"} if row == 0 else {}
        place = axis.text(0.012, 1 - row / len(lines), line, transform=across, va="top", **style)
        place.set_in_layout(False)


def _parts(axis: Any, explanation: Explanation, theme: Theme, first: int, second: int) -> None:
    """Bars of HS and RW, the second one from where the first one ends."""
    hidden, routing = explanation.of_hidden[first, second], explanation.of_routing[first, second]
    rows = [(HIDDEN, 0.0, hidden, theme.hidden), (ROUTING, hidden, routing, theme.routing)]
    shares = percentages(hidden, routing)
    for row, ((_, start, amount, color), share) in enumerate(zip(rows, shares, strict=True)):
        axis.barh(row, amount, left=start, color=color, height=0.7)
        axis.annotate(
            number(amount) + share,
            (max(start, start + amount, hidden + routing), row),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            bbox={"facecolor": theme.background, "edgecolor": "none", "pad": 1},
        )
    total = hidden + routing
    axis.axvline(total, color=theme.text, linewidth=1, linestyle=":")
    axis.axvline(0, color=theme.faint, linewidth=1)
    axis.set_yticks(range(2), [name for name, *_ in rows])
    axis.set_ylim(1.6, -0.6)
    low = min(0.0, hidden, total) * 1.05
    axis.set_xlim(low, 1.25)  # room for numbers
    axis.set_xticks(np.arange(np.ceil(5 * low) / 5, 1.1, 0.2))
    axis.spines["bottom"].set_bounds(low, 1)
    axis.set_title("What it is made of (dotted: the similarity, the sum of both)")
    axis.tick_params(axis="y", length=0)


def _layers(axis: Any, explanation: Explanation, theme: Theme, first: int, second: int) -> None:
    """Bars of what the routing of each layer gives."""
    amounts, layers = explanation.of_layers[first, second], explanation.layers
    bars = axis.bar(range(len(layers)), amounts, color=theme.routing, width=0.7)
    if len(layers) <= _VALUES:
        axis.bar_label(bars, [number(amount) for amount in amounts], padding=2, fontsize=9)
        axis.margins(y=0.2)
    axis.axhline(0, color=theme.faint, linewidth=1)
    step = -(-len(layers) // 24)
    axis.set_xticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]])
    axis.set_xlim(-0.6, max(len(layers), 8) - 0.4)
    axis.set_xlabel("MoE layer")
    routing = number(explanation.of_routing[first, second])
    axis.set_title(f"What the routing in each layer gives to the similarity, {routing} in all")
    axis.locator_params(axis="y", nbins=4)


def _maps(axes: list[Any], explanation: Explanation, theme: Theme, first: int, second: int) -> None:
    """Heat maps, layers x experts, of two texts on one scale, and of their product with the strongest experts."""
    both = explanation.routing[[first, second]]
    product = explanation.of_experts(first, second)
    titles = [routing_of(explanation, first), routing_of(explanation, second), f"{PRODUCT}\n{rule(explanation)}"]
    for axis, values, scale, title in zip(axes, (*both, product), (both, both, product), titles, strict=True):
        low, high = bounds(scale)
        color = theme.positive if axis is axes[2] else theme.routing
        colors = theme.sequential(color) if low == 0 else theme.diverging()
        image = axis.imshow(values, cmap=colors, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
        axis.set_title(title)
        _name_layers(axis, explanation)
        axis.spines[:].set(visible=True)
        axis.tick_params(axis="x", labelbottom=axis is axes[2])
        if axis is axes[1]:
            axis.figure.colorbar(image, ax=axes[:2], label="in the embedding", fraction=0.03, pad=0.01, aspect=30)
    axes[2].figure.colorbar(image, ax=axes[2:], label="to the similarity", fraction=0.03, pad=0.01)
    for expert_parts, marker in zip(explanation.strongest(first, second), "ox", strict=True):
        places = [(part.expert, explanation.layers.index(part.layer)) for part in expert_parts]
        if places:
            style = {"facecolors": "none", "edgecolors": theme.text} if marker == "o" else {"color": theme.text}
            axes[2].scatter(*zip(*places, strict=True), marker=marker, s=42, linewidths=1.2, **style)
    axes[2].set_xlabel("expert   (circles: make them most alike; crosses: make them differ most)")


def _name_layers(axis: Any, explanation: Explanation) -> None:
    """Number layers and experts, as many as are legible."""
    layers = explanation.layers
    height = float(np.clip(len(layers) * _LAYER_HEIGHT, *_MAP_HEIGHT))
    step = -(-len(layers) // int(height / _LABEL_HEIGHT))
    axis.set_yticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]], fontsize=9)
    axis.locator_params(axis="x", nbins=16, integer=True)
    axis.set_ylabel("MoE layer")


def _strongest(axis: Any, explanation: Explanation, theme: Theme, first: int, second: int) -> None:
    """Bars of the experts that make two texts most alike, and differ most, with the words that choose them."""
    alike, differ = explanation.strongest(first, second)
    rows = [*alike, *differ[::-1]]
    most = max((abs(part.amount) for part in rows), default=1.0)
    for row, part in enumerate(rows):
        color = theme.positive if part.amount > 0 else theme.negative
        axis.barh(row, part.amount, color=color, height=0.7)
        label = "   ".join([number(part.amount), *remarks(explanation, first, second, part, _WORDS)])
        axis.annotate(
            label, (max(part.amount, 0), row), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9
        ).set_in_layout(False)
    axis.axvline(0, color=theme.faint, linewidth=1)
    axis.set_yticks(range(len(rows)), [expert_name(part) for part in rows], fontsize=10)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    # words stand where no bar is
    axis.set_xlim(min([0.0, *(1.1 * part.amount for part in rows)]), most * 3)
    axis.tick_params(axis="y", length=0)
    axis.xaxis.set_visible(False)
    axis.spines["bottom"].set_visible(False)
    with_words = "" if explanation.tokens is None else ", and words that choose them"
    title = f"Experts that make the texts most alike, or differ most{with_words}"
    axis.set_title(title if explanation.tokens is None else f"{title}\n{fill(MEASURES, _LINE - 20)}")
