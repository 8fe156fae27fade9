"""Experts in 4 bits: what they weigh, what they compute, what loading takes, and what is saved."""

import copy
import functools
import gc
import json
import pickle
import sys
import threading
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bitsandbytes import functional
from datasets.fingerprint import Hasher
from support.alive import Alive
from support.common import TEXTS
from support.drawn import draw, folder_of
from support.lean_passes import IDS, lean_passes
from transformers import BitsAndBytesConfig
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from moee_hf import ExpertsNF4Config, MoEEModel
from moee_hf.model.inference_moee import pad, wanted_of

ARCHITECTURES = ["olmoe", "qwen2_moe", "deepseek", "gpt_oss", "mixtral"]
# the 16 values of QLoRA's appendix E, https://arxiv.org/abs/2305.14314
NF4 = torch.tensor(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
        *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
        *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ],
    dtype=torch.float64,
)


@pytest.fixture(scope="module", autouse=True)
def _folders():
    with folder_of(plain, quantized) as _folders.path:
        yield


@functools.cache
def plain(model_type: str) -> tuple[MoEEModel, str]:
    """A model in float32, and the folder of a plain checkpoint of its backbone."""
    # a few tokens change their experts where rounding weighs as much as routing: the wider, the fewer
    model = draw(model_type, 256, num_hidden_layers=2)
    model.model.save_pretrained(folder := f"{_folders.path}/{model_type}")
    return model, folder


@functools.cache
def quantized(model_type: str) -> MoEEModel:
    return load(plain(model_type)[1])


def load(folder, config=None, **arguments) -> MoEEModel:
    config = ExpertsNF4Config() if config is None else config
    return MoEEModel.from_pretrained(folder, quantization_config=config, combination="sum", **arguments)


def embed(model) -> torch.Tensor:
    with torch.no_grad():
        return model(**pad(IDS)).embeddings


def experts_of(model) -> list[torch.nn.Module]:
    return [module for name, module in model.named_modules() if name.endswith(".experts")]


def weights_of(module) -> tuple[torch.Tensor, torch.Tensor]:
    return module.gate_up_proj, module.down_proj


