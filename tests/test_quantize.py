"""A Qwen2-MoE checkpoint in 4.5 and 8.5 bits a weight, beside what the gguf package and transformers read in it."""

import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, dequantize
from gguf.quants import quantize as gguf_quantize
from support.common import TEXTS
from support.publishing import load_script
from support.upcycling import SIZES, random_parts, save_dense, tiny_dense, tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Qwen2MoeForCausalLM
from upcycling_model import to_checkpoint, to_mixture

script = load_script("quantize")


@pytest.fixture(scope="module", params=["llama with other heads", "qwen2", "llama"])
def checkpoint(request, tmp_path_factory):
    """A folder for each shape: heads of another size, biases and a head of its own, a head that is tied."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    model = to_mixture(tiny_dense(request.param), [random_parts(i, router=1) for i in (0, 1)], SIZES.experts_per_token)
    to_checkpoint(model).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def quantized(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantized") / "q4"
    assert script.main([str(checkpoint), str(folder)]) == 0
    return folder


def rounded(name: str, weight: torch.Tensor) -> torch.Tensor:
    """What is left of a weight, by the gguf package; of routers, the shared expert's gate, norms and biases: all."""
    if weight.ndim == 1 or name.endswith((".mlp.gate.weight", "shared_expert_gate.weight")):
        return weight
    kind = GGMLQuantizationType.Q8_0 if "embed_tokens" in name or "lm_head" in name else GGMLQuantizationType.Q4_0
    return torch.from_numpy(dequantize(gguf_quantize(weight.numpy(), kind), kind))


def test_transformers_reads_each_weight_as_it_was_rounded(checkpoint, quantized):
    original = Qwen2MoeForCausalLM.from_pretrained(checkpoint).state_dict()
    loaded, report = AutoModelForCausalLM.from_pretrained(
        quantized, gguf_file="model.gguf", config=AutoConfig.from_pretrained(quantized), output_loading_info=True
    )
    assert not any(report.values())
    weights = loaded.state_dict()
    assert weights.keys() == original.keys()
    for name, weight in original.items():
        assert torch.equal(weights[name], rounded(name, weight)), name
        # one of eight steps at most, where the largest weight of a block is positive
        assert (weights[name] - weight).abs().max() <= weight.abs().max() / 8
    assert (quantized / "config.json").read_text() == (checkpoint / "config.json").read_text()


def test_what_is_large_is_small(checkpoint, quantized):
    tensors = GGUFReader(quantized / "model.gguf").tensors
    exact = {tensor.name for tensor in tensors if tensor.tensor_type == GGMLQuantizationType.F32}
    kinds = {tensor.name: tensor.tensor_type for tensor in tensors if tensor.name not in exact}
    assert {kinds.pop(name) for name in ("token_embd.weight", "output.weight") if name in kinds} == {
        GGMLQuantizationType.Q8_0
    }
    assert set(kinds.values()) == {GGMLQuantizationType.Q4_0}
    assert all("norm" in name or "bias" in name or "ffn_gate_inp" in name for name in exact)


def test_the_header_has_the_sizes(quantized):
    config = AutoConfig.from_pretrained(quantized)
    header = {name: field.contents() for name, field in GGUFReader(quantized / "model.gguf").fields.items()}
    expected = {
        "general.architecture": "qwen2moe",
        "general.name": "tiny",
        "general.file_type": 2,
        "qwen2moe.block_count": 2,
        "qwen2moe.context_length": 512,
        "qwen2moe.embedding_length": 64,
        "qwen2moe.feed_forward_length": 192,
        "qwen2moe.attention.head_count": 4,
        "qwen2moe.attention.head_count_kv": 2,
        "qwen2moe.attention.key_length": config.head_dim,
        "qwen2moe.rope.freq_base": pytest.approx(config.rope_parameters["rope_theta"]),
        "qwen2moe.attention.layer_norm_rms_epsilon": pytest.approx(config.rms_norm_eps),
        "qwen2moe.expert_count": 4,
        "qwen2moe.expert_used_count": 2,
        "qwen2moe.expert_feed_forward_length": 32,
        "qwen2moe.expert_shared_feed_forward_length": 64,
    }
    assert {name: header.get(name) for name in expected} == expected


def test_the_tokenizer_lies_beside(checkpoint, quantized):
    original, beside = (AutoTokenizer.from_pretrained(folder) for folder in (checkpoint, quantized))
    assert [original(text)["input_ids"] for text in TEXTS] == [beside(text)["input_ids"] for text in TEXTS]


@pytest.mark.parametrize("what", ["dense", "full", "nowhere"])
def test_what_cannot_be_quantized_is_said(what, checkpoint, tmp_path, capsys):
    source, folder = checkpoint, tmp_path / "out"
    if what == "dense":
        source = save_dense(tmp_path / "dense")
        message = "expected a checkpoint of model_type 'qwen2_moe'; got 'llama'"
    elif what == "full":
        folder.mkdir()
        (folder / "file").write_text("")
        message = "expected a new or empty folder"
    else:
        source, message = tmp_path / "nowhere", "nowhere"
    assert script.main([str(source), str(folder)]) == 1
    assert message in capsys.readouterr().err
    assert not (folder / "model.gguf").exists()
