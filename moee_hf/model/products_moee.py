"""How torch multiplies in a forward pass: in half precision on a processor without such arithmetic, in float32."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

HALF = (torch.bfloat16, torch.float16)
PRODUCTS = frozenset(
    (
        *(F.linear, F.conv1d, F.scaled_dot_product_attention, torch.matmul, torch.mm, torch.bmm),
        *(torch.Tensor.matmul, torch.Tensor.__matmul__, torch.Tensor.mm, torch.Tensor.bmm),
    )
)


def multiplies_slowly(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch multiplies number by number: in half precision, on an x86 processor without AVX-512.

    In float32 the same takes a quarter of the time (the embedded backbone, 128 texts, two cores), or as much (one
    text), with the time in which weights become float32.
    """
    return device.type == "cpu" and dtype in HALF and torch.backends.cpu.get_cpu_capability() == "AVX2"


@contextlib.contextmanager
def arithmetic(backbone: PreTrainedModel) -> Iterator[None]:
    """Let a forward pass of these weights multiply as it can, and as fast as it can.

    Tensors of a quantizer cannot be sliced in inference mode, which is left; there are no gradients all the same.
    """
    is_quantized = getattr(backbone, "hf_quantizer", None) is not None
    if is_quantized and torch.is_inference_mode_enabled():
        with torch.inference_mode(False), torch.no_grad():
            yield
    elif not is_quantized and multiplies_slowly(backbone.device, backbone.dtype):
        with _InFloat32():
            yield
    else:
        yield


class _InFloat32(TorchFunctionMode):
    """Computes products of tensors in half precision in float32, as processors do that have such products.

    The result is rounded to the dtype that it would have had. A weight is in float32 for as long as its product takes,
    so that memory holds the weights in half precision.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function not in PRODUCTS:
            return function(*args, **kwargs)
        kinds = {(value.device, value.dtype) for value in (*args, *kwargs.values()) if _is_floating(value)}
        # of two dtypes, or on two devices, there is no product; of integers and complex numbers there are others
        if len(kinds) != 1 or not multiplies_slowly(*next(iter(kinds))):
            return function(*args, **kwargs)
        product = function(*map(_in_float32, args), **{name: _in_float32(value) for name, value in kwargs.items()})
        ((_, dtype),) = kinds
        return product.to(dtype)


def _is_floating(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _in_float32(value: Any) -> Any:
    return value.float() if _is_floating(value) else value
