"""What a backbone gives and takes, from its configuration alone: widths, parameters, memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .configuration_moee import MoEEConfig
from .functional_moee import COMBINATIONS
from .modeling_moee import MoEEModel
from .routing_moee import find_routers, text_model

# where architectures keep the number of experts that a token visits
_TOP_K = ("top_k", "num_experts_per_tok", "top_k_experts", "moe_top_k", "num_selected_experts")
_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1, ""))


@dataclass(frozen=True)
class ModelInfo:
    """Size of a MoEE model.

    Args:
        model_type: Architecture of the backbone.
        num_layers: Layers of its text model.
        num_moe_layers: Routers that RW is read from.
        num_experts: Experts that each of them distributes a token over.
        top_k: Experts that a token visits in one layer; None if the configuration does not say.
        hidden_size: Width of HS.
        embedding_sizes: Width of an embedding, by combination.
        parameters: Parameters of the backbone, without a language-model head; all of them are loaded.
        active_parameters: Of these, how many one token of text visits; None if `top_k` is.
        dtype: Type of the weights as the configuration has it; float32 if it does not say.
    """

    model_type: str
    num_layers: int
    num_moe_layers: int
    num_experts: int
    top_k: int | None
    hidden_size: int
    embedding_sizes: dict[str, int]
    parameters: int
    active_parameters: int | None
    dtype: torch.dtype

    def memory(self, dtype: torch.dtype) -> int:
        """Bytes of the weights in `dtype`."""
        return self.parameters * dtype.itemsize


def model_info(config: MoEEConfig) -> ModelInfo:
    """Measure a model of this configuration without its weights.

    Raises:
        UnsupportedBackboneError: If MoEE cannot use the backbone.
    """
    model = MoEEModel.without_weights(config)
    config = model.config
    text = text_model(model.model)
    num_moe_layers, num_experts = config.router_shape
    owners = (find_routers(model.model)[0][0], text.config, getattr(text.config, "ffn_config", None))
    top_k = next((k for name in _TOP_K for owner in owners if isinstance(k := getattr(owner, name, None), int)), None)
    idle = 0.0
    for name, weight in text.named_parameters():
        # one tensor of all experts of a layer, or one tensor of one expert
        if ".experts." in name or (weight.ndim == 3 and len(weight) == num_experts):
            experts = len(weight) if weight.ndim == 3 else num_experts
            idle += weight.numel() * (1 - (top_k or 0) / experts)
    read = sum(weight.numel() for weight in text.parameters())
    return ModelInfo(
        model_type=config.backbone_config.model_type,
        num_layers=model.num_layers,
        num_moe_layers=num_moe_layers,
        num_experts=num_experts,
        top_k=top_k,
        hidden_size=config.hidden_size,
        embedding_sizes={combination: config.size(combination) for combination in COMBINATIONS},
        parameters=sum(weight.numel() for weight in model.model.parameters()),
        active_parameters=None if top_k is None else read - round(idle),
        dtype=config.backbone_config.dtype or torch.float32,
    )


def quantity(number: int) -> str:
    """Write a number of parameters as one reads it: 6.92 B."""
    size, unit = next((size, unit) for size, unit in _UNITS if number >= size)
    return f"{number / size:.2f} {unit}".rstrip()


def dtype_name(dtype: torch.dtype) -> str:
    """Write a type of tensors as configurations do: bfloat16."""
    return str(dtype).removeprefix("torch.")
