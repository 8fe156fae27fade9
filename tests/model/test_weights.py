"""Weights that are damaged, missing or left over are told."""

import pytest
from safetensors.torch import load_file, save_file
from support.common import CHECKPOINT
from support.tiny_backbones import redraw, tiny_config
from transformers import AutoConfig, MixtralForCausalLM, OlmoeForCausalLM

from moee_hf import MoEEModel


def test_damaged_weights_are_an_error_that_names_the_folder(tmp_path):
    OlmoeForCausalLM(tiny_config("olmoe")).save_pretrained(tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match=rf"{tmp_path}: expected whole safetensors files; .* Fetch it again"):
        MoEEModel.from_pretrained(tmp_path)


def test_missing_weights_are_an_error(tmp_path):
    OlmoeForCausalLM(tiny_config("olmoe")).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.2.mlp.gate.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 are missing, the first 'layers.2.mlp.gate.weight', and would be random"):
        MoEEModel.from_pretrained(tmp_path)


def test_weights_of_more_layers_than_are_loaded_are_told(caplog):
    MoEEModel.from_pretrained(CHECKPOINT)
    assert not caplog.records  # of a head, nothing
    MoEEModel.from_pretrained(CHECKPOINT, config=AutoConfig.from_pretrained(CHECKPOINT, num_hidden_layers=4))
    (record,) = caplog.records
    assert "11 weights were not read, the first 'model.layers.4.input_layernorm.weight'" in record.getMessage()


def test_a_report_that_an_error_refers_to_is_shown(tmp_path, caplog):
    caplog.set_level("WARNING", "transformers")
    redraw(MixtralForCausalLM(tiny_config("mixtral"))).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = next(name for name in weights if ".experts." in name)
    save_file(weights | {name: weights[name][:5].clone()}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=rf"{tmp_path}: expected .* mixtral .* cannot be put together, as the report"):
        MoEEModel.from_pretrained(tmp_path)
    assert "LOAD REPORT" in caplog.text
