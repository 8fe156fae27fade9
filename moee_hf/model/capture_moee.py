"""Reading a forward pass while it runs: the pooled routing weights of every layer, HS, and nothing more.

Hooks of our own on the routers reduce the logits of each layer to one vector per text. transformers' recorder would
keep the logits of every token of every layer until the end of the pass, is dropped by wrappers around a text model,
and leaves a model that cannot be pickled. A lean pass ends with the last thing that is read, and in the last layer,
where one token of each text is read, it computes only that.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .backbone_moee import find_layers, find_routers, last_token_modules, quirk_of, router_shape, text_model
from .functional_moee import last_token, pool, route, token_weights


class _CompleteError(Exception):
    """Raised inside a forward pass when all is read; `Capture` catches it."""


@dataclass
class Capture:
    """What one forward pass reads from a backbone.

    The hooks of a backbone that runs inside `with Capture(...) as captured:` fill it.

    Args:
        attention_mask: Mask of the batch, of shape `(batch_size, sequence_length)`.
        pooling: How the values of a text's tokens become one vector.
        activation: How router logits become routing weights.
        rows: The routers to read, counted from 0.
        layer: The layer whose input is HS; None if HS is the backbone's output.
        read_hidden: Whether HS is read.
        lean: Whether the pass computes only what is read.
        before: What was captured of the tokens before these, the same for all texts; None if there are none.
    """

    attention_mask: torch.Tensor
    pooling: str
    activation: str
    rows: list[int]
    layer: int | None
    read_hidden: bool = True
    lean: bool = False
    before: Capture | None = None
    routing: dict[int, torch.Tensor] = field(default_factory=dict)
    hidden: Any = None

    def __enter__(self) -> Capture:
        self._token = _active.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> bool:
        _active.reset(self._token)
        return kind is _CompleteError

    @property
    def num_tokens_before(self) -> int:
        """Number of tokens before these."""
        return 0 if self.before is None else self.before.attention_mask.shape[1]

    def set_routing(self, row: int, values: torch.Tensor, activate: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Take what one router hands out, `[B * T, E]`, or `[B, E]` of the tokens that are read.

        Args:
            row: The router.
            values: What it hands out.
            activate: Makes routing weights of it.
        """
        if self.pooling == "lasttoken":
            self.routing[row] = activate(self._pool(values, None))  # of one token, not of all
        else:
            before = None if self.before is None else self.before.routing[row]
            self.routing[row] = self._pool(activate(values), before)
        self._end_if_complete()

    def set_hidden(self, values: torch.Tensor) -> None:
        """Take the hidden states `[B, T, D]` that are pooled to HS."""
        self.hidden = self._pool(values, None if self.before is None else self.before.hidden)
        self._end_if_complete()

    def routing_weights(self) -> Any:
        """Return RW, of shape `(batch_size, len(rows), num_experts)`, on the mask's device; None of no router.

        Raises:
            RuntimeError: If a router did not run.
        """
        if silent := [row for row in self.rows if row not in self.routing]:
            raise RuntimeError(
                f"MoEEModel: expected every router of the backbone to run; those of the MoE layers {silent} did not. "
                "Kernels that replace whole MoE layers pass them by: load the model without use_kernels."
            )
        return torch.stack([self.routing[row] for row in self.rows], dim=1) if self.rows else None

    def _end_if_complete(self) -> None:
        if self.lean and len(self.routing) == len(self.rows) and (not self.read_hidden or self.hidden is not None):
            raise _CompleteError

    def _pool(self, values: torch.Tensor, before: torch.Tensor | None) -> torch.Tensor:
        """Pool on the mask's device, as the layers may lie on several."""
        values = values.reshape(len(self.attention_mask), -1, values.shape[-1])
        pooled = pool(values, self.attention_mask, self.pooling, self.num_tokens_before).to(self.attention_mask.device)
        if self.before is None or before is None or self.pooling == "lasttoken":
            return pooled
        # the mean over all tokens, from the means over those before and over these
        weight_before = token_weights(self.before.attention_mask, self.pooling).sum()
        weight = token_weights(self.attention_mask, self.pooling, self.num_tokens_before).sum(dim=1, keepdim=True)
        share = weight_before / (weight_before + weight)  # [B, 1]
        return torch.lerp(pooled, before.expand_as(pooled), share)


# of the thread or task that runs the forward pass, so that any number may share a model
_active: ContextVar[Capture | None] = ContextVar("moee_capture", default=None)


def unpadded_rows(num_rows: int) -> torch.Tensor | None:
    """Return the places of tokens among the rows `[B * T, D]` of a lean pass, without padding; None outside of one."""
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
    shape, text = router_shape(backbone), text_model(backbone)
    layers, probabilities = find_layers(text), quirk_of(text).probabilities
    for row, (router, index) in enumerate(find_routers(backbone)):
        router.register_forward_hook(RouterHook(row, index, probabilities))
    for index, layer in enumerate(layers):
        layer.register_forward_pre_hook(LayerHook(index), with_kwargs=True)
    for module in last_token_modules(backbone):
        module.register_forward_pre_hook(prune, with_kwargs=True)
    return shape, len(layers)


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
        if self.probabilities and capture.activation != "softmax":
            raise ValueError(
                "MoEEConfig.router_activation: expected 'softmax', as the routers of this backbone hand out "
                f"probabilities alone; got {capture.activation!r}."
            )
        # probabilities stay as they are
        activation = "logits" if self.probabilities else capture.activation
        values = output[self.index] if isinstance(output, tuple) else output
        capture.set_routing(self.row, values, lambda values: route(values, activation))


@dataclass(frozen=True)
class LayerHook:
    """Forward pre-hook of one layer: pools its input, which is the hidden state of this number."""

    index: int

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        capture = _active.get()
        if capture is None or capture.layer != self.index or not capture.read_hidden:
            return
        hidden = args[0] if args else kwargs["hidden_states"]  # [B, T, D]
        if hidden.ndim != 3:
            raise ValueError(
                f"MoEEConfig.hidden_layer: expected one hidden state per token; between its layers this backbone has "
                f"{hidden.shape[2]} of them (shape {tuple(hidden.shape)}). Use hidden_layer=-1."
            )
        capture.set_hidden(hidden)


def prune(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Forward pre-hook of a module of the last layer: leaves of its input `[B, T, D]` the token that is read."""
    capture = _active.get()
    if capture is None or not capture.lean or capture.pooling != "lasttoken":
        return None
    if len(capture.attention_mask) == 1:
        return None  # a text alone is what `forward` makes of it, to the last bit
    hidden = args[0] if args else kwargs["hidden_states"]
    hidden = last_token(hidden, capture.attention_mask)[:, None]  # [B, 1, D]
    return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})
