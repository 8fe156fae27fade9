"""The experts of a MoE layer: on a GPU in two grouped products, on a processor each by itself, on its own tokens."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward

from .backbone_moee import experts_per_token, text_model_of
from .batching_moee import LARGE_MULTIPLE, SMALL_MULTIPLE, keeps_kernels, round_up
from .capture_moee import unpadded_rows
from .experts_nf4_moee import stored_shape
from .kernels_moee import activate
from .products_moee import multiplies_slowly

EXPERTS_IMPLEMENTATION = "moee"
# as code of saved models may run beside the package, each copy of this file reads its own captures
OWN_IMPLEMENTATION = f"{EXPERTS_IMPLEMENTATION}:{__name__}"
# on a processor, with fewer tokens than this for each expert, calling them one by one costs more than it saves
MIN_TOKENS_PER_EXPERT = 4
# an expert reads so many rows at most at a time
MAX_ROWS = 512
# where oneDNN caches kernels, up to so many rows are a multiple of `SMALL_MULTIPLE`, more of `LARGE_MULTIPLE`
FEW_ROWS = 256
# products of all experts at once want rows that begin at a multiple of so many bytes
ALIGNMENT = 16


def use_fast_experts(backbone: PreTrainedModel) -> None:
    """Let a backbone compute its experts as below where it would use transformers' `grouped_mm`, its default.

    Of quantized weights, `eager` cannot multiply all either. Quantizers that put experts of another class in place
    have implementations of their own.
    """
    modules = list(backbone.modules())
    if not all(map(_is_readable, modules)):
        return
    is_quantized = getattr(backbone, "hf_quantizer", None) is not None
    replaced = ("grouped_mm", "eager") if is_quantized else ("grouped_mm",)
    for module in modules:
        config: Any = getattr(module, "config", None)
        if getattr(config, "_experts_implementation", None) in replaced:
            config._experts_implementation_internal = OWN_IMPLEMENTATION


def _is_readable(module: Any) -> bool:
    """Whether experts hold numbers, or what can be dequantized; true of all other modules."""
    weight = module._parameters.get("down_proj") if hasattr(module, "_is_expert_parallel") else None
    return weight is None or (weight.is_floating_point() and weight.itemsize > 1)


def bytes_per_token(backbone: PreTrainedModel) -> int:
    """Return the memory that a pass on an accelerator holds for each token at most: while it computes experts.

    For each expert of the token, that is a copy of it and what it is projected upwards to, or that and what the gate
    makes of it, step by step. Beside it stand some vectors of the layer around.
    """
    text_model = text_model_of(backbone)
    hidden_size = text_model.config.hidden_size
    shapes = (stored_shape(module, "down_proj") for module in text_model.modules())
    inner = [prod(shape[1:]) // hidden_size for shape in shapes if shape is not None and len(shape) == 3]
    widest = max(inner, default=hidden_size)
    of_experts = (experts_per_token(backbone) or 1) * max(hidden_size + 2 * widest, 4 * widest)
    return (of_experts + 8 * hidden_size) * backbone.dtype.itemsize


def experts_forward(
    self: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """Compute the experts of a layer, in the way that is fast on its device; padding is left out in a lean pass.

    This is an implementation of transformers' interface of experts, whose attributes say how weights are laid out.

    Args:
        self: The module of the experts.
        hidden_states: Of shape `(num_tokens, hidden_size)`.
        top_k_index: The experts of each token, of shape `(num_tokens, top_k)`.
        top_k_weights: Their weights, of the same shape.

    Returns:
        Tensor of shape `(num_tokens, hidden_size)`.
    """
    down_proj = self.down_proj  # in 4 bits, it is dequantized once in a pass
    # experts of which other devices hold some are transformers' own
    if getattr(self, "_is_expert_parallel", False):
        return grouped_mm_experts_forward(self, hidden_states, top_k_index, top_k_weights)
    is_aligned = all(size * down_proj.itemsize % ALIGNMENT == 0 for size in down_proj.shape[1:])
    if is_aligned and has_grouped_products(hidden_states.device):
        return _all_at_once(self, hidden_states, top_k_index, top_k_weights)
    # one by one, only those that are used are dequantized, or multiplied in another dtype
    is_few = top_k_index.numel() < MIN_TOKENS_PER_EXPERT * self.num_experts and hidden_states.device.type == "cpu"
    is_slow = _is_quantized(down_proj) or multiplies_slowly(hidden_states.device, down_proj.dtype)
    if is_aligned and is_few and not is_slow:
        return grouped_mm_experts_forward(self, hidden_states, top_k_index, top_k_weights)
    return _one_by_one(self, hidden_states, top_k_index, top_k_weights)


def has_grouped_products(device: torch.device) -> bool:
    """Whether torch multiplies for all experts at once on a device: CUDA from Ampere on, ROCm.

    In bfloat16 from Hopper on, that is one kernel; elsewhere it is a product an expert, whose sizes torch waits for.
    """
    if device.type != "cuda" or not hasattr(F, "grouped_mm"):  # ROCm is called so too
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _all_at_once(
    self: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """Compute all experts in two grouped products, over copies of the tokens in the order of their experts.

    Nothing else here waits for the device, and what is as wide as all the copies is written and read once: routing
    weights are applied inside, where there are fewer columns, and the experts of a token are summed where they lie.
    """
    num_copies, rows = top_k_index.shape[1], unpadded_rows(len(hidden_states))
    if rows is not None:
        rows = rows.to(hidden_states.device)
        top_k_index, top_k_weights = top_k_index[rows], top_k_weights[rows]
    experts, order = top_k_index.flatten().sort(stable=True)  # [S], S = tokens * top_k
    numbers = torch.arange(self.num_experts, device=experts.device)
    ends = torch.searchsorted(experts, numbers, right=True, out_int32=True)  # [E], where the rows of each expert end
    tokens = order // num_copies
    weights = top_k_weights.flatten()[order]
    weight_first = not getattr(self, "has_post_expert_norm", False)  # transformers 5.19 does not have it
    values = hidden_states.index_select(0, tokens if rows is None else rows[tokens])  # [S, D]
    values = _grouped_linear(self, "gate_up_proj" if self.has_gate else "up_proj", values, ends)  # [S, 2 * I or I]
    values = activate(self, values, weights if weight_first else None, experts)  # [S, I]
    values = _grouped_linear(self, "down_proj", values, ends)  # [S, D]
    if self.has_bias:
        bias = self.down_proj_bias[experts]
        values = values + (bias * weights[:, None].to(bias.dtype) if weight_first else bias)
    if not weight_first:
        values = self.post_expert_norm(values) * weights[:, None]
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order), device=order.device)
    output = F.embedding_bag(places.view(-1, num_copies), values, mode="sum").to(hidden_states.dtype)  # [tokens, D]
    return output if rows is None else torch.zeros_like(hidden_states).index_copy(0, rows, output)


def _grouped_linear(experts: Any, name: str, values: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    weight = _dequantized(getattr(experts, name))
    weight = weight if experts.is_transposed else weight.transpose(1, 2)  # [E, in, out]
    return F.grouped_mm(values.to(weight.dtype), weight, offs=ends)


def _one_by_one(
    self: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """Compute the experts one after the other.

    All at once, every token is copied for every expert that reads it. On a processor the system hands out that memory
    page by page, which can cost as much as the products; the tokens of one expert stay in the cache.
    """
    kept = unpadded_rows(len(hidden_states))
    device = hidden_states.device
    kept = torch.arange(len(hidden_states), device=device) if kept is None else kept.to(device)
    experts = top_k_index[kept].flatten()
    order = experts.argsort(stable=True)
    tokens = F.pad(kept[order // top_k_index.shape[1]], (0, LARGE_MULTIPLE))
    weights = F.pad(top_k_weights[kept].flatten()[order], (0, LARGE_MULTIPLE))[:, None]
    counts = experts.bincount(minlength=self.num_experts).tolist()
    has_norm = getattr(self, "has_post_expert_norm", False)  # transformers 5.19 does not have it
    # weight before down_proj (fewer columns) unless a bias or norm follows it
    weight_first = not (self.has_bias or has_norm)
    weigh: Any = torch.mul if torch.is_grad_enabled() else torch.Tensor.mul_
    few_shapes = keeps_kernels(device, hidden_states.dtype)
    up, down = ((name, getattr(self, name)) for name in ("gate_up_proj" if self.has_gate else "up_proj", "down_proj"))
    output = torch.zeros_like(hidden_states)
    for expert, start, count in _parts(counts):
        rows = slice(start, start + _num_rows(count, few_shapes))  # its own, then the next expert's
        hidden = hidden_states.index_select(0, tokens[rows])
        hidden = _linear(self, *up, expert, hidden)
        hidden = self._apply_gate(hidden) if self.has_gate else self.act_fn(hidden)
        if weight_first:
            hidden = weigh(hidden, weights[rows])
        hidden = _linear(self, *down, expert, hidden)
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


def _linear(experts: Any, name: str, weights: torch.Tensor, expert: int, values: torch.Tensor) -> torch.Tensor:
    # torchao would multiply with integers and scale the products, which overflow in float16 by then
    weight = _dequantized(weights[expert])
    bias = getattr(experts, f"{name}_bias")[expert] if experts.has_bias else None
    return F.linear(values.to(weight.dtype), weight.T if experts.is_transposed else weight, bias)


def _is_quantized(weight: torch.Tensor) -> bool:
    """Whether a weight is torchao's, in 8 bits; what is in 4 bits is dequantized by then."""
    return hasattr(weight, "qdata")


def _dequantized(weight: torch.Tensor) -> torch.Tensor:
    return weight.dequantize() if _is_quantized(weight) else weight


ALL_EXPERTS_FUNCTIONS.register(EXPERTS_IMPLEMENTATION, experts_forward)
ALL_EXPERTS_FUNCTIONS.register(OWN_IMPLEMENTATION, experts_forward)
