"""The gate of experts as one Triton kernel, for GPUs; eager without Triton, and for gates that it does not know."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import ACT2FN
from transformers.utils import logging

try:
    import triton
    import triton.language as tl
except ImportError:  # it comes with PyTorch for GPUs
    triton = None

logger = logging.get_logger(__name__)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_BLOCK = 1024
# by name in transformers: the name in the kernel, and the alpha of x * sigmoid(alpha * x)
NAMES = {
    **dict.fromkeys(("silu", "swish"), ("swish", 1.0)),
    "quick_gelu": ("swish", 1.702),
    "gelu": ("gelu", 1.0),
    **dict.fromkeys(("gelu_pytorch_tanh", "gelu_new", "gelu_fast", "gelu_accurate"), ("gelu_tanh", 1.0)),
    "relu": ("relu", 1.0),
    "relu2": ("relu2", 1.0),
}
# by class, or the function itself
ACTIVATIONS: dict[Any, tuple[str, float]] = {
    **{type(ACT2FN[name]): activation for name, activation in NAMES.items()},
    **{F.silu: NAMES["silu"], F.gelu: NAMES["gelu"], F.relu: NAMES["relu"]},
}
# all that a gate may read of its experts
ATTRIBUTES = ("act_fn", "alpha", "swiglu_alpha", "limit", "swiglu_limit")
# where the kernel and a gate are compared, on both sides of any limit; exact in every dtype
POINTS = (0.0, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0, 32.0, 128.0, 1024.0, 32768.0)


class Gate(NamedTuple):
    """`act(min(gate, limit)) * (clamp(up, -limit, limit) + shift)`, or `act(values)` where nothing is gated."""

    activation: str
    alpha: float
    limit: float
    shift: float
    is_gated: bool
    is_interleaved: bool


# whether the kernel computes what a function of experts does, by `_known_gate`
_reproduced: dict[Any, bool] = {}


def activate(
    experts: Any, values: torch.Tensor, weights: torch.Tensor | None, expert_of_row: torch.Tensor
) -> torch.Tensor:
    """Add the bias of experts to what they projected upwards, apply their gate, and weigh the result.

    The kernel reads and writes each value once, computes in float32, and rounds at the end. It is used where Triton
    runs and no gradient is needed, for gates whose outputs it reproduces; elsewhere the operations run one by one.

    Args:
        experts: A module with transformers' interface of experts.
        values: What `gate_up_proj` (`up_proj` without a gate) returned, of shape `(num_rows, 2 * intermediate_size)`,
            or `(num_rows, intermediate_size)` without a gate.
        weights: The routing weight of each row, of shape `(num_rows,)`, or None to leave them to the caller.
        expert_of_row: The expert of each row, below `num_experts`, of shape `(num_rows,)`.

    Returns:
        Tensor of shape `(num_rows, intermediate_size)` with the dtype of `values`.
    """
    bias = getattr(experts, "gate_up_proj_bias" if experts.has_gate else "up_proj_bias") if experts.has_bias else None
    gate = None
    if _fits(values, bias, weights, expert_of_row):
        gate = _known_gate(experts, values.device, values.dtype)
    if gate is not None:
        return _launch(gate, values, bias, weights, expert_of_row)
    hidden = values if bias is None else values + bias[expert_of_row]
    hidden = experts._apply_gate(hidden) if experts.has_gate else experts.act_fn(hidden)
    return (hidden if weights is None else hidden * weights[:, None]).to(values.dtype)


def _fits(values: torch.Tensor, *others: torch.Tensor | None) -> bool:
    """Whether the kernel can read these tensors; a compiler fuses the operations itself."""
    tensors = [values, *(other for other in others if other is not None)]
    return (
        not torch.compiler.is_compiling()
        and _runs_on(values.device.type)
        and values.ndim == 2
        and values.numel() > 0
        and values.dtype in DTYPES
        and all(type(x) in (torch.Tensor, nn.Parameter) and x.device == values.device for x in tensors)
        and all(x.is_contiguous() for x in tensors)
        and not (torch.is_grad_enabled() and any(x.requires_grad for x in tensors))
    )


@cache
def _runs_on(device_type: str) -> bool:
    """Whether the device is one of Triton's, or its interpreter runs instead."""
    if triton is None:
        return False
    if not isinstance(_kernel, triton.JITFunction):
        return True
    try:
        return triton.runtime.driver.active.get_active_torch_device().type == device_type != "cpu"
    except Exception:  # no driver, more than one, or none that loads
        return False


def _known_gate(experts: Any, device: torch.device, dtype: torch.dtype) -> Gate | None:
    """Return what the gate of experts computes, or None where the kernel does not compute the same."""
    function = getattr(experts._apply_gate, "__func__", None) if experts.has_gate else _apply_activation
    attributes = {name: getattr(experts, name) for name in ATTRIBUTES if hasattr(experts, name)}
    numbers = {name: value for name, value in attributes.items() if name != "act_fn"}
    act_fn = attributes.get("act_fn", F.silu)
    activation = ACTIVATIONS.get(type(act_fn) if isinstance(act_fn, nn.Module) else act_fn)
    if function is None or activation is None or not all(isinstance(x, int | float) for x in numbers.values()):
        return None
    name, alpha = activation
    if "act_fn" not in attributes:
        alpha = numbers.get("alpha", numbers.get("swiglu_alpha", alpha))
    limit = numbers.get("limit", numbers.get("swiglu_limit", float("inf")))
    is_interleaved = experts.has_gate and not experts.is_concatenated
    for shift in (0.0, 1.0):
        gate = Gate(name, float(alpha), float(limit), shift, experts.has_gate, is_interleaved)
        key = (function, gate, *numbers.values(), device, dtype)
        if key not in _reproduced:
            _reproduced[key] = _reproduces(gate, function, SimpleNamespace(**attributes), device, dtype)
        if _reproduced[key]:
            return gate
    return None


