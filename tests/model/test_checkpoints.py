"""Weights in and out: plain checkpoints, saved folders, other processes."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.common import CHECKPOINT, GOLDEN, ROOT, TEXTS, assert_same
from support.tiny_backbones import redraw, tiny_config
from transformers import (
    AutoConfig,
    AutoModel,
    BitsAndBytesConfig,
    MixtralForCausalLM,
    OlmoeForCausalLM,
    Qwen2MoeForCausalLM,
    Qwen3VLMoeForConditionalGeneration,
)

import moee_hf
from moee_hf import MoEEConfig, MoEEModel, UnsupportedBackboneError

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


@pytest.mark.parametrize("source", ["embedded", "deepseek"])
def test_folder_loads_in_a_process_without_the_package(source, tmp_path):
    model = MoEEModel.from_pretrained(
        "embedded" if source == "embedded" else GOLDEN / source, alpha=0.5, pooling="mean"
    )
    model.save_pretrained(tmp_path / "saved")
    script = f"""
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("moee_hf", "sentence_transformers"):
            raise ModuleNotFoundError(f"No module named {{name!r}}")

sys.meta_path.insert(0, Hidden())
import numpy as np, torch
from transformers import AutoModel
model = AutoModel.from_pretrained({str(tmp_path / "saved")!r}, trust_remote_code=True)
assert "moee_hf" not in sys.modules and type(model).__module__.startswith("transformers_modules")
with torch.no_grad():
    vectors = [model(input_ids=torch.tensor({IDS.tolist()})).embeddings.numpy()]
if {source == "embedded"}:
    vectors.append(model.encode({TEXTS!r}))
np.savez({str(tmp_path / "vectors.npz")!r}, *vectors)
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-I", "-c", script], check=True, env=environment, cwd=tmp_path)
    vectors = np.load(tmp_path / "vectors.npz")
    assert np.array_equal(vectors["arr_0"], embeddings(model).numpy())
    if source == "embedded":
        assert np.array_equal(vectors["arr_1"], model.encode(TEXTS))


def test_embedded_model_has_choices_and_statistics_of_its_own():
    model, plain = MoEEModel.from_pretrained("embedded"), MoEEModel.from_pretrained(CHECKPOINT)
    assert (plain.config.pooling, plain.config.hidden_layer, plain.config.calibrated) == ("lasttoken", -1, False)
    for name in ("pooling", "hidden_layer", "combination", "default_prompt_name"):
        setattr(plain.config, name, getattr(model.config, name))
    raw, statistics = plain.encode(TEXTS), model.statistics.state_dict()
    expected = (raw - statistics["hidden_mean"].numpy()) / statistics["hidden_std"].numpy()
    np.testing.assert_allclose(model.encode(TEXTS), expected, rtol=1e-3, atol=1e-3)


EVERYDAY = [
    *("The soup needs more salt.", "He ate the soup with bread."),
    *("The train was late again.", "She waited an hour for the train."),
    *("My doctor told me to rest.", "The doctor gave her some medicine."),
]


def test_embedded_model_finds_the_sentence_on_the_same_topic():
    model = MoEEModel.from_pretrained("embedded")
    similarities = model.similarity(*[model.encode(EVERYDAY)] * 2)
    assert similarities.fill_diagonal_(-1).argmax(dim=1).tolist() == [1, 0, 3, 2, 5, 4]


def test_auto_classes_know_the_package(tmp_path):
    """With the package imported, no remote code is asked for."""
    MoEEModel.from_pretrained(CHECKPOINT).save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is MoEEConfig
    model = AutoModel.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager", combination="hs")
    assert type(model) is MoEEModel
    assert (model.dtype, model.model.config._attn_implementation) == (torch.float32, "eager")
    assert model.encode("text").shape == (model.config.hidden_size,)


def test_shipped_files_import_each_other_only(tmp_path):
    """What reaches the Hub is flat, complete, and free of machine paths."""
    MoEEModel.from_pretrained(CHECKPOINT).save_pretrained(tmp_path)
    shipped = {path.name for path in tmp_path.glob("*.py")}
    assert shipped == {path.name for path in Path(moee_hf.__file__).parent.glob("model/*_moee.py")} | {
        "configuration_deepseek.py",
        "modeling_deepseek.py",
        "handler.py",
    }
    for name in shipped:
        source = (tmp_path / name).read_text()
        assert "moee_hf" not in re.findall(r"^\s*(?:from|import) (\w+)", source, re.MULTILINE)
        for module in re.findall(r"^\s*from \.(\w*) import", source, re.MULTILINE):
            assert f"{module}.py" in shipped
    assert str(ROOT) not in (tmp_path / "config.json").read_text()


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


def test_fields_of_the_configuration_pass_through():
    model = MoEEModel.from_pretrained(CHECKPOINT, combination="rw", router_layers=[0, -1], max_length=20)
    assert model.encode("text").shape == (2 * 64,)
    assert model.config.max_length == 20
    with pytest.raises(ValueError, match=r"MoEEConfig.pooling: expected one of .* got 'last'"):
        MoEEModel.from_pretrained(CHECKPOINT, pooling="last")
    with pytest.raises(TypeError, match="combinaton"):
        MoEEModel.from_pretrained(CHECKPOINT, combinaton="rw")


