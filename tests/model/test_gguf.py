"""GGUF files load to the weights of the safetensors that they were made of, at every door, or say what is wrong."""

import json
import shutil
import sys

import gguf
import pytest
import torch
from support.common import CHECKPOINT, TEXTS, assert_same
from support.gguf_files import NAMES, write_gguf
from support.tiny_backbones import redraw, tiny_config
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.dynamic_module_utils import get_imports

from moee_hf import MoEEModel
from moee_hf.model import gguf_moee

READ = sorted(NAMES.keys() - {"olmoe"})


def write_checkpoint(model_type, folder, **changes):
    """A checkpoint in safetensors in one folder, in GGUF beside config.json in another, both with a tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    config = tiny_config(model_type)
    config.update({"vocab_size": len(tokenizer), "dtype": None} | changes)
    model = redraw(AutoModelForCausalLM.from_config(config)).float()
    plain, packed = folder / "plain", folder / "packed"
    model.save_pretrained(plain)
    config.save_pretrained(packed)
    for place in (plain, packed):
        tokenizer.save_pretrained(place)
    return model, plain, packed


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A Qwen2-MoE."""
    model, plain, packed = write_checkpoint("qwen2_moe", tmp_path_factory.mktemp("qwen2_moe"))
    write_gguf(model, packed / "model.gguf")
    return model, plain, packed


@pytest.fixture
def packed(checkpoint, tmp_path):
    """A copy of its folder with the GGUF file, to be spoilt."""
    return shutil.copytree(checkpoint[2], tmp_path / "packed")


@pytest.mark.parametrize("model_type", READ)
def test_the_weights_are_those_of_safetensors(model_type, tmp_path, caplog):
    model, plain, packed = write_checkpoint(model_type, tmp_path)
    write_gguf(model, packed / "weights.gguf")
    expected = MoEEModel.from_pretrained(plain, dtype="float32")
    loaded = MoEEModel.from_pretrained(packed, gguf_file="weights.gguf", dtype="float32")
    weights = loaded.state_dict()
    assert weights.keys() == expected.state_dict().keys()
    for name, weight in expected.state_dict().items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-6, atol=1e-6, msg=name)
    assert_same(loaded.encode(TEXTS), expected.encode(TEXTS), atol=1e-5)  # linear attention adds up last bits
    assert "LOAD REPORT" not in caplog.text


def test_a_folder_whose_only_weights_are_one_gguf_file_loads_by_itself(checkpoint, capfd):
    _, plain, packed = checkpoint
    capfd.readouterr()
    model = MoEEModel.from_pretrained(packed)
    assert model.dtype == torch.float32  # config.json names none
    assert_same(model.encode(TEXTS), MoEEModel.from_pretrained(plain).encode(TEXTS))
    assert MoEEModel.from_pretrained(packed, dtype="bfloat16").dtype == torch.bfloat16
    assert capfd.readouterr() == ("", "")


def test_from_the_hub(hub, checkpoint):
    _, plain, packed = checkpoint
    hub.add("lab/packed", {path.name: path.read_bytes() for path in packed.iterdir()})
    expected = MoEEModel.from_pretrained(plain).encode(TEXTS)
    model = MoEEModel.from_pretrained("lab/packed", gguf_file="model.gguf")
    assert_same(model.encode(TEXTS), expected)
    with pytest.raises(ValueError, match="expected a model whose weights are those in the root of a repository"):
        model.save_reference("reference")
    with pytest.raises(OSError, match=r"no model\.safetensors\.index\.json\. gguf_file=\.\.\. names a GGUF file"):
        MoEEModel.from_pretrained("lab/packed")
    hub.add("lab/alone", {"model.gguf": (packed / "model.gguf").read_bytes()})
    with pytest.raises(OSError, match=r"config\.json; there is none in it\. A GGUF file needs"):
        MoEEModel.from_pretrained("lab/alone", gguf_file="model.gguf")
    model = MoEEModel.from_pretrained("lab/alone", gguf_file="model.gguf", config="lab/packed")
    model.tokenizer = AutoTokenizer.from_pretrained("lab/packed")
    assert_same(model.encode(TEXTS), expected)


def test_the_text_model_of_a_multimodal_one(tmp_path):
    model, plain, packed = write_checkpoint("qwen3_5_moe_text", tmp_path)
    write_gguf(model, packed / "model.gguf")
    composite = tiny_config("qwen3_5_moe")
    composite.text_config = model.config
    composite.save_pretrained(packed)
    loaded = MoEEModel.from_pretrained(packed)
    assert loaded.config.backbone_config.model_type == "qwen3_5_moe_text"
    expected = MoEEModel.from_pretrained(plain).encode(TEXTS)
    assert_same(loaded.encode(TEXTS), expected)
    loaded.save_pretrained(tmp_path / "saved")
    assert_same(MoEEModel.from_pretrained(tmp_path / "saved").encode(TEXTS), expected)


