"""What an explanation says in words, the same in a terminal, a figure and a page."""

from __future__ import annotations

import numpy as np

from ..figures.words import one_line
from .explain import ExpertPart, Explanation

HIDDEN, ROUTING = "hidden state (HS)", "routing (RW)"
PRODUCT = "What each expert gives to the similarity: both texts multiplied"


def number(value: float) -> str:
    """Return a part of a similarity in three decimals, or in two figures if it is smaller; minus as minus."""
    text = f"{value:.3f}" if abs(value) >= 0.01 or value == 0 else f"{value:#.2g}"
    if "e" in text or len(text) > 8:
        text = f"{value:.1e}"
    return text.replace("-", "−")


def headline(explanation: Explanation, first: int, second: int) -> str:
    """Return how alike two texts are."""
    who = "these two texts" if len(explanation.texts) == 2 else f"texts {first + 1} and {second + 1}"
    return f"How alike {who} are: {number(explanation.similarity[first, second])}"


def parts(explanation: Explanation, first: int, second: int) -> str:
    """Return what their similarity is made of, in one sentence."""
    hidden, routing = explanation.of_hidden[first, second], explanation.of_routing[first, second]
    if not explanation.layers:
        return "All of it comes from the hidden state (HS): this embedding has no routing in it."
    if not explanation.hidden.shape[1]:
        return "All of it comes from the routing (RW): this embedding has no hidden state in it."
    return f"The hidden state gives {number(hidden)} of it, the routing {number(routing)}. 1 is the same text."


def routing_of(explanation: Explanation, text: int) -> str:
    """Return what the routing of one text shows, as a title."""
    return f"Text {text + 1}: {meaning_of_routing(explanation)}"


def meaning_of_routing(explanation: Explanation) -> str:
    """Return what the numbers of RW mean: those below 0 are of log-ratios, or of what a corpus is compared with."""
    if (explanation.routing < 0).any():
        return "experts that its router favours more than usual (+), or less (−)"
    return "how strongly its router favours each expert"


def expert_name(part: ExpertPart) -> str:
    """Return the name of an expert."""
    return f"layer {part.layer}, expert {part.expert}"


def words_of(explanation: Explanation, text: int, part: ExpertPart, most: int = 40) -> str:
    """Return the words of a text whose tokens choose an expert, with commas between those that are apart."""
    if explanation.tokens is None:
        return ""
    words, before = "", 0
    for begin, end in sorted(explanation.tokens[text].chosen_by(explanation.layers.index(part.layer), part.expert)):
        word = explanation.texts[text][max(begin, before) : end]  # tokens may share a character
        words += f", {word.lstrip()}" if words and begin > before else word
        before = end
    return one_line(words, most)


def bounds(values: np.ndarray) -> tuple[float, float]:
    """Return where a scale of colours begins and ends: at 0, or as far below it as above."""
    most = float(np.abs(values).max()) or 1.0
    return (-most if (values < 0).any() else 0.0), most
