"""Weights in a GGUF file, the format of llama.cpp.

Architectures whose values llama.cpp stores as they are in the checkpoint are read here, by the names in its own
package: transformers reads them too, but with a head only, without the experts of gpt-oss, and slowly where there are
many layers. Those whose values llama.cpp rearranges are left to transformers, which knows how for some.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GgufConfig, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from .backbone_moee import backbone_class

# what can be read: llama.cpp's name of an architecture, by model_type
ARCHITECTURES = {
    "gpt_oss": "gpt-oss",
    "minimax_m2": "minimax-m2",
    "qwen2_moe": "qwen2moe",
    "qwen3_5_moe_text": "qwen35moe",
    "qwen3_moe": "qwen3moe",
}
_READ_BY_TRANSFORMERS = {"qwen3_5_moe_text"}
# what llama.cpp's package has no name for
_FURTHER_NAMES = {"mlp.e_score_correction_bias": "exp_probs_b.bias"}
# what a backbone has no use for: the head, and what follows from its configuration
_NO_PART = re.compile(r"output\.|rope_freqs\.")
# transformers loads in several threads, which take a fifth longer here than one: NumPy's small steps hold each up
_DEQUANTIZING = threading.Lock()


@dataclass(frozen=True)
class StoredWeight:
    """A weight that is read when it is indexed, which is how transformers reads what lies in a safetensors file."""

    read: Callable[[], torch.Tensor]
    dtype: torch.dtype = torch.float32

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self.read()[index]

    def is_floating_point(self) -> bool:
        return True


def gguf_arguments(path: Path, config: PreTrainedConfig) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` with which a backbone gets its weights from a GGUF file.

    Args:
        path: The file; of what it says about the model, the name of the architecture alone is read.
        config: Configuration of the backbone.

    Raises:
        ImportError: If the package gguf is not there.
        ValueError: If the file cannot be read, is one of several parts, or of another architecture than the backbone
            or one that cannot be read.
    """
    reader, got = _open(path)
    expected = ARCHITECTURES.get(config.model_type)
    if got != expected:
        known = ", ".join(f"{name} for {model_type}" for model_type, name in ARCHITECTURES.items())
        raise ValueError(
            f"{path}: expected a GGUF file of the backbone that its configuration describes ({known}); got {got} for "
            f"{config.model_type}. Give the configuration of the model in the file, or load its safetensors."
        )
    if config.model_type in _READ_BY_TRANSFORMERS:
        return {"gguf_file": str(path), "quantization_config": GgufConfig(dequantize=True)}
    with torch.device("meta"), no_init_weights():
        backbone = backbone_class(config)._from_config(config)
    return {"pretrained_model_name_or_path": None, "state_dict": _stored_weights(path, reader, backbone, got)}


def _open(path: Path) -> tuple[Any, str]:
    """A reader of a file, and the name of its architecture."""
    gguf = _gguf()
    try:
        reader = gguf.GGUFReader(path)
        architecture = reader.fields["general.architecture"].contents()
    except (ValueError, IndexError, KeyError) as error:
        raise ValueError(f"{path}: expected a whole GGUF file; got one that cannot be read ({error}).") from error
    parts = reader.get_field("split.count")
    if parts is not None and parts.contents() > 1:
        raise ValueError(
            f"{path}: expected a GGUF file with all weights; got one of {parts.contents()} parts. Merge them with "
            "llama.cpp's `llama-gguf-split --merge`."
        )
    return reader, architecture


def _gguf() -> Any:
    try:  # transformers asks for all that a published file imports, but for what may fail
        import gguf
    except ImportError as error:
        raise ImportError("expected the package gguf, which reads GGUF files. pip install gguf") from error
    return gguf


def _stored_weights(path: Path, reader: Any, backbone: PreTrainedModel, architecture: str) -> dict[str, StoredWeight]:
    """The weights of a backbone, by its own names, without those that the file lacks, and with those that are left."""
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    if scales := [name for name in tensors if name.endswith((".scale", ".input_scale"))]:
        raise ValueError(
            f"{path}: expected blocks that hold their scales; got {scales[0]!r}, scales of another tensor, as in "
            "NVFP4. Take a file in another format, such as Q4_K_M."
        )
    weights = {}
    for name, sources in _sources(backbone, architecture):
        if found := [tensors.pop(source) for source in sources if source in tensors]:
            weights[name] = StoredWeight(partial(_read, found, backbone, name))
    left = {re.sub(r"^blk\.", "layers.", name): tensor for name, tensor in tensors.items() if not _NO_PART.match(name)}
    return weights | {name: StoredWeight(partial(_dequantize, tensor)) for name, tensor in left.items()}


def _sources(backbone: PreTrainedModel, architecture: str) -> Iterator[tuple[str, list[str]]]:
    """The name of every weight of a backbone, and the names of the tensors that it is made of, if they are there."""
    gguf = _gguf()
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, backbone.config.num_hidden_layers)
    for name in backbone.state_dict():
        module, _, leaf = name.rpartition(".")
        block = re.sub(r"^layers\.(\d+)\..*", r"blk.\1", name)
        if hasattr(backbone.get_submodule(module), "is_transposed"):  # experts, where llama.cpp splits gate and up
            ending = "bias" if leaf.endswith("_bias") else "weight"
            parts = ("gate", "up") if leaf.startswith("gate_up") else ("down",)
            yield name, [f"{block}.ffn_{part}_exps.{ending}" for part in parts]
        elif leaf in ("weight", "bias"):
            yield name, [f"{names.get_name(f'model.{module}')}.{leaf}"]
        elif further := _FURTHER_NAMES.get(".".join(name.split(".")[2:])):
            yield name, [f"{block}.{further}"]
        else:  # a parameter of no module, which llama.cpp calls a weight, and its package by the bare name
            bare = str(names.get_name(f"model.{name}"))
            yield name, [f"{bare}.weight", bare]


def _read(tensors: list[Any], backbone: PreTrainedModel, name: str) -> torch.Tensor:
    """A weight of a backbone, from the tensors that it is made of: one, or gate and up of all experts of a layer."""
    module, expected = backbone.get_submodule(name.rpartition(".")[0]), backbone.get_parameter_or_buffer(name)
    values = [_dequantize(tensor) for tensor in tensors]
    value = values[0]
    if len(values) == 2:
        concatenated = module.is_concatenated
        value = torch.cat(values, dim=1) if concatenated else torch.stack(values, dim=2).flatten(1, 2)
    if getattr(module, "is_transposed", False) and value.ndim == 3:
        value = value.mT
    # llama.cpp drops dimensions of one
    return value.reshape(expected.shape) if value.squeeze().shape == expected.squeeze().shape else value


def _dequantize(tensor: Any) -> torch.Tensor:
    try:
        with _DEQUANTIZING:
            values = _gguf().dequantize(tensor.data, tensor.tensor_type)
    except NotImplementedError as error:
        raise ValueError(
            f"{tensor.name}: expected a format that the package gguf dequantizes; got {tensor.tensor_type.name}. "
            "Take a file in another format, such as Q4_K_M."
        ) from error
    return torch.from_numpy(np.require(values, requirements="W"))  # a copy where it is the file's own memory
