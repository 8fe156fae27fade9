"""Choosing alpha, the weight of RW in `"sum"`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from ..files.texts import read_fields
from ..model.agreement_moee import ALPHAS, cautious_alpha
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
        gold: How similar the pairs are, in a development set, never in a test: the best of `ALPHAS` is that with the
            highest Spearman correlation; of equals, the nearest to 1. None: `cautious_alpha` of random pairs.

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
        return cautious_alpha(torch.from_numpy(hidden).double(), torch.from_numpy(routing).double())
    return max(
        sorted(ALPHAS, key=lambda alpha: abs(math.log(alpha))),
        key=lambda alpha: float(spearmanr(hidden + alpha * routing, gold).statistic),
    )


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
