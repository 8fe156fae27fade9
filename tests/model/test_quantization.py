"""Experts in 8 bits by one name: what they weigh, what they compute, how they are saved; and those left whole."""

import copy
import functools
import gzip
import json
import logging
import pickle
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from support.common import CHECKPOINT, EVALUATION_DATA, LONG_PROMPT, MANY, ROOT, TEXTS
from support.drawn import draw, folder_of
from support.lean_passes import IDS, lean_passes
from support.tiny_backbones import expert_modules
from torchao.quantization import Int8WeightOnlyConfig
from transformers import AutoModel, BitsAndBytesConfig, TorchAoConfig, pipeline

from moee_hf import MoEEModel
from moee_hf.model import experts_moee
from moee_hf.model.choices_moee import QUANTIZATIONS
from moee_hf.model.inference_moee import pad, wanted_of
from moee_hf.model.quantization_moee import warn_of_whole_experts

NAMES = ["fp8", "int8"]
ARCHITECTURES = ["olmoe", "qwen2_moe", "deepseek", "gpt_oss", "mixtral"]
TEXT_IDS = torch.randint(4, 90, (32, 10), generator=torch.Generator().manual_seed(0)).tolist()
CASES = [(model_type, name) for model_type in ARCHITECTURES for name in NAMES]


@pytest.fixture(scope="module", autouse=True)
def _folders():
    with folder_of(plain, quantized) as _folders.path:
        yield


@functools.cache
def plain(model_type) -> tuple[MoEEModel, str]:
    """A model in float32, and the folder that it is saved in."""
    model = draw(model_type, 64, num_hidden_layers=2)
    model.save_pretrained(folder := f"{_folders.path}/{model_type}")
    return model, folder


@functools.cache
def quantized(model_type, name) -> MoEEModel:
    return MoEEModel.from_pretrained(plain(model_type)[1], quantization_config=name)


def embed(model, ids=IDS) -> torch.Tensor:
    with torch.no_grad():
        return model(**pad(ids)).embeddings


def bytes_of(weight) -> int:
    if hasattr(weight, "__tensor_flatten__"):
        return sum(bytes_of(getattr(weight, part)) for part in weight.__tensor_flatten__()[0])
    return weight.numel() * weight.element_size()


def weights_of_experts(model) -> list[torch.Tensor]:
    return [weight for module in expert_modules(model) for weight in module.parameters() if weight.ndim == 3]


@pytest.mark.parametrize(("model_type", "name"), CASES)
def test_experts_take_half_and_embeddings_stay(model_type, name):
    model, (reference, _) = quantized(model_type, name), plain(model_type)
    weights = weights_of_experts(model)
    assert [weight.shape for weight in weights] == [weight.shape for weight in weights_of_experts(reference)]
    assert sum(map(bytes_of, weights)) <= 0.55 * sum(2 * weight.numel() for weight in weights)
    others = {weight.dtype for key, weight in model.model.named_parameters() if ".experts." not in key}
    assert others == {torch.float32}
    # of random weights, routers nearly tie: now and then a text visits another expert
    got, expected = embed(model, TEXT_IDS), embed(reference, TEXT_IDS)
    assert torch.cosine_similarity(got, expected).mean() >= 0.99
    assert not torch.equal(got, expected)


@pytest.mark.parametrize(("model_type", "name"), CASES)
def test_what_is_computed_is_what_the_dequantized_weights_compute(model_type, name):
    model, reference = quantized(model_type, name), copy.deepcopy(plain(model_type)[0])
    weights = weights_of_experts(reference)
    with torch.no_grad():
        for weight, source in zip(weights, weights_of_experts(model), strict=True):
            weight.copy_(source.qdata.float() * source.scale)
    torch.testing.assert_close(embed(model), embed(reference), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("model_type", "name"), CASES)
def test_every_saving_gives_the_plain_vectors(model_type, name, monkeypatch):
    model = quantized(model_type, name)
    with torch.no_grad():
        plain_pass = model(**pad(IDS))
    wanted = wanted_of(model)
    for few in (0, 1000):
        monkeypatch.setattr(experts_moee, "MIN_TOKENS_PER_EXPERT", few)
        for read in (wanted, replace(wanted, routers=wanted.routers[:1], sources=())):
            with torch.inference_mode():  # where sentence-transformers embeds
                for capture in lean_passes(model, read, monkeypatch):
                    hidden, routing = capture.hidden_and_routing("state", "softmax")
                    if read.sources:
                        torch.testing.assert_close(hidden, plain_pass.pooled_hidden_state, atol=1e-5, rtol=1e-5)
                    expected = plain_pass.router_weights[:, : len(read.routers)]
                    torch.testing.assert_close(routing, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("model_type", "name"), CASES)
