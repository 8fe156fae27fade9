"""How far a mixture of experts is from the dense model that it is made of: to train it, and at the end."""

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
SAMPLE = 4  # of the tokens of a row, one in so many is compared
LAST_SPREAD = 0.1  # the least spread of last tokens, which a few may share, in units of that of the others


class Losses(NamedTuple):
    """Scalars, and what the routers chose.

    The divergence is that of the next token's distribution, in nats; the distance that of hidden states, as the mean
    square in units of their spread; `balance` is 1 if all experts are visited alike, and larger else.
    """

    divergence: torch.Tensor
    distance: torch.Tensor
    balance: torch.Tensor
    load: torch.Tensor  # [L, E], how many tokens visited each expert


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
        wanted = hidden_states(dense, rows.ids)
    got = hidden_states(model, rows.ids)
    shape = (len(rows.ids), rows.ids.shape[1] // SAMPLE)
    places = 1 + (torch.rand(shape, generator=generator).to(rows.ids.device) * (rows.lengths[:, None] - 1)).long()
    divergence, distance, spread = _compare(got, wanted, places, dense.lm_head, 1e-4)
    if last:
        of_last = _compare(got, wanted, rows.lengths[:, None] - 1, dense.lm_head, LAST_SPREAD * spread)
        divergence, distance = divergence + of_last[0], distance + of_last[1]
    valid = (torch.arange(rows.ids.shape[1], device=rows.ids.device) < rows.lengths[:, None])[..., None]  # [B, T, 1]
    routed = [[(x * valid).sum(dim=(0, 1)) for x in mlp.routing] for mlp in mixtures(model)]
    probability, load = (torch.stack(x) for x in zip(*routed, strict=True))  # [L, E] each
    share = load.detach() / load.sum(dim=1, keepdim=True)
    balance = load.shape[1] * (probability / valid.sum() * share).sum(dim=1).mean()
    return Losses(divergence, distance, balance, load)


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


def load_entropy(load: torch.Tensor) -> list[float]:
    """Return how even the load of each layer is: 1 if all experts are visited alike, 0 if one gets all.

    Args:
        load: `[L, E]`, how many tokens visited each expert.
    """
    entropy = torch.special.entr(load / load.sum(dim=1, keepdim=True)).sum(dim=1)
    return (entropy / math.log(load.shape[1])).tolist()


@torch.no_grad()
def evaluate(model: PreTrainedModel, dense: PreTrainedModel, rows: torch.Tensor) -> dict[str, float | list[float]]:
    """Return how well both models predict the tokens of a text.

    Args:
        model: As `to_mixture` returns it.
        dense: What it was made of.
        rows: Token ids `[N, T]`.

    Returns:
        Per token and in nats: `dense_loss` and `loss`, cross entropies, and `divergence`, of the dense model's
        distribution from this one's; `load_entropy` of each layer; and `tokens`, how many were predicted.
    """
    sums, load = torch.zeros(3, dtype=torch.float64), 0.0
    for ids in rows.long().split(2):
        got, wanted = (m.lm_head(hidden_states(m, ids)[-1][:, :-1]).log_softmax(dim=-1) for m in (model, dense))
        loss, dense_loss = (F.nll_loss(x.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum") for x in (got, wanted))
        divergence = F.kl_div(got, wanted, log_target=True, reduction="sum")
        sums += torch.stack([dense_loss, loss, divergence]).cpu()
        load = load + torch.stack([mlp.routing[1].sum(dim=(0, 1)) for mlp in mixtures(model)]).cpu()
    tokens = rows[:, 1:].numel()
    names = ("dense_loss", "loss", "divergence")
    means = dict(zip(names, (sums / tokens).tolist(), strict=True))
    return {"tokens": tokens, **means, "load_entropy": load_entropy(load)}


def _compare(
    got: list[torch.Tensor],
    wanted: list[torch.Tensor],
    places: torch.Tensor,
    head: nn.Module,
    least: torch.Tensor | float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Divergence and distance of the tokens at some places `[B, P]`, and their spread, which is not below `least`."""
    rows, layers = torch.arange(len(places), device=places.device)[:, None], len(wanted) - 1
    depths = sorted({math.ceil(layers * i / DEPTHS) for i in range(1, DEPTHS + 1)})
    ours, theirs = (
        torch.stack([states[depth][rows, places].flatten(0, 1).float() for depth in depths])  # [depths, B * P, D]
        for states in (got, wanted)
    )
    spread = theirs.std(dim=1, correction=0, keepdim=True).clamp_min(least)
    distance = ((ours - theirs) / spread).square().mean()
    log_ours, log_theirs = (head(states[-1]).float().log_softmax(dim=-1) for states in (ours, theirs))
    return F.kl_div(log_ours, log_theirs, log_target=True, reduction="batchmean"), distance, spread
