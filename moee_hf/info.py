"""What is known without weights: the size of a model, and the architectures that MoEE can use."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import CONFIG_MAPPING, MODEL_MAPPING, PreTrainedConfig, PreTrainedModel, models
from transformers.models.auto.configuration_auto import model_type_to_module_name

from .model.backbone_moee import REFUSED, experts_per_token, text_model_of
from .model.choices_moee import COMBINATIONS, PRECISIONS, QUANTIZATIONS, check_choice
from .model.configuration_deepseek import DeepseekConfig
from .model.configuration_moee import MoEEConfig
from .model.experts_nf4_moee import ExpertsNF4Config, Weight4bit
from .model.modeling_moee import MoEEModel
from .model.quantization_moee import stored_method, weights_to_quantize

__all__ = [
    "CARDS",
    "INDEX_LIMITS",
    "ROOM",
    "ModelInfo",
    "dtype_name",
    "format_count",
    "model_info",
    "supported_backbones",
]

# the widest float vectors that common indexes take
INDEX_LIMITS = {
    "Lucene": 1024,  # by default: https://github.com/apache/lucene/pull/12436
    "pgvector vector": 2000,  # https://supabase.com/docs/guides/ai/vector-indexes
    "pgvector halfvec": 4000,
    "Elasticsearch": 4096,  # from 8.11: https://github.com/elastic/elasticsearch/pull/99225
    "OpenSearch": 16000,  # from 2.12: https://github.com/opensearch-project/documentation-website/pull/5875
}
# GB of common cards: 1e9 bytes each, of which no such card has less, error correction or not
CARDS = (8, 16, 24, 48, 80)
# GB of these that are left for the driver, about half a GB, and for a batch of some thousand tokens
ROOM = 2
# a folder for each architecture
_MODELS = Path(models.__path__[0])
_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1, ""))


@dataclass(frozen=True)
class ModelInfo:
    """Size of a MoEE model.

    Args:
        model_type: Architecture of the backbone.
        num_layers: Layers of its text model.
        num_moe_layers: MoE layers, each with a router.
        num_experts: Experts that each of them distributes a token over.
        top_k: Experts that a token visits in one layer; None if the configuration does not say.
        hidden_size: Width of HS.
        embedding_sizes: Width of an embedding, by combination, before it is projected.
        embedding_size: Width of an embedding as the configuration has it.
        router_indices: MoE layers that RW come from, counted from 0.
        parameters: Parameters of the backbone, without a language-model head; all of them are loaded.
        active_parameters: Of these, how many one token of text visits; None if `top_k` is.
        dtype: Type of the weights as the configuration has it; float32 if it does not say.
        experts: Shapes of the weights of experts that are quantized, module by module, in each of `QUANTIZATIONS`
            that can be had.
        quantized_by: Method that the checkpoint itself is quantized with; None if it is not.
    """

    model_type: str
    num_layers: int
    num_moe_layers: int
    num_experts: int
    top_k: int | None
    hidden_size: int
    embedding_sizes: dict[str, int]
    embedding_size: int
    router_indices: tuple[int, ...]
    parameters: int
    active_parameters: int | None
    dtype: torch.dtype
    experts: dict[str, list[list[torch.Size]]]
    quantized_by: str | None

    def memory(self, dtype: torch.dtype, quantization: str | None = None) -> int:
        """Bytes of the weights in `dtype`, or of those but the experts, and the experts in one of `QUANTIZATIONS`."""
        if quantization is None:
            return self.parameters * dtype.itemsize
        check_choice("quantization", quantization, list(self.experts))
        shapes = [shape for module in self.experts[quantization] for shape in module]
        others = self.parameters - sum(shape.numel() for shape in shapes)
        return others * dtype.itemsize + sum(_quantized_bytes(shape, quantization) for shape in shapes)

    def layer_memory(self, dtype: torch.dtype, quantization: str) -> int:
        """Bytes of the largest layer's experts in `dtype`, which take them beside the weights while they compute."""
        check_choice("quantization", quantization, list(self.experts))
        return max(sum(shape.numel() for shape in module) for module in self.experts[quantization]) * dtype.itemsize

    def cards(self, dtype: torch.dtype, quantization: str | None = None) -> tuple[int, ...]:
        """Return those of `CARDS` that hold the weights, what they take while they compute, and a batch."""
        layer = 0 if quantization is None else self.layer_memory(dtype, quantization)
        used = self.memory(dtype, quantization) + layer
        return tuple(card for card in CARDS if used <= (card - ROOM) * 10**9)

    def embedding_bytes(self, precision: str) -> int:
        """Bytes of an embedding in a precision of `MoEEModel.encode`."""
        check_choice("precision", precision, PRECISIONS)
        bits = 32 if precision == "float32" else 8 if precision.endswith("int8") else 1
        return -(-self.embedding_size * bits // 8)


def model_info(config: MoEEConfig) -> ModelInfo:
    """Measure a model of this configuration without its weights.

    Raises:
        UnsupportedBackboneError: If MoEE cannot use the backbone.
    """
    model = MoEEModel.without_weights(config)
    config, text = model.config, text_model_of(model.model)
    num_moe_layers, num_experts = config.router_shape
    top_k = experts_per_token(model.model)
    return ModelInfo(
        model_type=config.backbone_config.model_type,
        num_layers=model.readable.num_layers,
        num_moe_layers=num_moe_layers,
        num_experts=num_experts,
        top_k=top_k,
        hidden_size=config.hidden_size,
        embedding_sizes={combination: config.embedding_size_for(combination) for combination in COMBINATIONS},
        embedding_size=config.embedding_size,
        router_indices=tuple(config.router_indices),
        parameters=sum(weight.numel() for weight in model.model.parameters()),
        active_parameters=None if top_k is None else _active_parameters(text, num_experts, top_k),
        dtype=config.backbone_config.dtype or torch.float32,
        experts={name: shapes for name in QUANTIZATIONS if (shapes := _expert_shapes(model.model, name))},
        quantized_by=stored_method(config.backbone_config),
    )


def _expert_shapes(backbone: PreTrainedModel, quantization: str) -> list[list[torch.Size]]:
    """The shapes of what a quantization finds: tensors with all experts of a layer, module by module."""
    found = weights_to_quantize(backbone, quantization)
    return [[weight.shape for weight in of_module.values()] for of_module in found.values()]


def _quantized_bytes(shape: torch.Size, quantization: str) -> int:
    """Bytes of a quantized tensor: its weights, and what they are scaled with."""
    if quantization == "nf4":
        quantized = Weight4bit(torch.empty(shape, device="meta"), ExpertsNF4Config())
        return sum(part.nbytes for part in quantized.parameters())
    # a byte a weight, and for each row a float32, in int8 also its zero
    return shape.numel() + shape[:-1].numel() * (4 if quantization == "fp8" else 5)


def _active_parameters(text_model: PreTrainedModel, num_experts: int, top_k: int) -> int:
    """How many parameters a token visits: all but those of the experts that it is not sent to."""
    active = 0.0
    for name, weight in text_model.named_parameters():
        share = 1.0
        # one tensor of all experts of a layer, or one tensor of one expert
        if ".experts." in name or (weight.ndim == 3 and len(weight) == num_experts):
            share = top_k / (len(weight) if weight.ndim == 3 else num_experts)
        active += weight.numel() * share
    return round(active)


def format_count(number: int) -> str:
    """Write a number of parameters as one reads it: 6.92 B."""
    size, unit = next((size, unit) for size, unit in _UNITS if number >= size)
    return f"{number / size:.2f} {unit}".rstrip()


def dtype_name(dtype: torch.dtype) -> str:
    """Write a type of tensors as configurations do: bfloat16."""
    return str(dtype).removeprefix("torch.")


def supported_backbones() -> list[str]:
    """Return the `model_type` of every architecture whose routing weights MoEE reads, sorted.

    An architecture counts if it reads text, transformers declares routers to record in its modelling file, and has a
    base model for it. Those that put any text model inside (LLaVA, InternVL, ...) work with a mixture of experts
    inside too, and are not listed.
    """
    supported = [DeepseekConfig.model_type]
    for model_type in CONFIG_MAPPING:
        # to import the classes of every architecture takes seconds
        folder = _MODELS / model_type_to_module_name(model_type).replace(".", "/")
        if model_type in REFUSED or not any(map(_declares_routers, folder.glob("modeling_*.py"))):
            continue
        config_class = CONFIG_MAPPING[model_type]
        source = Path(inspect.getfile(config_class))
        modelling = source.with_name(source.name.replace("configuration_", "modeling_"))
        if config_class in MODEL_MAPPING and _reads_text(config_class) and _declares_routers(modelling):
            supported.append(model_type)
    return sorted(set(supported))


def _declares_routers(modelling: Path) -> bool:
    return modelling.is_file() and '"router_logits": ' in modelling.read_text(encoding="utf-8")


def _reads_text(config_class: type[PreTrainedConfig]) -> bool:
    return hasattr(config_class, "vocab_size") or "text_config" in config_class.sub_configs
