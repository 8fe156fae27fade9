"""The most similar of many vectors, exactly, chunk by chunk, in flat memory."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

# two similarities that differ by less are one: rounding depends on what else is in a batch
_DIGITS = 6


def nearest(queries: np.ndarray, chunks: Iterable[np.ndarray], top: int) -> list[list[tuple[int, float]]]:
    """Return the most similar vectors for each query, the most similar first; of equally similar ones the first.

    Args:
        queries: Vectors of length 1, of shape `(Q, N)`.
        chunks: Arrays of shape `(n, N)`, of vectors of length 1; together those to search in.
        top: How many to return of each query, if there are so many.

    Returns:
        For each query the numbers of vectors, counted from 0 over all chunks, and their cosine similarities.
    """
    best: list[list[tuple[float, int]]] = [[] for _ in queries]
    start = 0
    for chunk in chunks:
        scores = queries @ chunk.T  # [Q, n]
        last = min(top, len(chunk))
        limits = np.partition(scores, -last, axis=1)[:, -last] - 10.0**-_DIGITS
        for query, found, row, limit in zip(queries, best, scores, limits, strict=True):
            candidates = np.flatnonzero(row >= limit)
            # the same sum for each of them, wherever it stands, so that equal vectors are equally similar
            exact = (chunk[candidates].astype(np.float64) * query).sum(axis=1).round(_DIGITS)
            order = np.lexsort((candidates, -exact))[:top]
            found += zip(-exact[order], (candidates[order] + start).tolist(), strict=True)
            found.sort()
            del found[top:]
        start += len(chunk)
    return [[(number, float(-negative)) for negative, number in found] for found in best]
