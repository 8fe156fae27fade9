"""Finding the routers and layers of any MoE backbone: the generic path, and the short table of quirks.

transformers declares, for every MoE architecture, the classes of its layers and of its router modules, and where the
logits stand in a router's output.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import MODEL_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.utils.output_capturing import OutputRecorder

from .configuration_deepseek import DeepseekConfig
from .modeling_deepseek import DeepseekModel


class UnsupportedBackboneError(ValueError, NotImplementedError):
    """A backbone whose routing weights cannot be read; the message says why and what to use instead."""


@dataclass(frozen=True)
class RouterQuirk:
    """How a text model departs from "each router that transformers records returns logits over its experts".

    Args:
        classes: Names of the router classes, where transformers declares others.
        logits_index: Place of the logits in their output.
        returns_probabilities: Whether the output is softmaxed already.
        num_experts_attr: Attribute of the router that counts its outputs, where the rows of its last matrix do not.
        required_config: Values of its configuration without which the texts of a batch change each other.
        tokenwise: Whether everything after a layer's attention works token by token.
        repeats_layers: Whether some layers run several times in one pass; what the last run gives is read.
    """

    classes: tuple[str, ...] = ()
    logits_index: int = 0
    returns_probabilities: bool = False
    num_experts_attr: str | None = None
    required_config: dict[str, object] = field(default_factory=dict)
    tokenwise: bool = True
    repeats_layers: bool = False


# by model_type of the text model
QUIRKS = {
    # the first layers choose experts by token id, but their learned gate scores all experts like any router
    "deepseek_v4": RouterQuirk(classes=("DeepseekV4HashRouter", "DeepseekV4TopKRouter")),
    # transformers records the whole MoE block, which holds the vision experts too
    "ernie4_5_vl_moe_text": RouterQuirk(num_experts_attr="num_experts"),
    "gemma4_text": RouterQuirk(returns_probabilities=True),
    # the router's matrix also scores the shared experts, which its output leaves out
    # and a convolution along the text comes after it
    "inkling_text": RouterQuirk(num_experts_attr="num_experts", tokenwise=False),
    "inkling2_text": RouterQuirk(tokenwise=False),
    "inkling2_loop_text": RouterQuirk(tokenwise=False, repeats_layers=True),
    # attention is a mixture of experts too, and transformers records its router twice
    "jetmoe": RouterQuirk(classes=("JetMoeTopKGating",), logits_index=4, tokenwise=False),
    # with less, the texts of a batch compete for the capacity of the experts
    "nllb-moe": RouterQuirk(required_config={"moe_eval_capacity_token_fraction": 1.0}),
    # the layer puts what the experts return into the shape of all tokens
    "llama4_text": RouterQuirk(tokenwise=False),
    # a router goes on from the state that the one before it left for every token
    "zaya": RouterQuirk(tokenwise=False),
}

# by model_type of the backbone
REFUSED = {
    "diffusion_gemma": "its forward pass draws a random canvas, so a text has no one vector; use gemma4",
    "diffusion_gemma_text": "it is a part of diffusion_gemma, whose forward pass draws a random canvas; use gemma4",
    "doge": "its product-key router gives no distribution over the experts, and mixes the texts of a batch; use olmoe",
    "deepseek_ocr2_text": "transformers loads it only inside its composite; use the deepseek_ocr2 checkpoint",
    "ernie4_5_vl_moe_text": "transformers loads it only inside its composite; use the ernie4_5_vl_moe checkpoint",
    "qwen3_omni_moe": "transformers has no base model for it; use its thinker, qwen3_omni_moe_thinker",
    "qwen3_omni_moe_text": "transformers loads it only inside its composite; use qwen3_omni_moe_thinker",
    "qwen3_omni_moe_talker_text": "it speaks audio codes, not text; use qwen3_omni_moe_thinker",
    "step3p5": "transformers loads it only inside its composite; use the step3p7 checkpoint",
    "unlimited_ocr_text": "transformers loads it only inside its composite; use the unlimited_ocr checkpoint",
}

# where architectures keep the number of experts that a token visits
_TOP_K = ("top_k", "num_experts_per_tok", "top_k_experts", "moe_top_k", "num_selected_experts")


def backbone_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """Return the class of a backbone, without a language-model head.

    Raises:
        UnsupportedBackboneError: If the architecture is one that MoEE cannot use.
    """
    if config.model_type in REFUSED:
        raise UnsupportedBackboneError(
            f"MoEE cannot use a {config.model_type} backbone: {REFUSED[config.model_type]}."
        )
    if config.model_type == DeepseekConfig.model_type:
        return DeepseekModel
    if type(config) not in MODEL_MAPPING:
        raise UnsupportedBackboneError(
            f"MoEE cannot use a {config.model_type} backbone: transformers has no base model (AutoModel) for it. "
            "If it is a part of a larger model, use that model's checkpoint."
        )
    return MODEL_MAPPING[type(config)]


def text_model_of(backbone: PreTrainedModel) -> PreTrainedModel:
    """Return the part of a backbone that reads text: the encoder of an encoder-decoder, else the decoder."""
    inner = backbone.get_encoder() if backbone.config.is_encoder_decoder else backbone.get_decoder()
    return getattr(inner, "model", inner)  # without the language-model head that some composites keep around it


def find_routers(backbone: PreTrainedModel) -> list[tuple[nn.Module, int]]:
    """Return the routers of the text model, first layer first, each with the place of the logits in its output.

    Raises:
        UnsupportedBackboneError: If there is none.
    """
    text_model = text_model_of(backbone)
    declared = _recorders(text_model, "router_logits")
    routers = [(module, recorder.index) for module, recorder in _recorded(text_model, declared)]
    if (quirk := quirk_of(text_model)).classes:
        routers = [(m, quirk.logits_index) for m in text_model.modules() if type(m).__name__ in quirk.classes]
    if not routers:
        model_type = backbone.config.model_type
        why = (
            "it is a mixture-of-experts architecture, but this configuration has no MoE layer"
            if declared
            else "it is dense, or its routers are not declared to transformers"
        )
        raise UnsupportedBackboneError(
            f"MoEE cannot use this {model_type} backbone: {why}, and without routers there are no routing weights to "
            "embed. Use a mixture-of-experts checkpoint (`moee backbones` lists the architectures); for the hidden "
            "states of a dense model, sentence-transformers."
        )
    return routers


def router_shape(backbone: PreTrainedModel) -> list[int]:
    """Return the number of routers, and of the experts that each distributes a token over.

    Raises:
        UnsupportedBackboneError: If there is no router, they differ in their experts, or the configuration makes the
            texts of a batch change each other.
        ValueError: If a token visits more experts than there are, or none.
    """
    text_model, routers = text_model_of(backbone), find_routers(backbone)
    quirk = quirk_of(text_model)
    experts = {
        getattr(router, quirk.num_experts_attr) if quirk.num_experts_attr else _num_rows(router)
        for router, _ in routers
    }
    if len(experts) > 1:
        raise UnsupportedBackboneError(
            f"MoEE cannot use this {backbone.config.model_type} backbone: expected as many experts in every MoE "
            f"layer; got layers of {', '.join(map(str, sorted(experts)))}."
        )
    for name, value in quirk.required_config.items():
        if (found := getattr(text_model.config, name)) != value:
            raise UnsupportedBackboneError(
                f"MoEE cannot use this {backbone.config.model_type} backbone: expected {name}={value}, without which "
                f"the texts of a batch change each other's embeddings; got {found}. Set it in the backbone's "
                "configuration, and pass that as config=."
            )
    num_experts, per_token = experts.pop(), experts_per_token(backbone)
    if per_token is not None and not 1 <= per_token <= num_experts:
        raise ValueError(
            f"MoEEConfig.backbone_config: expected a token to visit 1 to {num_experts} experts, as many as there are; "
            f"got {per_token}."
        )
    return [len(routers), num_experts]


def experts_per_token(backbone: PreTrainedModel) -> int | None:
    """Return how many experts a token visits in one layer; None if neither a router nor the configuration says."""
    config = text_model_of(backbone).config
    owners = (find_routers(backbone)[0][0], config, getattr(config, "ffn_config", None))
    found = (getattr(owner, name, None) for name in _TOP_K for owner in owners)
    return next((number for number in found if isinstance(number, int)), None)


def is_causal(backbone: PreTrainedModel) -> bool:
    """Return whether a backbone reads from first to last: whether no token changes what is made of earlier ones."""
    text_model = text_model_of(backbone)
    if getattr(text_model.config, "use_bidirectional_attention", None) in (
        True,
        "all",
    ):  # Step-3.7 says it nowhere else
        return False
    return all(getattr(part, "is_causal", True) for part in (text_model.config, *text_model.modules()))


def longrope_length(backbone: PreTrainedModel) -> int | None:
    """Return the length beyond which a text changes the positions of its batch (longrope); None if none does."""
    longrope = rope_kinds(backbone).get("longrope")
    return None if longrope is None else longrope["original_max_position_embeddings"]


def rope_kinds(backbone: PreTrainedModel) -> dict[str, dict[str, Any]]:
    """Return the parameters of a backbone's rotary positions by their kind, of which layers may have several."""
    rope = getattr(text_model_of(backbone).config, "rope_parameters", None) or {}
    parts = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    return {part["rope_type"]: part for part in parts if "rope_type" in part}


