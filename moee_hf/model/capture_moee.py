"""What one forward pass gives: HS and the routing weights of each text, pooled as the layers run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

from .functional_moee import merge_means
from .layout_moee import Layout
from .prefix_moee import Prefix
from .threads_moee import check_stopped


@dataclass(frozen=True)
class Wanted:
    """What is read of a forward pass; `wanted_of` makes it, once a call.

    Args:
        routers: The routers whose weights make up RW, counted from 0.
        sources: Where HS is read, as in `MoEEConfig.hidden_source`; evaluations read several in one pass.
        layer: The layer whose input is the hidden state, counted from 0. None: it is what the last layer leaves.
        attention_layers: The attention blocks that are read, counted from 0.
        pooling: How the values of a text's tokens become one vector.
        activations: How router logits become routing weights, as in `MoEEConfig.router_activation`.
    """

    routers: tuple[int, ...]
    sources: tuple[str, ...]
    layer: int | None
    attention_layers: tuple[int, ...]
    pooling: str
    activations: tuple[str, ...]


class _CompleteError(Exception):
    """Raised inside a forward pass when all that is wanted was read; `Capture` catches it."""


class Capture:
    """What one forward pass gives; the hooks of a backbone that runs inside `with capture:` fill it (`hooks_moee`).

    Args:
        wanted: What is read.
        layout: Where the tokens of each text lie.
        lean: Whether the pass computes no more than that takes.
        prefix: Tokens before these, the same for all texts. None: there are none.
    """

    def __init__(self, wanted: Wanted, layout: Layout, lean: bool = False, prefix: Prefix | None = None):
        self.wanted, self.layout, self.lean, self.prefix = wanted, layout, lean, prefix
        self.hidden: dict[str, Any] = {}  # of each source, [B, D]
        self.routing: dict[tuple[str, int], torch.Tensor] = {}  # of each activation and router, [B, E]
        self._sums: dict[str, Any] = {}  # over the attention blocks so far, [B, D]
        self._blocks_read = dict.fromkeys(wanted.sources, 0)

    @property
    def only_last_tokens(self) -> bool:
        """Whether nothing is read of any token but the last one of each text, nor need be computed."""
        return self.lean and self.wanted.pooling == "lasttoken"

    def __enter__(self) -> Capture:
        self._token = _active.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> bool:
        _active.reset(self._token)
        return kind is _CompleteError

    def without_results(self) -> Capture:
        """Return a capture that goes on from the same place, without what was read so far."""
        other = copy.copy(self)
        other.hidden, other.routing = {}, {}
        other._sums, other._blocks_read = dict(self._sums), dict(self._blocks_read)
        return other

    def set_hidden(self, values: torch.Tensor) -> None:
        """Pool the hidden states `[B, T, D]`, or packed `[1, N, D]`, to HS."""
        self._finish_hidden("state", self._pool(values, self.wanted.pooling))

    def add_attention(self, source: str, values: torch.Tensor) -> None:
        """Pool what one attention block gives to HS, `[B, T, D]`, and add it to what those before it gave.

        Args:
            source: `"attention"` or `"values"`, of which the mean is taken, over tokens and blocks.
            values: What the block adds to the hidden states, or its values.
        """
        pooled = self._pool(values, pooling_of(source, self.wanted.pooling))
        self._sums[source] = self._sums[source] + pooled if source in self._sums else pooled
        self._blocks_read[source] += 1
        # more than there are blocks where layers repeat, each of whose runs counts
        if (count := self._blocks_read[source]) >= len(self.wanted.attention_layers):
            self._finish_hidden(source, self._sums[source] / (count if source == "values" else 1))

    def set_routing(self, router: int, values: torch.Tensor, activate: Callable[[torch.Tensor, str], Any]) -> None:
        """Pool what one router returns to its routing weights.

        Args:
            router: The router, counted from 0.
            values: Of shape `(batch_size * sequence_length, num_experts)`, or of each text's last token alone.
            activate: Makes routing weights of these values and the name of an activation.
        """
        pooling = self.wanted.pooling
        for activation in self.wanted.activations:
            key = (activation, router)
            if pooling == "lasttoken":
                self.routing[key] = activate(self._pool(values, pooling), activation)  # of one token, not of all
            else:
                self.routing[key] = self._pool(activate(values, activation), pooling)
                if self.prefix is not None:
                    self.routing[key] = self._merge(self.prefix.routing[key], self.routing[key], pooling)
        self._end_if_complete()

    def _finish_hidden(self, source: str, pooled: torch.Tensor) -> None:
        pooling = pooling_of(source, self.wanted.pooling)
        if self.prefix is not None and pooling != "lasttoken":
            pooled = self._merge(self.prefix.hidden[source], pooled, pooling)
        self.hidden[source] = pooled
        self._end_if_complete()

    def routing_weights(self, activation: str) -> Any:
        """Return RW, of shape `(batch_size, len(routers), num_experts)`, where the tokens lie; None of no router.

        Raises:
            RuntimeError: If a router did not run.
        """
        routers = self.wanted.routers
        if silent := [router for router in routers if (activation, router) not in self.routing]:
            raise RuntimeError(
                f"MoEEModel: expected every router of the backbone to run; those of the MoE layers {silent} did not. "
                "Kernels that replace whole MoE layers pass them by: load the model without use_kernels."
            )
        return torch.stack([self.routing[activation, router] for router in routers], dim=1) if routers else None

    def hidden_and_routing(self, source: str, activation: str) -> tuple[Any, Any]:
        """Return HS `[B, D]` and RW `[B, L, E]`; None of what was not wanted."""
        return self.hidden.get(source), self.routing_weights(activation)

    def _pool(self, values: torch.Tensor, pooling: str) -> torch.Tensor:
        """Pool on the values' device; the result goes to that of the tokens, as the layers may lie on several."""
        num_before = 0 if self.prefix is None else self.prefix.num_tokens
        return self.layout.pool(values, pooling, num_before).to(self.layout.last.device)  # [B, size]

    def _merge(self, prefix_mean: torch.Tensor, pooled: torch.Tensor, pooling: str) -> torch.Tensor:
        """Return the mean over prefix and text from the means over both."""
        prefix: Any = self.prefix
        layout: Any = self.layout  # padded, as there is a prefix
        return merge_means(prefix_mean, prefix.weight, pooled, layout.weight(pooling, prefix.num_tokens))

    def _end_if_complete(self) -> None:
        wanted = self.wanted
        num_routings = len(wanted.routers) * len(wanted.activations)
        if self.lean and len(self.routing) == num_routings and len(self.hidden) == len(wanted.sources):
            raise _CompleteError


def pooling_of(source: str, pooling: str) -> str:
    """Return how HS of a source is pooled: a token's value tells of that token alone, so the last one will not do."""
    return "mean" if source == "values" and pooling == "lasttoken" else pooling


# one active capture per thread or async task, so threads can share a model
_active: ContextVar[Capture | None] = ContextVar("moee_capture", default=None)


def active_capture() -> Capture | None:
    """Return the capture that this thread or task is inside of; None outside of any."""
    check_stopped()
    return _active.get()


def unpadded_rows(num_rows: int) -> torch.Tensor | None:
    """Return the indices of the tokens among so many rows of a lean pass; None if all are, or not known."""
    capture = _active.get()
    return None if capture is None or not capture.lean else capture.layout.rows(num_rows)
