"""Forward hooks that hand what the modules of a backbone compute to the capture of the pass.

transformers' own recorder would keep the logits of every token of every layer until the end of the pass, is dropped by
wrappers around a text model, and leaves a model that cannot be pickled. These hooks reduce each layer's logits to one
vector per text at once. When they act, and in which order, is told in `inference_moee`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .backbone_moee import (
    find_attention,
    find_layers,
    find_routers,
    find_value_projections,
    last_token_modules,
    quirk_of,
    router_shape,
    text_model_of,
)
from .capture_moee import active_capture
from .functional_moee import route
from .layout_moee import Packed


@dataclass(frozen=True)
class Readable:
    """What can be read of a backbone.

    Args:
        router_shape: The number of routers, and of the experts that each distributes a token over.
        num_layers: Layers of its text model.
        num_attention_layers: Attention blocks of these.
        hidden_sizes: Width of HS by `hidden_source`, of those that there are.
    """

    router_shape: list[int]
    num_layers: int
    num_attention_layers: int
    hidden_sizes: dict[str, int]


def install_hooks(backbone: PreTrainedModel) -> Readable:
    """Hook the routers, layers and attention blocks of a backbone; the hooks do nothing outside a `Capture`.

    Returns:
        What they can read.

    Raises:
        UnsupportedBackboneError: If the backbone has no routers, or MoEE cannot use them.
    """
    shape, text_model = router_shape(backbone), text_model_of(backbone)
    layers, probabilities = find_layers(text_model), quirk_of(text_model).returns_probabilities
    hidden_size = text_model.config.hidden_size
    hidden_sizes = {"state": hidden_size}
    for router, (module, logits_index) in enumerate(find_routers(backbone)):
        _hook_output(module, RouterHook(router, logits_index, probabilities))
    for index, layer in enumerate(layers):
        _hook_input(layer, LayerHook(index))
    for index, module in enumerate(attention := find_attention(text_model)):
        _hook_output(module, AttentionHook(index, "attention"))
        hidden_sizes["attention"] = hidden_size
    for index, projection in enumerate(find_value_projections(text_model)):
        _hook_output(projection, AttentionHook(index, "values"))
        hidden_sizes["values"] = projection.out_features
    for module in last_token_modules(backbone):
        _hook_input(module, keep_last_token)
    return Readable(shape, len(layers), len(attention), hidden_sizes)


def _hook_output(module: nn.Module, hook: Callable[..., Any]) -> None:
    handle = module.register_forward_hook(hook)
    _rename(handle.id, module._forward_hooks)


def _hook_input(module: nn.Module, hook: Callable[..., Any]) -> None:
    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    _rename(handle.id, module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs)


def _rename(number: int, *hooks: Any) -> None:
    """Let a hook have the same name in every process, as pickles of equal models shall be equal: caches compare them.

    The number that torch gives it counts all hooks of the process.
    """
    for named in hooks:
        named["moee"] = named.pop(number)


@dataclass(frozen=True)
class RouterHook:
    """Forward hook of one router: pools the routing weights of each text."""

    router: int
    logits_index: int
    returns_probabilities: bool

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        capture = active_capture()
        if capture is None or self.router not in capture.wanted.routers:
            return
        values = output[self.logits_index] if isinstance(output, tuple) else output
        capture.set_routing(self.router, values, route_probabilities if self.returns_probabilities else route)


def route_probabilities(probabilities: torch.Tensor, activation: str) -> torch.Tensor:
    """Turn what a router returns after its softmax into routing weights; arguments are those of `route`.

    Raises:
        ValueError: If `activation` is `"logits"`, which are not to be had.
    """
    if activation == "logits":
        raise ValueError(
            "MoEEConfig.router_activation: expected 'softmax' or 'clr', as the routers of this backbone return "
            "probabilities alone; got 'logits'."
        )
    probabilities = probabilities.float()
    if activation == "softmax":
        return probabilities
    # what the softmax rounded to 0 has no logarithm
    return route(probabilities.clamp_min(torch.finfo(torch.float32).tiny).log(), activation)


@dataclass(frozen=True)
class AttentionHook:
    """Forward hook of an attention block, or of its projection to values: pools what it gives.

    Args:
        index: The attention block, counted from 0.
        source: `"attention"` or `"values"`.
    """

    index: int
    source: str

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        capture = active_capture()
        if capture is None or self.source not in capture.wanted.sources:
            return
        if self.index in capture.wanted.attention_layers:
            capture.add_attention(self.source, output[0] if isinstance(output, tuple) else output)


@dataclass(frozen=True)
class LayerHook:
    """Forward pre-hook of one layer: pools its input, which is the hidden state of this number."""

    index: int

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        capture = active_capture()
        if capture is None or capture.wanted.layer != self.index or "state" not in capture.wanted.sources:
            return
        hidden = args[0] if args else kwargs["hidden_states"]  # [B, T, D]
        if hidden.ndim != 3:
            raise ValueError(
                f"MoEEConfig.hidden_layer: expected one hidden state per token; between its layers this backbone has "
                f"{hidden.shape[2]} of them (shape {tuple(hidden.shape)}). Use hidden_layer=-1."
            )
        capture.set_hidden(hidden)


def keep_last_token(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Pre-hook on a last-layer module: keep only each text's last token, `[B, T, D] -> [B, 1, D]`."""
    capture = active_capture()
    if capture is None or not capture.only_last_tokens:
        return None
    if capture.layout.num_texts == 1:
        return None  # a text alone is what `forward` makes of it, to the last bit
    if isinstance(capture.layout, Packed):
        return None  # one token a text would not broadcast into the one row of all
    hidden = args[0] if args else kwargs["hidden_states"]
    hidden = capture.layout.last_token(hidden)[:, None]  # [B, 1, D]
    return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})
