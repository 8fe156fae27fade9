"""The method as pure tensor functions, in the order of the data: pool, route, standardize, combine, compare.

*Your Mixture-of-Experts LLM Is Secretly an Embedding Model For Free* (arXiv 2410.10814). Letters in the shape
comments: B texts, T tokens, D hidden size, L MoE layers, E experts, N embedding size. All results are float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .choices_moee import COMBINATIONS, POOLINGS, ROUTER_ACTIVATIONS, check_alpha, check_choice
from .transfer_moee import send


def check_flag(name: str, value: object) -> None:
    """Raise `TypeError` unless `value` is true or false; a word such as "False" would count as true."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: expected True or False; got {value!r}.")


def check_count(name: str, value: object, unit: str) -> None:
    """Raise `ValueError` unless `value` is a whole number >= 1, or None; `name` says where it stands."""
    if value is not None and (not isinstance(value, Integral) or isinstance(value, bool) or value < 1):
        raise ValueError(f"{name}: expected a number of {unit} >= 1, or None; got {value!r}.")


@dataclass(frozen=True)
class Mix:
    """How HS and RW become one vector; `MoEEConfig.mix` makes it, once a call.

    Args:
        combination: `"hs"`, `"rw"`, `"concat"` or `"sum"`.
        alpha: Weight of RW in `"sum"`, >= 0.
        standardize: Whether HS and RW are standardized before.
        normalize: Whether the vector is brought to length 1.
        dimensions: Principal components of a corpus that the vector is projected on. None: it stays as it is.

    Raises:
        ValueError: If `combination` is unknown, or `alpha` is not a finite number >= 0.
        TypeError: If another is not true or false.
    """

    combination: str
    alpha: float = 1.0
    standardize: bool = False
    normalize: bool = False
    dimensions: int | None = None

    def __post_init__(self) -> None:
        check_choice("combination", self.combination, COMBINATIONS)
        check_alpha("alpha", self.alpha)
        check_flag("standardize", self.standardize)
        check_flag("normalize_embeddings", self.normalize)

    @property
    def reads_hidden(self) -> bool:
        """Whether HS is a part of the vector."""
        return self.combination != "rw"

    @property
    def reads_routing(self) -> bool:
        """Whether RW is a part of the vector."""
        return self.combination != "hs"


def pad_right(attention_mask: torch.Tensor, *tensors: torch.Tensor) -> list[torch.Tensor]:
    """Move the padding of each row behind its tokens, whose order stays, and leave out what is padding in every row.

    Backbones disagree about padding on the left (absolute positions, expert capacity, compressed keys) but all read
    right-padded rows as they read the text alone. So every batch takes this form before it reaches the backbone.

    Args:
        attention_mask: 1 for a token, 0 for padding, of shape `(batch_size, sequence_length)`.
        tensors: Tensors whose first two dimensions are those of the mask.

    Returns:
        The tensors, reordered along dimension 1, which is as long as the longest row has tokens.
    """
    order = attention_mask.argsort(dim=1, descending=True, stable=True)
    order = order[:, : int(attention_mask.sum(dim=1).max())]  # [B, T]
    rows = torch.arange(len(order), device=order.device)[:, None]
    return [tensor[rows, order] for tensor in tensors]


def pool(values: torch.Tensor, attention_mask: torch.Tensor, pooling: str, num_before: int = 0) -> torch.Tensor:
    """Reduce the values of a text's tokens to one vector, chosen by the mask whatever the padding side.

    Args:
        values: One vector per token, of shape `(batch_size, sequence_length, size)`.
        attention_mask: 1 for a token, 0 for padding, of shape `(batch_size, sequence_length)`.
        pooling: `"lasttoken"` (the paper's, section 3.1), `"mean"`, or `"weightedmean"`: the mean with weights
            1, 2, 3, ... along the tokens (SGPT, arXiv 2202.08904, equation 3).
        num_before: Tokens of the text before these, from which the weights go on.

    Returns:
        Float32 tensor of shape `(batch_size, size)`.

    Raises:
        ValueError: If `pooling` is none of these.
    """
    check_choice("pooling", pooling, POOLINGS)
    if pooling == "lasttoken":
        return last_token(values, attention_mask).float()
    weights = token_weights(attention_mask.to(values.device), pooling, num_before)
    weights = weights / weights.sum(dim=1, keepdim=True)
    return (weights[..., None] * values.float()).sum(dim=1)  # [B, size]; autocast leaves it in float32


