"""Reading the routers of any MoE backbone: the generic path, and the short table of quirks.

transformers declares, for every MoE architecture, the class of its router modules and where their logits stand in the
output. Hooks of our own on these modules reduce the logits of each layer to one vector per text while the forward pass
runs. transformers' recorder would keep the logits of every token of every layer until its end, is dropped by wrappers
around a text model, and leaves a model that cannot be pickled.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import MODEL_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.utils.output_capturing import OutputRecorder

from .configuration_deepseek import DeepseekConfig
from .functional_moee import pool, route
from .modeling_deepseek import DeepseekModel


class UnsupportedBackboneError(ValueError, NotImplementedError):
    """A backbone whose routing weights cannot be read; the message says why and what to use instead."""


@dataclass(frozen=True)
class RouterQuirk:
    """How a text model departs from "each router that transformers records returns logits over its experts".

    Args:
        classes: Names of the router classes, where transformers declares others.
        index: Place of the logits in their output.
        probabilities: Whether the output is softmaxed already.
        width: Attribute of the router that counts its outputs, where the rows of its last matrix do not.
        required: Values of its configuration without which the texts of a batch change each other.
    """

    classes: tuple[str, ...] = ()
    index: int = 0
    probabilities: bool = False
    width: str | None = None
    required: dict[str, object] = field(default_factory=dict)


# by model_type of the text model
QUIRKS = {
    # the first layers choose experts by token id, but their learned gate scores all experts like any router
    "deepseek_v4": RouterQuirk(classes=("DeepseekV4HashRouter", "DeepseekV4TopKRouter")),
    # transformers records the whole MoE block, which holds the vision experts too
    "ernie4_5_vl_moe_text": RouterQuirk(width="num_experts"),
    "gemma4_text": RouterQuirk(probabilities=True),
    # the router's matrix also scores the shared experts, which its output leaves out
    "inkling_text": RouterQuirk(width="num_experts"),
    # attention is a mixture of experts too, and transformers records its router twice
    "jetmoe": RouterQuirk(classes=("JetMoeTopKGating",), index=4),
    # with less, the texts of a batch compete for the capacity of the experts
    "nllb-moe": RouterQuirk(required={"moe_eval_capacity_token_fraction": 1.0}),
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


def text_model(backbone: PreTrainedModel) -> PreTrainedModel:
    """Return the part of a backbone that reads text: the encoder of an encoder-decoder, else the decoder."""
    inner = backbone.get_encoder() if backbone.config.is_encoder_decoder else backbone.get_decoder()
    return getattr(inner, "model", inner)  # without the language-model head that some composites keep around it


def find_routers(backbone: PreTrainedModel) -> list[tuple[nn.Module, int]]:
    """Return the routers of the text model, first layer first, each with the place of the logits in its output.

    Raises:
        UnsupportedBackboneError: If there is none.
    """
    text = text_model(backbone)
    declared = _recorders(text, "router_logits")
    routers = [(module, recorder.index) for module, recorder in _recorded(text, declared)]
    if (quirk := _quirk(text)).classes:
        routers = [(m, quirk.index) for m in text.modules() if type(m).__name__ in quirk.classes]
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


@dataclass
class Capture:
    """What one forward pass reads from a backbone: the pooled routing weights, and HS below the last layer.

    The hooks of a backbone that runs inside `with Capture(...) as captured:` fill it.

    Args:
        attention_mask: Mask of the batch, of shape `(batch_size, sequence_length)`.
        pooling: How the values of a text's tokens become one vector.
        activation: How router logits become routing weights.
        rows: The routers to read, counted from 0.
        layer: The layer whose input is HS; None if HS is the backbone's output.
    """

    attention_mask: torch.Tensor
    pooling: str
    activation: str
    rows: list[int]
    layer: int | None
    routing: dict[int, torch.Tensor] = field(default_factory=dict)
    hidden: torch.Tensor | None = None

    def __enter__(self) -> Capture:
        self._token = _active.set(self)
        return self

    def __exit__(self, *error: object) -> None:
        _active.reset(self._token)

    def pool(self, values: torch.Tensor) -> torch.Tensor:
        """Reduce the values of the tokens, `[B * T, size]` or `[B, T, size]`, to `[B, size]`."""
        return pool(values.reshape(*self.attention_mask.shape, -1), self.attention_mask, self.pooling)

    def hidden_state(self, last_hidden_state: torch.Tensor) -> torch.Tensor:
        """Return HS, of shape `(batch_size, hidden_size)`: what was read, else the backbone's output, pooled."""
        return self.pool(last_hidden_state) if self.hidden is None else self.hidden

    def routing_weights(self, device: torch.device) -> torch.Tensor:
        """Return RW, of shape `(batch_size, len(rows), num_experts)`.

        Raises:
            RuntimeError: If a router did not run.
        """
        if silent := [row for row in self.rows if row not in self.routing]:
            raise RuntimeError(
                f"MoEEModel: expected every router of the backbone to run; those of the MoE layers {silent} did not. "
                "Kernels that replace whole MoE layers pass them by: load the model without use_kernels."
            )
        return torch.stack([self.routing[row].to(device) for row in self.rows], dim=1)


