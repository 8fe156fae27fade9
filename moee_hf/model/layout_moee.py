"""Where the tokens of each text lie in what a backbone reads: in a row a text, padded, or all in one row, packed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, TypeAlias

import torch
from transformers import PreTrainedModel

from .backbone_moee import text_model_of
from .functional_moee import pool, token_weights
from .prefix_moee import can_cache_prefix
from .transfer_moee import send


class Padded:
    """A row a text, with padding behind its tokens.

    Args:
        attention_mask: 1 for a token, 0 for padding, of shape `(batch_size, sequence_length)`.
        device: Where the backbone reads them.
    """

    def __init__(self, attention_mask: torch.Tensor, device: torch.device):
        self._mask = attention_mask  # where it came from: in a lean pass the host, where rows are found
        self.num_texts, self.attention_mask = len(attention_mask), send(attention_mask, device)
        self.last = send(attention_mask.sum(dim=1) - 1, device)

    def arguments(self, is_causal: bool) -> dict[str, Any]:
        """Return what a backbone takes of it; if it is causal, no token sees the padding, and no mask is faster."""
        return {"attention_mask": None if is_causal else self.attention_mask}

    def rows(self, num_rows: int) -> torch.Tensor | None:
        """Return the indices of all tokens among so many, padding included; None if these are not those, or all."""
        return self._rows if self._mask.numel() == num_rows else None

    @cached_property
    def _rows(self) -> torch.Tensor | None:
        if self._mask.all():
            return None
        return send(self._mask.flatten().nonzero()[:, 0], self.last.device)

    def last_token(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values of each text's last token, `[B, size]`, of those of all tokens, or of that one alone."""
        values = values.reshape(self.num_texts, -1, values.shape[-1])  # [B, T, size]
        if values.shape[1] == 1:
            return values[:, 0]
        last = self.last.to(values.device)
        return values[torch.arange(len(last), device=last.device), last]

    def pool(self, values: torch.Tensor, pooling: str, num_before: int = 0) -> torch.Tensor:
        """Return one vector a text, as `functional_moee.pool` does, on the device of the values."""
        if pooling == "lasttoken":
            return self.last_token(values).float()
        values = values.reshape(self.num_texts, -1, values.shape[-1])  # [B, T, size]
        return pool(values, self.attention_mask, pooling, num_before)

    def weight(self, pooling: str, num_before: int) -> torch.Tensor:
        """Return the sum of each text's `token_weights`, of shape `(batch_size, 1)`."""
        return token_weights(self.attention_mask, pooling, num_before).sum(dim=1, keepdim=True)


class Packed:
    """All texts in one row, without padding, for attention that keeps them apart by where they begin.

    Args:
        lengths: Number of tokens of each text, on the host, of shape `(batch_size,)`.
        device: Where the backbone reads them.
    """

    def __init__(self, lengths: torch.Tensor, device: torch.device):
        ends = lengths.cumsum(0)
        starts = ends - lengths
        self.num_texts, self._longest = len(lengths), int(lengths.max())
        self.last, self._lengths = send(ends - 1, device), send(lengths, device)
        self._bounds = send(torch.cat([starts[:1], ends]).int(), device)
        positions = torch.arange(int(ends[-1])) - starts.repeat_interleave(lengths)
        self._positions = send(positions[None], device)  # [1, N]

    def arguments(self, is_causal: bool) -> dict[str, Any]:
        """Return what a backbone takes of it: positions that begin anew with each text, and where texts begin."""
        return {
            "attention_mask": None,
            "position_ids": self._positions,
            **dict.fromkeys(("cu_seq_lens_q", "cu_seq_lens_k"), self._bounds),
            **dict.fromkeys(("max_length_q", "max_length_k"), self._longest),
        }

    def rows(self, num_rows: int) -> None:
        """Return None: all are tokens."""

    def last_token(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values of each text's last token, `[B, size]`, of those of all tokens."""
        return values.reshape(-1, values.shape[-1])[self.last.to(values.device)]

    def pool(self, values: torch.Tensor, pooling: str, num_before: int = 0) -> torch.Tensor:
        """Return one vector a text, as `functional_moee.pool` does, on the device of the values."""
        if pooling == "lasttoken":
            return self.last_token(values).float()
        values = values.reshape(-1, values.shape[-1]).float()  # [N, size]
        positions, lengths = self._positions[0].to(values.device), self._lengths.to(values.device)
        weights = torch.ones_like(positions) if pooling == "mean" else positions + (1 + num_before)
        weights = weights[:, None].float()  # [N, 1]
        sums = torch.segment_reduce(torch.cat([values * weights, weights], dim=1), "sum", lengths=lengths, unsafe=True)
        return sums[:, :-1] / sums[:, -1:]


Layout: TypeAlias = Padded | Packed


def can_pack(backbone: PreTrainedModel) -> bool:
    """Whether texts can be packed: flash attention, which is told where they begin, and nothing else mixes tokens.

    Flex attention learns of it by positions, which some architectures do not hand on: their texts would be mixed.
    """
    implementation = text_model_of(backbone).config._attn_implementation or ""
    return "flash" in implementation and can_cache_prefix(backbone)


def layout_of(batch: Mapping[str, torch.Tensor], device: torch.device) -> Layout:
    """Return the layout of a batch, which has an `attention_mask`, or the `lengths` of texts that are packed."""
    if (lengths := batch.get("lengths")) is not None:
        return Packed(lengths, device)
    return Padded(batch["attention_mask"], device)