def last_token(values: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Return the values of each text's last token, of shape `(batch_size, size)`; arguments are those of `pool`."""
    mask = attention_mask.to(values.device)
    rows = torch.arange(len(values), device=values.device)
    return values[rows, (mask.cumsum(dim=1) * mask).argmax(dim=1)]


def token_weights(attention_mask: torch.Tensor, pooling: str, num_before: int = 0) -> torch.Tensor:
    """Return the weight of each token in a mean, not yet divided by their sum; arguments are those of `pool`.

    Returns:
        Float32 tensor of shape `(batch_size, sequence_length)`, 0 for padding.
    """
    if pooling == "mean":
        return attention_mask.float()
    return ((attention_mask.cumsum(dim=1) + num_before) * attention_mask).float()


def merge_means(
    first: torch.Tensor, first_weight: torch.Tensor, second: torch.Tensor, second_weight: torch.Tensor
) -> torch.Tensor:
    """Return the mean over a text from the means over two parts of it.

    Args:
        first: Mean over the first part, of shape `(1, size)` where all texts share it, or `(batch_size, size)`.
        first_weight: Sum of the part's `token_weights`, a scalar or of shape `(batch_size, 1)`.
        second: Mean over the second part, of shape `(batch_size, size)`.
        second_weight: Sum of its weights, of shape `(batch_size, 1)`.
    """
    share = first_weight / (first_weight + second_weight)  # [B, 1]
    return torch.lerp(second, first.expand_as(second), share)


def route(router_logits: torch.Tensor, activation: str) -> torch.Tensor:
    """Turn a router's logits into routing weights, in float32 whatever their dtype (section 3.1).

    Softmax weights are compositions: positive, and one in sum, so that only their ratios mean something. Their
    geometry is that of log-ratios (Aitchison, *The Statistical Analysis of Compositional Data*, 1986, chapter 4): the
    centred log-ratio of weights w is log w minus its mean over the experts. As log softmax differs from the logits by
    a number that is the same for all experts, it is the logits minus their mean, whatever is small or zero in w.

    Args:
        router_logits: Logits over the experts, of shape `(..., num_experts)`.
        activation: `"softmax"` (the paper), `"clr"` for the centred log-ratios of these weights, or `"logits"` for the
            logits as they are (what the authors' released code takes from OLMoE and Qwen1.5-MoE).

    Returns:
        Float32 tensor of the same shape.

    Raises:
        ValueError: If `activation` is none of these.
    """
    check_choice("router_activation", activation, ROUTER_ACTIVATIONS)
    if activation == "softmax":
        return router_logits.softmax(dim=-1, dtype=torch.float32)
    logits = router_logits.float()
    return logits if activation == "logits" else logits - logits.mean(dim=-1, keepdim=True)


def weigh_layers(routing: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Return RW whose layers count by weights: cosines and dot products of two RW become weighted sums over layers.

    Args:
        routing: RW, of shape `(batch_size, num_moe_layers, num_experts)`.
        weights: One a layer, >= 0; the vector is multiplied by their square roots.
    """
    return routing * send(torch.tensor(weights, dtype=routing.dtype).sqrt(), routing.device)[:, None]


def standardize(values: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Return `(values - mean) / std`, with statistics of a corpus that broadcast over the batch."""
    return (values - mean.to(values)) / std.to(values)


def combine(hidden: torch.Tensor, routing: torch.Tensor, combination: str, alpha: float) -> torch.Tensor:
    """Combine the hidden state (HS) and the routing weights (RW) of each text into its embedding (section 3.3).

    `"concat"` is `[h ; r]`. `"sum"` is `[h/|h| ; sqrt(alpha) r/|r|]`, whose cosine is the paper's weighted sum of
    similarities, `(cos(h1, h2) + alpha cos(r1, r2)) / (1 + alpha)`, exactly: one vector for any vector index.

    Args:
        hidden: HS, of shape `(batch_size, hidden_size)`; `"rw"` does not read it.
        routing: RW, of shape `(batch_size, num_moe_layers, num_experts)`; `"hs"` does not read it.
        combination: `"hs"`, `"rw"`, `"concat"` or `"sum"`.
        alpha: Weight of RW in `"sum"`, >= 0; the other combinations do not read it.

    Returns:
        Tensor of shape `(batch_size, embedding_size)`.

    Raises:
        ValueError: If `combination` is unknown, or `alpha` is not a finite number >= 0.
    """
    check_choice("combination", combination, COMBINATIONS)
    check_alpha("alpha", alpha)
    if combination == "hs":
        return hidden
    routing = routing.flatten(1)  # [B, L * E]
    if combination == "rw":
        return routing
    if combination == "sum":
        hidden, routing = F.normalize(hidden, dim=-1), alpha**0.5 * F.normalize(routing, dim=-1)
    return torch.cat([hidden, routing], dim=-1)  # [B, D + L * E]


def similarity(a: Any, b: Any) -> torch.Tensor:
    """Cosine similarity of every vector of `a` with every vector of `b`.

    Args:
        a: Tensor, array or list of vectors, of shape `(n, size)` or `(size,)`.
        b: The same, of shape `(m, size)` or `(size,)`.

    Returns:
        Float32 tensor of shape `(n, m)`.

    Raises:
        ValueError: If the vectors differ in size, or a set has more than two dimensions.
    """
    a, b = _unit_rows("similarity", a), _unit_rows("similarity", b)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"similarity: expected vectors of one size; got {a.shape[1]} and {b.shape[1]}.")
    with torch.autocast(a.device.type, enabled=False):
        return a @ b.T


def similarity_pairwise(a: Any, b: Any) -> torch.Tensor:
    """Cosine similarity of each vector of `a` with the vector of `b` at the same place.

    Args:
        a: Tensor, array or list of vectors, of shape `(n, size)` or `(size,)`.
        b: The same, of the same shape.

    Returns:
        Float32 tensor of shape `(n,)`.

    Raises:
        ValueError: If the shapes differ.
    """
    a, b = _unit_rows("similarity_pairwise", a), _unit_rows("similarity_pairwise", b)
    if a.shape != b.shape:
        raise ValueError(
            f"similarity_pairwise: expected two sets of the same shape; got {tuple(a.shape)} and {tuple(b.shape)}. "
            "similarity() compares every vector of one set with every vector of the other."
        )
    return (a * b).sum(dim=-1)


def _unit_rows(name: str, vectors: Any) -> torch.Tensor:
    if isinstance(vectors, list | tuple) and vectors and not isinstance(vectors[0], int | float):
        rows = [torch.as_tensor(vector) for vector in vectors]
        if len(shapes := {tuple(row.shape) for row in rows}) > 1:
            raise ValueError(f"{name}: expected vectors of one size; got the shapes {sorted(shapes)}.")
        vectors = torch.stack(rows)
    vectors = torch.as_tensor(vectors).float()
    if vectors.ndim not in (1, 2):
        raise ValueError(f"{name}: expected one vector or a set of them; got the shape {tuple(vectors.shape)}.")
    return F.normalize(vectors[None] if vectors.ndim == 1 else vectors, dim=-1)
