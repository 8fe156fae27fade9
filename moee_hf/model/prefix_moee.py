"""Tokens with which several texts begin, such as the words of a prompt before the text, are computed once."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from .backbone_moee import is_causal, positions_follow_length, text_model_of

# a forward pass over the common tokens alone must spare at least as many as this
MIN_TOKENS_SPARED = 256


@dataclass(frozen=True)
class Prefix:
    """Tokens with which every text of any number of batches begins, and what one pass over them gave.

    Args:
        num_tokens: How many they are.
        cache: Their keys and values.
        hidden: Mean of HS over them, of each source that was read, of shape `(1, hidden_size)`.
        routing: Mean routing weights of each activation and router that was read, of shape `(1, num_experts)`.
        weight: Sum of their `token_weights`, which a mean over a whole text goes on from.
    """

    num_tokens: int
    cache: PrefixCache
    hidden: Mapping[str, torch.Tensor]
    routing: Mapping[tuple[str, int], torch.Tensor]
    weight: torch.Tensor


class PrefixCache(DynamicCache):
    """Keys and values that come before those of each text, and stay as they are: a text's own are not kept.

    Args:
        cache: That of a pass over one row of tokens, or an empty one: none come before.
    """

    def __init__(self, cache: DynamicCache):
        super().__init__()
        self.layers, self.layer_class_to_replicate = cache.layers, None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the keys and values of a layer: the prefix's for each text, then these."""
        layer = copy.copy(self.layers[layer_idx])
        if not layer.is_initialized:
            return key_states, value_states
        layer.keys = layer.keys.expand(len(key_states), -1, -1, -1)
        layer.values = layer.values.expand(len(value_states), -1, -1, -1)
        return layer.update(key_states, value_states, *args, **kwargs)


def empty_cache(backbone: PreTrainedModel) -> DynamicCache:
    """Return a cache for the keys and values of a pass over a prefix."""
    return DynamicCache(config=text_model_of(backbone).config)


def cache_argument(text_model: PreTrainedModel) -> str:
    """Return the name of a text model's argument for a cache: `past_key_values` up to transformers 5.23, then `cache`.

    transformers 5.24 renames the argument and warns, 5.40 removes the old name.
    """
    return "cache" if "cache" in inspect.signature(type(text_model).forward).parameters else "past_key_values"


def can_cache_prefix(backbone: PreTrainedModel) -> bool:
    """Whether a prefix can be cached: the backbone is causal and keeps no state but keys and values.

    State spaces, linear attention, convolutions and compressed keys keep states of other kinds; some positions depend
    on the length of the whole text.
    """
    if not is_causal(backbone) or positions_follow_length(backbone):
        return False
    kinds = {type(layer) for layer in empty_cache(backbone).layers}
    return bool(kinds) and kinds <= {DynamicLayer, DynamicSlidingWindowLayer}


def common_prefix(ids: Sequence[list[int]]) -> list[int]:
    """Return the tokens with which all texts begin, all but the last at most; none where that spares too little."""
    if not ids:
        return []
    first, last = min(ids), max(ids)
    shortest = min(map(len, ids))
    length = next((i for i in range(shortest - 1) if first[i] != last[i]), shortest - 1)
    return first[:length] if length * (len(ids) - 1) >= MIN_TOKENS_SPARED else []