def test_of_a_configuration_for_quantized_weights(checkpoint, packed):
    """The repository of gpt-oss says mxfp4, that of MiniMax-M2 fp8: of its safetensors, not of this file."""
    config = json.loads((packed / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (packed / "config.json").write_text(json.dumps(config))
    model = MoEEModel.from_pretrained(packed)
    assert_same(model.encode(TEXTS), MoEEModel.from_pretrained(checkpoint[1]).encode(TEXTS))
    with pytest.raises(ValueError, match=r"expected None beside model\.gguf.*got GgufConfig"):
        MoEEModel.from_pretrained(packed, quantization_config=GgufConfig())


def test_saved_repositories_do_not_need_the_package_gguf():
    """transformers refuses remote code that imports what is not installed."""
    assert "gguf" not in get_imports(gguf_moee.__file__)


def test_it_is_saved_in_safetensors(checkpoint, tmp_path):
    model = MoEEModel.from_pretrained(checkpoint[2])
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.gguf"))
    assert_same(MoEEModel.from_pretrained(tmp_path).encode(TEXTS), model.encode(TEXTS))


def test_a_gguf_file_alone_says_what_is_missing(packed):
    (packed / "config.json").unlink()
    with pytest.raises(OSError, match=r"config\.json; there is none in it\. A GGUF file needs"):
        MoEEModel.from_pretrained(packed)


def test_which_file_is_asked_where_there_are_several(packed):
    shutil.copy(packed / "model.gguf", packed / "other.gguf")
    with pytest.raises(OSError, match=r"there are 2 GGUF files, of which one would do\. gguf_file"):
        MoEEModel.from_pretrained(packed)
    assert MoEEModel.from_pretrained(packed, gguf_file="other.gguf").encode("A text.").any()
    with pytest.raises(OSError, match=r"expected the weights in another\.gguf"):
        MoEEModel.from_pretrained(packed, gguf_file="another.gguf")
    for name in ("../packed/model.gguf", str(packed / "model.gguf"), "config.json", True):
        with pytest.raises(ValueError, match=r"expected gguf_file to name \.gguf files beside it"):
            MoEEModel.from_pretrained(packed, gguf_file=name)
    with pytest.raises(ValueError, match="variant: expected None with gguf_file"):
        MoEEModel.from_pretrained(packed, gguf_file="model.gguf", variant="fp16")


def test_safetensors_that_are_asked_for_are_not_replaced(packed):
    with pytest.raises(OSError, match=r"no model\.fp16\.safetensors"):
        MoEEModel.from_pretrained(packed, variant="fp16")
    config = json.loads((packed / "config.json").read_text())
    (packed / "config.json").write_text(json.dumps(config | {"transformers_weights": "weights.safetensors"}))
    with pytest.raises(OSError, match=r"no weights\.safetensors"):
        MoEEModel.from_pretrained(packed)


def test_in_a_subfolder(checkpoint, tmp_path):
    shutil.copytree(checkpoint[2], tmp_path / "inner")
    expected = MoEEModel.from_pretrained(checkpoint[2]).encode(TEXTS)
    for choice in ({}, {"gguf_file": "model.gguf"}):
        model = MoEEModel.from_pretrained(tmp_path, subfolder="inner", device_map="auto", **choice)
        assert_same(model.encode(TEXTS), expected)


def test_weights_that_the_file_lacks_are_told(checkpoint, packed):
    write_gguf(checkpoint[0], packed / "model.gguf", leave_out="blk.1.ffn_gate_inp.")
    with pytest.raises(ValueError, match=r"1 are missing, the first 'layers\.1\.mlp\.gate\.weight'"):
        MoEEModel.from_pretrained(packed)
    write_gguf(checkpoint[0], packed / "model.gguf", leave_out="blk.1.ffn_up_exps.")
    with pytest.raises(ValueError, match=r"1 have another shape, the first 'layers\.1\.mlp\.experts\.gate_up_proj'"):
        MoEEModel.from_pretrained(packed)


def test_weights_beyond_the_configuration_are_told(packed, caplog):
    config = tiny_config("qwen2_moe", vocab_size=MoEEModel.from_pretrained(packed).config.backbone_config.vocab_size)
    assert not caplog.records
    config.num_hidden_layers = 3
    MoEEModel.from_pretrained(packed, config=config)
    (record,) = caplog.records
    assert "weights were not read, the first 'layers.3.attn_k.bias'" in record.getMessage()


def test_what_cannot_be_read_is_said(checkpoint, packed, tmp_path):
    path = packed / "model.gguf"
    write_gguf(checkpoint[0], path, parts=3)
    with pytest.raises(ValueError, match=r"one of 3 parts\. Merge them"):
        MoEEModel.from_pretrained(packed)
    write_gguf(checkpoint[0], path, rename={"blk.0.attn_q.bias": "blk.0.attn_q.scale"})
    with pytest.raises(ValueError, match=r"got 'blk\.0\.attn_q\.scale', scales of another tensor"):
        MoEEModel.from_pretrained(packed)
    path.write_bytes(b"no such thing")
    with pytest.raises(ValueError, match="expected a whole GGUF file"):
        MoEEModel.from_pretrained(packed)
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError, match="there are 0 GGUF files"):
        MoEEModel.from_pretrained(packed)


@pytest.mark.parametrize("model_type", ["olmoe", "qwen3_moe", "qwen3_5_moe_text"])
def test_a_file_of_another_architecture_is_said(checkpoint, tmp_path, model_type):
    model, _, folder = write_checkpoint(model_type, tmp_path)
    own = model_type == "olmoe"
    write_gguf(model if own else checkpoint[0], folder / "model.gguf")
    got = "olmoe" if own else "qwen2moe"
    with pytest.raises(ValueError, match=rf"\(gpt-oss for gpt_oss, .*\); got {got} for {model_type}\. Give"):
        MoEEModel.from_pretrained(folder)


def test_a_format_that_cannot_be_dequantized_is_said(packed, monkeypatch):
    def refuse(data, kind):
        raise NotImplementedError(kind)

    monkeypatch.setattr(gguf, "dequantize", refuse)
    with pytest.raises(ValueError, match="expected a format that the package gguf dequantizes; got F32"):
        MoEEModel.from_pretrained(packed)


def test_without_the_package(packed, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match=r"expected the package gguf, which reads GGUF files\. pip install gguf"):
        MoEEModel.from_pretrained(packed)


def test_half_a_file_is_said(packed):
    content = (packed / "model.gguf").read_bytes()
    (packed / "model.gguf").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="expected a whole GGUF file"):
        MoEEModel.from_pretrained(packed)
