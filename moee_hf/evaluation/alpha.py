"""Choosing alpha, the weight of RW in `"sum"`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from ..files.texts import read_fields
from ..model.agreement_moee import ALPHAS, agreement_by_alpha, cautious_alpha
from .encoder import MoEEEncoder
from .pairs import similarities


def choose_alpha(
    encoder: MoEEEncoder, first: Sequence[str], second: Sequence[str], gold: Sequence[float] | None = None
) -> float:
    """Return the weight of RW in `"sum"` that suits pairs of texts best.

    Without labels, nothing says whether HS or RW ranks the pairs better, and a sum that agrees with both parts alike
    trusts the worse one as much as the better. So RW weigh as much as they can while the order of the pairs stays
    nearly that of HS, as `MoEEModel.calibrate` has it.

    Args:
        encoder: Of the model.
        first: The first text of each pair.
        second: The second.
        gold: How similar the pairs are, in a development set, never in a test. None: `cautious_alpha` of the pairs.

    Raises:
        ValueError: If the pairs cannot be ranked: too few, or all as similar.
    """
    by_alpha = scores_by_alpha(encoder, first, second, gold)
    return cautious_alpha(by_alpha) if gold is None else best_alpha(by_alpha)


def scores_by_alpha(
    encoder: MoEEEncoder, first: Sequence[str], second: Sequence[str], gold: Sequence[float] | None = None
) -> dict[float, float]:
    """Return how well a sum ranks pairs of texts, by the weight of RW in it; arguments are those of `choose_alpha`.

    Returns:
        The Spearman correlation with `gold`, or without it with HS, for each of `ALPHAS`, for 0, which is HS alone,
        and for infinity, which is RW alone.

    Raises:
        ValueError: If the pairs cannot be ranked: too few, or all as similar.
    """
    similarity = similarities(encoder, first, second)
    hidden, routing = similarity["hs"], similarity["rw"]
    if len(hidden) < 3 or any(np.ptp(values) == 0 for values in (hidden, routing, hidden if gold is None else gold)):
        raise ValueError(
            "choose_alpha: expected three pairs or more that differ in HS, in RW and in score; got "
            f"{len(hidden)} that do not. Give others."
        )
    if gold is None:
        return agreement_by_alpha(torch.from_numpy(hidden).double(), torch.from_numpy(routing).double())
    sums = {0.0: hidden, **{alpha: hidden + alpha * routing for alpha in ALPHAS}, math.inf: routing}
    return {alpha: float(spearmanr(values, gold).statistic) for alpha, values in sums.items()}


def best_alpha(scores: Mapping[float, float]) -> float:
    """Return the best of `ALPHAS` by the scores of `scores_by_alpha`; of equals, the nearest to 1."""
    return max(sorted(ALPHAS, key=lambda alpha: abs(math.log(alpha))), key=scores.__getitem__)


def read_development_set(path: str) -> tuple[list[str], list[str], list[float]]:
    """Read pairs of texts and their similarity from a `.jsonl` file: `sentence1`, `sentence2` and `score`.

    Raises:
        ValueError: If the name of the file says that it is a test set, or it is not one of pairs.
        OSError: If it cannot be read.
    """
    if "test" in re.split(r"[\W_]+", Path(path).name.lower()):
        raise ValueError(f"{path}: expected a development set; got a test set, by its name. Name another file.")
    first, second, gold = read_fields(path, {"sentence1": str, "sentence2": str, "score": (int, float)}).values()
    return first, second, gold
