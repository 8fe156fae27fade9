"""Experts in 8 and 4 bits: ready-made configurations by one name, and what a quantizer left whole."""

from __future__ import annotations

import functools
import re
from collections import OrderedDict
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, TorchAoConfig
from transformers.utils.logging import get_logger
from transformers.utils.quantization_config import QuantizationMethod

from .choices_moee import QUANTIZATIONS, nearest_name
from .experts_moee import EXPERTS_IMPLEMENTATION
from .experts_nf4_moee import ExpertsNF4Config, is_of_experts

logger = get_logger(__name__)

_NAMES = ", ".join(map(repr, QUANTIZATIONS))
# a weight of more bytes is as whole as it was in the checkpoint: 16 or 32 bits
_MOST_BYTES = 1.5


def check_quantization(
    quantization: Any, config: PreTrainedConfig, experts_implementation: str | dict[str, str] | None = None
) -> None:
    """Check a `quantization_config` of `from_pretrained` before anything is fetched; transformers checks its own.

    Args:
        quantization: A name of `QUANTIZATIONS`, a configuration of transformers, or None.
        config: The configuration of the backbone.
        experts_implementation: The argument of `from_pretrained`.

    Raises:
        ValueError: If there is no such name, or the model cannot be had in that format.
    """
    if not isinstance(quantization, str):
        return
    if quantization not in QUANTIZATIONS:
        raise ValueError(
            f"quantization_config: expected one of {_NAMES}, or a configuration of transformers; got "
            f"{quantization!r}.{nearest_name(quantization.lower(), QUANTIZATIONS)}"
        )
    if (stored := stored_method(config)) is not None:
        raise ValueError(
            f"quantization_config: expected None for a checkpoint that is quantized already, by {stored!r}; got "
            f"{quantization!r}. Leave it out, or load the checkpoint that it was made of."
        )
    if quantization != "nf4" and experts_implementation not in (None, EXPERTS_IMPLEMENTATION):
        raise ValueError(
            f"experts_implementation: expected None beside quantization_config={quantization!r}, whose experts "
            f"transformers' own implementations do not all compute; got {experts_implementation!r}. Leave it out."
        )


def ready_made(name: str, backbone: PreTrainedModel) -> Any:
    """Return the configuration of transformers that a name stands for.

    Args:
        name: One of `QUANTIZATIONS`.
        backbone: The backbone, without weights: it says what its experts are called.

    Raises:
        ImportError: If the package that quantizes is not installed.
        ValueError: If the backbone holds or computes its experts in a way of its own.
    """
    if not any(weight.ndim == 3 for weight in _experts(backbone)):
        raise ValueError(
            f"quantization_config: expected None for a {backbone.config.model_type} backbone, or a configuration of "
            f"transformers for its linear layers, as its experts are no 3-D parameters; got {name!r}."
        )
    if name == "nf4":
        return ExpertsNF4Config()
    try:
        from torchao.quantization import Float8WeightOnlyConfig, FqnToConfig, Int8WeightOnlyConfig
    except ImportError as error:
        raise ImportError(
            f'quantization_config={name!r} needs torchao: pip install "moee_hf[quantized]". ({error})'
        ) from error
    found = weights_to_quantize(backbone, name)
    weights = {f"{path}.{own}" for path, of_module in found.items() for own in of_module}
    if not weights:
        raise ValueError(
            f"quantization_config: expected None or 'nf4' for a {backbone.config.model_type} backbone, which computes "
            f"its experts in a way of its own; got {name!r}."
        )
    weight_config = Float8WeightOnlyConfig() if name == "fp8" else Int8WeightOnlyConfig()
    # of each layer the same
    patterns = sorted({re.sub(r"\\\.\d+(?=\\\.)", r"\\.\\d+", re.escape(weight)) for weight in weights})
    return TorchAoConfig(
        FqnToConfig(OrderedDict((f"re:{pattern}", weight_config) for pattern in patterns)),
        # torchao's op is for weights that one of the checkpoint makes alone, and that lie in a module
        modules_to_not_convert=[f"(?!(?:{'|'.join(patterns)})$).*"],
    )


