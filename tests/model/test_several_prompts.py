"""A text inside several prompts: the mean of the unit vectors that it has in each."""

import numpy as np
import pytest
import reference
import torch
from support.common import LONG_PROMPT, MANY, TEXTS, random_statistics

from moee_hf import MoEEModel
from moee_hf.model.prompts_moee import PROMPTS

NAMES = ["prompteol", "pretended_cot", "none"]
CORPUS = [f"{text} {number}" for number in range(4) for text in TEXTS]


def averaged(parts):
    return np.array([reference.average_over_prompts(vectors) for vectors in zip(*parts, strict=True)])


@pytest.mark.parametrize("combination", ["hs", "rw", "concat", "sum"])
def test_encode_averages_unit_vectors(model, combination):
    single = [model.encode(TEXTS, name, combination=combination).astype(float) for name in NAMES]
    for prompts in ({"prompt_name": NAMES}, {"prompt": tuple(PROMPTS[name] for name in NAMES)}):
        embeddings = model.encode(TEXTS, combination=combination, **prompts)
        np.testing.assert_allclose(embeddings, averaged(single), rtol=0, atol=1e-6)
    for text, embedding in zip(TEXTS, embeddings, strict=True):
        alone = model.encode(text, NAMES, combination=combination)
        np.testing.assert_allclose(alone, embedding, rtol=0, atol=1e-5)


def test_each_prompt_stands_on_statistics_of_its_own(model):
    names = NAMES[:2]
    apart = []
    for name in names:
        single = model.with_config()
        single.calibrate(CORPUS, name, keep_routing=True)
        apart.append(single)
    model.calibrate(CORPUS, names, keep_routing=True)
    for name in ("hidden_mean", "hidden_std", "routing_mean", "routing_std"):
        expected = torch.stack([getattr(single.statistics, name) for single in apart])
        torch.testing.assert_close(getattr(model.statistics, name), expected)
    parts = [single.encode(TEXTS, name).astype(float) for single, name in zip(apart, names, strict=True)]
    for order in (names, names[::-1]):  # the order of a call is not that of the statistics
        np.testing.assert_allclose(model.encode(TEXTS, order), averaged(parts), rtol=0, atol=1e-5)
    np.testing.assert_allclose(model.encode(TEXTS, names[1]), parts[1], rtol=0, atol=1e-5)


def test_forward_gives_what_encode_does(model):
    for calibrated in (False, True):
        if calibrated:
            model.calibrate(CORPUS, NAMES[:2])
        for names in (NAMES[:2], NAMES[1::-1], NAMES[1]):
            batch = model.tokenize(TEXTS, names)
            with torch.no_grad():
                output = model(**batch)
            np.testing.assert_allclose(output.embeddings, model.encode(TEXTS, names), rtol=0, atol=2e-5)
    batch = model.tokenize(TEXTS, NAMES[:2])
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (len(TEXTS), 2, batch["input_ids"].shape[2])
    with torch.no_grad():
        output = model(**batch)
        first = model(input_ids=batch["input_ids"][:, 0], attention_mask=batch["attention_mask"][:, 0])
    assert output.router_weights.shape == (len(TEXTS), 2, *first.router_weights.shape[1:])
    torch.testing.assert_close(output.pooled_hidden_state[:, 0], first.pooled_hidden_state, atol=2e-5, rtol=0)


def test_the_head_of_each_prompt_is_read_once(model, tokens_read):
    prompts = [LONG_PROMPT, "Another one, with as much to say before the sentence comes : {text} . In a word :"]
    model.encode(MANY, prompt=prompts)
    heads = [tokens for layer, rows, tokens in tokens_read if layer == 0 and rows == 1]
    assert len(heads) == 2
    ids = [model.tokenize(MANY, prompt=prompt)["attention_mask"].sum().item() for prompt in prompts]
    read = sum(rows * tokens for layer, rows, tokens in tokens_read if layer == 0)
    spared = sum((len(MANY) - 1) * head for head in heads)
    assert read < 1.2 * (sum(ids) - spared)


def test_saved_with_several_prompts_by_default(model, tmp_path):
    model.config.default_prompt_name = NAMES[:2]
    model.calibrate(CORPUS)
    model.save_pretrained(tmp_path)
    again = MoEEModel.from_pretrained(tmp_path, dtype=torch.float32)
    assert again.config.default_prompt_name == NAMES[:2]
    assert again.config.calibration["prompt"] == [PROMPTS[name] for name in NAMES[:2]]
    assert again.statistics.hidden_mean.shape == (2, 64)
    np.testing.assert_allclose(again.encode(TEXTS), model.encode(TEXTS, NAMES[:2]), rtol=0, atol=1e-5)
    assert not np.allclose(again.encode(TEXTS), model.encode(TEXTS, NAMES[0]), atol=1e-2)


def test_statistics_of_one_prompt_serve_for_several(model):
    model.calibrate(CORPUS, NAMES[0])
    parts = [model.encode(TEXTS, name).astype(float) for name in NAMES]
    np.testing.assert_allclose(model.encode(TEXTS, NAMES), averaged(parts), rtol=0, atol=1e-5)


def test_statistics_of_prompts_that_do_not_fit(model):
    statistics = random_statistics(model, num_prompts=2)
    with pytest.raises(ValueError, match="statistics: expected tensors of the shapes"):
        model.set_statistics(**statistics | {"hidden_std": statistics["hidden_std"][0]})
    assert not model.config.calibrated
    model.set_statistics(**statistics)
    ids = torch.full((1, 3, 4), 5)
    with pytest.raises(ValueError, match=r"input_ids: expected texts in 2 prompts, .*; got 3"):
        model(input_ids=ids, standardize=True)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({"prompt_name": []}, r"prompt: expected one template, or several different ones; got \[\]"),
        ({"prompt": []}, r"prompt: expected one template, or several different ones; got \[\]"),
        ({"prompt_name": ["prompteol", "prompteol"]}, "prompt: expected one template, or several different ones"),
        ({"prompt_name": ["prompteol", "nope"]}, "prompt_name: expected one of .*; got 'nope'"),
        ({"prompt_name": [1]}, "prompt_name: expected one of .*; got 1"),
        ({"prompt": ["{text}", 1]}, r"prompt: expected a template with \{text\} exactly once.*; got 1"),
    ],
)
def test_bad_prompts_are_named(model, prompts, message):
    for call in (model.encode, model.tokenize, model.calibrate):
        with pytest.raises(ValueError, match=message):
            call(TEXTS, **prompts)
    assert not model.config.calibrated


@pytest.mark.parametrize("names", [[], ["prompteol", "prompteol"], ["nope"], [1], 1])
def test_bad_default_prompts_are_refused(model, names):
    with pytest.raises(ValueError, match=r"MoEEConfig\.default_prompt_name: "):
        model.with_config(default_prompt_name=names)


def test_names_in_one_argument(model):
    config = model.config
    assert config.find_prompts("none+prompteol") == [PROMPTS["none"], PROMPTS["prompteol"]]
    assert config.find_prompts("a + {text}") == ["a + {text}"]
    assert config.find_prompts(None) == [PROMPTS["prompteol"]]
    config.prompts = {"c++": "C++: {text}"}
    assert config.find_prompts("c++") == ["C++: {text}"]
    with pytest.raises(ValueError, match="got 'nope'"):
        config.find_prompts("none+nope")
