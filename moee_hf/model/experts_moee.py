"""The experts of a MoE layer on the CPU: one after the other, each on its own tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward

from .batching_moee import LARGE_MULTIPLE, SMALL_MULTIPLE, keeps_kernels, round_up
from .capture_moee import unpadded_rows

EXPERTS_IMPLEMENTATION = "moee_cpu"
# with fewer tokens than this for each expert, calling them one by one costs more than it saves
MIN_TOKENS_PER_EXPERT = 4
# an expert reads so many rows at most at a time
MAX_ROWS = 512
# where oneDNN caches kernels, up to so many rows are a multiple of `SMALL_MULTIPLE`, more of `LARGE_MULTIPLE`
FEW_ROWS = 256


def use_fast_experts(backbone: PreTrainedModel) -> None:
    """Let a backbone compute its experts as below where it would use transformers' `grouped_mm`, its default.

    Quantized experts have implementations of their own.
    """
    if getattr(backbone, "hf_quantizer", None) is not None:
        return
    for module in backbone.modules():
        config: Any = getattr(module, "config", None)
        if getattr(config, "_experts_implementation", None) == "grouped_mm":
            config._experts_implementation_internal = EXPERTS_IMPLEMENTATION


def experts_forward(
    self: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """Compute the experts of a layer: on the CPU and with many tokens one by one, else with `grouped_mm`.

    `grouped_mm` copies every token for every expert that reads it, and holds all that they compute. On the CPU the
    system hands out that memory page by page, which can cost as much as the products; the tokens of one expert stay in
    the cache. Padding is not computed in a lean pass. This is an implementation of transformers' interface of experts,
    whose attributes say how weights are laid out.

    Args:
        self: The module of the experts.
        hidden_states: Of shape `(num_tokens, hidden_size)`.
        top_k_index: The experts of each token, of shape `(num_tokens, top_k)`.
        top_k_weights: Their weights, of the same shape.

    Returns:
        Tensor of shape `(num_tokens, hidden_size)`.
    """
    if hidden_states.device.type != "cpu" or top_k_index.numel() < MIN_TOKENS_PER_EXPERT * self.num_experts:
        return grouped_mm_experts_forward(self, hidden_states, top_k_index, top_k_weights)
    kept = unpadded_rows(len(hidden_states))
    kept = torch.arange(len(hidden_states)) if kept is None else kept.to(hidden_states.device)
    experts = top_k_index[kept].flatten()
    order = experts.argsort(stable=True)
    tokens = F.pad(kept[order // top_k_index.shape[1]], (0, LARGE_MULTIPLE))
    weights = F.pad(top_k_weights[kept].flatten()[order], (0, LARGE_MULTIPLE))[:, None]
    # drop experts sharded to other devices
    counts = experts.bincount(minlength=self.num_experts)[: self.num_experts].tolist()
    has_norm = getattr(self, "has_post_expert_norm", False)  # transformers 5.19 does not have it
    # weight before down_proj (fewer columns) unless a bias or norm follows it
    weight_first = not (self.has_bias or has_norm)
    weigh: Any = torch.mul if torch.is_grad_enabled() else torch.Tensor.mul_
    few_shapes = keeps_kernels(hidden_states.device, hidden_states.dtype)
    output = torch.zeros_like(hidden_states)
    for expert, start, count in _parts(counts):
        rows = slice(start, start + _num_rows(count, few_shapes))  # its own, then the next expert's
        hidden = hidden_states.index_select(0, tokens[rows])
        hidden = _linear(self, "gate_up_proj" if self.has_gate else "up_proj", expert, hidden)
        hidden = self._apply_gate(hidden) if self.has_gate else self.act_fn(hidden)
        if weight_first:
            hidden = weigh(hidden, weights[rows])
        hidden = _linear(self, "down_proj", expert, hidden)
        if has_norm:
            hidden = self.post_expert_norm(hidden)
        if not weight_first:
            hidden = weigh(hidden, weights[rows])
        output.index_add_(0, tokens[rows][:count], hidden[:count].to(output.dtype))
    return output


def _parts(counts: list[int]) -> Iterator[tuple[int, int, int]]:
    """Expert, first row and number of rows of each product; the rows of all experts follow each other."""
    end = 0
    for expert, count in enumerate(counts):
        start, end = end, end + count
        for first in range(start, end, MAX_ROWS):
            yield expert, first, min(MAX_ROWS, end - first)


def _num_rows(count: int, few_shapes: bool) -> int:
    """How many rows a product reads for so many tokens."""
    if not few_shapes:
        return count
    return round_up(count, SMALL_MULTIPLE if count <= FEW_ROWS else LARGE_MULTIPLE)


def _linear(experts: Any, name: str, expert: int, values: torch.Tensor) -> torch.Tensor:
    weight = getattr(experts, name)[expert]
    bias = getattr(experts, f"{name}_bias")[expert] if experts.has_bias else None
    return F.linear(values.to(weight.dtype), weight.T if experts.is_transposed else weight, bias)


ALL_EXPERTS_FUNCTIONS.register(EXPERTS_IMPLEMENTATION, experts_forward)
