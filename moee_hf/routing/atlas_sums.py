"""What an atlas keeps of texts that come one after the other: the most, sums, and a sample, in flat memory."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Sequence

import numpy as np
import torch

from ..figures.words import one_line

# a sum for each entry of the vocabulary and each expert takes as much at most
TOKEN_BYTES = 2**28
# and so do the vectors of a sample
SAMPLE_BYTES = 2**27
# of a text, so many characters are shown at most
SHOWN_CHARACTERS = 240


def digest_of(text: str) -> int:
    """Return a number that is as good as random, and the same for equal texts."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


class TopTexts:
    """The texts with the largest values of each expert; equal texts count once.

    Args:
        most: How many of each.
        num_experts: Number of experts, of all layers.

    Attributes:
        values: The largest values, descending, of shape `(most, num_experts)`; -inf where there are fewer texts.
        numbers: The numbers of their texts, of the same shape; -1 where there are fewer.
        texts: What is shown of the texts with these numbers.
    """

    def __init__(self, most: int, num_experts: int):
        self.values = torch.full((most, num_experts), -torch.inf)
        self.numbers = torch.full((most, num_experts), -1)
        self.texts: dict[int, str] = {}
        self._known: dict[int, int] = {}  # the number of each text by its digest
        self._next = 0

    def update(self, texts: Sequence[str], digests: Sequence[int], values: torch.Tensor) -> None:
        """Take different texts with their values, of shape `(n, num_experts)`."""
        best = values.topk(min(len(self.values), len(texts)), dim=0)
        is_better = best.values > self.values[-1]
        numbers = torch.full((len(texts),), -1)
        for index in np.unique(best.indices[is_better]).tolist():
            numbers[index] = self._number(texts[index], digests[index])
        found = numbers[best.indices]  # [c, num_experts]
        is_better &= ~(found[:, None] == self.numbers).any(dim=1)
        candidates = torch.cat([self.values, best.values.where(is_better, -torch.inf)])
        self.values, order = candidates.topk(len(self.values), dim=0)
        self.numbers = torch.cat([self.numbers, found.where(is_better, -1)]).gather(0, order)
        kept = set(np.unique(self.numbers).tolist())
        self.texts = {number: text for number, text in self.texts.items() if number in kept}
        self._known = {digest: number for digest, number in self._known.items() if number in kept}

    def _number(self, text: str, digest: int) -> int:
        if digest not in self._known:
            self._known[digest], self.texts[self._next] = self._next, one_line(text, SHOWN_CHARACTERS)
            self._next += 1
        return self._known[digest]


class TokenSums:
    """What each expert makes of each entry of the vocabulary: sums over tokens.

    Args:
        vocabulary: Number of entries.
        num_layers: Number of MoE layers.
        num_experts: Number of experts of a layer.
        chosen: How many of them a token visits. None: not known.
        most_bytes: How much the sums may take; of entries that come later, there are none.

    Attributes:
        ids: The entries that have sums, in the order in which they came.
        sums: Of centred log-ratios, a row for each of them, of shape `(capacity, num_layers * num_experts)`.
        counts: Number of tokens of each row.
        total: Sum over all tokens, float64 of shape `(num_layers * num_experts,)`.
        visits: How many tokens visit each expert, likewise.
        num_tokens: Number of all tokens.
    """

    def __init__(
        self, vocabulary: int, num_layers: int, num_experts: int, chosen: int | None, most_bytes: int = TOKEN_BYTES
    ):
        width = num_layers * num_experts
        capacity = min(vocabulary, max(1, most_bytes // (4 * width)))
        self.ids: list[int] = []
        self.sums = torch.from_numpy(np.zeros((capacity, width), np.float32))  # takes memory as rows are written
        self.counts = torch.zeros(capacity, dtype=torch.int64)
        self.total, self.visits = torch.zeros(2, width, dtype=torch.float64)
        self.num_tokens, self._chosen = 0, chosen
        self._rows = torch.full((vocabulary,), -1)

    def update(self, ids: torch.Tensor, ratios: torch.Tensor, times: torch.Tensor) -> None:
        """Take tokens: their entries `(t,)`, centred log-ratios `(t, L, E)`, and how often each came `(t,)`."""
        new = ids[self._rows[ids] < 0]
        entries = list(dict.fromkeys(new.tolist()))[: len(self.sums) - len(self.ids)]
        self._rows[entries] = torch.arange(len(self.ids), len(self.ids) + len(entries))
        self.ids += entries
        if self._chosen is not None:
            visited = torch.zeros_like(ratios).scatter_(-1, ratios.topk(self._chosen, dim=-1).indices, 1.0)
            self.visits += (times.float() @ visited.flatten(1)).double()
        weighted = ratios.flatten(1) * times[:, None].float()
        self.total += weighted.sum(dim=0, dtype=torch.float64)
        self.num_tokens += int(times.sum())
        rows = self._rows[ids]
        is_known = rows >= 0
        if not is_known.all():
            rows, weighted, times = rows[is_known], weighted[is_known], times[is_known]
        # summed among themselves first: one number more is lost in a sum of millions
        rows, places = torch.unique(rows, return_inverse=True)
        self.sums[rows] += weighted.new_zeros(len(rows), weighted.shape[1]).index_add_(0, places, weighted)
        self.counts[rows] += times.new_zeros(len(rows)).index_add_(0, places, times)

    @property
    def num_left_out(self) -> int:
        """Number of the tokens whose entries have no sums."""
        return self.num_tokens - int(self.counts.sum())


class Sample:
    """A random sample of different texts with a vector each: those with the smallest digests.

    Each text is as likely as any other, and the order in which they come does not matter. Of two samples of the same
    texts, the smaller one is the beginning of the larger one.

    Args:
        size: Of a vector.
        most_texts: How many texts at most.
        most_bytes: How much the vectors may take.
    """

    def __init__(self, size: int, most_texts: int, most_bytes: int = SAMPLE_BYTES):
        # half precision is finer than what a map or a correlation shows
        self._vectors = np.zeros((max(1, min(most_texts, most_bytes // (2 * size))), size), np.float16)
        self._texts: list[str] = []
        self._heap: list[tuple[int, int]] = []  # the digests, negative, the largest first, and where their texts are
        self._digests: set[int] = set()

    def update(self, texts: Sequence[str], digests: Sequence[int], vectors: np.ndarray) -> None:
        """Take texts with their vectors, of shape `(n, size)`."""
        rows: dict[int, int] = {}  # of which text each place is from now on
        for index, digest in enumerate(digests):
            if digest in self._digests or (self._is_full and digest > -self._heap[0][0]):
                continue
            if self._is_full:
                largest, place = heapq.heapreplace(self._heap, (-digest, self._heap[0][1]))
                self._digests.remove(-largest)
                self._texts[place] = one_line(texts[index], SHOWN_CHARACTERS)
            else:
                place = len(self._heap)
                heapq.heappush(self._heap, (-digest, place))
                self._texts.append(one_line(texts[index], SHOWN_CHARACTERS))
            self._digests.add(digest)
            rows[place] = index
        if rows:
            self._vectors[list(rows)] = vectors[list(rows.values())].clip(-60_000, 60_000)

    @property
    def _is_full(self) -> bool:
        return len(self._heap) == len(self._vectors)

    def result(self) -> tuple[list[str], np.ndarray]:
        """Return texts and vectors, these in half precision, in a random order."""
        order = [place for _, place in sorted(self._heap, reverse=True)]
        return [self._texts[place] for place in order], self._vectors[order]
