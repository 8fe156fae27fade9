"""The page of an explanation: heat maps to point at, texts whose tokens light up."""

from __future__ import annotations

from importlib import resources
from typing import Any

from ..figures.page import page
from .explain import Explanation
from .explain_words import (
    AVOIDED,
    HIDDEN,
    MEASURES,
    PRODUCT,
    ROUTING,
    headline,
    meaning_of_routing,
    parts,
    routing_alone,
    rule,
)

_BODY = """<main>
<h1 id="headline"></h1>
<p id="parts"></p>
<p id="alone"></p>
<section id="several" hidden>
<h2>All similarities</h2>
<p class="faint">1 is the same text. Choose two texts to see below what their similarity is made of.</p>
<table id="matrix"></table>
</section>
<h2>The texts</h2>
<p id="tokens-help" class="faint" hidden>Words that choose the expert below are marked. Point at a word to mark in the
maps which experts it chooses.</p>
<div id="texts"></div>
<h2>What the similarity is made of</h2>
<div id="bars"></div>
<p id="sum" class="faint"></p>
<div id="routing">
<h2>What the routing in each MoE layer gives</h2>
<div id="layers"></div>
<h2>Expert by expert</h2>
<p class="faint">A row for each MoE layer, a column for each expert. Point at one, or go through them with the arrow
keys. The stronger the colour, the larger the number.</p>
<p id="measures" class="faint"></p>
<p id="details" role="status"></p>
<div id="maps"></div>
<h2>The experts that count most</h2>
<div class="columns"><section><h3>They make the texts alike</h3><div id="for"></div></section>
<section><h3>They make them differ</h3><div id="against"></div></section></div>
</div>
</main>"""


def page_of(explanation: Explanation) -> str:
    """Return an explanation as a page of HTML, which shows the two texts that are most alike first."""
    first, second = explanation.nearest()
    numbers = explanation.to_dict()
    pairs = [(pair["first"], pair["second"]) for pair in numbers["pairs"]]
    words = {
        "names": {"hidden": HIDDEN, "routing": ROUTING},
        "meaning": meaning_of_routing(explanation),
        "product": PRODUCT,
        "rule": rule(explanation),
        "alone": routing_alone(explanation),
        "avoided": AVOIDED,
        "measures": "" if explanation.tokens is None else MEASURES,
        "pairs": [[headline(explanation, *pair), parts(explanation, *pair)] for pair in pairs],
    }
    data = {**_short(numbers), "words": words, "shown": [first, second]}
    script, style = (
        resources.files(__package__).joinpath(f"explain.{kind}").read_text(encoding="utf-8") for kind in ("js", "css")
    )
    return page(headline(explanation, first, second), _BODY, script, data, style)


def _short(value: Any) -> Any:
    """The same with numbers of six figures, which are more than a page shows."""
    if isinstance(value, dict):
        return {name: _short(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_short(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
