"""`encode` computes no more than it reads, and gets the vectors of `forward`, which computes everything."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.common import CHECKPOINT, TEXTS
from support.tiny_backbones import SUPPORTED, redraw, tiny_config
from transformers import OlmoeConfig, OlmoeForCausalLM

from moee_hf import MoEEConfig, MoEEModel
from moee_hf.model import batching_moee, experts_moee
from moee_hf.model.backbone_moee import last_token_modules, text_model_of
from moee_hf.model.batching_moee import Batches, padded_length, windows
from moee_hf.model.capture_moee import _active
from moee_hf.model.inference_moee import pad, run_batch, run_prefix
from moee_hf.model.prefix_moee import can_cache_prefix, common_prefix

GENERATOR = torch.Generator().manual_seed(2)
HEAD = [5, 6, 7, 8, 9]
IDS = [HEAD + torch.randint(4, 90, (length,), generator=GENERATOR).tolist() for length in (7, 2, 4)]
# whose last layer is computed for one token of each text, and whose prompts are computed once
ARCHITECTURES = {
    "olmoe": (2, True),
    "qwen2_moe": (2, True),
    "mixtral": (2, True),
    "deepseek": (2, True),
    "deepseek_v3": (2, True),
    "gpt_oss": (2, True),  # windowed attention, and sinks
    "granitemoehybrid": (2, False),  # state spaces
    "jamba": (2, False),
    "qwen3_next": (2, False),  # linear attention
    "inkling_text": (0, False),  # convolutions after the experts
    "zaya": (0, False),
    "llama4_text": (0, True),
    "switch_transformers": (0, False),
    "openai_privacy_filter": (2, False),  # reads both ways
}


def tiny_model(model_type, **changes):
    torch.manual_seed(0)  # of what is not drawn anew, such as gates
    return redraw(MoEEModel(MoEEConfig(backbone_config=tiny_config(model_type, **changes))))


def expert_modules(model):
    """Those of the text model that have transformers' interface of experts."""
    return [module for module in text_model_of(model.model).modules() if hasattr(module, "_is_expert_parallel")]


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_what_is_spared_by_architecture(model_type):
    model = tiny_model(model_type)
    assert (len(last_token_modules(model.model)), can_cache_prefix(model.model)) == ARCHITECTURES[model_type]


@pytest.mark.parametrize("model_type", SUPPORTED)
def test_every_saving_gives_the_plain_vectors(model_type, monkeypatch):
    model = tiny_model(model_type)
    experts_moee.use_fast_experts(model.model)
    expected = (
        "eager" if model_type == "openai_privacy_filter" else experts_moee.EXPERTS_IMPLEMENTATION
    )  # transformers' default for it
    assert {module.config._experts_implementation for module in expert_modules(model)} <= {expected}
    rows = model.config.router_indices
    for pooling in ("lasttoken", "mean", "weightedmean"):
        model.config.pooling = pooling
        for layer in (-1, 2):
            model.config.hidden_layer = layer
            with torch.no_grad():
                try:
                    monkeypatch.setattr(experts_moee, "MIN_TOKENS_PER_EXPERT", 1000)
                    plain = model(**pad(IDS))
                except ValueError as error:
                    if layer == 2 and "one hidden state per token" in str(error):
                        continue
                    raise
                monkeypatch.setattr(experts_moee, "MIN_TOKENS_PER_EXPERT", 0)
                for read, hidden in ((rows, True), (rows[:1], False), ([], True)):
                    wanted = replace(model.wanted(), routers=tuple(read), hidden=hidden)
                    captures = [run_batch(model, pad(IDS), wanted, lean=True)]
                    if can_cache_prefix(model.model):
                        prefix = run_prefix(model, HEAD, wanted)
                        rest = pad([ids[len(HEAD) :] for ids in IDS])
                        captures += [run_batch(model, rest, wanted, lean=True, prefix=prefix) for _ in range(2)]
                    for capture in captures:
                        if hidden:
                            torch.testing.assert_close(capture.hidden, plain.pooled_hidden_state, atol=1e-5, rtol=0)
                        if read:
                            expected = plain.router_weights[:, : len(read)]
                            torch.testing.assert_close(capture.routing_weights(), expected, atol=1e-5, rtol=0)


@pytest.fixture
def tokens_read(model):
    """The number of tokens that each layer gets, in the order of the calls, as (layer, rows, tokens of a row)."""
    calls = []
    hooks = [
        layer.register_forward_pre_hook(lambda m, args, i=i: calls.append((i, *args[0].shape[:2])))
        for i, layer in enumerate(model.model.layers)
    ]
    yield calls
    for hook in hooks:
        hook.remove()


