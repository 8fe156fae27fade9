"""Which neurons of a dense model every token visits, which form an expert, and a router to begin with.

To split the neurons of an MLP into experts is known as MoEfication (Zhang et al. 2021, arXiv 2110.01786). Here, the
neurons that do the most are shared. The others are grouped by when they fire, with a k-means whose groups have equal
sizes: the neurons of an expert should be needed for the same tokens. The first router predicts from a token how much
each expert would do for it.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from upcycling_model import Parts, Sizes

TOKEN_STRIDE = 4  # one token of a row in so many is looked at
KMEANS_ROUNDS = 12
RIDGE = 1e-3  # in units of the mean square of the router's input
LOGIT_SCALE = 0.5  # of the first router's logits, in units of what they predict, which has standard deviation 1


def partition(dense: PreTrainedModel, rows: torch.Tensor, sizes: Sizes, seed: int) -> dict[str, torch.Tensor]:
    """Return what becomes of each MLP, from what its neurons do in a text.

    Args:
        dense: As `load_dense` returns it.
        rows: Token ids `[B, T]`.
        sizes: What each MLP is split into.
        seed: Of the first groups.

    Returns:
        The fields of `Parts`, each with all layers in one tensor.
    """
    parts = []
    for layer, inputs in zip(dense.model.layers, _mlp_inputs(dense, rows), strict=True):
        activity = neuron_activity(layer.mlp, inputs)
        shared, experts = split_neurons(activity, sizes, torch.Generator().manual_seed(seed))
        expert_activity = activity[:, experts].norm(dim=-1)  # [N, E, M] to [N, E]
        parts.append(Parts(shared, experts, first_router(inputs, expert_activity)))
    return {
        name: torch.stack(of_layers) for name, of_layers in zip(Parts._fields, zip(*parts, strict=True), strict=True)
    }


def neuron_activity(mlp: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Return how much each neuron adds to the output, as the length of the vector: `[N, D]` to `[N, F]`."""
    neurons = F.silu(mlp.gate_proj(inputs)) * mlp.up_proj(inputs)
    return neurons.abs() * mlp.down_proj.weight.norm(dim=0)


def split_neurons(
    activity: torch.Tensor, sizes: Sizes, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the numbers of the shared neurons, `[S]`, and those of each expert, `[E, M]`: each neuron once.

    Args:
        activity: Of each neuron for each token, `[N, F]`.
        sizes: S, E and M, which add up to F.
        generator: Of the first groups.
    """
    order = activity.mean(dim=0).argsort(descending=True, stable=True)
    shared, others = order[: sizes.shared].sort().values, order[sizes.shared :].sort().values
    features = F.normalize((activity[:, others] - activity[:, others].mean(dim=0)).T, dim=-1)  # [E * M, N]
    centres = _first_centres(features, sizes.experts, generator)
    for _ in range(KMEANS_ROUNDS):
        groups = _equal_groups(features @ centres.T, sizes.expert_size)
        centres = F.normalize(features[groups].mean(dim=1), dim=-1)
    return shared, others[groups]


def first_router(inputs: torch.Tensor, expert_activity: torch.Tensor) -> torch.Tensor:
    """Return the weights `[E, D]` of a router whose logits predict what each expert does, by ridge regression.

    Args:
        inputs: Of the MLP, `[N, D]`.
        expert_activity: How much each expert does, `[N, E]`.
    """
    target = (expert_activity - expert_activity.mean(dim=0)) / expert_activity.std(dim=0).clamp_min(1e-6)
    squares = inputs.T @ inputs
    squares += RIDGE * squares.diagonal().mean() * torch.eye(len(squares), device=squares.device)
    return LOGIT_SCALE * torch.linalg.solve(squares, inputs.T @ target).T.contiguous()


@torch.no_grad()
def _mlp_inputs(dense: PreTrainedModel, rows: torch.Tensor) -> list[torch.Tensor]:
    """The input `[N, D]` of each layer's MLP, but not for the first token of a row, which is unlike all others."""
    layers = dense.model.layers
    inputs: list[list[torch.Tensor]] = [[] for _ in layers]

    def keep(kept: list[torch.Tensor], mlp: nn.Module, arguments: tuple[torch.Tensor]) -> None:
        kept.append(arguments[0][:, 1::TOKEN_STRIDE].flatten(0, 1))

    hooks = [
        layer.mlp.register_forward_pre_hook(partial(keep, kept)) for layer, kept in zip(layers, inputs, strict=True)
    ]
    for part in rows.split(8):
        dense.model(input_ids=part, use_cache=False)
    for hook in hooks:
        hook.remove()
    return [torch.cat(of_layer) for of_layer in inputs]


def _first_centres(features: torch.Tensor, number: int, generator: torch.Generator) -> torch.Tensor:
    """So many features, as k-means++ draws them: the more likely, the less they are like those drawn before."""
    drawn = [int(torch.randint(len(features), (), generator=generator))]
    nearest = torch.full((len(features),), -1.0, device=features.device)
    while len(drawn) < number:
        nearest = nearest.maximum(features @ features[drawn[-1]])
        drawn.append(int(torch.multinomial((1 - nearest).clamp_min(1e-6).cpu(), 1, generator=generator)))
    return features[drawn]


def _equal_groups(similarity: torch.Tensor, size: int) -> torch.Tensor:
    """Members `[E, size]` of groups, from how well each of `E * size` fits each group: the best fit comes first."""
    groups: list[list[int]] = [[] for _ in range(similarity.shape[1])]
    free = [True] * len(similarity)
    for pair in similarity.flatten().argsort(descending=True, stable=True).tolist():
        member, group = divmod(pair, len(groups))
        if free[member] and len(groups[group]) < size:
            groups[group].append(member)
            free[member] = False
    return torch.tensor(groups, device=similarity.device).sort(dim=1).values
