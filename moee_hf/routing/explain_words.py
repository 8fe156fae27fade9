"""What an explanation says in words, the same in a terminal, a figure and a page."""

from __future__ import annotations

import numpy as np

from ..figures.words import one_line
from .explain import ExpertPart, Explanation
from .tokens import ChosenExperts

HIDDEN, ROUTING = "hidden state (HS)", "routing (RW)"
AVOIDED = "both less than usual"
PRODUCT = "What each expert gives to the similarity: both texts multiplied"
MEASURES = (
    "The maps show the last token (where the embedding is read), the words are those of the text whose own routing "
    "chooses the expert."
)


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
    shares = percentages(hidden, routing)
    return f"Hidden state {number(hidden)}{shares[0]}, routing {number(routing)}{shares[1]}. 1 is the same text."


def percentages(*amounts: float) -> list[str]:
    """Return the share of each amount in their sum, in brackets; nothing where one is below 0."""
    total = sum(amounts)
    return [f" ({100 * amount / total:.0f} %)" if min(amounts) >= 0 and total > 0 else "" for amount in amounts]


def routing_alone(explanation: Explanation) -> str:
    """Return what stands before parts of the routing; nothing where there is no other part, or none of it."""
    if not (explanation.layers and explanation.hidden.shape[1]):
        return ""
    return "Layers and experts below split the routing alone; the hidden state has none."


def rule(explanation: Explanation) -> str:
    """Return how the maps of two texts make that of their product."""
    if (explanation.routing < 0).any():
        return "Both more than usual, or both less: alike. One more, one less: they differ."
    return "Both favour it: alike."


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


def remarks(explanation: Explanation, first: int, second: int, part: ExpertPart, most: int) -> list[str]:
    """Return why an expert counts: both texts favour it less than usual, or the words that choose it, if known."""
    layer = explanation.layers.index(part.layer)
    if (explanation.routing[[first, second], layer, part.expert] < 0).all():
        return [AVOIDED]
    return [
        f"{text + 1}: {_words(explanation.texts[text], explanation.tokens[text], layer, part.expert, most)}"
        for text in (first, second)
        if explanation.tokens is not None
    ]


def _words(whole: str, tokens: ChosenExperts, layer: int, expert: int, most: int) -> str:
    """The words of a text whose tokens choose an expert; a hyphen stands where a word goes on."""
    chosen = sorted(tokens.chosen_by(layer, expert))
    if not chosen:
        return "no word"
    if len(chosen) == len(tokens.spans):
        return "all words"
    runs: list[tuple[int, int]] = []
    for begin, end in chosen:
        if runs and begin <= runs[-1][1]:  # tokens may share a character
            begin, end = runs[-1][0], max(end, runs.pop()[1])
        runs.append((begin, end))
    words = []
    for begin, end in runs:
        before = "-" if whole[max(begin - 1, 0) : begin + 1].isalnum() and begin else ""
        behind = "-" if whole[end - 1 : end + 1].isalnum() and end < len(whole) else ""
        words.append(before + whole[begin:end].strip() + behind)
    return one_line(", ".join(words), most)


def bounds(values: np.ndarray) -> tuple[float, float]:
    """Return where a scale of colours begins and ends: at 0, or as far below it as above."""
    most = float(np.abs(values).max()) or 1.0
    return (-most if (values < 0).any() else 0.0), most