LONG_PROMPT = "Here is one of many sentences, and there is a lot to say before it comes at last : {text} . In a word :"
MANY = [f"{number} {word}" for number in range(40) for word in ("cats", "dogs and rain")]


@pytest.mark.parametrize("pooling", ["lasttoken", "mean", "weightedmean"])
@pytest.mark.parametrize("combination", ["hs", "rw", "concat", "sum"])
def test_many_texts_in_a_long_prompt(model, tokens_read, pooling, combination):
    """The words before the text are read once, and every text's embedding is that of the text alone."""
    model.config.pooling = pooling
    with torch.no_grad():
        alone = [model(**model.tokenize(text, prompt=LONG_PROMPT), combination=combination) for text in MANY]
    tokens_read.clear()
    embeddings = model.encode(MANY, prompt=LONG_PROMPT, combination=combination)
    assert np.abs(embeddings - torch.cat([output.embeddings for output in alone]).numpy()).max() < 1e-5
    ids = model.tokenizer([LONG_PROMPT.format(text=text) for text in MANY])["input_ids"]
    prefix = common_prefix(ids)
    assert len(prefix) > 15
    first = [rows * tokens for layer, rows, tokens in tokens_read if layer == 0]
    assert first[0] == len(prefix)
    assert sum(first) < len(prefix) + 1.2 * sum(len(row) - len(prefix) for row in ids)


LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 10,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
}


@pytest.mark.parametrize(
    "changes",
    [
        {"is_causal": False},
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}},
        {"rope_parameters": LONGROPE},
    ],
    ids=["is_causal", "dynamic", "longrope"],
)
def test_a_prompt_that_depends_on_the_text_is_not_shared(changes):
    config = tiny_config("olmoe", **changes)
    assert not can_cache_prefix(MoEEModel(MoEEConfig(backbone_config=config)).model)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize(
    ("model_type", "changes"), [("olmoe", {}), ("phimoe", dict(short_mscale=1.0, long_mscale=2.0))]
)
def test_texts_that_change_the_positions_of_others_are_read_apart(loaded, model_type, changes, dtype, atol):
    tokenizer = loaded.tokenizer
    model = tiny_model(model_type, rope_parameters=LONGROPE | changes, vocab_size=len(tokenizer)).to(dtype)
    model.tokenizer = tokenizer
    texts, batches = ["word " * length for length in range(1, 20)], []
    alone = np.stack([model.encode(text, prompt_name="none", combination="concat") for text in texts])
    model.model.layers[0].register_forward_pre_hook(lambda module, args: batches.append(args[0].shape[1]))
    together = model.encode(texts, prompt_name="none", combination="concat")
    np.testing.assert_allclose(together, alone, rtol=0, atol=atol)
    assert 10 in batches
    assert len(batches) <= 4


def test_common_prefix_leaves_a_token_and_must_be_worth_it():
    assert common_prefix([]) == []
    assert common_prefix([[1] * 300]) == []
    assert common_prefix([[1, 2, 3]] * 200) == [1, 2]
    assert common_prefix([[1, 2, 3], [1, 2, 4]] * 100) == [1, 2]
    assert common_prefix([[1, 2, 3], [1, 2]] * 200) == [1]
    assert common_prefix([[1, 2, 3], [1, 2]] * 100) == []  # 199 tokens would be spared
    assert common_prefix([[1, 2, 3], [2, 2, 3]] * 1000) == []


def test_long_texts_read_a_short_prompt_again(model, tokens_read):
    texts = [*MANY, "and so on " * 150]
    prompt = 'This sentence : "{text}" means in one word:"'
    with torch.no_grad():
        alone = [model(**model.tokenize(text, prompt=prompt)).embeddings for text in texts]
    tokens_read.clear()
    assert np.abs(model.encode(texts, prompt=prompt) - torch.cat(alone).numpy()).max() < 1e-5
    ids = model.tokenizer([prompt.format(text=text) for text in texts])["input_ids"]
    prefix = len(common_prefix(ids))
    assert len(ids[-1]) > 16 * prefix
    first, second, *others = [tokens for layer, _, tokens in tokens_read if layer == 0]
    assert (first, second) == (prefix, len(ids[-1]))
    assert max(others) == max(map(len, ids[:-1])) - prefix


