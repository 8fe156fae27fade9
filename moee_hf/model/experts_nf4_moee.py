"""Experts in 4 bits, quantized one tensor after another while they are loaded, and as they were when saved."""

from __future__ import annotations

import functools
import threading
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.core_model_loading import ConversionOps
from transformers.quantizers import HfQuantizer
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING, AutoHfQuantizer
from transformers.quantizers.quantizers_utils import get_module_from_name
from transformers.utils.quantization_config import QuantizationConfigMixin

QUANT_METHOD = "nf4_experts"
QUANT_TYPES = ("nf4", "fp4")
BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
# of scales that are quantized themselves; bitsandbytes has no other
_NESTED_BLOCK_SIZE = 256
# so many weights are quantized at a time, a multiple of all sizes of blocks
_PART = 2**22
# where the quantized form of a weight stands, beside the weight
_SUFFIX = "_4bit"


class ExpertsNF4Config(QuantizationConfigMixin):
    """Experts in 4 bits by bitsandbytes; all other weights stay as they are, unless `linear` says more.

    A weight takes half a byte, and each block of them a scale: 4.5 bits a weight with the defaults. They are
    dequantized to the dtype of the model while their layer is computed. They do not train; what lies around them does.

    Args:
        quant_type: `"nf4"`, whose values are the quantiles of a normal distribution, or `"fp4"`, those of a float.
        double_quant: Whether to quantize the scales too, to 8 bits: 4.13 bits a weight.
        block_size: How many weights share a scale: a power of 2 from 32 to 4096.
        linear: How to quantize linear layers, which are about a tenth of a model. None: not at all.
        kwargs: `quant_method`, which a stored configuration has.

    Raises:
        ValueError: If a field has no such value, or there is no such field.
    """

    def __init__(
        self,
        quant_type: str = "nf4",
        double_quant: bool = False,
        block_size: int = 64,
        linear: BitsAndBytesConfig | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.quant_method = kwargs.pop("quant_method", QUANT_METHOD)
        self.linear = BitsAndBytesConfig(**linear) if isinstance(linear, dict) else linear
        self.quant_type, self.double_quant, self.block_size = quant_type, double_quant, block_size
        expected: dict[str, tuple[Any, ...]] = {
            "quant_method": (QUANT_METHOD,),
            "quant_type": QUANT_TYPES,
            "double_quant": (False, True),
            "block_size": BLOCK_SIZES,
        }
        for name, choices in expected.items():
            value = getattr(self, name)
            if value not in choices or type(value) is not type(choices[0]):
                some = ", ".join(map(repr, choices))
                raise ValueError(f"ExpertsNF4Config.{name}: expected one of {some}; got {value!r}.")
        if self.linear is not None and not isinstance(self.linear, BitsAndBytesConfig):
            raise ValueError(f"ExpertsNF4Config.linear: expected a BitsAndBytesConfig, or None; got {linear!r}.")
        if kwargs:
            fields = ", ".join((*expected, "linear"))
            raise ValueError(f"ExpertsNF4Config: expected fields among {fields}; got {min(kwargs)!r}.")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return vars(self) | {"linear": None if self.linear is None else self.linear.to_dict()}


class Weight4bit(nn.Module):
    """A quantized weight. It is called to dequantize it.

    Its parameters are integers, scales too, as their bits: what casts a model to another dtype leaves them alone.

    Args:
        weight: What it stands for, of any shape; only its shape, dtype and device are read.
        config: How it is quantized.
    """

    shape: torch.Size
    packed: torch.Tensor
    scale: torch.Tensor
    nested_scale: torch.Tensor
    offset: torch.Tensor
    like: torch.Tensor

    def __init__(self, weight: torch.Tensor, config: ExpertsNF4Config):
        super().__init__()
        self.shape, self.quant_type, self.block_size = weight.shape, config.quant_type, config.block_size
        self.is_nested = config.double_quant
        num_blocks = -(-weight.numel() // config.block_size)
        sizes = {"packed": (torch.uint8, -(-weight.numel() // 2))}
        if self.is_nested:
            num_nested = -(-num_blocks // _NESTED_BLOCK_SIZE)
            sizes |= {"scale": (torch.uint8, num_blocks), "nested_scale": (torch.int32, num_nested)}
            sizes["offset"] = (torch.int32, 1)
        else:
            sizes["scale"] = (torch.int32, num_blocks)
        for name, (dtype, size) in sizes.items():
            values = torch.empty(size, dtype=dtype, device=weight.device)
            self.register_parameter(name, nn.Parameter(values, requires_grad=False))
        # goes wherever the model goes, and is cast as it is
        self.register_buffer("like", torch.empty(0, dtype=weight.dtype, device=weight.device), persistent=False)
        self._is_hf_initialized = True

    @torch.no_grad()
    def quantize(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the values of the parameters for a weight of this shape.

        It is quantized part by part, as bitsandbytes copies a part several times, in float32.
        """
        from bitsandbytes import functional

        packed, scales = [], []
        for part in torch.split(weight.reshape(-1), _PART):
            values, state = functional.quantize_4bit(part, quant_type=self.quant_type, blocksize=self.block_size)
            packed.append(values.flatten())
            scales.append(state.absmax)
        scale = torch.cat(scales)
        parameters = {"packed": torch.cat(packed), "scale": scale.view(torch.int32)}
        if self.is_nested:
            offset = scale.mean(dim=0, keepdim=True)
            scale, nested = functional.quantize_blockwise(scale - offset, blocksize=_NESTED_BLOCK_SIZE)
            nested_scale, offset = nested.absmax.view(torch.int32), offset.view(torch.int32)
            parameters |= {"scale": scale, "nested_scale": nested_scale, "offset": offset}
        return parameters

    @torch.no_grad()
    def forward(self) -> torch.Tensor:
        """Return the weight, dequantized, in the dtype of the model."""
        from bitsandbytes import functional

        if self.is_nested:
            nested = self.nested_scale.view(torch.float32)
            scale = functional.dequantize_blockwise(self.scale, absmax=nested, blocksize=_NESTED_BLOCK_SIZE)
            scale += self.offset.view(torch.float32)
        else:
            scale = self.scale.view(torch.float32)
        options = {"shape": self.shape, "dtype": self.like.dtype}
        state = functional.QuantState(scale, blocksize=self.block_size, quant_type=self.quant_type, **options)
        return functional.dequantize_4bit(self.packed[:, None], state)


class _Reading(threading.local):
    """The weights that the forward pass of experts in this thread has dequantized, by name. None: there is none."""

    weights: dict[str, torch.Tensor] | None = None


_reading = _Reading()


def stored_shape(module: Any, name: str) -> torch.Size | None:
    """Return the shape of a weight of a module, which is not dequantized for it. None: it has no such weight."""
    quantized = module._modules.get(f"{name}{_SUFFIX}")
    found = module._parameters.get(name) if quantized is None else quantized
    return None if found is None else found.shape


def _hold(module: Any, name: str, config: ExpertsNF4Config) -> Weight4bit:
    """Let a module hold a weight in its quantized form, and read it as before."""
    quantized = Weight4bit(module._parameters.pop(name), config)
    module._modules[f"{name}{_SUFFIX}"] = quantized
    module._is_hf_initialized = True  # transformers would dequantize it, and draw it anew for nothing
    kind = type(module)
    names = getattr(kind, "_names_4bit", ())
    # set past torch, as it would take a class for an attribute of the module
    object.__setattr__(module, "__class__", _reader(kind.__base__ if names else kind, (*names, name)))
    return quantized


@functools.cache
def _reader(kind: Any, names: tuple[str, ...]) -> Any:
    """Return a class of experts that reads these weights from their quantized forms: once in each forward pass.

    torch's parametrizations do so too, but are not pickled, and what they have read is shared among threads.
    """

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        around, _reading.weights = _reading.weights, {}
        try:
            return kind.forward(self, *args, **kwargs)
        finally:
            _reading.weights = around

    def reduce(self: Any, protocol: Any) -> Any:
        return _restore, (kind, names), self.__getstate__()

    def reading(name: str) -> property:
        def read(self: Any) -> torch.Tensor:
            weights = _reading.weights
            if weights is None:
                return self._modules[f"{name}{_SUFFIX}"]()
            if name not in weights:
                weights[name] = self._modules[f"{name}{_SUFFIX}"]()
            return weights[name]

        return property(read)

    own = {"forward": forward, "__reduce_ex__": reduce, "_names_4bit": names, "__module__": kind.__module__}
    return type(kind)(kind.__name__, (kind,), own | {name: reading(name) for name in names})


def _restore(kind: Any, names: tuple[str, ...]) -> Any:
    reader = _reader(kind, names)
    return reader.__new__(reader)


def is_of_experts(module: nn.Module, name: str) -> bool:
    """Whether a parameter holds the weights of all experts of a layer: of three dimensions, the first of experts."""
    weight = module._parameters.get(name)
    return weight is not None and weight.ndim == 3 and "Experts" in type(module).__name__


class QuantizeWeight(ConversionOps):
    """What transformers calls with a weight, whole and merged, while it loads a model.

    Args:
        config: How to quantize those of experts.
        linear: What quantizes those of linear layers. None: they are not.
        misfits: Takes what to say of weights of experts that are not of the model's shapes.
    """

    def __init__(self, config: ExpertsNF4Config, linear: Any, misfits: list[str]):
        self.config, self.linear, self.misfits = config, linear, misfits

    @torch.no_grad()
    def convert(
        self, input_dict: dict[str, Any], *, model: Any, full_layer_name: str, missing_keys: Any = None, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """Return the quantized form by the names of its parameters in the model, which now has it."""
        module, name = get_module_from_name(model, full_layer_name)
        if not is_of_experts(module, name):
            options = {"model": model, "full_layer_name": full_layer_name, "missing_keys": missing_keys, **kwargs}
            return self.linear.get_quantize_ops().convert(input_dict, **options)
        (weight,) = input_dict.values()
        weight = weight[0] if isinstance(weight, list) else weight
        if missing_keys is not None:
            missing_keys.discard(full_layer_name)
        if weight.shape != (expected := module._parameters[name].shape):
            # an error that is raised here says nothing but that there was one
            self.misfits.append(f"{full_layer_name!r}: {tuple(weight.shape)} in place of {tuple(expected)}")
            return {}
        values = _hold(module, name, self.config).quantize(weight)
        return {f"{full_layer_name}{_SUFFIX}.{key}": value for key, value in values.items()}


class ExpertsNF4Quantizer(HfQuantizer):
    """What transformers quantizes experts with, or loads those that were saved so.

    Args:
        quantization_config: An `ExpertsNF4Config`; that of another copy of this file does too.
        kwargs: Those of `HfQuantizer`.
    """

    requires_calibration = False
    # gradients pass through experts, to adapters and to what lies below
    is_trainable = True

    def __init__(self, quantization_config: Any, **kwargs: Any):
        super().__init__(quantization_config, **kwargs)
        linear = quantization_config.linear
        options = {"pre_quantized": self.pre_quantized}
        self.misfits: list[str] = []
        self.linear = None if linear is None else AutoHfQuantizer.from_config(linear, **options)

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        """Raise `ImportError` unless bitsandbytes is there."""
        try:
            import bitsandbytes  # noqa: F401
        except ImportError as error:
            raise ImportError(
                f'Experts in 4 bits need bitsandbytes: pip install "moee_hf[quantized]". ({error})'
            ) from error
        if self.linear is not None:
            self.linear.validate_environment(*args, **kwargs)

    def update_device_map(self, device_map: Any) -> Any:
        return device_map if self.linear is None else self.linear.update_device_map(device_map)

    def adjust_max_memory(self, max_memory: dict[str, Any]) -> dict[str, Any]:
        return max_memory if self.linear is None else self.linear.adjust_max_memory(max_memory)

    def update_weight_conversions(self, weight_conversions: Any, *model: Any) -> Any:
        if self.linear is None:
            return weight_conversions
        return self.linear.update_weight_conversions(weight_conversions, *model)

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **kwargs: Any) -> bool:
        if is_of_experts(*get_module_from_name(model, param_name)):
            return True
        return self.linear is not None and self.linear.param_needs_quantization(model, param_name, **kwargs)

    def param_element_size(self, model: PreTrainedModel, param_name: str, param: torch.Tensor) -> float:
        config = self.quantization_config
        if is_of_experts(*get_module_from_name(model, param_name)):
            return 0.5 + (1 + 4 / _NESTED_BLOCK_SIZE if config.double_quant else 4) / config.block_size
        if self.linear is None:
            return float(param.element_size())
        return self.linear.param_element_size(model, param_name, param)

    def get_quantize_ops(self) -> QuantizeWeight:
        return QuantizeWeight(self.quantization_config, self.linear, self.misfits)

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        if self.linear is not None:
            self.linear._process_model_before_weight_loading(model, **kwargs)
        if self.pre_quantized:
            for module in list(model.modules()):
                for name in [name for name in module._parameters if is_of_experts(module, name)]:
                    _hold(module, name, self.quantization_config)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        if self.misfits:
            raise ValueError(
                f"{model.name_or_path}: expected weights of experts of the shapes that its config.json describes; "
                f"{len(self.misfits)} have another, the first {self.misfits[0]}."
            )
        # what merges a checkpoint's experts cannot split quantized ones: they are saved by their names in the model
        model._weight_conversions = []
        return model

    def is_serializable(self, **kwargs: Any) -> bool:
        return True


# the package and the code beside a saved model are two modules; either loads what the other has saved
AUTO_QUANTIZATION_CONFIG_MAPPING.setdefault(QUANT_METHOD, ExpertsNF4Config)
AUTO_QUANTIZER_MAPPING.setdefault(QUANT_METHOD, ExpertsNF4Quantizer)
