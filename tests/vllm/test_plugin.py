"""The plugin of vLLM beside `MoEEModel`: the same vectors, whatever vLLM does to be fast.

In an environment of its own, as moee_hf/vllm/README.md says: pytest -m by_hand --numprocesses 0 tests/vllm
"""

import random

import numpy as np
import pytest
import torch
from support.common import TEXTS

from moee_hf import MoEEModel

pytest.importorskip("vllm.config", reason="vLLM is not installed; moee_hf/vllm/README.md says how to run these tests")

from support.vllm_engine import PLAIN, difference, embed, engine, write_checkpoint

pytestmark = pytest.mark.by_hand

ARCHITECTURES = ["olmoe", "qwen2_moe", "qwen3_moe", "mixtral", "deepseek_v2", "gpt_oss", "granitemoe"]
COMBINATIONS = ["hs", "rw", "concat", "sum"]
# empty, and too long for any of the models
SPECIAL = [*TEXTS, "", "word " * 9000]
CORPUS = [f"{number} {word} {'and more ' * (number % 5)}" for number in range(40) for word in ("cats", "rain")]
CLOSE = 1e-5


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A full repository: statistics, centred log-ratios, weighted layers, and principal components."""
    folder = tmp_path_factory.mktemp("models")
    model = MoEEModel.from_pretrained(write_checkpoint(folder / "plain", "olmoe"), dtype=torch.float32)
    model.calibrate(CORPUS)
    model.compress(CORPUS, dimensions=16)
    model.config.choose(dimensions=None)
    model.save_pretrained(folder / "calibrated")
    return folder / "calibrated"


def mixed_texts(number: int) -> list[str]:
    generator = random.Random(0)
    words = [word for text in TEXTS for word in text.split()]
    return [" ".join(generator.choices(words, k=generator.choice([1, 3, 9, 30, 120]))) for _ in range(number)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_plain_checkpoint_gives_the_vectors_of_encode(architecture, tmp_path, record_property):
    folder = write_checkpoint(tmp_path, architecture)
    model = MoEEModel.from_pretrained(folder, dtype=torch.float32)
    with engine(folder, hf_overrides=PLAIN) as llm:
        got = {combination: embed(llm, SPECIAL, combination=combination) for combination in COMBINATIONS}
    for combination, vectors in got.items():
        far = difference(vectors, model.encode(SPECIAL, combination=combination))
        record_property(combination, far)
        assert far < CLOSE, combination


def test_the_embedded_model_gives_the_vectors_of_encode(tmp_path, record_property):
    model = MoEEModel.from_pretrained("embedded", dtype=torch.float32)
    model.save_pretrained(tmp_path)
    with engine(tmp_path, max_model_len=1024) as llm:
        for combination in COMBINATIONS:
            far = difference(embed(llm, TEXTS, combination=combination), model.encode(TEXTS, combination=combination))
            record_property(combination, far)
            assert far < CLOSE, combination


@pytest.mark.parametrize(
    "options",
    [
        {"max_num_batched_tokens": 64, "enable_prefix_caching": True},
        {"enable_prefix_caching": False, "max_num_seqs": 3},
        {"enforce_eager": False},
    ],
    ids=["chunks_and_prefixes", "small_batches", "compiled"],
)
def test_vectors_do_not_depend_on_how_a_batch_runs(options, calibrated, record_property):
    texts = mixed_texts(200)
    shuffled = random.Random(1).sample(range(200), 200)
    model = MoEEModel.from_pretrained(calibrated)
    expected = model.encode(texts)
    with engine(calibrated, **options) as llm:
        far = difference(embed(llm, texts), expected)
        far_shuffled = difference(embed(llm, [texts[index] for index in shuffled]), expected[shuffled])
    record_property("difference", max(far, far_shuffled))
    assert max(far, far_shuffled) < CLOSE


def test_two_processes_share_the_experts(calibrated, monkeypatch, record_property):
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    with engine(calibrated, tensor_parallel_size=2) as llm:
        far = difference(embed(llm, TEXTS), MoEEModel.from_pretrained(calibrated).encode(TEXTS))
    record_property("difference", far)
    assert far < CLOSE


def test_compiled_code_of_the_plain_backbone_is_not_taken_for_that_of_the_plugin(tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "cache"))
    folder = write_checkpoint(tmp_path / "plain", "olmoe")
    with engine(folder, enforce_eager=False) as llm:
        llm.embed(TEXTS, use_tqdm=False)
    expected = MoEEModel.from_pretrained(folder).encode(TEXTS)
    for _ in range(2):  # the second start loads what the first compiled
        with engine(folder, enforce_eager=False, hf_overrides=PLAIN) as llm:
            assert difference(embed(llm, TEXTS), expected) < CLOSE


def test_requests_of_one_batch_may_ask_for_different_vectors(calibrated):
    import vllm

    model = MoEEModel.from_pretrained(calibrated)
    asked = [
        {},
        {"combination": "hs", "standardize": False},
        {"alpha": 0.3},
        {"combination": "rw"},
        {},
        {"combination": "concat", "standardize": False},
    ]
    with engine(calibrated) as llm:
        params = [vllm.PoolingParams(extra_kwargs=choices) for choices in asked]
        got = [item.outputs.embedding for item in llm.embed(TEXTS[:6], pooling_params=params, use_tqdm=False)]
        unit, short = embed(llm, TEXTS, normalize=True), embed(llm, TEXTS, dimensions=7)
    for text, choices, vector in zip(TEXTS, asked, got, strict=False):
        assert difference(np.array(vector), model.encode(text, **choices)) < CLOSE
    assert difference(unit, model.encode(TEXTS, normalize_embeddings=True)) < CLOSE
    model.config.choose(dimensions=7)
    assert difference(short, model.encode(TEXTS)) < CLOSE


@pytest.mark.parametrize(
    "choices",
    [
        {"pooling": "mean", "default_prompt_name": "none"},
        {"pooling": "weightedmean", "router_activation": "logits"},
        {"combination": "rw", "router_layers": [2, -1], "router_layer_weights": [0.25, 4.0], "max_length": 40},
        {"prompts": {"own": "Words: {text} ."}, "default_prompt_name": "own", "router_activation": "clr"},
    ],
    ids=["mean", "weightedmean", "routers", "prompt"],
)
def test_choices_by_configuration(choices, tmp_path):
    folder = write_checkpoint(tmp_path, "qwen2_moe")
    texts = list(filter(None, SPECIAL))
    expected = MoEEModel.from_pretrained(folder, **choices).encode(texts)
    with engine(folder, hf_overrides=PLAIN | {"moee": choices}) as llm:
        assert difference(embed(llm, texts), expected) < CLOSE


def test_a_reference_is_served_with_the_weights_of_its_backbone(hub, tmp_path, monkeypatch):
    folder = write_checkpoint(tmp_path / "plain", "olmoe")
    hub.add("lab/olmoe", {path.name: path.read_bytes() for path in folder.iterdir()})
    model = MoEEModel.from_pretrained("lab/olmoe", dtype=torch.float32)
    model.calibrate(CORPUS)
    model.save_reference(tmp_path / "reference")
    with engine(tmp_path / "reference") as llm:
        assert difference(embed(llm, TEXTS), model.encode(TEXTS)) < CLOSE


def test_statistics_of_several_prompts_are_read_for_the_one_that_is_chosen(tmp_path):
    model = MoEEModel.from_pretrained(write_checkpoint(tmp_path / "plain", "olmoe"))
    model.calibrate(CORPUS, ["prompteol", "knowledge"])
    model.config.choose(default_prompt_name="knowledge")
    model.save_pretrained(tmp_path / "repository")
    with engine(tmp_path / "repository") as llm:
        assert difference(embed(llm, TEXTS), model.encode(TEXTS)) < CLOSE
