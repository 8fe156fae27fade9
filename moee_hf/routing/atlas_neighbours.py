"""Texts between groups: those whose nearest neighbours are mostly of another group."""

from __future__ import annotations

import numpy as np

# so many neighbours of a text are looked at
NEIGHBOURS = 10
# similarities of so many pairs at a time
_PAIRS = 2**22


def between_groups(embeddings: np.ndarray, group_of: np.ndarray, most: int) -> list[list[tuple[int, int, int]]]:
    """Return, for each group, its texts whose nearest texts are mostly of one other group, the clearest first.

    Args:
        embeddings: Of unit length, of shape `(n, size)`.
        group_of: The group of each, of shape `(n,)`.
        most: How many texts of a group, at most.

    Returns:
        For each: its number, the other group, and how many of its `NEIGHBOURS` nearest texts by cosine are in that.
    """
    number = int(group_of.max()) + 1
    looked_at = min(NEIGHBOURS, len(embeddings) - 1)
    vectors = embeddings.astype(np.float32)
    found: list[list[tuple[int, int, int]]] = [[] for _ in range(number)]
    step = max(1, _PAIRS // len(vectors))
    for start in range(0, len(vectors), step):
        cosines = vectors[start : start + step] @ vectors.T
        rows = np.arange(len(cosines))
        cosines[rows, start + rows] = -np.inf  # not the text itself
        near = group_of[np.argpartition(-cosines, looked_at - 1, axis=1)[:, :looked_at]]
        counts = (near[:, :, None] == np.arange(number)).sum(axis=1)
        others = counts.argmax(axis=1)
        for row in np.flatnonzero((others != group_of[start + rows]) & (2 * counts[rows, others] > looked_at)):
            other = int(others[row])
            found[group_of[start + row]].append((start + int(row), other, int(counts[row, other])))
    return [sorted(texts, key=lambda text: -text[2])[:most] for texts in found]
