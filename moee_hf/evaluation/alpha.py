"""Choosing alpha, the weight of RW in `"sum"`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from ..files import read_fields
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


def pairs_to_choose_on(dev: str, texts: Sequence[str]) -> tuple[list[str], list[str], list[float] | None]:
    """Return pairs of texts and their similarity: those of a development set, or without one, random ones of `texts`.

    Args:
        dev: A `.jsonl` file with the fields `sentence1`, `sentence2` and `score`; or empty.
        texts: Texts without labels.

    Raises:
        ValueError: If the file is a test set, or not one of pairs.
    """
    if not dev:
        order = np.random.default_rng(0).permutation(len(texts))
        return [texts[i] for i in order], [texts[i] for i in np.roll(order, 1)], None
    if "test" in Path(dev).name.split("."):
        raise ValueError(f"--fit-alpha: expected a development set; got a test set, {dev}.")
    first, second, gold = read_fields(dev, {"sentence1": str, "sentence2": str, "score": (int, float)}).values()
    return first, second, gold
