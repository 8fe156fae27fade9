"""Which MoE layers speak of what a text says: those whose routing agrees with HS. It takes a corpus, and no labels."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F

# pairs of texts that layers are compared on
NUM_PAIRS = 20_000
# weights of RW in "sum" to choose from: 1/64 to 16
ALPHAS = tuple(2 ** (exponent / 2) for exponent in range(-12, 9))

# the rank correlation with HS that a sum has at least
FAITHFUL = 0.995


def layer_agreement(hidden: torch.Tensor, routing: torch.Tensor) -> torch.Tensor:
    """Return how far the routing of each layer agrees with HS on which texts are similar.

    It is the Spearman correlation, over random pairs of different texts, of the cosine of their HS with the cosine of
    their routing in one layer.

    Args:
        hidden: Standardized HS of a corpus, of shape `(n, hidden_size)`.
        routing: RW, less its mean over the corpus, of shape `(n, num_moe_layers, num_experts)`.

    Returns:
        Float64 tensor of shape `(num_moe_layers,)`, from -1 to 1; 0 for a layer whose routing never changes.
    """
    ranks = average_ranks(random_cosines(hidden))  # [P]
    layers = routing.unbind(dim=1)  # [n, E] each
    return torch.stack([correlation(ranks, average_ranks(random_cosines(layer))) for layer in layers])


def random_cosines(vectors: torch.Tensor) -> torch.Tensor:
    """Return the cosines of vectors `[n, size]` in random pairs, the same ones each time, as float64 `[num_pairs]`."""
    first, second = random_pairs(len(vectors))
    vectors = F.normalize(vectors.double(), dim=-1)
    return (vectors[first] * vectors[second]).sum(dim=-1)


def random_pairs(num_texts: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the indices of the first and second texts of pairs of two different texts, the same ones each time."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(num_texts, (NUM_PAIRS,), generator=generator)
    distance = torch.randint(1, num_texts, (NUM_PAIRS,), generator=generator)
    return first, (first + distance) % num_texts


def average_ranks(values: torch.Tensor) -> torch.Tensor:
    """Return the rank of each value, from 0; equal values share the mean of theirs."""
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(dim=0) - 1
    return (last - (counts - 1) / 2)[inverse].double()


def correlation(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the Pearson correlation of two sets of numbers `[n]`; 0 where one never changes."""
    first, second = (values - values.mean() for values in (first, second))
    scale = first.norm() * second.norm()
    return (first @ second) / scale if scale > 0 else scale.new_zeros(())


def weights_by_agreement(agreement: torch.Tensor) -> list[float]:
    """Return how much each layer shall count in RW: the quarter that agrees most with HS, each by its agreement.

    Args:
        agreement: That of each layer, of shape `(num_moe_layers,)`.

    Returns:
        One weight a layer, 0 for those that are left out, 1 on average for the others; all 1 if no layer agrees.
    """
    kept = agreement.topk(math.ceil(len(agreement) / 4)).indices
    weights = torch.zeros_like(agreement)
    weights[kept] = agreement[kept].clamp_min(0)
    if not weights.any():
        return [1.0] * len(agreement)
    return [round(weight, 4) for weight in (weights / weights[weights > 0].mean()).tolist()]


def agreement_by_alpha(hidden: torch.Tensor, routing: torch.Tensor) -> dict[float, float]:
    """Return how far a sum agrees with HS on which texts are similar, by the weight of RW in it.

    Args:
        hidden: Cosines of the HS of pairs, of shape `(num_pairs,)`.
        routing: Cosines of their RW.

    Returns:
        The rank correlation for each of `ALPHAS`, for 0, which is HS alone, and for infinity, which is RW alone.
    """
    ranks = average_ranks(hidden)
    sums = {0.0: hidden, **{alpha: hidden + alpha * routing for alpha in ALPHAS}, math.inf: routing}
    return {alpha: float(correlation(average_ranks(values), ranks)) for alpha, values in sums.items()}


def cautious_alpha(agreement: Mapping[float, float]) -> float:
    """Return the largest weight of RW in a sum that leaves the order of pairs of texts nearly as HS has it.

    Without labels nothing says which of two similarities is the better one. Standardized HS is seldom the worse, so
    the sum stays close to it: their rank correlation is at least 0.995.

    Args:
        agreement: That of `agreement_by_alpha`.

    Returns:
        One of `ALPHAS`.
    """
    return max((alpha for alpha in ALPHAS if agreement[alpha] >= FAITHFUL), default=min(ALPHAS))