@pytest.mark.parametrize(
    ("model_type", "changes", "needed"),
    [
        ("mixtral", {}, False),
        ("openai_privacy_filter", {}, True),
        ("step3p7", {}, False),
        ("step3p7", {"use_bidirectional_attention": True}, True),
        ("gemma4_text", {"use_bidirectional_attention": "vision"}, False),
        ("gemma4_text", {"use_bidirectional_attention": "all"}, True),
    ],
)
def test_only_texts_read_both_ways_need_a_mask(model_type, changes, needed):
    config = tiny_config(model_type)
    for name, value in changes.items():
        setattr(config.get_text_config(), name, value)
    model, masks = redraw(MoEEModel(MoEEConfig(backbone_config=config))), []
    text_model_of(model.model).register_forward_pre_hook(
        lambda module, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
    )
    with torch.no_grad():
        model(**pad(IDS))
    assert [mask is not None for mask in masks] == [needed]


def test_padded_length():
    assert [padded_length(length) for length in (1, 15, 17, 33, 36, 63, 65, 512)] == [1, 15, 18, 36, 36, 64, 72, 512]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batches_in_half_precision_have_few_lengths(dtype):
    """Their kernels stay in memory; in float32 none are kept."""
    model = MoEEModel.from_pretrained(CHECKPOINT, dtype=dtype, max_length=75)
    lengths = []
    model.model.layers[0].register_forward_pre_hook(lambda module, args: lengths.append(args[0].shape[1]))
    texts = ["word " * length for length in range(1, 80)]
    model.encode(texts, prompt_name="none", batch_size=8)
    of_texts = sorted(model.tokenize(texts, prompt_name="none")["attention_mask"].sum(dim=1).tolist(), reverse=True)
    longest = of_texts[::8]
    assert lengths == (longest if dtype == torch.float32 else [min(padded_length(length), 75) for length in longest])
    assert len(set(lengths)) > 5


def test_the_pass_ends_with_what_is_read(model, tokens_read):
    model.config.router_layers = [0, 2]
    model.encode(TEXTS, combination="rw")
    assert {layer for layer, *_ in tokens_read} == {0, 1, 2}
    tokens_read.clear()
    model.config.hidden_layer = 1
    model.encode(TEXTS, combination="hs")
    assert {layer for layer, *_ in tokens_read} == {0}  # what it leaves is what the next one would get
    tokens_read.clear()
    model.encode(TEXTS, combination="sum")
    assert {layer for layer, *_ in tokens_read} == {0, 1, 2}


def test_the_last_layer_is_computed_for_one_token(model):
    shapes = []
    last = model.model.layers[-1]
    hooks = [
        module.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape[:2])))
        for module in (last.self_attn.o_proj, last.mlp)
    ]
    model.encode(TEXTS)
    assert shapes == [(len(TEXTS), 1)] * 2
    for hook in hooks:
        hook.remove()


def test_equal_texts_are_read_once(model, tokens_read):
    texts = [TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[0]]
    embeddings = model.encode(texts)
    assert {rows for _, rows, _ in tokens_read} == {2}
    assert np.array_equal(embeddings, embeddings[[0, 1, 0, 0]])
    assert np.array_equal(embeddings[:2], model.encode(texts[:2]))


def test_batches_keep_to_the_budget(model, tokens_read, monkeypatch):
    expected = model.encode(MANY)
    tokens_read.clear()
    monkeypatch.setattr(batching_moee, "CPU_TOKENS", 100)
    assert np.abs(model.encode(MANY) - expected).max() < 1e-5
    assert max(rows * tokens for _, rows, tokens in tokens_read) <= 100
    tokens_read.clear()
    model.encode(MANY, batch_size=2)
    assert max(rows for _, rows, _ in tokens_read) == 2


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("MPS backend out of memory"),
    ],
)
def test_a_batch_that_memory_does_not_hold_is_halved(error):
    tried = []

    def run(places):
        tried.append(len(places))
        if len(places) > 3:
            raise error
        return [place * 10 for place in places]

    lengths = [7, 5, 6, 5, 7, 6, 5, 5]
    batches = list(Batches(1000).run(run, lengths))
    assert sorted(place for places, _ in batches for place in places) == list(range(8))
    assert all(result == [place * 10 for place in places] for places, result in batches)
    assert tried[:3] == [8, 4, 2]
    assert 4 not in tried[2:]  # what was learnt is kept


def test_memory_that_runs_out_within_a_pass(model, monkeypatch):
    expected = model.encode(MANY, prompt=LONG_PROMPT)
    passes = 0

    def fail_once(module, args):
        nonlocal passes
        passes += 1
        if passes == 2:  # the first reads the prompt's head
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = model.model.layers[3].mlp.register_forward_pre_hook(fail_once)
    embeddings = model.encode(MANY, prompt=LONG_PROMPT)
    hook.remove()
    assert passes == 5  # the head, 64 texts, those in halves, 16
    assert _active.get() is None
    assert np.abs(embeddings - expected).max() < 1e-5