def dequantized_copy(model_type) -> MoEEModel:
    """The model in float32 with the experts' weights that the quantized one reads."""
    model = copy.deepcopy(plain(model_type)[0])
    with torch.no_grad():
        for module, source in zip(experts_of(model), experts_of(quantized(model_type)), strict=True):
            for weight, read in zip(weights_of(module), weights_of(source), strict=True):
                weight.copy_(read)
    return model


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_experts_take_a_quarter_and_embeddings_stay(model_type):
    model, (reference, _) = quantized(model_type), plain(model_type)
    whole = sum(2 * weight.numel() for module in experts_of(reference) for weight in weights_of(module))
    held = [*model.named_parameters(), *model.named_buffers()]
    others = dict(reference.named_parameters())
    assert 0 < sum(tensor.nbytes for name, tensor in held if name not in others) <= 0.3 * whole
    assert all(torch.equal(tensor, others[name]) for name, tensor in model.named_parameters() if name in others)
    assert torch.cosine_similarity(embed(model), embed(reference)).min() >= 0.99
    assert model.dtype == torch.float32


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_weights_are_the_nearest_values(model_type):
    """In each block of 64 they are one of the 16 values times its largest weight; and with them it computes."""
    model, reference = dequantized_copy(model_type), plain(model_type)[0]
    for module, source in zip(experts_of(model), experts_of(reference), strict=True):
        for read, weight in zip(weights_of(module), weights_of(source), strict=True):
            blocks = weight.detach().double().reshape(-1, 64)
            scale = blocks.abs().amax(1, keepdim=True)
            values = read.detach().double().reshape(-1, 64) / scale
            nearest = torch.bucketize(blocks / scale, (NF4[1:] + NF4[:-1]) / 2)
            errors = [(blocks / scale - found).abs() for found in (values, NF4[nearest])]
            torch.testing.assert_close(*errors, atol=1e-6, rtol=0)  # in the middle of two, either will do
            torch.testing.assert_close(
                values, NF4[torch.bucketize(values, (NF4[1:] + NF4[:-1]) / 2)], atol=1e-6, rtol=0
            )
    torch.testing.assert_close(embed(quantized(model_type)), embed(model), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("config", [{"quant_type": "fp4"}, {"double_quant": True}, {"block_size": 128}], ids=str)
def test_other_formats(config):
    """They are those of bitsandbytes, whichever way a tensor is cut to quantize it."""
    reference, folder = plain("olmoe")
    for module, source in zip(
        experts_of(load(folder, ExpertsNF4Config(**config))), experts_of(reference), strict=True
    ):
        for got, weight in zip(weights_of(module), weights_of(source), strict=True):
            expected = functional.quantize_4bit(
                weight.detach(),
                blocksize=config.get("block_size", 64),
                compress_statistics=config.get("double_quant", False),
                quant_type=config.get("quant_type", "nf4"),
            )
            assert torch.equal(got, functional.dequantize_4bit(*expected))


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_every_saving_gives_the_plain_vectors(model_type, monkeypatch):
    model = quantized(model_type)
    with torch.no_grad():
        plain_pass = model(**pad(IDS))
        wanted = wanted_of(model)
        for capture in lean_passes(model, replace(wanted, sources=("state",)), monkeypatch):
            hidden, routing = capture.hidden_and_routing("state", "softmax")
            torch.testing.assert_close(hidden, plain_pass.pooled_hidden_state, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(routing, plain_pass.router_weights, atol=1e-5, rtol=0)


@pytest.fixture
def dequantized(monkeypatch):
    """Weak references to what is dequantized."""
    found, dequantize = [], functional.dequantize_4bit

    def spy(*args, **kwargs):
        weight = dequantize(*args, **kwargs)
        found.append(weakref.ref(weight))
        return weight

    monkeypatch.setattr(functional, "dequantize_4bit", spy)
    return found


@pytest.mark.parametrize("implementation", [None, "eager", "grouped_mm", "batched_mm"])
def test_each_weight_is_dequantized_once_and_not_kept(implementation, dequantized):
    model = load(plain("gpt_oss")[1], experts_implementation=implementation)
    assert not dequantized  # nor by loading
    got = embed(model)
    assert len(dequantized) == 4  # two of each layer
    assert not [weight for weight in dequantized if weight() is not None]
    torch.testing.assert_close(got, embed(quantized("gpt_oss")), atol=1e-5, rtol=1e-4)


def test_threads_do_not_keep_each_others_weights(dequantized, monkeypatch):
    model, dequantize = quantized("olmoe"), functional.dequantize_4bit
    expected = embed(model)
    inside, done = threading.Event(), threading.Event()

    def wait_in_the_other_thread(*args):
        weight = dequantize(*args)
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            done.wait(10)
        return weight

    monkeypatch.setattr(functional, "dequantize_4bit", wait_in_the_other_thread)
    results = []
    thread = threading.Thread(target=lambda: results.append(embed(model)))
    thread.start()
    assert inside.wait(10)
    results.append(embed(model))
    alive = sum(weight() is not None for weight in dequantized)
    done.set()
    thread.join()
    assert alive == 1  # the one that the other thread waits with
    assert all(torch.equal(result, expected) for result in results)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_saved_and_loaded(model_type, tmp_path):
    model = quantized(model_type)
    model.save_pretrained(tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.glob("*.safetensors")) < 1.1 * sum(
        weight.nbytes for weight in model.parameters()
    )
    again = MoEEModel.from_pretrained(tmp_path, verify_weights=True)
    assert torch.equal(embed(again), embed(model))
    again.save_pretrained(tmp_path)
    assert torch.equal(embed(MoEEModel.from_pretrained(tmp_path)), embed(model))
    half = MoEEModel.from_pretrained(tmp_path, dtype="bfloat16")
    assert half.model.dtype == torch.bfloat16
    for module, source in zip(experts_of(half), experts_of(model), strict=True):
        assert torch.equal(module.down_proj, source.down_proj.to(torch.bfloat16))


@pytest.mark.parametrize(
    ("linear", "kind"),
    [
        (BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"), "Linear4bit"),
        (BitsAndBytesConfig(load_in_8bit=True), "Linear8bitLt"),
    ],
    ids=["4 bits", "8 bits"],
)
def test_linear_layers_too(linear, kind, tmp_path):
    model = load(plain("qwen2_moe")[1], ExpertsNF4Config(linear=linear))
    assert {type(module).__name__ for module in model.modules() if "Linear" in type(module).__name__} == {kind}
    assert torch.cosine_similarity(embed(model).float(), embed(plain("qwen2_moe")[0])).min() >= 0.9
    for _ in range(2):
        model.save_pretrained(tmp_path)
        again = MoEEModel.from_pretrained(tmp_path)
        assert torch.equal(embed(again), embed(model))
        model = again


def test_with_the_code_beside_the_model(tmp_path):
    """A second copy of this code in one process: each loads what the other has saved, and takes its configurations."""
    model, folder = quantized("olmoe"), plain("olmoe")[1]
    model.save_pretrained(tmp_path)
    other = get_class_from_dynamic_module("modeling_moee.MoEEModel", tmp_path)
    assert torch.equal(embed(other.from_pretrained(tmp_path)), embed(model))
    module = sys.modules[other.__module__.rpartition(".")[0] + ".experts_nf4_moee"]
    assert module.ExpertsNF4Config is not ExpertsNF4Config
    assert torch.equal(embed(load(folder, module.ExpertsNF4Config())), embed(model))
    options = {"quantization_config": ExpertsNF4Config(), "combination": "sum"}
    assert torch.equal(embed(other.from_pretrained(folder, **options)), embed(model))


def test_references_are_of_the_whole_weights(hub, reference, backbone, tmp_path):
    """They store no quantization; who loads one chooses it."""
    model = MoEEModel.from_pretrained(reference, quantization_config="nf4")
    vectors = model.encode(TEXTS)
    assert (vectors == MoEEModel.from_pretrained(backbone, quantization_config="nf4").encode(TEXTS, alpha=0.5)).all()
    model.save_reference(tmp_path)
    assert "quantization_config" not in (tmp_path / "config.json").read_text()
    again = MoEEModel.from_pretrained(tmp_path).encode(TEXTS)
    assert (again == MoEEModel.from_pretrained(reference).encode(TEXTS)).all()
    assert (again != vectors).any()
    model.push_to_hub("author/full")
    assert (MoEEModel.from_pretrained("author/full").encode(TEXTS) == vectors).all()


@pytest.mark.parametrize("model_type", ["olmoe", "gpt_oss"])  # expert by expert in the checkpoint; merged there
def test_memory_while_loading(model_type, tmp_path):
    source = draw(model_type, 128).to(torch.bfloat16)
    source.model.save_pretrained(tmp_path, max_shard_size="600KB")
    assert len(list(tmp_path.glob("*.safetensors"))) >= 4
    gc.collect()
    with Alive() as alive:
        model = load(tmp_path, dtype=torch.bfloat16)
    largest = max(weight.nbytes for weight in source.parameters())
    result = sum(weight.nbytes for weight in model.parameters())
    assert result < alive.peak <= result + 2 * largest


def test_casts_copies_and_pickles():
    model = load(plain("olmoe")[1])
    assert Hasher.hash(model) == Hasher.hash(load(plain("olmoe")[1]))
    expected, weight = embed(model), experts_of(model)[0].down_proj
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(embed(other), expected)
    model.to(torch.bfloat16)
    assert torch.equal(experts_of(model)[0].down_proj, weight.to(torch.bfloat16))
    assert torch.equal(experts_of(model.to(torch.float32))[0].down_proj, weight)


def test_offloaded(tmp_path):
    places = {"embed_tokens": "cpu", "layers.0": "cpu", "layers.1": "disk", "norm": "cpu", "rotary_emb": "cpu"}
    model, expected = quantized("mixtral"), embed(quantized("mixtral"))
    model.save_pretrained(tmp_path / "saved")
    for index, folder in enumerate((plain("mixtral")[1], tmp_path / "saved")):
        options = {"device_map": places, "offload_folder": tmp_path / str(index)}
        config = {} if index else {"quantization_config": "nf4", "combination": "sum"}
        offloaded = MoEEModel.from_pretrained(folder, **config, **options)
        assert all(weight.is_meta for weight in offloaded.model.layers[1].parameters())
        assert torch.equal(embed(offloaded), expected)


def test_gradients_pass_through_experts_which_are_frozen():
    model, reference = load(plain("deepseek")[1]), dequantized_copy("deepseek")
    for trained in (model, reference):
        trained(**pad(IDS)).embeddings.sum().backward()
    grads = [trained.model.get_input_embeddings().weight.grad for trained in (model, reference)]
    torch.testing.assert_close(*grads, atol=1e-4, rtol=1e-3)
    assert not any(weight.requires_grad for module in experts_of(model) for weight in module.parameters())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"quant_type": "int4"}, "ExpertsNF4Config.quant_type: expected one of 'nf4', 'fp4'; got 'int4'"),
        ({"double_quant": 1}, "ExpertsNF4Config.double_quant: expected one of False, True; got 1"),
        ({"block_size": 100}, "ExpertsNF4Config.block_size: expected one of 32, 64, .*; got 100"),
        ({"linear": 4}, "ExpertsNF4Config.linear: expected a BitsAndBytesConfig, or None; got 4"),
        ({"blocksize": 64}, "ExpertsNF4Config: expected fields among .*block_size.*; got 'blocksize'"),
    ],
)
def test_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        ExpertsNF4Config(**fields)
    assert ExpertsNF4Config.from_dict(json.loads(ExpertsNF4Config(block_size=32).to_json_string())).block_size == 32


def test_without_bitsandbytes(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ImportError, match=r'need bitsandbytes: pip install "moee_hf\[quantized\]"'):
        load(plain("olmoe")[1])


def test_weights_of_another_shape(tmp_path):
    path = Path(plain("gpt_oss")[1], "config.json")
    for file in path.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    changed = json.loads(path.read_text()) | {"intermediate_size": 128}
    (tmp_path / "config.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=r"experts of the shapes that its config.json describes; 4 have another"):
        load(tmp_path)
