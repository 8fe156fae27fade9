"""Weights that memory has no room for lie on disk, and are fetched whenever their layer computes.

The processor stands in for a card: accelerate moves weights from disk to it as it moves those of the host to a card.
"""

import numpy as np
import pytest
import torch
from support.common import CHECKPOINT, LONG_PROMPT, MANY, TEXTS

from moee_hf import MoEEModel

# of the memory that the weights take: room for some layers
SOME = 0.6


def experts_on_disk(model):
    """Where each module with weights lies, if all but the experts stay."""
    named = model.model.named_modules()
    modules = [name for name, module in named if [*module.parameters(recurse=False), *module.buffers(recurse=False)]]
    return {name: "disk" if name.endswith("experts") else "cpu" for name in modules}


def load(folder, place, quantization=None):
    """The small model with its weights on disk, as far as they do not fit, or where a map says."""
    options = {"device_map": place}
    if isinstance(place, float):
        size = 4 * MoEEModel.from_pretrained(CHECKPOINT).model.num_parameters()
        options = {"device_map": "auto", "max_memory": {"cpu": int(place * size)}}
    if quantization is not None:
        options["quantization_config"] = quantization
    return MoEEModel.from_pretrained(CHECKPOINT, dtype=torch.float32, offload_folder=folder / "offload", **options)


def everything(model):
    """Vectors of every way to embed: packed or padded, from a cached prefix, in several prompts, of inner layers."""
    inner = model.with_config(hidden_source="attention", pooling="mean")
    inputs = model.tokenize(TEXTS)
    with torch.no_grad():
        output = model(**inputs)
    return [
        model.encode(TEXTS),
        model.encode(MANY[:24], prompt=LONG_PROMPT),
        model.encode(TEXTS, prompt_name=["prompteol", "none"]),
        inner.encode(TEXTS),
        output.embeddings.numpy(),
    ]


@pytest.mark.parametrize(
    ("place", "quantization"),
    [(SOME, None), ("experts", "nf4")],
)
def test_what_is_on_disk_is_computed_as_if_it_were_not(place, quantization, tmp_path, loaded, model):
    if quantization is not None:
        pytest.importorskip("bitsandbytes")
        model = MoEEModel.from_pretrained(CHECKPOINT, dtype=torch.float32, quantization_config=quantization)
    is_of_experts = place == "experts"
    offloaded = load(tmp_path, experts_on_disk(loaded) if is_of_experts else place, quantization)
    away = [name for name, weight in offloaded.model.named_parameters() if weight.is_meta]
    assert any("experts" in name for name in away)
    assert not is_of_experts or all(".experts." in name for name in away)
    for got, expected in zip(everything(offloaded), everything(model), strict=True):
        assert np.abs(got - expected).max() < 1e-5
    assert not offloaded.weights_changed
    offloaded.save_pretrained(tmp_path / "saved")
    saved = MoEEModel.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    assert not any(weight.is_meta for weight in saved.model.parameters())
    assert np.abs(saved.encode(TEXTS) - model.encode(TEXTS)).max() < 1e-5


@pytest.mark.parametrize("quantization", ["fp8", "int8"])
def test_what_cannot_lie_on_disk_is_said(quantization, tmp_path, loaded):
    pytest.importorskip("torchao")
    with pytest.raises(ValueError, match=r"quantization_config='nf4'"):
        load(tmp_path, experts_on_disk(loaded), quantization)
