"""The nearest neighbours of vectors, and texts between groups: those whose neighbours are mostly of another group."""

from __future__ import annotations

import numpy as np

# so many neighbours of a text are looked at
NEIGHBOURS = 10
# similarities of so many pairs at a time
_PAIRS = 2**22


def nearest_rows(vectors: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which other vectors have the largest dot products with each, and these, both `(n, most)`, descending.

    Args:
        vectors: Float32, of shape `(n, size)`.
        most: How many, fewer than there are vectors.
    """
    near, values = np.empty((len(vectors), most), np.int64), np.empty((len(vectors), most), np.float32)
    step = max(1, _PAIRS // len(vectors))
    for start in range(0, len(vectors), step):
        products = vectors[start : start + step] @ vectors.T
        rows = np.arange(len(products))
        products[rows, start + rows] = -np.inf  # not the vector itself
        found = np.sort(np.argpartition(-products, max(0, most - 1), axis=1)[:, :most], axis=1)
        order = np.argsort(-np.take_along_axis(products, found, axis=1), axis=1, kind="stable")
        found = np.take_along_axis(found, order, axis=1)
        near[start : start + step], values[start : start + step] = found, np.take_along_axis(products, found, axis=1)
    return near, values


def between_groups(embeddings: np.ndarray, group_of: np.ndarray, most: int) -> list[list[tuple[int, int, int, int]]]:
    """Return, for each group, its texts whose nearest texts are mostly of one other group, the clearest first.

    Args:
        embeddings: Of unit length, of shape `(n, size)`.
        group_of: The group of each, of shape `(n,)`.
        most: How many texts of a group, at most.

    Returns:
        For each: its number, the other group, how many of its `NEIGHBOURS` nearest texts by cosine are in that, and
        the number of the nearest one of these.
    """
    number = int(group_of.max()) + 1
    looked_at = min(NEIGHBOURS, len(embeddings) - 1)
    near, _ = nearest_rows(embeddings.astype(np.float32), looked_at)
    counts = (group_of[near][:, :, None] == np.arange(number)).sum(axis=1)  # [n, groups]
    others, most_of = counts.argmax(axis=1), counts.max(axis=1)
    found: list[list[tuple[int, int, int, int]]] = [[] for _ in range(number)]
    for row in np.flatnonzero((others != group_of) & (2 * most_of > looked_at)).tolist():
        nearest = near[row][group_of[near[row]] == others[row]][0]
        found[group_of[row]].append((row, int(others[row]), int(most_of[row]), int(nearest)))
    return [sorted(texts, key=lambda text: -text[2])[:most] for texts in found]
