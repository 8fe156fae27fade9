"""Answers as HTML, in the colours of the figures; texts are shown as they are, whatever is in them."""

from __future__ import annotations

import base64
import html
import io
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..figures.style import drawing
from ..routing.explain_figure import draw_pair
from ..routing.explain_words import expert_name, headline, number, parts

if TYPE_CHECKING:
    from ..routing.explain import Explanation
    from ..search import Hit
    from .answers import Routing

# of a text, so many tokens are shown; of a hit, so many characters
SHOWN_TOKENS, SHOWN_CHARACTERS = 80, 400
# of the figure, which is as wide as the page
_DOTS_PER_INCH = 110


def similarity(explanation: Explanation) -> str:
    """Return how alike two texts are: a number, a sentence, and what HS, each layer and the strongest experts give."""
    total = [("hidden state (HS)", explanation.of_hidden[0, 1]), ("routing (RW)", explanation.of_routing[0, 1])]
    layers = [
        (f"MoE layer {layer}", amount)
        for layer, amount in zip(explanation.layers, explanation.of_layers[0, 1], strict=True)
    ]
    tables = [("What it is made of", total), ("Routing by layer", layers)]
    for title, experts in zip(("Most alike", "Most different"), explanation.strongest(0, 1), strict=True):
        tables.append((f"{title} in", [(expert_name(part), part.amount) for part in experts]))
    numbers = "".join(_amounts(title, rows) for title, rows in tables if rows)
    return _block(
        f'<p class="number">{number(explanation.similarity[0, 1])}</p>'
        f"<p>is how alike these two texts are. {parts(explanation, 0, 1)} Around 0, they have nothing in common for "
        "this model.</p>"
        f'<details><summary>All numbers</summary><div class="columns">{numbers}</div></details>'
    )


def figure(explanation: Explanation, theme: str) -> str:
    """Return the figure of `moee explain` for two texts, in a theme of the figures."""
    content = io.BytesIO()
    with drawing(theme) as colors, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # it is a box
        draw_pair(explanation, colors).savefig(content, format="png", dpi=_DOTS_PER_INCH)
    image = base64.b64encode(content.getvalue()).decode()
    words = html.escape(f"{headline(explanation, 0, 1)}. {parts(explanation, 0, 1)} All numbers stand above.")
    return _block(f'<div class="wide" tabindex="0"><img alt="{words}" src="data:image/png;base64,{image}"></div>')


def _amounts(title: str, rows: Sequence[tuple[str, float]]) -> str:
    lines = "".join(
        f'<tr><th scope="row">{name}</th><td class="amount">{number(amount)}</td></tr>' for name, amount in rows
    )
    return f"<table><caption>{title}</caption>{lines}</table>"


def hits(found: Sequence[Hit]) -> str:
    """Return texts that are like a query, the most similar first."""
    lines = "".join(
        f'<tr><td class="amount">{hit.rank}</td><td class="amount">{hit.similarity:.3f}<div class="bar" '
        f'style="width:{100 * max(0.0, hit.similarity):.1f}%"></div></td>'
        f"<td>{_text(hit.text)}</td></tr>"
        for hit in found
    )
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("rank", "similarity", "text"))
    return _block(f'<table class="hits"><tr>{heads}</tr>{lines}</table>')


def routing(found: Routing) -> str:
    """Return which experts a text visits: a heat map, and its tokens with their experts."""
    num_layers, num_experts = found.shares.shape
    each = found.chosen.experts.shape[-1]
    summary = (
        f"In each MoE layer a router sends every token to {each} of {num_experts} experts. A row below is one of "
        f"the {num_layers} layers that are in RW, a square an expert: the stronger its colour, the more of the "
        f"{len(found.chosen.spans)} tokens of this text chose it."
    )
    return _block(
        f"<p>{summary}</p>{heat_map(found.shares, found.layers)}"
        f"<h3>Tokens and their experts</h3><p>The one with the most weight comes first.</p>{''.join(_tokens(found))}"
    )


def heat_map(shares: np.ndarray, layers: Sequence[int]) -> str:
    """Return a table of squares, layers x experts, each as strong in colour as its share of the largest."""
    largest = max(float(shares.max(initial=0.0)), 1e-9)
    heads = "".join(f"<th>{expert if expert % 8 == 0 else ''}</th>" for expert in range(shares.shape[1]))
    rows = []
    for layer, row in zip(layers, shares, strict=True):
        squares = "".join(
            f'<td style="--share:{100 * share / largest:.0f}%" title="layer {layer}, expert {expert}: {share:.0%}">'
            "</td>"
            for expert, share in enumerate(row)
        )
        rows.append(f'<tr><th scope="row">{layer}</th>{squares}</tr>')
    label = f"Heat map of {len(layers)} MoE layers and {shares.shape[1]} experts; the tables below have the numbers"
    return (
        f'<div class="wide" tabindex="0" role="img" aria-label="{label}"><table class="heat">'
        "<caption>MoE layer (rows) and expert (columns)</caption>"
        f"<tr><th></th>{heads}</tr>{''.join(rows)}</table></div>"
    )


def _tokens(found: Routing) -> Iterator[str]:
    """A table for each layer that unfolds: tokens, and the experts that they choose."""
    spans = found.chosen.spans[:SHOWN_TOKENS]
    rest = len(found.chosen.spans) - len(spans)
    more = f'<p class="faint">{rest} more tokens are not shown.</p>' if rest else ""
    for place, layer in enumerate(found.layers):
        lines = "".join(
            f"<tr><td><code>{_text(found.text[begin:end])}</code></td>"
            f"<td>{', '.join(map(str, found.chosen.experts[token, place]))}</td></tr>"
            for token, (begin, end) in enumerate(spans)
        )
        is_open = " open" if place == 0 else ""
        yield (
            f'<details{is_open}><summary>MoE layer {layer}</summary><div class="wide" tabindex="0"><table><tr>'
            f'<th scope="col">token</th><th scope="col">experts</th></tr>{lines}</table>{more}</div></details>'
        )


def _text(text: str) -> str:
    """The beginning of a text, with spaces at its ends, and ends of lines, that can be seen."""
    short = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
    return html.escape(short.replace("\n", "⏎"))


def _block(content: str) -> str:
    return f'<div class="moee">{content}</div>'
