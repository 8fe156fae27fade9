"""Tokens with which several texts begin, computed once: the words of a prompt before the text."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from .backbone_moee import is_causal, rope_kinds, text_model
from .capture_moee import Capture

# a forward pass over the common tokens alone must spare at least as many as this
MIN_TOKENS_SPARED = 256


class PrefixCache(DynamicCache):
    """Keys and values of tokens with which every text of any number of batches begins.

    A forward pass over these tokens, one row, fills it; what that pass read is to be stored as `captured`. From then
    on it stays as it is: each pass gets these keys and values before its own, which are not kept.

    Args:
        backbone: The model.
    """

    captured: Capture | None = None

    def __init__(self, backbone: PreTrainedModel):
        super().__init__(config=text_model(backbone).config)

    @classmethod
    def suits(cls, backbone: PreTrainedModel) -> bool:
        """Whether the backbone reads texts from first to last, and all it knows of earlier tokens is keys and values.

        State spaces, linear attention, convolutions and compressed keys keep states of other kinds; some positions
        depend on the length of the whole text.
        """
        if not is_causal(backbone) or rope_kinds(backbone).keys() & {"dynamic", "longrope"}:
            return False
        kinds = {type(layer) for layer in cls(backbone).layers}
        return bool(kinds) and kinds <= {DynamicLayer, DynamicSlidingWindowLayer}

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the keys and values of a layer, of all tokens so far."""
        if self.captured is None:
            return super().update(key_states, value_states, layer_idx, *args, **kwargs)
        layer = copy.copy(self.layers[layer_idx])
        layer.keys = layer.keys.expand(len(key_states), -1, -1, -1)
        layer.values = layer.values.expand(len(value_states), -1, -1, -1)
        return layer.update(key_states, value_states, *args, **kwargs)


def common_prefix(ids: Sequence[list[int]]) -> list[int]:
    """Return the tokens with which all texts begin, all but the last at most; none where that spares too little."""
    if not ids:
        return []
    first, last = min(ids), max(ids)
    shortest = min(map(len, ids))
    length = next((place for place in range(shortest - 1) if first[place] != last[place]), shortest - 1)
    return first[:length] if length * (len(ids) - 1) >= MIN_TOKENS_SPARED else []
