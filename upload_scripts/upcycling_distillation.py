"""Distillation: how far a mixture of experts is from the dense model, its teacher, in training and at the end."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from upcycling_data import Batch
from upcycling_model import mixtures

DEPTHS = 8  # hidden states that are compared, evenly spaced up to the last
COMPARED_FRACTION = 0.25  # of the tokens of a row, drawn at random
LAST_STD = 0.1  # the least standard deviation of last tokens, which may be alike, in units of that of the others


class Losses(NamedTuple):
    """Scalars, and what the routers chose.

    Attributes:
        kl_divergence: KL(dense || mixture) of the next token's distribution, in nats.
        distance: Between hidden states, as the mean square in units of their standard deviation.
        load_balancing: The load-balancing loss of Switch Transformers (arXiv 2101.03961), which is 1 if all experts
            are visited alike.
        expert_counts: How many tokens visited each expert, `[L, E]`.
    """

    kl_divergence: torch.Tensor
    distance: torch.Tensor
    load_balancing: torch.Tensor
    expert_counts: torch.Tensor


def distil(
    model: PreTrainedModel, dense: PreTrainedModel, rows: Batch, generator: torch.Generator, last: bool
) -> Losses:
    """Compare a mixture with its dense model on some tokens of each row.

    Args:
        model: As `to_mixture` returns it.
        dense: What it was made of.
        rows: Token ids.
        generator: Which tokens; never the first of a row, whose states are unlike all others.
        last: Compare the last tokens too, with the weight of all others together: embeddings are made of them.
    """
    with torch.no_grad():
        teacher = hidden_states(dense, rows.ids)
    student = hidden_states(model, rows.ids)
    shape = (len(rows.ids), math.ceil(COMPARED_FRACTION * rows.ids.shape[1]))
    random = torch.rand(shape, generator=generator).to(rows.ids.device)
    positions = 1 + (random * (rows.lengths[:, None] - 1)).long()
    kl_divergence, distance, std = _compare(student, teacher, positions, dense.lm_head, 1e-4)
    if last:
        of_last = _compare(student, teacher, rows.lengths[:, None] - 1, dense.lm_head, LAST_STD * std)
        kl_divergence, distance = kl_divergence + of_last[0], distance + of_last[1]
    valid = (torch.arange(rows.ids.shape[1], device=rows.ids.device) < rows.lengths[:, None])[..., None]  # [B, T, 1]
    routed = [[(x * valid).sum(dim=(0, 1)) for x in mlp.routing] for mlp in mixtures(model)]
    probabilities, expert_counts = (torch.stack(x) for x in zip(*routed, strict=True))  # [L, E] each
    shares = expert_counts / expert_counts.sum(dim=1, keepdim=True)
    load_balancing = expert_counts.shape[1] * (probabilities / valid.sum() * shares).sum(dim=1).mean()
    return Losses(kl_divergence, distance, load_balancing, expert_counts)


def hidden_states(model: PreTrainedModel, ids: torch.Tensor) -> list[torch.Tensor]:
    """Return the hidden states `[B, T, D]` before the first layer and after each; the last one is normed.

    The layers are called here, as the model itself would break up their compiled code to catch what they return. Rows
    are padded at the end, so attention, which is causal, needs no mask.
    """
    base = model.model
    inputs = base.embed_tokens(ids)
    if torch.is_grad_enabled():
        inputs.requires_grad_()  # or else the first layer would be compiled once more
    states = [inputs]
    positions = base.rotary_emb(inputs, torch.arange(ids.shape[1], device=ids.device)[None])
    for layer in base.layers:
        states.append(layer(states[-1], position_embeddings=positions))
    return [*states[:-1], base.norm(states[-1])]


def load_entropy(expert_counts: torch.Tensor) -> list[float]:
    """Return the entropy of each layer's load: 1 if all experts are visited alike, 0 if one gets all tokens.

    Args:
        expert_counts: `[L, E]`, how many tokens visited each expert.
    """
    entropy = torch.special.entr(expert_counts / expert_counts.sum(dim=1, keepdim=True)).sum(dim=1)
    return (entropy / math.log(expert_counts.shape[1])).tolist()


@torch.no_grad()
def evaluate(model: PreTrainedModel, dense: PreTrainedModel, rows: torch.Tensor) -> dict[str, float | list[float]]:
    """Return how well both models predict the tokens of a text.

    Args:
        model: As `to_mixture` returns it.
        dense: What it was made of.
        rows: Token ids `[N, T]`.

    Returns:
        Per token and in nats: `dense_loss` and `loss`, cross entropies, and `kl_divergence`, KL(dense || mixture);
        `load_entropy` of each layer; and `tokens`, how many were predicted.
    """
    sums, expert_counts = torch.zeros(3, dtype=torch.float64), 0.0
    for ids in rows.long().split(2):
        teacher, student = (m.lm_head(hidden_states(m, ids)[-1][:, :-1]).log_softmax(dim=-1) for m in (dense, model))
        losses = [F.nll_loss(x.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum") for x in (teacher, student)]
        kl_divergence = F.kl_div(student, teacher, log_target=True, reduction="sum")
        sums += torch.stack([*losses, kl_divergence]).cpu()
        expert_counts += torch.stack([mlp.routing[1].sum(dim=(0, 1)) for mlp in mixtures(model)]).cpu()
    tokens = rows[:, 1:].numel()
    names = ("dense_loss", "loss", "kl_divergence")
    means = dict(zip(names, (sums / tokens).tolist(), strict=True))
    return {"tokens": tokens, **means, "load_entropy": load_entropy(expert_counts)}


def _compare(
    student: list[torch.Tensor],
    teacher: list[torch.Tensor],
    positions: torch.Tensor,
    head: nn.Module,
    least_std: torch.Tensor | float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """KL divergence and distance of the tokens at some positions `[B, P]`, and the teacher's standard deviation."""
    rows, layers = torch.arange(len(positions), device=positions.device)[:, None], len(teacher) - 1
    depths = sorted({math.ceil(layers * i / DEPTHS) for i in range(1, DEPTHS + 1)})
    ours, theirs = (
        torch.stack([states[depth][rows, positions].flatten(0, 1).float() for depth in depths])  # [depths, B * P, D]
        for states in (student, teacher)
    )
    std = theirs.std(dim=1, correction=0, keepdim=True).clamp_min(least_std)
    distance = ((ours - theirs) / std).square().mean()
    log_ours, log_theirs = (head(states[-1]).float().log_softmax(dim=-1) for states in (ours, theirs))
    return F.kl_div(log_ours, log_theirs, log_target=True, reduction="batchmean"), distance, std
