"""Answers as HTML, in the colours of the figures; texts are shown as they are, whatever is in them."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..routing.explain_page import page_of

if TYPE_CHECKING:
    from ..routing.explain import Explanation
    from ..search import Hit
    from .answers import Routing

# of a text, so many tokens are shown; of a hit, so many characters
SHOWN_TOKENS, SHOWN_CHARACTERS = 80, 400


def explanation(found: Explanation) -> str:
    """Return the page of `moee explain`, as a frame that is as high as what it shows."""
    grow = "new ResizeObserver(() => this.style.height = this.contentDocument.body.offsetHeight + 'px')"
    onload = f"{grow}.observe(this.contentDocument.body)"
    page = html.escape(page_of(found))
    return _block(f'<iframe title="Why the texts are alike" srcdoc="{page}" onload="{onload}"></iframe>')


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
