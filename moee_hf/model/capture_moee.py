"""Forward hooks that collect HS and the pooled routing weights during one pass.

transformers' own recorder would keep the logits of every token of every layer until the end of the pass, is dropped by
wrappers around a text model, and leaves a model that cannot be pickled. These hooks reduce each layer's logits to one
vector per text at once. When they act, and in which order, is told in `inference_moee`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .backbone_moee import find_layers, find_routers, last_token_modules, quirk_of, router_shape, text_model_of
from .functional_moee import last_token, merge_means, pool, route, token_weights
from .prefix_moee import Prefix


@dataclass(frozen=True)
class Wanted:
    """What is read of a forward pass; `MoEEModel.wanted` makes it, once a call.

    Args:
        routers: The routers whose weights make up RW, counted from 0.
        hidden: Whether HS is read.
        layer: The layer whose input is HS, counted from 0. None: HS is what the last layer leaves.
        pooling: How the values of a text's tokens become one vector.
        activation: How router logits become routing weights.
    """

    routers: tuple[int, ...]
    hidden: bool
    layer: int | None
    pooling: str
    activation: str


class _CompleteError(Exception):
    """Raised inside a forward pass when all that is wanted was read; `Capture` catches it."""


class Capture:
    """What one forward pass gives; the hooks of a backbone that runs inside `with capture:` fill it.

    Args:
        wanted: What is read.
        attention_mask: 1 for a token, 0 for padding, of shape `(batch_size, sequence_length)`.
        lean: Whether the pass computes no more than that takes.
        prefix: Tokens before these, the same for all texts. None: there are none.
    """

    def __init__(self, wanted: Wanted, attention_mask: torch.Tensor, lean: bool = False, prefix: Prefix | None = None):
        self.wanted, self.attention_mask, self.lean, self.prefix = wanted, attention_mask, lean, prefix
        self.hidden: Any = None  # [B, D]
        self.routing: dict[int, torch.Tensor] = {}  # of each router, [B, E]

    def __enter__(self) -> Capture:
        self._token = _active.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> bool:
        _active.reset(self._token)
        return kind is _CompleteError

    def set_hidden(self, values: torch.Tensor) -> None:
        """Pool the hidden states `[B, T, D]` to HS."""
        self.hidden = self._pool(values, None if self.prefix is None else self.prefix.hidden)
        self._end_if_complete()

    def set_routing(self, router: int, values: torch.Tensor, activate: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Pool what one router returns to its routing weights.

        Args:
            router: The router, counted from 0.
            values: Of shape `(batch_size * sequence_length, num_experts)`, or of each text's last token alone.
            activate: Makes routing weights of these values.
        """
        if self.wanted.pooling == "lasttoken":
            self.routing[router] = activate(self._pool(values, None))  # of one token, not of all
        else:
            prefix_mean = None if self.prefix is None else self.prefix.routing[router]
            self.routing[router] = self._pool(activate(values), prefix_mean)
        self._end_if_complete()

    def routing_weights(self) -> Any:
        """Return RW, of shape `(batch_size, len(routers), num_experts)`, on the mask's device; None of no router.

        Raises:
            RuntimeError: If a router did not run.
        """
        routers = self.wanted.routers
        if silent := [router for router in routers if router not in self.routing]:
            raise RuntimeError(
                f"MoEEModel: expected every router of the backbone to run; those of the MoE layers {silent} did not. "
                "Kernels that replace whole MoE layers pass them by: load the model without use_kernels."
            )
        return torch.stack([self.routing[router] for router in routers], dim=1) if routers else None

    def _pool(self, values: torch.Tensor, prefix_mean: torch.Tensor | None) -> torch.Tensor:
        """Pool on the values' device; the result goes to the mask's, as the layers may lie on several."""
        mask, pooling = self.attention_mask, self.wanted.pooling
        num_before = 0 if self.prefix is None else self.prefix.num_tokens
        values = values.reshape(len(mask), -1, values.shape[-1])  # [B, T, size]
        pooled = pool(values, mask, pooling, num_before).to(mask.device)  # [B, size]
        if self.prefix is None or prefix_mean is None or pooling == "lasttoken":
            return pooled
        weight = token_weights(mask, pooling, num_before).sum(dim=1, keepdim=True)  # [B, 1]
        return merge_means(prefix_mean, self.prefix.weight, pooled, weight)

    def _end_if_complete(self) -> None:
        wanted = self.wanted
        all_read = len(self.routing) == len(wanted.routers) and (not wanted.hidden or self.hidden is not None)
        if self.lean and all_read:
            raise _CompleteError


# one active capture per thread or async task, so threads can share a model
_active: ContextVar[Capture | None] = ContextVar("moee_capture", default=None)


def unpadded_rows(num_rows: int) -> torch.Tensor | None:
    """Return the indices of non-padding rows in a flattened `[B * T, D]` tensor during a lean pass; otherwise None."""
    capture = _active.get()
    if capture is None or not capture.lean or capture.attention_mask.numel() != num_rows:
        return None
    return capture.attention_mask.flatten().nonzero()[:, 0]


def install_hooks(backbone: PreTrainedModel) -> tuple[list[int], int]:
    """Hook the routers and the layers of a backbone; the hooks do nothing outside a `Capture`.

    Returns:
        The number of routers and of experts that each distributes a token over, and the number of layers.

    Raises:
        UnsupportedBackboneError: If the backbone has no routers, or MoEE cannot use them.
    """
    shape, text_model = router_shape(backbone), text_model_of(backbone)
    layers, probabilities = find_layers(text_model), quirk_of(text_model).returns_probabilities
    for router, (module, logits_index) in enumerate(find_routers(backbone)):
        module.register_forward_hook(RouterHook(router, logits_index, probabilities))
    for index, layer in enumerate(layers):
        layer.register_forward_pre_hook(LayerHook(index), with_kwargs=True)
    for module in last_token_modules(backbone):
        module.register_forward_pre_hook(keep_last_token, with_kwargs=True)
    return shape, len(layers)


@dataclass(frozen=True)
class RouterHook:
    """Forward hook of one router: pools the routing weights of each text."""

    router: int
    logits_index: int
    returns_probabilities: bool

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        capture = _active.get()
        if capture is None or self.router not in capture.wanted.routers:
            return
        activation = capture.wanted.activation
        if self.returns_probabilities and activation != "softmax":
            raise ValueError(
                "MoEEConfig.router_activation: expected 'softmax', as the routers of this backbone return "
                f"probabilities alone; got {activation!r}."
            )
        activate = torch.Tensor.float if self.returns_probabilities else partial(route, activation=activation)
        values = output[self.logits_index] if isinstance(output, tuple) else output
        capture.set_routing(self.router, values, activate)


@dataclass(frozen=True)
class LayerHook:
    """Forward pre-hook of one layer: pools its input, which is the hidden state of this number."""

    index: int

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        capture = _active.get()
        if capture is None or capture.wanted.layer != self.index or not capture.wanted.hidden:
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
    capture = _active.get()
    if capture is None or not capture.lean or capture.wanted.pooling != "lasttoken":
        return None
    if len(capture.attention_mask) == 1:
        return None  # a text alone is what `forward` makes of it, to the last bit
    hidden = args[0] if args else kwargs["hidden_states"]
    hidden = last_token(hidden, capture.attention_mask)[:, None]  # [B, 1, D]
    return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})
