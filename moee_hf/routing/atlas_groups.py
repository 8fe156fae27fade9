"""Groups of texts and of experts, and a map: what scikit-learn makes of vectors."""

from __future__ import annotations

import importlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

# two groups alone are told apart best, and say least; a colour has two shapes, and there are seven colours
LEAST_GROUPS, MOST_GROUPS = 6, 14
# a group has so many members on average at least
LEAST_MEMBERS = 5
# vectors are reduced to so many principal components before they are grouped
COMPONENTS = 50
# on so many members it is measured how well groups are told apart
SILHOUETTE_SAMPLE = 2000
# a letter, and letters, numbers and apostrophes; of scripts without spaces, two characters
_WORDS = re.compile(r"[^\W\d_][\w'’]*")
_WITHOUT_SPACES = re.compile(r"[\u2e80-\ud7ff\uf900-\ufaff\u0e00-\u0eff]")


def import_sklearn() -> None:
    """Raise `ImportError`, which says what to install, unless scikit-learn is there."""
    try:
        import sklearn.cluster
        import sklearn.decomposition
        import sklearn.metrics  # noqa: F401
    except ImportError as error:
        raise ImportError('An atlas needs scikit-learn: pip install "moee_hf[figures]".') from error


def principal(vectors: np.ndarray, most: int = COMPONENTS) -> np.ndarray:
    """Return the principal components of vectors `[n, size]`, the first ones, as float32 `[n, components]`."""
    from sklearn.decomposition import PCA

    components = min(most, len(vectors) - 1, vectors.shape[1])
    solver = "full" if min(vectors.shape) <= 2 * most else "randomized"
    return PCA(components, copy=False, svd_solver=solver, random_state=0).fit_transform(vectors.astype(np.float32))


def groups_of(vectors: np.ndarray) -> np.ndarray:
    """Return the number of each vector's group, from 0, the largest group first.

    K-means makes 6 to 14 groups, fewer of few vectors; that number is taken with which members are nearest to their
    own group in comparison with the next one (the mean silhouette).

    Args:
        vectors: Of shape `(n, size)`.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    best, labels = -math.inf, np.zeros(len(vectors), np.int64)
    most = max(1, min(MOST_GROUPS, len(vectors) // LEAST_MEMBERS, len(np.unique(vectors, axis=0)) - 1))
    for number in range(min(LEAST_GROUPS, most), most + 1):
        found = KMeans(number, n_init=2, random_state=0).fit_predict(vectors)
        size = min(SILHOUETTE_SAMPLE, len(vectors))
        chosen = np.random.default_rng(0).permutation(len(vectors))[:size]
        if not 1 < len(np.unique(found[chosen])) < size:
            continue
        if (score := silhouette_score(vectors[chosen], found[chosen])) > best:
            best, labels = score, found
    sizes = np.bincount(labels)
    return np.argsort(np.argsort(-sizes, kind="stable"))[labels]


def plane(components: np.ndarray) -> tuple[np.ndarray, str]:
    """Return places of vectors on a map, of shape `(n, 2)`, from 0 to 1, and how they were found: UMAP or PCA.

    Args:
        components: Their principal components.
    """
    name, places = "PCA", components[:, :2]
    if len(components) > 15 and (umap := _umap()) is not None:  # it looks at 15 neighbours
        name, places = "UMAP", umap.UMAP(metric="cosine", random_state=0).fit_transform(components)
    if places.shape[1] < 2:
        places = np.pad(places, ((0, 0), (0, 2 - places.shape[1])))
    low, high = places.min(axis=0), places.max(axis=0)
    return (places - low) / np.maximum(high - low, np.finfo(np.float32).tiny), name


def _umap() -> Any:
    """The package of UMAP, or None; it is no dependency, as it brings a compiler."""
    try:
        return importlib.import_module("umap")
    except ImportError:
        return None


def words_in(text: str) -> set[str]:
    """Return the words of a text in lower case; of scripts without spaces, its pairs of characters."""
    found: set[str] = set()
    for word in _WORDS.findall(text.lower()):
        if _WITHOUT_SPACES.search(word):
            found.update(word[start : start + 2] for start in range(max(1, len(word) - 1)))
        elif len(word) > 2:
            found.add(word)
    return found


def names_of(texts: Sequence[str], groups: np.ndarray, most: int = 5) -> list[list[str]]:
    """Return the words that name each group: many of its texts have them, and few of the others.

    A word counts the share of the group's texts with it, times the squared logarithm of how many times more that is
    than among all texts; squared, so that common words such as "the" give way.

    Args:
        texts: The texts.
        groups: The number of each text's group.
        most: How many words a group gets.
    """
    counts = [Counter[str]() for _ in range(int(groups.max()) + 1)]
    for text, group in zip(texts, groups.tolist(), strict=True):
        counts[group].update(words_in(text))
    total, sizes = sum(counts, Counter[str]()), np.bincount(groups)
    names = []
    for count, size in zip(counts, sizes.tolist(), strict=True):
        value = {
            word: number / size * math.log(number / size / total[word] * len(texts)) ** 2
            for word, number in count.items()
            if number * len(texts) > total[word] * size and (number > 1 or size < LEAST_MEMBERS)
        }
        names.append(sorted(value, key=lambda word: (-value[word], word))[:most])
    return names
