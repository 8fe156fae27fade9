"""An explanation as a person sees it in a terminal."""

from __future__ import annotations

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..figures.words import one_line
from ..routing.explain import ExpertPart, Explanation
from ..routing.explain_words import HIDDEN, ROUTING, expert_name, headline, number, parts, remarks, routing_alone
from .routing import bar

# characters: of the longest bar, for a similarity of 1; of that of a layer or an expert; of a text
_PART, _BAR, _TEXT = 24, 20, 70


def show_explanation(explanation: Explanation) -> None:
    """Print the similarity of two texts and its parts; of more texts a matrix, and the two that are most alike."""
    console = Console(highlight=False)
    first, second = explanation.nearest()
    if len(explanation.texts) > 2:
        # a matrix that is wider than the terminal is broken there, and no number is cut
        width = max(console.width, _TEXT + 8 * len(explanation.texts))
        Console(highlight=False, width=width).print(_matrix(explanation), "")
    console.print(Text(headline(explanation, first, second), "bold"))
    console.print(*filter(None, [parts(explanation, first, second), routing_alone(explanation)]), "", sep="\n")
    if len(explanation.texts) == 2:
        for text in (first, second):
            console.print(Text(f"{text + 1}  {one_line(explanation.texts[text], _TEXT)}"))
        console.print()
    console.print(_parts(explanation, first, second))
    if not explanation.layers:
        return
    amounts = explanation.of_layers[first, second].tolist()
    rows = [(f"layer {layer}", amount, "") for layer, amount in zip(explanation.layers, amounts, strict=True)]
    console.print("", Text("What the routing in each MoE layer gives", "bold"), _bars(rows, "yellow"), sep="\n")
    titles = ("Experts that make the texts most alike", "Experts that make them differ most")
    for title, experts, color in zip(titles, explanation.strongest(first, second), ("green", "magenta"), strict=True):
        if experts:
            console.print("", Text(title, "bold"), _experts(explanation, experts, color, first, second), sep="\n")


def _table(*justify: str) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    for place in justify:
        table.add_column(justify="right" if place == "right" else "left", no_wrap=True)
    return table


def _matrix(explanation: Explanation) -> Table:
    """Every similarity, as `moee similarity` prints it, the largest one bold."""
    similarity, nearest = explanation.similarity, explanation.nearest()
    table = _table("right", "left", *("right" for _ in explanation.texts))
    table.add_row("", "", *(Text(str(number), "dim") for number in range(1, len(similarity) + 1)))
    for row, values in enumerate(similarity.tolist()):
        cells = [
            Text(f"{value:.3f}", "bold green" if tuple(sorted((row, column))) == nearest else "")
            for column, value in enumerate(values)
        ]
        table.add_row(Text(str(row + 1), "dim"), Text(one_line(explanation.texts[row], 40)), *cells)
    return table


def _parts(explanation: Explanation, first: int, second: int) -> Table:
    """HS and RW with bars, and how much each counts times how alike the texts are in it."""
    table = _table("left", "right", "left", "left")
    amounts = (explanation.of_hidden[first, second], explanation.of_routing[first, second])
    for name, amount, weight, cosine, color in zip(
        (HIDDEN, ROUTING), amounts, explanation.weights, explanation.cosines, ("cyan", "yellow"), strict=True
    ):
        made_of = f"weight {number(weight[first, second])} × cosine {number(cosine[first, second])}"
        long = Text(bar(abs(amount), _PART), color)
        table.add_row(name, Text(number(amount), "bold"), long, Text(made_of, "dim"))
    return table


def _bars(rows: list[tuple[str, float, str]], color: str) -> Table:
    """Names, amounts with bars, and remarks; the bar of a negative amount is magenta."""
    longest = float(np.abs([amount for _, amount, _ in rows]).max()) or 1.0
    table = _table("left", "right", "left")
    table.add_column(overflow="fold")
    for name, amount, remark in rows:
        long = Text(bar(abs(amount) / longest, _BAR), color if amount >= 0 else "magenta")
        table.add_row(name, number(amount), long, Text(remark))
    return table


def _experts(explanation: Explanation, experts: list[ExpertPart], color: str, first: int, second: int) -> Table:
    """A bar for each expert, and why it counts."""
    rows = [
        (expert_name(part), part.amount, "   ".join(remarks(explanation, first, second, part, 80))) for part in experts
    ]
    return _bars(rows, color)
