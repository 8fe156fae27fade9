"""The words of experts: of the texts at which their routing weights are larger than usual, and of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .atlas_groups import words_in

if TYPE_CHECKING:
    from .atlas_sums import TokenSums

# a word counts as if it had come so many times more, at which nothing was unusual
PRIOR = 5.0
# a word that fewer texts have tells of these alone
LEAST_TEXTS = 2
# experts at a time, so that no second array is as large as the sums
CHUNK = 64


def best_tokens(tokenizer: Any, sums: TokenSums, most: int) -> list[list[tuple[str, float]]]:
    """Return the tokens of each expert, the best first, with how much larger its centred log-ratio is there.

    That is the mean over all that are this entry of the vocabulary, less the mean over all tokens, times n / (n + 5)
    for n of them.
    """
    mean, experts = (sums.total / max(sums.num_tokens, 1)).float(), []
    counts = sums.counts[: len(sums.ids), None]
    for start in range(0, sums.sums.shape[1], CHUNK):
        part = slice(start, start + CHUNK)
        values = (sums.sums[: len(sums.ids), part] - counts * mean[part]) / (counts + PRIOR)
        experts += [_readable(tokenizer, sums.ids, of_expert, most) for of_expert in values.T]
    return experts


def _readable(tokenizer: Any, ids: Sequence[int], values: torch.Tensor, most: int) -> list[tuple[str, float]]:
    """The best tokens that can be read, with their values; of entries that differ in case or spaces, the best."""
    words: dict[str, tuple[str, float]] = {}
    for value, row in zip(*values.topk(min(len(ids), 8 * most)), strict=True):
        word = tokenizer.decode([ids[int(row)]], clean_up_tokenization_spaces=False).strip()
        if len(words) == most or value <= 0:
            break
        if word.isprintable() and word and "\ufffd" not in word:
            words.setdefault(word.casefold(), (word, float(value)))
    return list(words.values())


class TextWords:
    """The words of texts, to find those that go with a value that each text has.

    Args:
        texts: The texts.
    """

    def __init__(self, texts: Sequence[str]):
        numbers: dict[str, int] = {}
        places = [
            (numbers.setdefault(word, len(numbers)), text)
            for text, string in enumerate(texts)
            for word in sorted(words_in(string))
        ]
        rows = torch.tensor(places, dtype=torch.long).reshape(-1, 2).T
        self._words, self._counts = list(numbers), rows[0].bincount(minlength=len(numbers))[:, None]
        # 1 where a word is in a text
        shape = (len(numbers), len(texts))
        self._table = torch.sparse_coo_tensor(rows, torch.ones(len(places)), shape, check_invariants=True)

    def best(self, values: np.ndarray, most: int) -> list[list[tuple[str, float]]]:
        """Return the words whose texts have the largest values on average, the best first.

        Args:
            values: A column for each expert or group, with the mean 0, of shape `(num_texts, columns)`.
            most: How many words of each.

        Returns:
            For each column, words with the mean value of the n texts that have them, times n / (n + 5); above 0 only.
        """
        found = []
        for start in range(0, values.shape[1], CHUNK):
            columns = torch.from_numpy(np.ascontiguousarray(values[:, start : start + CHUNK], dtype=np.float32))
            means = (self._table @ columns / (self._counts + PRIOR)).where(self._counts >= LEAST_TEXTS, 0)
            best = means.topk(min(most, len(means)), dim=0)
            found += [
                [(self._words[word], value) for value, word in zip(*column, strict=True) if value > 0]
                for column in zip(best.values.T.tolist(), best.indices.T.tolist(), strict=True)
            ]
        return found
