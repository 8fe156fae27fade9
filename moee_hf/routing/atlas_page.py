"""An atlas as a page: one file of 10 MB at most, whatever the model and the texts."""

from __future__ import annotations

import bisect
import json
import os
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from ..figures.page import page
from ..files.partial import written_aside
from .atlas import Atlas

# bytes of the texts in the page: those of the map, and those of experts; the rest of 10 MB is for numbers and words
MAP_BYTES, EXPERT_BYTES, WORD_BYTES = 2_500_000, 1_800_000, 1_000_000


def write_page(atlas: Atlas, path: str | os.PathLike[str], command: str = "") -> None:
    """Write a page of an atlas, which needs no network; the file is complete, or not there.

    Args:
        atlas: The atlas.
        path: The file.
        command: What made it, which the page says.

    Raises:
        OSError: If it cannot be written.
    """
    body, style, experts, texts = (
        resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
        for name in ("atlas.html", "atlas.css", "atlas.js", "atlas_map.js")
    )
    text = page(f"Atlas of {atlas.model}", body, experts + texts, page_data(atlas, command), style)
    with written_aside(Path(path)) as partial:
        partial.write_text(text, encoding="utf-8")


def page_data(atlas: Atlas, command: str = "") -> dict[str, Any]:
    """Return what the page shows, as JSON can say it. Experts and texts are named by their numbers.

    Log-ratios are in hundredths, correlations in hundredths, shares in thousandths, places in thousandths of the map.
    """
    words = _Table(word for expert in atlas.experts for word, _ in expert.words + expert.tokens)
    words.add(word for group in atlas.expert_groups for word in group.words)
    texts = _Table(text for expert in atlas.experts for text, _ in expert.texts)
    layers = list(dict.fromkeys(expert.layer for expert in atlas.experts))
    number_of = {(expert.layer, expert.expert): number for number, expert in enumerate(atlas.experts)}
    return {
        "model": atlas.model,
        "command": command,
        "numTexts": atlas.num_texts,
        "numTokens": atlas.num_tokens,
        "numLeftOut": atlas.num_left_out,
        "layers": layers,
        "numExperts": atlas.num_experts,
        "chosen": atlas.experts_per_token,
        "words": _cut(words.values, WORD_BYTES),
        "texts": _cut(texts.values, EXPERT_BYTES),
        "experts": {
            "share": [None if expert.share is None else round(1000 * expert.share) for expert in atlas.experts],
            "group": [expert.group for expert in atlas.experts],
            "words": [words.pairs(expert.words) for expert in atlas.experts],
            "tokens": [words.pairs(expert.tokens) for expert in atlas.experts],
            "texts": [texts.pairs(expert.texts) for expert in atlas.experts],
            "withWords": [expert.num_texts_with_words for expert in atlas.experts],
            "partners": [
                [part for layer, other, v in e.partners for part in (number_of[layer, other], round(100 * v))]
                for e in atlas.experts
            ],
        },
        "expertGroups": [
            {
                "experts": [number_of[place] for place in group.experts],
                "words": [words.numbers[word] for word in group.words],
                "points": group.texts,
            }
            for group in atlas.expert_groups
        ],
        "map": {
            "projection": atlas.projection,
            "places": (1000 * atlas.places).round().astype(int).flatten().tolist(),
            "group": atlas.text_group.tolist(),
            "texts": _cut(atlas.texts, MAP_BYTES),
        },
        "textGroups": [
            {"size": group.size, "words": _cut(group.words, 300), "central": group.central, "between": group.between}
            for group in atlas.text_groups
        ],
    }


class _Table:
    """Different strings, each once."""

    def __init__(self, strings: Iterable[str]):
        self.numbers: dict[str, int] = {}
        self.add(strings)

    def add(self, strings: Iterable[str]) -> None:
        for string in strings:
            self.numbers.setdefault(string, len(self.numbers))

    def pairs(self, values: list[tuple[str, float]]) -> list[int]:
        """The number of each string, and behind it its value, in hundredths."""
        return [part for string, value in values for part in (self.numbers[string], round(100 * min(value, 99.0)))]

    @property
    def values(self) -> list[str]:
        return list(self.numbers)


def _cut(texts: list[str], most_bytes: int) -> list[str]:
    """Texts cut so that all of them together take no more bytes in the page."""
    sizes = [_bytes(text) for text in texts]
    if sum(sizes) <= most_bytes:
        return texts
    room = most_bytes // len(texts)
    return [text if size <= room else _beginning(text, room) for text, size in zip(texts, sizes, strict=True)]


def _bytes(text: str) -> int:
    """What a string takes in the page, with its comma; < is escaped there."""
    return len(json.dumps(text, ensure_ascii=False).encode()) + 5 * text.count("<") + 1


def _beginning(text: str, room: int) -> str:
    """As much of a text as has room, and an ellipsis."""
    fitting = bisect.bisect_right(range(len(text)), room, key=lambda end: _bytes(f"{text[:end]}…"))
    return f"{text[: max(0, fitting - 1)]}…"
