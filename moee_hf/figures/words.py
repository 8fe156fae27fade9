"""Texts of others as labels: any script, any length, whatever is in them."""

from __future__ import annotations

import unicodedata

# what ends a line, steers a terminal, or turns the direction of what comes behind it
_STEERING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")


def one_line(text: str, most: int) -> str:
    """Return a text on one line, and no more than so many characters of it; what is left out is an ellipsis."""
    # a beginning is enough, of which white space may be left out
    beginning = text[: 8 * most]
    line = " ".join("".join(" " if _steers(character) else character for character in beginning).split())
    if len(line) <= most and len(beginning) == len(text):
        return line
    return line[: most - 1] + "…"


def _steers(character: str) -> bool:
    return character in _STEERING or unicodedata.category(character) in _CATEGORIES
