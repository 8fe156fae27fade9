"""Weights in: plain checkpoints, the embedded model, and what a caller asks of loading."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support.common import BACKBONE, CHECKPOINT, GOLDEN, TEXTS, random_statistics
from support.tiny_backbones import redraw, tiny_config
from transformers import (
    AutoConfig,
    BitsAndBytesConfig,
    MixtralForCausalLM,
    OlmoeForCausalLM,
    Qwen2MoeForCausalLM,
    Qwen3VLMoeForConditionalGeneration,
)

from moee_hf import MoEEConfig, MoEEModel, UnsupportedBackboneError
from moee_hf.model import hub_moee

PLAIN = {
    "olmoe": OlmoeForCausalLM,
    "qwen2_moe": Qwen2MoeForCausalLM,
    "mixtral": MixtralForCausalLM,
    "qwen3_vl_moe": Qwen3VLMoeForConditionalGeneration,
}
IDS = torch.tensor([[5, 6, 7, 8]])


def embeddings(model):
    with torch.no_grad():
        return model(input_ids=IDS).embeddings


@pytest.fixture(params=[*PLAIN, "deepseek"])
def plain(request, tmp_path):
    """A checkpoint as its own class saves it; DeepSeekMoE's in the original per-expert format."""
    if request.param == "deepseek":
        return GOLDEN / "deepseek"
    redraw(PLAIN[request.param](tiny_config(request.param))).save_pretrained(tmp_path / "plain")
    return tmp_path / "plain"


def test_plain_checkpoint_loads_whole_and_saves_the_same_bytes(plain, tmp_path):
    model, info = MoEEModel.from_pretrained(plain, output_loading_info=True)
    assert not info["missing_keys"]
    assert info["unexpected_keys"] <= {"lm_head.weight"}
    model.save_pretrained(tmp_path / "once")
    again = MoEEModel.from_pretrained(tmp_path / "once")
    again.save_pretrained(tmp_path / "twice")
    once, twice = (load_file(tmp_path / name / "model.safetensors") for name in ("once", "twice"))
    assert once.keys() == twice.keys()
    assert (tmp_path / "once/model.safetensors").read_bytes() == (tmp_path / "twice/model.safetensors").read_bytes()
    assert torch.equal(embeddings(model), embeddings(again))
    # the tensors of the plain checkpoint, whose head keeps them under a prefix
    original = {
        re.sub(r"^model\.", "", name): tensor for name, tensor in load_file(plain / "model.safetensors").items()
    }
    original.pop("lm_head.weight", None)
    assert original.keys() == once.keys()
    assert all(torch.equal(original[name], tensor) for name, tensor in once.items())


def test_saved_folder_is_a_checkpoint_of_the_backbone_too(tmp_path):
    plain = redraw(OlmoeForCausalLM(tiny_config("olmoe")))
    plain.save_pretrained(tmp_path / "plain")
    MoEEModel.from_pretrained(tmp_path / "plain").save_pretrained(tmp_path / "moee")
    backbone, info = OlmoeForCausalLM.from_pretrained(tmp_path / "moee", output_loading_info=True)
    assert info["missing_keys"] == {"lm_head.weight"}
    with torch.no_grad():
        assert torch.equal(backbone.model(IDS).last_hidden_state, plain.model(IDS).last_hidden_state)


def test_choices_and_statistics_beside_a_plain_checkpoint(loaded, tmp_path):
    choices = {"pooling": "mean", "hidden_layer": 1, "combination": "hs", "default_prompt_name": "none"}
    folder, statistics = shutil.copytree(CHECKPOINT, tmp_path / "model"), random_statistics(loaded)
    (folder / "moee_config.json").write_text(json.dumps(choices | {"standardize": True, "calibrated": True}))
    save_file(statistics, folder / "statistics.safetensors")
    assert (loaded.config.pooling, loaded.config.hidden_layer, loaded.config.calibrated) == ("lasttoken", -1, False)
    raw, model = loaded.with_config(**choices).encode(TEXTS), MoEEModel.from_pretrained(folder, dtype=torch.float32)
    expected = (raw - statistics["hidden_mean"].numpy()) / statistics["hidden_std"].numpy()
    np.testing.assert_allclose(model.encode(TEXTS), expected, rtol=1e-3, atol=1e-3)


def test_arguments_of_transformers_pass_through():
    model = MoEEModel.from_pretrained(
        CHECKPOINT,
        dtype=torch.float32,
        device_map="cpu",
        attn_implementation="eager",
        experts_implementation="batched_mm",
    )
    config = model.model.config
    assert (config._attn_implementation, config._experts_implementation) == ("eager", "batched_mm")
    assert (model.dtype, model.device.type) == (torch.float32, "cpu")
    reference = MoEEModel.from_pretrained(CHECKPOINT, dtype=torch.float32)
    assert np.abs(model.encode(TEXTS) - reference.encode(TEXTS)).max() < 1e-5


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes would quantize")
def test_quantization_reaches_its_quantizer():
    with pytest.raises(ImportError, match="bitsandbytes"):
        MoEEModel.from_pretrained(CHECKPOINT, quantization_config=BitsAndBytesConfig(load_in_8bit=True))


