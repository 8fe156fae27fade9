"""Adapters of PEFT: saved with a model, they are merged into its weights."""

from __future__ import annotations

import copy
import sys
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

_ADVICE = "Merge it with PEFT (merge_and_unload), or save the adapter alone, with PEFT."


def has_adapters(backbone: Any) -> bool:
    """Whether adapters are in a backbone, or wrapped around it."""
    # without adapters nobody has imported the package
    return "peft" in sys.modules and (_is_wrapped(backbone) or any(map(_is_adapted, backbone.modules())))


def without_adapters(backbone: Any) -> tuple[PreTrainedModel, dict[str, torch.Tensor] | None]:
    """Return what saves the weights of a backbone, adapters merged into them, by transformers' `save_pretrained`.

    Args:
        backbone: A backbone, which stays as it is.

    Returns:
        The backbone and None, if it has no adapters. Else the same backbone without weights, and the merged weights,
        by the names that they have in it.

    Raises:
        ValueError: If adapters cannot be merged.
    """
    if not has_adapters(backbone):
        return backbone, None
    if _is_wrapped(backbone):
        if backbone.active_peft_config.is_prompt_learning:
            raise ValueError(
                "save_pretrained: expected adapters that can be merged into the weights; got "
                f"{backbone.active_peft_config.peft_type.value}, which is none of weights. Save it alone, with PEFT."
            )
        backbone = backbone.get_base_model()
    if getattr(backbone, "hf_quantizer", None) is not None or any(weight.is_meta for weight in backbone.parameters()):
        raise ValueError(
            "save_pretrained: expected weights that an adapter can be merged into; got quantized or offloaded ones. "
            "Load the model without that, and the adapter into it, or save the adapter alone, with PEFT."
        )
    weights = _merged_weights(backbone)
    with torch.device("meta"), no_init_weights():
        plain = type(backbone)._from_config(copy.deepcopy(backbone.config))
    if lacking := plain.state_dict().keys() ^ weights.keys():
        raise ValueError(
            "save_pretrained: expected adapters that can be merged into the weights; got one that adds, or takes, "
            f"{min(lacking)!r}. {_ADVICE}"
        )
    if hasattr(backbone, "_weight_conversions"):  # from the names of the checkpoint that it was loaded from
        plain._weight_conversions = backbone._weight_conversions
    return plain.to(backbone.dtype), weights


def _is_wrapped(backbone: Any) -> bool:
    return isinstance(backbone, sys.modules["peft"].PeftModel)


def _is_adapted(module: Any) -> bool:
    return hasattr(module, "base_layer") or hasattr(module, "original_module")


def _merged_weights(backbone: PreTrainedModel) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = backbone.state_dict()
    done = "\0"  # nothing begins with it
    for name, module in backbone.named_modules():
        prefix = f"{name}."
        # what is inside of an adapted module is merged with it
        if _is_adapted(module) and not prefix.startswith(done):
            done = prefix
            weights = {key: weight for key, weight in weights.items() if not key.startswith(prefix)}
            weights |= {prefix + key: weight for key, weight in _merged(name, module).state_dict().items()}
    return weights


def _merged(name: str, module: Any) -> Any:
    """Return the module inside of an adapter's, with its weights and the adapter's."""
    module = copy.deepcopy(module)
    try:
        while _is_adapted(module):
            if hasattr(module, "original_module"):  # another was trained in its place, or some of its rows
                if module.disable_adapters:
                    module = module.original_module
                else:
                    module = module.unload_and_optionally_merge_module(True, safe_merge=True, adapter_names=None)
                continue
            if not module.disable_adapters:
                module.merge(safe_merge=True)
            elif module.merged:
                module.unmerge()
            module = module.base_layer
    except Exception as error:  # of PEFT, whose adapters are of many kinds
        raise ValueError(
            f"save_pretrained: expected adapters that can be merged into the weights; that of {name} cannot "
            f"({error}). {_ADVICE}"
        ) from error
    return module