def test_statistics_are_saved_and_loaded_with_the_weights(tmp_path):
    model = MoEEModel.from_pretrained(CHECKPOINT)
    shape = tuple(model.config.router_shape)
    generator = torch.Generator().manual_seed(0)
    statistics = {"hidden_mean": (256,), "hidden_std": (256,), "routing_mean": shape, "routing_std": shape}
    statistics = {name: 0.1 + torch.rand(size, generator=generator) for name, size in statistics.items()}
    model.set_statistics(**statistics)
    model.config.standardize = True
    model.save_pretrained(tmp_path)
    again = MoEEModel.from_pretrained(tmp_path)
    assert again.statistics.hidden_mean.dtype == torch.float32
    assert all(torch.equal(getattr(again.statistics, name), value) for name, value in statistics.items())
    assert np.array_equal(again.encode(TEXTS), model.encode(TEXTS))


def test_standardize_without_statistics_says_what_to_do(model):
    model.config.standardize = True
    with pytest.raises(ValueError, match=r"standardize: expected a model with statistics.*model\.calibrate"):
        model.encode("text")


def test_statistics_of_another_shape_are_refused(model):
    zeros = {"hidden_mean": torch.zeros(3), "hidden_std": torch.ones(256), "routing_mean": torch.zeros(5, 64)}
    with pytest.raises(ValueError, match=r"statistics: expected tensors of the shapes .*\(256,\).*; got .*\(3,\)"):
        model.set_statistics(**zeros, routing_std=torch.ones(5, 64))
    with pytest.raises(ValueError, match=r"statistics: expected tensors of the shapes .*routing_std.*; got "):
        model.set_statistics(**zeros)


def test_statistics_serve_any_choice_of_routers_and_dtype(tmp_path):
    model = MoEEModel.from_pretrained(CHECKPOINT, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    shapes = {"hidden_mean": (256,), "hidden_std": (256,), "routing_mean": (5, 64), "routing_std": (5, 64)}
    model.set_statistics(
        **{name: 1e-9 + 1e-3 * torch.rand(shape, generator=generator) for name, shape in shapes.items()}
    )
    model.config.standardize = True
    rows = model.encode(TEXTS, combination="rw").reshape(len(TEXTS), 5, 64)
    model.config.router_layers = [4, 0]
    assert np.array_equal(model.encode(TEXTS, combination="rw").reshape(len(TEXTS), 2, 64), rows[:, [4, 0]])
    assert model.to(torch.float16).statistics.hidden_std.dtype == torch.float32
    assert np.isfinite(model.encode(TEXTS)).all()


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_statistics_that_cannot_standardize_are_refused(model, bad):
    statistics = {"hidden_mean": torch.zeros(256), "hidden_std": torch.ones(256), "routing_mean": torch.zeros(5, 64)}
    with pytest.raises(ValueError, match="positive standard deviations; got 1 values of routing_std that are not"):
        model.set_statistics(**statistics, routing_std=torch.tensor([bad] + [1.0] * 319).view(5, 64))
    assert not model.config.calibrated


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


def test_saving_as_trainers_do(tmp_path):
    """Trainers gather the weights first, under their names in this model, and save from one process."""
    model = redraw(MoEEModel(MoEEConfig(backbone_config=tiny_config("dbrx"))))
    model.save_pretrained(tmp_path / "gathered", state_dict=model.state_dict())
    assert_same(embeddings(MoEEModel.from_pretrained(tmp_path / "gathered")), embeddings(model))
    model.save_pretrained(tmp_path / "other", is_main_process=False)
    assert not list((tmp_path / "other").glob("*.py"))


def test_saving_pushes_on_request(hub, tmp_path):
    """As every `save_pretrained` of transformers: the files of the folder, and a card, in one commit."""
    model = MoEEModel.from_pretrained(CHECKPOINT, alpha=0.5)
    (tmp_path / "pushed").mkdir()
    (tmp_path / "pushed" / "notes.txt").write_text("of before")
    model.save_pretrained(
        tmp_path / "pushed", push_to_hub=True, repo_id="author/saved", private=True, token="hf_author"
    )
    files = {path.name for path in (tmp_path / "pushed").iterdir()}
    assert hub.files("author/saved").keys() - {".gitattributes"} == files - {"notes.txt"}
    assert {"model.safetensors", "handler.py", "modeling_moee.py", "tokenizer.json", "README.md"} <= files
    assert hub.repositories["author/saved"].private
    again = MoEEModel.from_pretrained("author/saved")
    assert again.config.alpha == 0.5
    assert_same(again.encode(TEXTS), model.encode(TEXTS))
    model.save_pretrained(tmp_path / "named", push_to_hub=True)
    assert "model.safetensors" in hub.files("author/named")


def test_damaged_weights_are_an_error_that_names_the_folder(tmp_path):
    OlmoeForCausalLM(tiny_config("olmoe")).save_pretrained(tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match=rf"{tmp_path}: expected whole safetensors files; .* Fetch it again"):
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
    with pytest.raises(RuntimeError, match="the above report"):
        MoEEModel.from_pretrained(tmp_path)
    assert "LOAD REPORT" in caplog.text


def test_missing_weights_are_an_error(tmp_path):
    OlmoeForCausalLM(tiny_config("olmoe")).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.2.mlp.gate.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 are missing, the first 'layers.2.mlp.gate.weight', and would be random"):
        MoEEModel.from_pretrained(tmp_path)


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