def weights_to_quantize(backbone: PreTrainedModel, name: str) -> dict[str, dict[str, torch.Tensor]]:
    """Return the weights that one of `QUANTIZATIONS` quantizes, each of all experts of a layer, by module and name."""
    found = {}
    for path, module in backbone.named_modules():
        # all but nf4 need transformers' interface of experts, which sets this; some architectures do without
        if name == "nf4" or hasattr(module, "_is_expert_parallel"):
            weights = module.named_parameters(recurse=False)
            found[path] = {own: weight for own, weight in weights if is_of_experts(module, own)}
    return {path: weights for path, weights in found.items() if weights}


def warn_of_whole_experts(backbone: PreTrainedModel) -> None:
    """Warn if a quantizer was asked for and left experts in 16 or 32 bits, which are most of the memory."""
    quantizer: Any = getattr(backbone, "hf_quantizer", None)
    if quantizer is None or getattr(quantizer.quantization_config, "dequantize", False):
        return
    weights = [weight for weight in _experts(backbone) if _num_bytes(weight) > _MOST_BYTES * weight.numel()]
    if not weights:
        return
    advice = f" Load with quantization_config= one of {_NAMES}, which quantize experts."
    logger.warning(
        f"{type(quantizer.quantization_config).__name__} left {sum(map(_num_bytes, weights)) / 1e9:.3g} GB of experts "
        "whole, in 16 or 32 bits: they are not the linear layers that it quantizes."
        f"{advice if any(weight.ndim == 3 for weight in weights) else ''}"
    )


def make_picklable(backbone: PreTrainedModel) -> None:
    """Take what torchao prints of a module out of each that it has quantized: it cannot be pickled."""
    for module in backbone.modules():
        if isinstance(getattr(vars(module).get("extra_repr"), "__func__", None), functools.partial):
            del module.extra_repr


def check_saving(backbone: PreTrainedModel) -> None:
    """Raise `ValueError` for quantized weights that would not be read again."""
    quantizer: Any = getattr(backbone, "hf_quantizer", None)
    if quantizer is None or quantizer.quantization_config.quant_method != QuantizationMethod.TORCHAO:
        return
    if outside := [name for name in backbone.state_dict() if "." not in name]:
        raise ValueError(
            f"save_pretrained: expected weights that all lie in modules, which torchao's files want; a "
            f"{backbone.config.model_type} backbone has {outside[0]!r} in none. Save it as it is without "
            "quantization_config, and quantize it while loading."
        )


def _experts(backbone: PreTrainedModel) -> list[torch.Tensor]:
    """Return the weights of experts, as they lie in memory."""
    found: list[torch.Tensor] = []
    for path, module in backbone.named_modules():
        names = path.split(".")
        # some hold their router too
        if ("experts" in names and "router" not in names) or "ParallelExperts" in type(module).__name__:
            weights = module.named_parameters(recurse=False)
            found += [weight for name, weight in weights if weight.ndim > 1 and "bias" not in name]
    return found


def _num_bytes(weight: torch.Tensor) -> int:
    if hasattr(weight, "__tensor_flatten__"):  # a tensor of others, as torchao's are
        return sum(_num_bytes(getattr(weight, name)) for name in weight.__tensor_flatten__()[0])
    return weight.numel() * weight.itemsize


def stored_method(config: PreTrainedConfig) -> str | None:
    """Return the method that a checkpoint was quantized with. None: it was not."""
    for part in (config, config.get_text_config()):
        if stored := getattr(part, "quantization_config", None):
            method = stored.get("quant_method") if isinstance(stored, dict) else stored.quant_method
            return str(getattr(method, "value", method))
    return None
