"""What the plugin of vLLM refuses before anything is computed, in one sentence that says what to do."""

import pytest
import torch
from support.common import ROOT

from moee_hf import MoEEConfig, MoEEModel, UnsupportedBackboneError

pytest.importorskip("vllm.config", reason="vLLM is not installed; moee_hf/vllm/README.md says how to run these tests")

from support.vllm_engine import PLAIN, write_checkpoint
from vllm.engine.arg_utils import EngineArgs

from moee_hf.vllm.model import zero_missing_biases
from moee_hf.vllm.routing import find_gates

pytestmark = pytest.mark.by_hand


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("plain"), "olmoe")


def started(folder, **options):
    """The configuration that vLLM would start with."""
    defaults = dict(runner="pooling", dtype="float32", hf_overrides=PLAIN)
    return EngineArgs(str(folder), **defaults | options).create_engine_config()


@pytest.mark.parametrize(
    ("choices", "problem"),
    [
        ({"hidden_layer": -2}, r"hidden_layer: expected -1, as vLLM gives the last hidden state only; got -2"),
        ({"hidden_source": "attention"}, r"hidden_source: expected 'state'.* got 'attention'"),
        ({"default_prompt_name": ["prompteol", "none"]}, r"default_prompt_name: expected one prompt"),
        ({"combination": "both"}, r"combination: expected one of .* got 'both'"),
        ({"kombination": "hs"}, r"Did you mean 'combination'"),
        ({"standardize": True}, r"standardize: expected a model with statistics"),
    ],
    ids=["layer", "source", "prompts", "value", "field", "statistics"],
)
def test_choices_that_vllm_cannot_give(choices, problem, checkpoint):
    with pytest.raises(ValueError, match=problem):
        started(checkpoint, hf_overrides=PLAIN | {"moee": choices})


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"pipeline_parallel_size": 2}, r"pipeline_parallel_size: expected 1.* got 2"),
        ({"data_parallel_size": 2}, r"data_parallel_size: expected 1.* got 2"),
        ({"enable_hc_sp": True}, r"enable_hc_sp: expected False"),
        ({"pooler_config": {"enable_chunked_processing": True}}, r"enable_chunked_processing: expected False"),
    ],
    ids=["pipeline", "data", "sequence", "parts"],
)
def test_ways_to_run_that_give_other_vectors(options, problem, checkpoint):
    from vllm.config import PoolerConfig

    if "pooler_config" in options:
        options = {"pooler_config": PoolerConfig(**options["pooler_config"])}
    with pytest.raises(ValueError, match=problem):
        started(checkpoint, **options)


@pytest.mark.parametrize("option", ["enable_chunked_prefill", "enable_prefix_caching"])
def test_means_are_of_whole_texts(option, checkpoint):
    overrides = PLAIN | {"moee": {"pooling": "mean"}}
    config = started(checkpoint, hf_overrides=overrides)
    assert not config.scheduler_config.enable_chunked_prefill
    assert not config.cache_config.enable_prefix_caching
    with pytest.raises(ValueError, match=f"{option}: expected False with MoEEConfig.pooling"):
        started(checkpoint, hf_overrides=overrides, **{option: True})


def test_weights_in_gguf_are_named_with_what_to_do():
    with pytest.raises(ValueError, match=r"expected weights in safetensors; got GGUF.*save_pretrained"):
        started(ROOT / "moee_hf" / "embedded")


@pytest.mark.parametrize("architecture", ["jamba", "jetmoe"])
def test_architectures_that_vllm_cannot_give(architecture, tmp_path):
    config = MoEEConfig(backbone_config={"model_type": architecture})
    config.backbone_config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"vLLM: expected a (backbone of text|causal decoder)"):
        started(tmp_path)


def test_routers_that_are_not_those_of_transformers(checkpoint):
    config = MoEEModel.without_weights(MoEEConfig.from_pretrained(checkpoint)).config
    with pytest.raises(UnsupportedBackboneError, match=r"expected 4 routers of 8 experts.*got routers of \[\]"):
        find_gates(torch.nn.Linear(2, 2), config)


def test_weights_that_were_not_loaded_are_named_and_biases_are_zero():
    layer = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"expected all weights of its model Linear; 1 are missing"):
        zero_missing_biases(layer, {"bias"})
    torch.nn.init.constant_(layer.weight, 3)
    assert zero_missing_biases(layer, {"weight"}) == {"bias"}
    assert layer.bias.tolist() == [0, 0]
    assert (layer.weight == 3).all()


def test_another_model_of_vllm_is_left_alone(checkpoint):
    config = started(checkpoint, hf_overrides={})
    assert config.model_config.hf_config.architectures == ["OlmoeForCausalLM"]
    assert config.model_config.tokenizer_mode != "moee"