def positions_follow_length(backbone: PreTrainedModel) -> bool:
    """Whether rotary positions depend on the length of a whole text, or of the longest one so far."""
    return not rope_kinds(backbone).keys().isdisjoint(("dynamic", "longrope"))


def can_run_side_by_side(backbone: PreTrainedModel) -> bool:
    """Whether forward passes on a processor may run in threads beside each other: none changes what another reads.

    Passes do where weights are fetched layer by layer (offloaded or quantized ones), and where the longest text so far
    sets positions. Code from elsewhere may do anything, and what is compiled is compiled by the first pass. Autocast
    is on in the calling thread alone.
    """
    text_model = text_model_of(backbone)
    return (
        (isinstance(text_model, DeepseekModel) or type(text_model).__module__.startswith("transformers."))
        and getattr(backbone, "hf_quantizer", None) is None
        and all(weight.device.type == "cpu" for weight in backbone.parameters())
        and all(module._compiled_call_impl is None for module in backbone.modules())
        and not positions_follow_length(backbone)
        and not torch.is_autocast_enabled("cpu")
    )


def find_layers(text_model: PreTrainedModel) -> list[nn.Module]:
    """Return the layers of a text model, the first one first."""
    return [layer for layer, _ in _recorded(text_model, _recorders(text_model, "hidden_states"))]