def test_saved_and_loaded_it_is_the_same(model_type, name, tmp_path):
    model = quantized(model_type, name)
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    on_disk = sum(bytes_of(weight) for weight in stored.values())
    assert on_disk == sum(bytes_of(weight) for weight in model.model.state_dict().values())
    again = MoEEModel.from_pretrained(tmp_path, verify_weights=True)
    assert torch.equal(embed(again), embed(model))
    assert list(map(bytes_of, weights_of_experts(again))) == list(map(bytes_of, weights_of_experts(model)))
    assert not again.weights_changed
    with pytest.raises(ValueError, match="quantization_config: expected None for a checkpoint that is quantized"):
        MoEEModel.from_pretrained(tmp_path, quantization_config=name)


def test_every_door(tmp_path):
    model = MoEEModel.from_pretrained(CHECKPOINT, quantization_config="int8", dtype=torch.float32)
    model.save_pretrained(tmp_path)
    alone = [model.encode(text, prompt=LONG_PROMPT) for text in MANY[::8]]
    np.testing.assert_allclose(model.encode(MANY, prompt=LONG_PROMPT)[::8], alone, atol=1e-5, rtol=1e-5)
    expected = model.encode(TEXTS)
    with torch.no_grad():
        np.testing.assert_allclose(model(**model.tokenize(TEXTS)).embeddings, expected, atol=1e-5, rtol=1e-5)
    pipe = pipeline("moee-embedding", model=str(tmp_path), trust_remote_code=True)
    np.testing.assert_allclose(pipe(TEXTS), expected, atol=1e-5, rtol=1e-5)
    sentences = SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu")
    np.testing.assert_allclose(sentences.encode(TEXTS), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_copies(name):
    model = quantized("olmoe", name)
    assert torch.equal(embed(copy.deepcopy(model)), embed(model))
    content = pickle.dumps(model)
    if name == "int8":  # torch does not unpickle tensors of float8
        assert torch.equal(embed(pickle.loads(content)), embed(model))


def test_by_auto_model_and_in_shards(tmp_path):
    model = AutoModel.from_pretrained(plain("olmoe")[1], trust_remote_code=True, quantization_config="int8")
    assert torch.equal(embed(model), embed(quantized("olmoe", "int8")))
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    again = AutoModel.from_pretrained(tmp_path, trust_remote_code=True, verify_weights=True)
    assert torch.equal(embed(again), embed(model))


@pytest.fixture
def warnings():
    """The messages of loading that warn of experts, as they come."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    log = logging.getLogger(warn_of_whole_experts.__module__)
    log.addHandler(handler)
    yield messages
    log.removeHandler(handler)


@pytest.mark.parametrize(
    "configuration",
    [
        pytest.param(lambda: BitsAndBytesConfig(load_in_4bit=True), id="BitsAndBytesConfig"),
        pytest.param(lambda: BitsAndBytesConfig(load_in_8bit=True), id="BitsAndBytesConfig"),
        pytest.param(lambda: TorchAoConfig(Int8WeightOnlyConfig()), id="TorchAoConfig"),
    ],
)
def test_experts_left_whole_are_said(configuration, warnings, request):
    model = MoEEModel.from_pretrained(plain("olmoe")[1], quantization_config=configuration(), dtype=torch.bfloat16)
    num_bytes = sum(2 * weight.numel() for weight in weights_of_experts(model))
    (message,) = warnings
    assert message.startswith(f"{type(configuration()).__name__} left {num_bytes / 1e9:.3g} GB of experts whole")
    assert "quantization_config= one of 'nf4', 'fp8', 'int8'" in message
    with torch.inference_mode():
        torch.testing.assert_close(model(**pad(IDS)).embeddings, embed(model))


@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_ours_leave_none_whole(name, warnings, tmp_path):
    model = MoEEModel.from_pretrained(plain("gpt_oss")[1], quantization_config=name, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    MoEEModel.from_pretrained(tmp_path)
    assert warnings == []


@pytest.mark.parametrize(
    ("weight", "dequantize", "whole"),
    [
        (torch.zeros(2, 8, 4, dtype=torch.uint8), False, False),  # as Mxfp4Config has them
        (torch.zeros(2, 8, 8, dtype=torch.float8_e4m3fn), False, False),  # as FineGrainedFP8Config has them
        (torch.zeros(2, 8, 8, dtype=torch.bfloat16), True, False),  # which was asked for
        (torch.zeros(2, 8, 8, dtype=torch.bfloat16), False, True),
    ],
)
def test_other_formats_of_experts(weight, dequantize, whole, warnings):
    backbone = torch.nn.ModuleDict({"experts": torch.nn.Module(), "norm": torch.nn.LayerNorm(8)})
    backbone["experts"].register_parameter("down_proj", torch.nn.Parameter(weight, requires_grad=False))
    backbone["experts"].down_proj_bias = torch.nn.Parameter(torch.zeros(2, 8))
    backbone.hf_quantizer = SimpleNamespace(quantization_config=SimpleNamespace(dequantize=dequantize))
    warn_of_whole_experts(backbone)
    assert bool(warnings) == whole


@pytest.mark.parametrize(
    ("model_type", "arguments", "message"),
    [
        ("olmoe", {"quantization_config": "Int9"}, "quantization_config: .*got 'Int9'. Did you mean 'int8'?"),
        ("olmoe", {"quantization_config": ""}, "quantization_config: expected one of 'nf4', 'fp8', 'int8', or a conf"),
        (
            "olmoe",
            {"quantization_config": "int8", "experts_implementation": "grouped_mm"},
            "experts_implementation: expected None beside quantization_config='int8'.*; got 'grouped_mm'",
        ),
        ("llama4_text", {"quantization_config": "fp8"}, "expected None or 'nf4' for a llama4_text backbone"),
        ("dbrx", {"quantization_config": "nf4"}, "expected None for a dbrx backbone, .*no 3-D parameters; got 'nf4'"),
    ],
)
def test_what_cannot_be_had(model_type, arguments, message):
    with pytest.raises(ValueError, match=message):
        MoEEModel.from_pretrained(plain(model_type)[1], **arguments)


def test_without_torchao(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ImportError, match=r'needs torchao: pip install "moee_hf\[quantized\]"'):
        MoEEModel.from_pretrained(CHECKPOINT, quantization_config="fp8")


def test_what_cannot_be_saved(tmp_path):
    model = quantized("zaya", "int8")
    with pytest.raises(ValueError, match="save_pretrained: expected weights that all lie in modules"):
        model.save_pretrained(tmp_path / "saved")
    model = MoEEModel.from_pretrained(plain("olmoe")[1], quantization_config="fp8")
    model.add_adapter(peft.LoraConfig(target_modules=["q_proj"], r=4))
    with pytest.raises(ValueError, match="save_pretrained: expected weights that an adapter can be merged into"):
        model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


@pytest.mark.by_hand
def test_on_a_real_model_spearman_stays(tmp_path):
    """On STS-B test, within half a point (in percent) of float32."""
    convert = ROOT.parent / "shared" / "smolmoe" / "convert.py"
    pairs = EVALUATION_DATA / "sts" / "stsb.test.jsonl.gz"
    if missing := [str(path) for path in (convert, pairs) if not path.is_file()]:
        pytest.skip(f"needs what is not in the repository: {', '.join(missing)}")
    subprocess.run([sys.executable, str(convert), str(tmp_path), "float32"], check=True)
    with gzip.open(pairs, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    texts = [row[name] for name in ("sentence1", "sentence2") for row in rows]
    spearman = {}
    for name in (None, *QUANTIZATIONS):
        model = MoEEModel.from_pretrained(tmp_path, quantization_config=name, dtype=torch.float32)
        vectors = model.encode(texts, combination="sum", normalize_embeddings=True, convert_to_tensor=True)
        similarity = (vectors[: len(rows)] * vectors[len(rows) :]).sum(1)
        spearman[name] = 100 * spearmanr(similarity, [row["score"] for row in rows]).statistic
    assert all(abs(spearman[name] - spearman[None]) < 0.5 for name in QUANTIZATIONS), spearman
