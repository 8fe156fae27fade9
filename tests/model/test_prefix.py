"""The tokens with which texts begin are computed once, and every vector stays that of the text alone."""

import numpy as np
import pytest
import reference
import torch
from support.common import LONG_PROMPT, MANY
from support.tiny_backbones import LONGROPE, tiny_config

from moee_hf import MoEEConfig, MoEEModel
from moee_hf.model.prefix_moee import can_cache_prefix, common_prefix


def test_common_prefix_leaves_a_token_and_must_be_worth_it():
    assert common_prefix([]) == []
    assert common_prefix([[1] * 300]) == []
    assert common_prefix([[1, 2, 3]] * 200) == [1, 2]
    assert common_prefix([[1, 2, 3], [1, 2, 4]] * 100) == [1, 2]
    assert common_prefix([[1, 2, 3], [1, 2]] * 200) == [1]
    assert common_prefix([[1, 2, 3], [1, 2]] * 100) == []  # 199 tokens would be spared
    assert common_prefix([[1, 2, 3], [2, 2, 3]] * 1000) == []


@pytest.fixture(scope="module", params=["lasttoken", "mean", "weightedmean"])
def alone(request, loaded):
    """A model of each pooling, and its HS and RW of every text in the long prompt, each read alone."""
    model = loaded.with_config(pooling=request.param)
    with torch.no_grad():
        outputs = [model(**model.tokenize(text, prompt=LONG_PROMPT)) for text in MANY]
    return model, [(output.pooled_hidden_state[0].numpy(), output.router_weights[0].numpy()) for output in outputs]


@pytest.mark.parametrize("combination", ["hs", "rw", "concat", "sum"])
def test_many_texts_in_a_long_prompt(alone, tokens_read, combination):
    """The words before the text are read once, and every text's embedding is that of the text alone."""
    model, features = alone
    embeddings = model.encode(MANY, prompt=LONG_PROMPT, combination=combination)
    expected = [reference.embedding(h, r, combination, model.config.alpha) for h, r in features]
    assert np.abs(embeddings - expected).max() < 1e-5
    ids = model.tokenizer([LONG_PROMPT.format(text=text) for text in MANY])["input_ids"]
    prefix = common_prefix(ids)
    assert len(prefix) > 15
    first = [rows * tokens for layer, rows, tokens in tokens_read if layer == 0]
    assert first[0] == len(prefix)
    assert sum(first) < len(prefix) + 1.2 * sum(len(row) - len(prefix) for row in ids)


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
