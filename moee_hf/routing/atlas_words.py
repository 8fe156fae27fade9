"""The words of experts: entries of the vocabulary at which their routing weights are larger than usual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from .atlas_sums import TokenSums

# a word counts as if it had come so many times more, at which nothing was unusual
PRIOR = 5.0
# experts at a time, so that no second array is as large as the sums
CHUNK = 64


def best_words(tokenizer: Any, sums: TokenSums, most: int) -> list[list[tuple[str, float]]]:
    """Return the words of each expert, the best first, with how much larger its centred log-ratio is there.

    That is the mean over the tokens of this word, less the mean over all tokens, times n / (n + 5) for n tokens.
    """
    experts = []
    for start in range(0, sums.sums.shape[1], CHUNK):
        chunk = list(range(start, min(start + CHUNK, sums.sums.shape[1])))
        experts += [_words(tokenizer, sums.ids, values, most) for values in _values(sums, chunk).T]
    return experts


def words_of_groups(tokenizer: Any, sums: TokenSums, groups: Sequence[np.ndarray], most: int) -> list[list[str]]:
    """Return the words of groups of experts: those that are the best on average, each expert by its own spread."""
    variance = sums.squares / max(sums.num_tokens, 1) - (sums.total / max(sums.num_tokens, 1)) ** 2
    scale = variance.clamp_min(1e-12).sqrt().float()
    found = []
    for experts in groups:
        total = torch.zeros(len(sums.ids))
        for start in range(0, len(experts), CHUNK):
            chunk = experts[start : start + CHUNK].tolist()
            total += (_values(sums, chunk) / scale[chunk]).sum(dim=1)
        found.append([word for word, _ in _words(tokenizer, sums.ids, total, most)])
    return found


def _values(sums: TokenSums, experts: list[int]) -> torch.Tensor:
    """How much larger the log-ratios of some experts are at each word, of shape `(words, experts)`."""
    counts = sums.counts[: len(sums.ids), None]
    mean = (sums.total[experts] / max(sums.num_tokens, 1)).float()
    return (sums.sums[: len(sums.ids), experts] - counts * mean) / (counts + PRIOR)


def _words(tokenizer: Any, ids: Sequence[int], values: torch.Tensor, most: int) -> list[tuple[str, float]]:
    """The best words that can be read, with their values; of entries that differ in case or spaces, the best."""
    words: dict[str, tuple[str, float]] = {}
    for value, row in zip(*values.topk(min(len(ids), 8 * most)), strict=True):
        word = tokenizer.decode([ids[int(row)]], clean_up_tokenization_spaces=False).strip()
        if len(words) == most or value <= 0:
            break
        if word.isprintable() and word and "\ufffd" not in word:
            words.setdefault(word.casefold(), (word, float(value)))
    return list(words.values())
