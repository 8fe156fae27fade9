"""Experts one by one, as on a processor, and all at once, as on a GPU, whatever the weights look like."""

import copy

import numpy as np
import pytest
import torch
from support.alive import Alive
from support.common import CHECKPOINT, MANY
from support.tiny_backbones import expert_modules, tiny_model
from transformers import OlmoeConfig, OlmoeForCausalLM

from moee_hf import MoEEConfig, MoEEModel
from moee_hf.model import experts_moee
from moee_hf.model.inference_moee import pad, run_batch, wanted_of


# biases, transposed and interleaved weights; no gate; shared experts; a norm of its own
@pytest.mark.parametrize("model_type", ["olmoe", "gpt_oss", "nemotron_h", "deepseek_v3", "mixtral", "qwen3_next"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("at_once", [False, True])
def test_agrees_with_eager(model_type, dtype, at_once, monkeypatch):
    model = tiny_model(model_type).to(dtype)
    monkeypatch.setattr(experts_moee, "has_grouped_products", lambda device: at_once)
    monkeypatch.setattr(experts_moee, "_one_by_one" if at_once else "_all_at_once", None)
    monkeypatch.setattr(experts_moee, "MIN_TOKENS_PER_EXPERT", 1)
    monkeypatch.setattr(experts_moee, "grouped_mm_experts_forward", None)
    experts = expert_modules(model)[0]
    generator = torch.Generator().manual_seed(0)
    width = (experts.down_proj.shape[1:] if not experts.is_transposed else experts.down_proj.shape[:0:-1])[0]
    hidden = torch.randn(50, width, generator=generator).to(dtype)
    weights, index = torch.randn(50, experts.num_experts, generator=generator).softmax(-1).topk(2)
    index[index == 3] = 2  # an expert without tokens
    with torch.no_grad():
        experts.config._experts_implementation = "eager"
        expected = experts(hidden, index, weights.to(dtype))
        experts.config._experts_implementation = experts_moee.OWN_IMPLEMENTATION
        got = experts(hidden, index, weights.to(dtype))
    assert got.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    torch.testing.assert_close(got, expected, atol=tolerance * expected.abs().max().item(), rtol=0)


def test_a_whole_model_with_a_prompt(saved, monkeypatch):
    """Savings and experts together are those of the plain implementation."""
    expected = MoEEModel.from_pretrained(saved, experts_implementation="eager").encode(MANY, batch_size=1)
    monkeypatch.setattr(experts_moee, "MIN_TOKENS_PER_EXPERT", 0)
    assert np.abs(MoEEModel.from_pretrained(saved).encode(MANY) - expected).max() < 1e-5


def test_experts_of_a_quantizers_own_class_keep_their_own():
    class Quantized(torch.nn.Module):
        config = OlmoeConfig(experts_implementation="grouped_mm")
        hf_quantizer = object()
        _is_expert_parallel = False

        def __init__(self):
            super().__init__()
            self.down_proj = torch.nn.Parameter(torch.zeros(2, 4, 4, dtype=torch.float8_e4m3fn), requires_grad=False)

    experts_moee.use_fast_experts(Quantized())
    assert Quantized.config._experts_implementation == "grouped_mm"


def test_a_loaded_model_uses_them_unless_told_otherwise(loaded, saved, tmp_path):
    def implementation(model):
        return model.model.config._experts_implementation

    assert implementation(loaded) == experts_moee.OWN_IMPLEMENTATION
    for name in ("eager", "grouped_mm"):
        assert implementation(MoEEModel.from_pretrained(saved, experts_implementation=name)) == name
    # nothing of it is saved
    assert "experts_implementation" not in (saved / "config.json").read_text()
    assert OlmoeForCausalLM.from_pretrained(saved).config._experts_implementation == "grouped_mm"


def test_products_that_do_not_fit_a_kernel(monkeypatch):
    """Rows of bfloat16 that do not begin at a multiple of 16 bytes."""
    config = OlmoeConfig(hidden_size=12, intermediate_size=20, num_experts=4, num_attention_heads=2, vocab_size=50)
    config.num_hidden_layers, config.num_experts_per_tok, config.pad_token_id = 1, 2, 0
    model = MoEEModel(MoEEConfig(backbone_config=config)).bfloat16()
    experts_moee.use_fast_experts(model.model)
    expected = copy.deepcopy(model)
    expected.model.set_experts_implementation("eager")
    for at_once in (False, True):
        monkeypatch.setattr(experts_moee, "has_grouped_products", lambda device, at_once=at_once: at_once)
        for length in (1, 30):
            got, eager = (one(input_ids=torch.arange(length)[None]).embeddings for one in (model, expected))
            torch.testing.assert_close(got, eager, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("at_once", [False, True])
def test_gradients(at_once, monkeypatch):
    monkeypatch.setattr(experts_moee, "MIN_TOKENS_PER_EXPERT", 0)
    monkeypatch.setattr(experts_moee, "has_grouped_products", lambda device: at_once)
    gradients = {}
    for name in (experts_moee.OWN_IMPLEMENTATION, "eager"):
        model = MoEEModel.from_pretrained(CHECKPOINT, dtype=torch.float32, experts_implementation=name)
        model(input_ids=torch.arange(5, 45)[None]).embeddings.square().sum().backward()
        gradients[name] = model.model.layers[0].mlp.experts.down_proj.grad
    torch.testing.assert_close(*gradients.values(), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("inner", [32, 256])
def test_a_pass_holds_no_more_than_the_budget_counts(inner, monkeypatch):
    config = OlmoeConfig(
        hidden_size=128, intermediate_size=inner, num_hidden_layers=2, num_experts=8, num_experts_per_tok=4,
        num_attention_heads=4, vocab_size=500, pad_token_id=0,
    )  # fmt: skip
    model = MoEEModel(MoEEConfig(backbone_config=config)).bfloat16().eval()
    experts_moee.use_fast_experts(model.model)
    # as accelerators do
    monkeypatch.setattr(experts_moee, "has_grouped_products", lambda device: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "none")
    ids = [[(7 * text + token) % 500 for token in range(40)] for text in range(50)]
    with torch.inference_mode(), Alive() as memory:
        run_batch(model, pad(ids), wanted_of(model), lean=True)
    per_token = memory.peak / (50 * 40)
    assert 0.6 * experts_moee.bytes_per_token(model.model) < per_token < experts_moee.bytes_per_token(model.model)
