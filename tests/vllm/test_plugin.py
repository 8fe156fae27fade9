"""The plugin of vLLM beside `MoEEModel`: the same vectors, whatever vLLM does to be fast.

In an environment of its own, as moee_hf/vllm/README.md says: pytest -m by_hand --numprocesses 0 tests/vllm
"""

import random

import numpy as np
import pytest
import reference
import torch
from support.common import TEXTS

from moee_hf import MoEEModel

pytest.importorskip("vllm.config", reason="vLLM is not installed; moee_hf/vllm/README.md says how to run these tests")

from support.vllm_engine import PLAIN, difference, embed, engine, write_checkpoint
from vllm.compilation.counter import compilation_counter

pytestmark = pytest.mark.by_hand

ARCHITECTURES = ["olmoe", "qwen2_moe", "qwen3_moe", "mixtral", "deepseek_v2", "gpt_oss", "granitemoe"]
# the first computes what the others take from the cache, and has HS and RW of one length
COMBINATIONS = ["sum", "hs", "rw", "concat"]
# empty, and too long for any of the models
SPECIAL = [*TEXTS, "", "word " * 9000]
CORPUS = [f"{number} {word} {'and more ' * (number % 5)}" for number in range(40) for word in ("cats", "rain")]
CLOSE = 1e-5


def mixed_texts(number: int) -> list[str]:
    """Texts from a word to 70; some of them begin alike."""
    generator = random.Random(3)  # at each token of this story, the embedded model's routers choose clearly
    words = [word for text in TEXTS for word in text.split()]
    story = generator.choices(words, k=40)
    beginnings = [[], [], [], story[:20], story]
    return [
        " ".join([*generator.choice(beginnings), *generator.choices(words, k=generator.choice([1, 2, 5, 30]))])
        for _ in range(number)
    ]


MIXED = [*SPECIAL, *mixed_texts(260)]


@torch.no_grad()
def clear_texts(model: MoEEModel, texts: list[str]) -> list[str]:
    """Those whose routers choose by more than rounding; of others, `encode` may take other experts in another batch.

    Those are one in a hundred of the tiny models, and more of the 30 layers of 32 experts of the embedded one: there,
    vectors of batches of 1 and of 32 texts differ by up to 1.5e-2. Choices of groups are not looked at.
    """
    config, clear = model.model.config, []
    for text in texts:
        logits = model.model(model.tokenize(text)["input_ids"], output_router_logits=True).router_logits
        best = torch.cat(logits).log_softmax(dim=-1).topk(config.num_experts_per_tok + 1).values
        if (best[:, -2] - best[:, -1]).min() > 2e-6:  # other experts were taken up to 6e-7
            clear.append(text)
    return clear


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


def differences(llm, model: MoEEModel, texts: list[str]) -> dict[str, float]:
    """How far vectors are from those of `encode`, by combination: of the texts in order, and shuffled."""
    both = model.encode(texts, combination="concat")
    hidden, routing = np.split(both, [model.config.hidden_size], axis=1)
    order = random.Random(1).sample(range(len(texts)), len(texts))
    found = {}
    for combination in COMBINATIONS:
        expected = np.array(
            [reference.embedding(h, r, combination, model.config.alpha) for h, r in zip(hidden, routing, strict=True)]
        )
        shuffled = embed(llm, [texts[index] for index in order], combination=combination)
        found[combination] = max(
            difference(embed(llm, texts, combination=combination), expected), difference(shuffled, expected[order])
        )
    return found


@pytest.mark.parametrize("name", ["embedded", *ARCHITECTURES])
def test_all_that_makes_vllm_fast_changes_no_vector(name, tmp_path, monkeypatch, record_property):
    """At once: compiled code, texts that are cut in chunks, and beginnings that are taken from a cache."""
    # with DeepSeek's own attention, vLLM on a processor takes whole texts only
    monkeypatch.setenv("VLLM_MLA_DISABLE", "1")
    folder = tmp_path if name == "embedded" else write_checkpoint(tmp_path, name)
    model = MoEEModel.from_pretrained(name if name == "embedded" else folder, dtype=torch.float32)
    if name == "embedded":
        model.config.choose(max_length=512)
        model.save_pretrained(folder)
    texts = clear_texts(model, MIXED)
    assert len(texts) >= 200
    compiled = compilation_counter.num_models_seen
    options = dict(enforce_eager=False, max_num_batched_tokens=64, enable_prefix_caching=True, block_size=32)
    with engine(folder, max_model_len=512, hf_overrides=PLAIN, **options) as llm:
        found = differences(llm, model, texts)
        (again,) = llm.embed(max(texts, key=len), use_tqdm=False)
    record_property("differences", found)
    record_property("texts", len(texts))
    assert max(found.values()) < CLOSE, found
    assert compilation_counter.num_models_seen == compiled + 1
    assert len(again.prompt_token_ids) > 64
    assert again.num_cached_tokens >= len(again.prompt_token_ids) - 64


def test_the_latent_attention_of_deepseek(tmp_path, record_property):
    """Compiled, but of whole texts: on a processor, vLLM leaves chunks and the cache of prefixes out with it."""
    folder = write_checkpoint(tmp_path, "deepseek_v2")
    model = MoEEModel.from_pretrained(folder, dtype=torch.float32)
    texts = clear_texts(model, MIXED)
    with engine(folder, max_model_len=512, hf_overrides=PLAIN, enforce_eager=False) as llm:
        found = differences(llm, model, texts)
    record_property("differences", found)
    assert max(found.values()) < CLOSE, found


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