# of the thread or task that runs the forward pass, so that any number may share a model
_active: ContextVar[Capture | None] = ContextVar("moee_capture", default=None)


def install_hooks(backbone: PreTrainedModel) -> tuple[list[int], int]:
    """Hook the routers and the layers of a backbone; the hooks do nothing outside a `Capture`.

    Returns:
        The number of routers and of experts that each distributes a token over, and the number of layers.

    Raises:
        UnsupportedBackboneError: If the backbone has no routers, or routers over different numbers of experts.
    """
    text = text_model(backbone)
    quirk = _quirk(text)
    routers = find_routers(backbone)
    experts = {getattr(router, quirk.width) if quirk.width else _num_rows(router) for router, _ in routers}
    if len(experts) > 1:
        raise UnsupportedBackboneError(
            f"MoEE cannot use this {backbone.config.model_type} backbone: expected as many experts in every MoE "
            f"layer; got layers of {', '.join(map(str, sorted(experts)))}."
        )
    for name, value in quirk.required.items():
        if (found := getattr(text.config, name)) != value:
            raise UnsupportedBackboneError(
                f"MoEE cannot use this {backbone.config.model_type} backbone: expected {name}={value}, without which "
                f"the texts of a batch change each other's embeddings; got {found}. Set it in the backbone's "
                "configuration, and pass that as config=."
            )
    layers = [layer for layer, _ in _recorded(text, _recorders(text, "hidden_states"))]
    for row, (router, index) in enumerate(routers):
        router.register_forward_hook(RouterHook(row, index, quirk.probabilities))
    for index, layer in enumerate(layers):
        layer.register_forward_pre_hook(LayerHook(index), with_kwargs=True)
    return [len(routers), experts.pop()], len(layers)


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


@dataclass(frozen=True)
class RouterHook:
    """Forward hook of one router: pools the routing weights of each text."""

    row: int
    index: int
    probabilities: bool

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        capture = _active.get()
        if capture is None or self.row not in capture.rows:
            return
        values = output[self.index] if isinstance(output, tuple) else output
        if not self.probabilities:
            values = route(values, capture.activation)
        elif capture.activation != "softmax":
            raise ValueError(
                "MoEEConfig.router_activation: expected 'softmax', as the routers of this backbone hand out "
                f"probabilities alone; got {capture.activation!r}."
            )
        capture.routing[self.row] = capture.pool(values)


@dataclass(frozen=True)
class LayerHook:
    """Forward pre-hook of one layer: pools its input, which is the hidden state of this number."""

    index: int

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        capture = _active.get()
        if capture is None or capture.layer != self.index:
            return
        hidden = args[0] if args else kwargs["hidden_states"]  # [B, T, D]
        if hidden.ndim != 3:
            raise ValueError(
                f"MoEEConfig.hidden_layer: expected one hidden state per token; between its layers this backbone has "
                f"{hidden.shape[2]} of them (shape {tuple(hidden.shape)}). Use hidden_layer=-1."
            )
        capture.hidden = capture.pool(hidden)


def _quirk(text: PreTrainedModel) -> RouterQuirk:
    return QUIRKS.get(text.config.model_type, RouterQuirk())


def _recorders(text: PreTrainedModel, key: str) -> list[OutputRecorder]:
    declared = text.can_record_outputs.get(key, [])
    declared = declared if isinstance(declared, list) else [declared]
    return [spec if isinstance(spec, OutputRecorder) else OutputRecorder(spec) for spec in declared]


def _recorded(text: PreTrainedModel, recorders: list[OutputRecorder]) -> list[tuple[nn.Module, OutputRecorder]]:
    return [
        (module, recorder)
        for name, module in text.named_modules()
        for recorder in recorders
        if isinstance(module, recorder.target_class)
        and (recorder.layer_name is None or f".{recorder.layer_name}." in f".{name}.")
    ]


def _num_rows(router: nn.Module) -> int:
    matrices = [weight for name, weight in router.named_parameters() if name.endswith("weight") and weight.ndim == 2]
    return len(matrices[-1])
