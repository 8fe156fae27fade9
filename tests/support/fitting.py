"""The judge of calibration: what is fitted to a corpus, with numpy and scipy; imports nothing of ours.

HS has the shape [n, D], RW [n, L, E]; of several prompts, each is a list. Only random pairs are drawn by torch, as the
same ones are needed.
"""

import math
import random

import numpy as np
import torch
from scipy.stats import rankdata, spearmanr

from support import metrics

NUM_PAIRS, SAMPLE_SIZE = 20_000, 4096
ALPHAS = [2 ** (exponent / 2) for exponent in range(-12, 9)]


def sample(rows):
    """At most 4,096 rows of any number, each as likely as any other: Vitter's algorithm R."""
    draw, kept = random.Random(0), []
    for count, row in enumerate(rows, start=1):
        if len(kept) < SAMPLE_SIZE:
            kept.append(row)
        elif (place := draw.randrange(count)) < SAMPLE_SIZE:
            kept[place] = row
    return kept


def pair_cosines(vectors):
    """Cosines of random pairs of different rows."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(len(vectors), (NUM_PAIRS,), generator=generator).numpy()
    distance = torch.randint(1, len(vectors), (NUM_PAIRS,), generator=generator).numpy()
    vectors = vectors.astype("d")
    return metrics.cosines(vectors[first], vectors[(first + distance) % len(vectors)])


class Standard:
    """Standardizes HS to z-scores, and centres RW, as they are over a corpus."""

    def __init__(self, hidden, routing):
        self.hidden, self.routing = ((p.mean(axis=0, dtype="d"), p.std(axis=0, dtype="d")) for p in (hidden, routing))

    def __call__(self, hidden, routing):
        mean, std = self.hidden
        std = np.where(std > 1e-6 * abs(mean), std, 1.0)  # what never changes is left where it is
        return (hidden - mean.astype("f")) / std.astype("f"), routing - self.routing[0].astype("f")


def agreement(hidden, routing):
    """Rank correlation of the similarities of HS and of each layer of RW, both standardized."""
    similar = rankdata(pair_cosines(hidden))
    return [np.corrcoef(similar, rankdata(pair_cosines(routing[:, layer])))[0, 1] for layer in range(routing.shape[1])]


def layer_weights(agreements):
    """Of a quarter of the layers, those that agree most; 1 on average."""
    weights = np.zeros(len(agreements))
    best = np.argsort(agreements)[::-1][: math.ceil(len(agreements) / 4)]
    weights[best] = np.maximum(np.asarray(agreements)[best], 0)
    return (weights / weights[weights > 0].mean()).round(4) if weights.any() else np.ones(len(agreements))


def weigh(routing, weights):
    """RW as vectors [n, L * E], their layers multiplied by the roots of weights."""
    return (routing * np.sqrt(weights).astype("f")[:, None]).reshape(len(routing), -1)


def cautious_alpha(hidden, routing):
    """The largest weight with which a sum ranks pairs nearly as HS does."""
    hidden, routing = pair_cosines(hidden), pair_cosines(routing)
    faithful = [alpha for alpha in ALPHAS if spearmanr(hidden + alpha * routing, hidden).statistic >= 0.995]
    return max(faithful, default=min(ALPHAS))


def average(vectors):
    """One vector a text of those [n, N] that it has in each prompt."""
    return vectors[0] if len(vectors) == 1 else np.mean([unit(part) for part in vectors], axis=0)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def components(embeddings, dimensions):
    """The largest eigenvectors of the second moments, as rows."""
    embeddings = unit(embeddings.astype("d"))
    return np.linalg.svd(embeddings, full_matrices=False)[2][:dimensions]


def smaller(embeddings, of_corpus, dimensions, precision):
    """Embeddings projected on components of those of a corpus, and what an index of a precision compares of them."""
    if dimensions is not None:
        directions = components(of_corpus, dimensions)
        embeddings, of_corpus = embeddings @ directions.T, unit(of_corpus) @ directions.T
    if precision == "int8":
        step = abs(unit(of_corpus)).max() / 127
        return np.floor(unit(embeddings) / step + 0.5).clip(-128, 127)
    return np.where(embeddings > 0, 1.0, -1.0) if precision == "binary" else embeddings