def find_attention(text_model: PreTrainedModel) -> list[nn.Module]:
    """Return the attention blocks of a text model, first layer first; a layer may have none, or several."""
    return [module for layer in find_layers(text_model) for module in _attention_of(text_model, layer)]


def find_value_projections(text_model: PreTrainedModel) -> list[nn.Linear]:
    """Return the projection to values of each attention block; none where one has none, or they differ in width."""
    projections = [getattr(module, "v_proj", None) for module in find_attention(text_model)]
    found = [module for module in projections if isinstance(module, nn.Linear)]
    alike = len(found) == len(projections) and len({module.out_features for module in found}) == 1
    return found if alike else []


def last_token_modules(backbone: PreTrainedModel) -> list[nn.Module]:
    """Return the modules of the last layer that need only compute each text's last token.

    They are the output projection of its attention, and the block that holds its last router. Their one-token output
    broadcasts into the residual stream; other tokens become wrong but are never read.

    Returns:
        Up to two modules; none where the last layer has no router, or mixes tokens after its attention.
    """
    text_model, (router, _) = text_model_of(backbone), find_routers(backbone)[-1]
    last = find_layers(text_model)[-1]
    blocks = [child for child in last.children() if router in set(child.modules())]
    # of an encoder-decoder the other half reads all tokens
    if not blocks or blocks[-1] is router or backbone.config.is_encoder_decoder or not quirk_of(text_model).tokenwise:
        return []
    projections: list[Any] = [getattr(module, "o_proj", None) for module in _attention_of(text_model, last)[-1:]]
    return [module for module in projections if isinstance(module, nn.Linear)] + blocks[-1:]


def layer_to_read(hidden_layer: int, num_layers: int) -> int | None:
    """Return the layer whose input is the hidden state of this number; None for the output of the last layer.

    Raises:
        ValueError: If there is no such hidden state.
    """
    if not -num_layers - 1 <= hidden_layer <= num_layers:
        raise ValueError(
            f"MoEEConfig.hidden_layer: expected a number from {-num_layers - 1} to {num_layers}, as the backbone has "
            f"{num_layers} layers; got {hidden_layer}."
        )
    layer = hidden_layer % (num_layers + 1)
    return None if layer == num_layers else layer


def quirk_of(text_model: PreTrainedModel) -> RouterQuirk:
    """Return what is special about a text model."""
    return QUIRKS.get(text_model.config.model_type, RouterQuirk())


def _attention_of(text_model: PreTrainedModel, layer: nn.Module) -> list[nn.Module]:
    """The attention blocks of a layer, as transformers records them; LongCat has two."""
    return [module for module, _ in _recorded(layer, _recorders(text_model, "attentions"))]


def _recorders(text_model: PreTrainedModel, key: str) -> list[OutputRecorder]:
    declared = text_model.can_record_outputs.get(key, [])
    declared = declared if isinstance(declared, list) else [declared]
    return [spec if isinstance(spec, OutputRecorder) else OutputRecorder(spec) for spec in declared]


def _recorded(module: nn.Module, recorders: list[OutputRecorder]) -> list[tuple[nn.Module, OutputRecorder]]:
    return [
        (part, recorder)
        for name, part in module.named_modules()
        for recorder in recorders
        if isinstance(part, recorder.target_class)
        and (recorder.layer_name is None or f".{recorder.layer_name}." in f".{name}.")
    ]


def _num_rows(router: nn.Module) -> int:
    matrices = [weight for name, weight in router.named_parameters() if name.endswith("weight") and weight.ndim == 2]
    return len(matrices[-1])
