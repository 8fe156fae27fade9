"""GGUF files load to the weights of the safetensors that they were made of, at every door, or say what is wrong."""

import shutil

import pytest
import torch
from support.common import CHECKPOINT, TEXTS, assert_same
from support.gguf_files import NAMES, write_gguf
from support.tiny_backbones import redraw, tiny_config
from transformers import AutoModelForCausalLM, AutoTokenizer
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
    assert_same(loaded.encode(TEXTS), expected.encode(TEXTS))
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
    model = MoEEModel.from_pretrained("lab/packed", gguf_file="model.gguf")
    assert_same(model.encode(TEXTS), MoEEModel.from_pretrained(plain).encode(TEXTS))
    with pytest.raises(ValueError, match="expected a model whose weights are those in the root of a repository"):
        model.save_reference("reference")
    with pytest.raises(OSError, match=r"gguf_file=\.\.\. names one of several, or of a repository on the Hub"):
        MoEEModel.from_pretrained("lab/packed")
    hub.add("lab/alone", {"model.gguf": (packed / "model.gguf").read_bytes()})
    with pytest.raises(OSError, match=r"config\.json; there is none in it\. Weights alone, such as a GGUF"):
        MoEEModel.from_pretrained("lab/alone", gguf_file="model.gguf")
    model = MoEEModel.from_pretrained("lab/alone", gguf_file="model.gguf", config="lab/packed")
    model.tokenizer = AutoTokenizer.from_pretrained("lab/packed")
    assert_same(model.encode(TEXTS), MoEEModel.from_pretrained(plain).encode(TEXTS))


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
    with pytest.raises(OSError, match=r"config\.json; there is none in it\. Weights alone, such as a GGUF"):
        MoEEModel.from_pretrained(packed)


def test_which_file_is_asked_where_there_are_several(packed):
    shutil.copy(packed / "model.gguf", packed / "other.gguf")
    with pytest.raises(OSError, match=r"there are 2 GGUF files\. gguf_file"):
        MoEEModel.from_pretrained(packed)
    assert MoEEModel.from_pretrained(packed, gguf_file="other.gguf").encode("A text.").any()
    with pytest.raises(OSError, match=r"expected the weights in another\.gguf"):
        MoEEModel.from_pretrained(packed, gguf_file="another.gguf")


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
    path.write_bytes(b"no such thing")
    with pytest.raises(ValueError, match="expected a whole GGUF file"):
        MoEEModel.from_pretrained(packed)
    for model_type, message in (
        ("olmoe", r"can be read \(gpt_oss, .*; got one of olmoe"),
        ("qwen3_moe", "'qwen3moe'"),
    ):
        model, _, folder = write_checkpoint(model_type, tmp_path / model_type)
        write_gguf(model if model_type == "olmoe" else checkpoint[0], folder / "model.gguf")
        with pytest.raises(ValueError, match=message):
            MoEEModel.from_pretrained(folder)


def test_half_a_file_is_said(packed):
    content = (packed / "model.gguf").read_bytes()
    (packed / "model.gguf").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="expected a whole GGUF file"):
        MoEEModel.from_pretrained(packed)
