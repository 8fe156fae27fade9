"""A lean pass computes no more than it reads, and gives what `forward` gives, which computes everything."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.common import CHECKPOINT, LONG_PROMPT, MANY
from support.lean_passes import IDS, lean_passes
from support.tiny_backbones import LONGROPE, SUPPORTED, expert_modules, redraw, tiny_config, tiny_model

from moee_hf import MoEEConfig, MoEEModel
from moee_hf.model import experts_moee
from moee_hf.model.backbone_moee import last_token_modules, text_model_of
from moee_hf.model.batching_moee import padded_length
from moee_hf.model.capture_moee import _active
from moee_hf.model.inference_moee import pad, wanted_of
from moee_hf.model.prefix_moee import can_cache_prefix

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


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_what_is_spared_by_architecture(model_type):
    model = tiny_model(model_type)
    assert (len(last_token_modules(model.model)), can_cache_prefix(model.model)) == ARCHITECTURES[model_type]


@pytest.mark.parametrize("model_type", SUPPORTED)
def test_every_saving_gives_the_plain_vectors(model_type, monkeypatch):
    """Also what is for GPUs alone, run here: all experts at once, and packed texts."""
    model = tiny_model(model_type)
    experts_moee.use_fast_experts(model.model)
    expected = (
        "eager" if model_type == "openai_privacy_filter" else experts_moee.OWN_IMPLEMENTATION
    )  # transformers' default for it
    assert {module.config._experts_implementation for module in expert_modules(model)} <= {expected}
    rows = model.config.router_indices
    for pooling, layer in (("lasttoken", -1), ("lasttoken", 2), ("mean", -1), ("weightedmean", 2)):
        model.config.pooling, model.config.hidden_layer = pooling, layer
        with torch.no_grad():
            try:
                monkeypatch.setattr(experts_moee, "MIN_TOKENS_PER_EXPERT", 1000)
                plain = model(**pad(IDS))
            except ValueError as error:
                if layer == 2 and "one hidden state per token" in str(error):
                    continue
                raise
            monkeypatch.setattr(experts_moee, "MIN_TOKENS_PER_EXPERT", 0)
            readings = [(rows, ("state",)), ([], ("state",))]
            if layer == -1 or pooling == "weightedmean":  # the layer of HS is nothing to RW alone
                readings.append((rows[:1], ()))
            for read, sources in readings:
                wanted = replace(wanted_of(model), routers=tuple(read), sources=sources)
                for capture in lean_passes(model, wanted, monkeypatch):
                    hidden, routing = capture.hidden_and_routing("state", "softmax")
                    if sources:
                        torch.testing.assert_close(hidden, plain.pooled_hidden_state, atol=1e-5, rtol=1e-5)
                    if read:
                        expected = plain.router_weights[:, : len(read)]
                        torch.testing.assert_close(routing, expected, atol=1e-5, rtol=0)


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


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize(
    ("model_type", "changes"), [("olmoe", {}), ("phimoe", dict(short_mscale=1.0, long_mscale=2.0))]
)
def test_texts_that_change_the_positions_of_others_are_read_apart(loaded, model_type, changes, dtype, atol):
    tokenizer = loaded.tokenizer
    model = tiny_model(model_type, rope_parameters=LONGROPE | changes, vocab_size=len(tokenizer))
    # with the weights of seed 0, rounding in transformers 5.19 decides between two experts that nearly tie
    model = redraw(model, seed=1).to(dtype)
    model.tokenizer = tokenizer
    texts, batches = ["word " * length for length in range(1, 20)], []
    alone = np.stack([model.encode(text, prompt_name="none", combination="concat") for text in texts])
    model.model.layers[0].register_forward_pre_hook(lambda module, args: batches.append(args[0].shape[1]))
    together = model.encode(texts, prompt_name="none", combination="concat")
    np.testing.assert_allclose(together, alone, rtol=0, atol=atol)
    assert 10 in batches
    assert len(batches) <= 4


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
