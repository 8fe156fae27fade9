"""Choosing alpha, the weight of RW in `"sum"`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import spearmanr

from .encoder import MoEEEncoder
from .pairs import similarities

ALPHAS = tuple(2 ** (exponent / 2) for exponent in range(-8, 9))


def choose_alpha(
    encoder: MoEEEncoder, first: Sequence[str], second: Sequence[str], gold: Sequence[float] | None = None
) -> float:
    """Return the alpha of a grid from 1/16 to 16 that ranks pairs of texts best; of equals the nearest to 1.

    Args:
        encoder: Of the model.
        first: The first text of each pair.
        second: The second.
        gold: How similar the pairs are, in a development set, never in a test: the best alpha is that with the highest
            Spearman correlation. None: without labels, the highest sum of the correlations with HS and with RW, which
            is what the paper's camera-ready version maximises (there by gradient).
    """
    similarity = similarities(encoder, first, second)
    hidden, routing = similarity["hs"], similarity["rw"]
    targets = [hidden, routing] if gold is None else [gold]

    def quality(alpha: float) -> float:
        return sum(float(spearmanr(hidden + alpha * routing, target).statistic) for target in targets)

    return max(sorted(ALPHAS, key=lambda alpha: abs(np.log(alpha))), key=quality)


def random_pairs(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return each text with another at random, by a fixed seed."""
    order = np.random.default_rng(0).permutation(len(texts))
    return [texts[i] for i in order], [texts[i] for i in np.roll(order, 1)]
