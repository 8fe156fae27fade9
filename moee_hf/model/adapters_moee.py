"""Adapters of PEFT: saved with a model, they are merged into its weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import PreTrainedModel


def merged_weights(backbone: PreTrainedModel) -> dict[str, torch.Tensor] | None:
    """Return the weights of a backbone, adapters merged into them, under its own names; None if it has no adapters.

    The backbone stays as it is.

    Raises:
        ValueError: If an adapter cannot be merged.
    """
    layers = {name: module for name, module in backbone.named_modules() if hasattr(module, "base_layer")}
    others = [name for name, _ in backbone.named_modules() if name.endswith((".modules_to_save", ".original_module"))]
    if others:
        raise ValueError(
            f"save_pretrained: expected adapters that can be merged into the weights; got {others[0]!r}, a module "
            "that was trained whole. Put the trained module in its place, or save the adapter alone, with PEFT."
        )
    if not layers:
        return None
    weights: dict[str, torch.Tensor] = backbone.state_dict()
    for name in layers:
        prefix = f"{name}."
        if any(name.startswith(f"{outer}.") for outer in layers):
            continue  # it is merged with the layer around it
        weights = {key: weight for key, weight in weights.items() if not key.startswith(prefix)}
        weights |= {prefix + key: weight for key, weight in _merged(name, layers[name]).state_dict().items()}
    return weights


def _merged(name: str, layer: Any) -> Any:
    """Return the layer inside of an adapter's, with its weights and the adapter's."""
    layer = copy.deepcopy(layer)
    while hasattr(layer, "base_layer"):
        if not layer.disable_adapters:
            try:
                layer.merge(safe_merge=True)
            except Exception as error:  # of PEFT, whose adapters are of many kinds
                raise ValueError(
                    f"save_pretrained: expected adapters that can be merged into the weights; that of {name} cannot "
                    f"({error}). Save the adapter alone, with PEFT."
                ) from error
        layer = layer.base_layer
    return layer