def test_offloaded_layers_give_the_same_embeddings(tmp_path, loaded):
    device_map = {"embed_tokens": "disk", "norm": "cpu", "rotary_emb": "cpu"}
    device_map |= {f"layers.{i}": "disk" if i in (1, 4) else "cpu" for i in range(5)}
    model = MoEEModel.from_pretrained(CHECKPOINT, dtype=torch.float32, device_map=device_map, offload_folder=tmp_path)
    assert model.model.layers[1].mlp.gate.weight.device.type == "meta"
    assert np.abs(model.encode(TEXTS) - loaded.encode(TEXTS)).max() < 1e-5
    assert np.array_equal(model.encode(TEXTS, convert_to_tensor=True).numpy(), model.encode(TEXTS))


def test_the_name_of_the_package_and_of_a_folder(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(CHECKPOINT, "embedded")
    hub_moee.logger.warning_once.cache_clear()
    transformers.logging.get_logger("transformers").propagate, before = True, False
    try:
        assert MoEEConfig.from_pretrained("embedded").backbone_config.model_type == "qwen2_moe"
    finally:
        transformers.logging.get_logger("transformers").propagate = before
    assert "the folder is './embedded'" in caplog.text
    assert MoEEConfig.from_pretrained("./embedded").backbone_config.model_type == "olmoe"


def test_a_loaded_backbone_keeps_its_weights():
    """Also those of modules that transformers did not initialise itself, such as an adapter's."""
    backbone = OlmoeForCausalLM(tiny_config("olmoe")).model
    backbone.layers[0].self_attn.q_proj = torch.nn.Linear(32, 32, bias=False)
    before = {name: weight.clone() for name, weight in backbone.state_dict().items()}
    model = MoEEModel(MoEEConfig(backbone_config=backbone.config), backbone)
    assert all(torch.equal(weight, before[name]) for name, weight in model.model.state_dict().items())


def test_the_callers_configuration_is_left_alone():
    backbone = AutoConfig.from_pretrained(MoEEModel.from_pretrained(CHECKPOINT).name_or_path)
    config = MoEEConfig(backbone_config=backbone)
    before, name = config.to_dict(), backbone.name_or_path
    model = MoEEModel.from_pretrained(CHECKPOINT, config=config, alpha=2.0)
    assert (config.to_dict(), backbone.name_or_path) == (before, name)
    assert model.config.alpha == 2.0


def test_configuration_in_any_form():
    source = MoEEModel.from_pretrained(CHECKPOINT).name_or_path
    expected = MoEEModel.from_pretrained(CHECKPOINT, combination="rw").encode(TEXTS)
    for config in (source, MoEEConfig.from_pretrained(source), AutoConfig.from_pretrained(source)):
        assert np.array_equal(
            MoEEModel.from_pretrained(source, config=config, combination="rw").encode(TEXTS), expected
        )


def test_subfolder_holds_for_the_tokenizer_too(tmp_path):
    MoEEModel.from_pretrained(CHECKPOINT).save_pretrained(tmp_path / "inside")
    model = MoEEModel.from_pretrained(tmp_path, subfolder="inside")
    assert np.array_equal(model.encode(TEXTS), MoEEModel.from_pretrained(CHECKPOINT).encode(TEXTS))


def test_dense_checkpoint_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 1, "vocab_size": 8}))
    with pytest.raises(UnsupportedBackboneError, match="MoEE cannot use this llama backbone: it is dense"):
        MoEEModel.from_pretrained(tmp_path)


def test_folder_without_a_tokenizer_says_how_to_set_one(tmp_path):
    model = MoEEModel.from_pretrained(GOLDEN / "olmoe")
    with pytest.raises(
        ValueError, match=r"expected a tokenizer beside the weights; .*olmoe' has none.*model.tokenizer = "
    ):
        model.encode("text")


def test_a_tokenizer_that_the_hub_cannot_give_now(backbone, hub, monkeypatch):
    """Neither damaged nor missing: the model loads without it, and says so when it is asked for."""
    MoEEModel.from_pretrained(backbone)
    for path in Path(huggingface_hub.constants.HF_HUB_CACHE).rglob("snapshots/*/tokenizer*"):
        path.unlink()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    model = MoEEModel.from_pretrained(backbone)
    with pytest.raises(OSError, match=r"'lab/backbone': the Hub cannot be reached .* and the cache does not hold"):
        model.encode("text")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    assert model.encode("text").shape == (model.config.embedding_size,)


def test_origin_says_where_a_model_is_from_and_hides_the_token(hub, loaded):
    assert (MoEEModel(loaded.config).origin.source, MoEEModel(loaded.config).origin.base) == ("", None)
    assert (loaded.origin.source, loaded.origin.revision, loaded.origin.base) == (str(CHECKPOINT), None, None)
    hub.add("lab/backbone", BACKBONE)
    origin = MoEEModel.from_pretrained("lab/backbone", token="hf_author").origin
    assert (origin.source, origin.revision) == ("lab/backbone", hub.head("lab/backbone"))
    assert origin.base == ("lab/backbone", hub.head("lab/backbone"))
    assert "hf_author" not in repr(origin)


def test_variant_shares_weights_and_nothing_else(loaded):
    other = loaded.with_config(pooling="mean", prompts={"q": "Q: {text}"}, default_prompt_name="q")
    assert other.model is loaded.model
    assert (other.config.pooling, loaded.config.pooling) == ("mean", "lasttoken")
    assert np.array_equal(other.encode(TEXTS), MoEEModel.encode(other, TEXTS, prompt="Q: {text}"))
    other.calibrate(TEXTS)
    assert not loaded.config.calibrated
    for field, message in (("poolin", "got 'poolin'"), ("hidden_layer", "hidden_layer: expected a number")):
        with pytest.raises(ValueError, match=message):
            loaded.with_config(**{field: 99})