def test_errors_of_a_batch_are_its_own():
    def run(places):
        raise torch.OutOfMemoryError("too long a text")

    with pytest.raises(torch.OutOfMemoryError, match="too long a text"):
        list(Batches(1000).run(run, [9, 9]))

    def fail(places):
        raise RuntimeError("shapes")

    with pytest.raises(RuntimeError, match="shapes"):
        list(Batches(1000).run(fail, [9, 9]))


def test_windows_are_bounded(monkeypatch):
    monkeypatch.setattr(batching_moee, "WINDOW_TEXTS", 3)
    monkeypatch.setattr(batching_moee, "WINDOW_CHARACTERS", 10)
    texts = ["a", "b", "c", "d", "e" * 12, "f", "g" * 9, "h", "i"]
    assert [len(window) for window in windows(texts)] == [3, 2, 2, 2]
    assert [text for window in windows(texts) for text in window] == texts


def test_streams_are_read_as_they_come(model, monkeypatch):
    monkeypatch.setattr(batching_moee, "WINDOW_TEXTS", 16)
    read = []
    parts = model.encode_stream(read.append(text) or text for text in MANY)
    assert read == []
    first = next(parts)
    assert (len(first), len(read)) == (16, 16)
    embeddings = np.concatenate([first, *parts])
    assert embeddings.dtype == np.float32
    assert np.abs(embeddings - model.encode(MANY, batch_size=1)).max() < 1e-5
    with pytest.raises(ValueError, match=r"texts\[20\]: expected a text to embed; got an empty string"):
        list(model.encode_stream([*MANY[:20], ""]))
    with pytest.raises(ValueError, match="combination: expected one of"):
        model.encode_stream(MANY, combination="both")


class TestExperts:
    """One by one on the processor, whatever the architecture's weights look like."""

    # biases, transposed and interleaved weights; no gate; shared experts; a norm of its own
    @pytest.mark.parametrize("model_type", ["olmoe", "gpt_oss", "nemotron_h", "deepseek_v3", "mixtral", "qwen3_next"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_agrees_with_eager(self, model_type, dtype, monkeypatch):
        model = tiny_model(model_type).to(dtype)
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
            experts.config._experts_implementation = experts_moee.EXPERTS_IMPLEMENTATION
            got = experts(hidden, index, weights.to(dtype))
        assert got.dtype == dtype
        tolerance = 1e-5 if dtype == torch.float32 else 5e-2
        torch.testing.assert_close(got, expected, atol=tolerance * expected.abs().max().item(), rtol=0)

    def test_a_whole_model_with_a_prompt(self, saved, monkeypatch):
        """Savings and experts together are those of the plain implementation."""
        expected = MoEEModel.from_pretrained(saved, experts_implementation="eager").encode(MANY, batch_size=1)
        monkeypatch.setattr(experts_moee, "MIN_TOKENS_PER_EXPERT", 0)
        assert np.abs(MoEEModel.from_pretrained(saved).encode(MANY) - expected).max() < 1e-5

    def test_quantized_experts_keep_their_own(self, loaded):
        class Quantized(torch.nn.Module):
            config = OlmoeConfig(experts_implementation="grouped_mm")
            hf_quantizer = object()

        experts_moee.use_fast_experts(Quantized())
        assert Quantized.config._experts_implementation == "grouped_mm"

    def test_a_loaded_model_uses_them_unless_told_otherwise(self, loaded, saved, tmp_path):
        def implementation(model):
            return model.model.config._experts_implementation

        assert implementation(loaded) == experts_moee.EXPERTS_IMPLEMENTATION
        for name in ("eager", "grouped_mm"):
            assert implementation(MoEEModel.from_pretrained(saved, experts_implementation=name)) == name
        # nothing of it is saved
        assert experts_moee.EXPERTS_IMPLEMENTATION not in (saved / "config.json").read_text()
        assert OlmoeForCausalLM.from_pretrained(saved).config._experts_implementation == "grouped_mm"

    def test_gradients(self, monkeypatch):
        monkeypatch.setattr(experts_moee, "MIN_TOKENS_PER_EXPERT", 0)
        gradients = {}
        for name in (experts_moee.EXPERTS_IMPLEMENTATION, "eager"):
            model = MoEEModel.from_pretrained(CHECKPOINT, dtype=torch.float32, experts_implementation=name)
            model(input_ids=torch.arange(5, 45)[None]).embeddings.square().sum().backward()
            gradients[name] = model.model.layers[0].mlp.experts.down_proj.grad
        torch.testing.assert_close(*gradients.values(), atol=1e-5, rtol=1e-3)