def _apply_activation(experts: Any, values: torch.Tensor) -> torch.Tensor:
    return experts.act_fn(values)


@torch.no_grad()
def _reproduces(gate: Gate, function: Any, experts: Any, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernel runs, and returns what the function does in float64, at every pair of points."""
    points = torch.tensor(POINTS, dtype=torch.float64, device="cpu")
    points = torch.cat([points, -points])
    pair = torch.cartesian_prod(points, points)
    values = (pair if gate.is_interleaved else pair.T).reshape(1, -1) if gate.is_gated else points[None]
    # the error of a product grows with its factors, even where an activation is next to zero
    scale = (1 + pair.abs()).prod(-1)[None] if gate.is_gated else 1 + values.abs()
    try:
        expected = function(experts, values).to(dtype).double()
    except Exception:  # it reads other attributes
        return False
    if expected.shape != scale.shape:
        return False
    try:
        row = torch.zeros(1, dtype=torch.int64, device=device)
        got = _launch(gate, values.to(device, dtype), None, None, row).cpu().double()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # no C compiler, or a GPU without the instructions
        logger.warning_once(f"kernels: Triton does not run on {device} ({error}); gates run without it")
        return False
    close = (got - expected).abs() <= max(1e-5, torch.finfo(dtype).eps) * (expected.abs() + scale)
    return bool((close | (got == expected)).all())


def _launch(
    gate: Gate,
    values: torch.Tensor,
    bias: torch.Tensor | None,
    weights: torch.Tensor | None,
    expert_of_row: torch.Tensor,
) -> torch.Tensor:
    num_rows, width = values.shape
    size = width // 2 if gate.is_gated else width
    output = values.new_empty(num_rows, size)
    block = min(MAX_BLOCK, triton.next_power_of_2(size))
    on_device: Any = getattr(torch.get_device_module(values.device), "device", nullcontext)
    with on_device(values.device):  # Triton launches on the current one
        _kernel[(num_rows, triton.cdiv(size, block))](
            *(values, bias, weights, expert_of_row, output, size, gate.alpha, gate.limit),
            *(gate.activation, gate.shift, gate.is_gated, gate.is_interleaved, block),
        )
    return output


def _jit(function: Any) -> Any:
    return function if triton is None else triton.jit(function)


@_jit
def _kernel(
    values: tl.tensor,
    bias: tl.tensor,
    weights: tl.tensor,
    expert_of_row: tl.tensor,
    output: tl.tensor,
    size: tl.tensor,
    alpha: tl.tensor,
    limit: tl.tensor,
    ACTIVATION: tl.constexpr,
    SHIFT: tl.constexpr,
    IS_GATED: tl.constexpr,
    IS_INTERLEAVED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Compute a block of columns of one row; NaN fails each comparison below, and so stays NaN."""
    row = tl.program_id(0).to(tl.int64)  # all rows together may hold more than 2**31 values
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    width = 2 * size if IS_GATED else size
    values += row * width
    if bias is not None:
        bias += tl.load(expert_of_row + row).to(tl.int64) * width
    if IS_INTERLEAVED:  # one load of neighbours is faster than two of every other value
        place = tl.program_id(1) * 2 * BLOCK + tl.arange(0, 2 * BLOCK)
        gate, up = tl.split(tl.reshape(_read(values, bias, place, place < width), (BLOCK, 2)))
    else:
        gate = _read(values, bias, column, inside)
        if IS_GATED:
            up = _read(values, bias, column + size, inside)
    if IS_GATED:
        gate = tl.where(gate > limit, limit, gate)
    result = _act(gate, alpha, ACTIVATION)
    if IS_GATED:
        up = tl.where(up > limit, limit, up)
        result *= tl.where(up < -limit, -limit, up) + SHIFT
    if weights is not None:
        result *= tl.load(weights + row).to(tl.float32)
    tl.store(output + row * size + column, result.to(output.dtype.element_ty), mask=inside)


@_jit
def _read(values: tl.tensor, bias: tl.tensor, place: tl.tensor, inside: tl.tensor) -> tl.tensor:
    """Load values in float32, with their bias if there is one."""
    value = tl.load(values + place, mask=inside, other=0.0).to(tl.float32)
    if bias is not None:
        value += tl.load(bias + place, mask=inside, other=0.0).to(tl.float32)
    return value


@_jit
def _act(x: tl.tensor, alpha: tl.tensor, ACTIVATION: tl.constexpr) -> tl.tensor:
    if ACTIVATION == "swish":
        x /= 1.0 + tl.exp(-alpha * x)
    elif ACTIVATION == "gelu":
        x *= 0.5 + 0.5 * tl.erf(x * 0.7071067811865476)
    elif ACTIVATION == "gelu_tanh":  # 0.5 * (1 + tanh(y)) is sigmoid(2 * y)
        x /= 1.0 + tl.exp(-1.5957691216057308 * (x + 0.044715 * x * x * x))
    else:
        x = tl.where(x < 0.0, 0.0, x)
        if ACTIVATION == "relu2":
            x *= x
    return x
