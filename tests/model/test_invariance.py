"""A text's embedding depends on that text alone."""

import pickle
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from support.common import CHECKPOINT, TEXTS

from moee_hf import MoEEModel

COMBINATIONS = ["hs", "rw", "concat", "sum"]
WORDS = ("the", "cat", "sat", "on", "a", "mat", "while", "rain", "fell")
MANY = [" ".join(random.Random(seed).choices(WORDS, k=3 + seed)) for seed in range(20)]


@pytest.mark.parametrize("pooling", ["lasttoken", "mean", "weightedmean"])
@pytest.mark.parametrize("combination", COMBINATIONS)
def test_batch_size_and_order(model, combination, pooling):
    model.config.pooling = pooling
    alone = np.stack([model.encode(text, combination=combination) for text in MANY])
    order = random.Random(0).sample(range(len(MANY)), len(MANY))
    for batch_size in (1, 3, 32):
        embeddings = model.encode([MANY[i] for i in order], combination=combination, batch_size=batch_size)
        # of the largest value, near 10 in HS: a text alone is already 1.05e-5 from what float64 makes of it
        np.testing.assert_allclose(embeddings, alone[order], rtol=0, atol=1e-5 * max(1, np.abs(alone).max()))


@pytest.mark.parametrize("pooling", ["lasttoken", "mean", "weightedmean"])
def test_without_rounding_neighbours_change_nothing(pooling):
    model = MoEEModel.from_pretrained(CHECKPOINT, dtype=torch.float64, experts_implementation="eager", pooling=pooling)
    alone = np.stack([model.encode(text, combination="concat") for text in MANY])
    for batch_size in (3, 32):
        assert np.abs(model.encode(MANY, combination="concat", batch_size=batch_size) - alone).max() < 1e-6


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_padding_side(model, combination):
    tokenizer = model.tokenizer
    alone = model.encode(TEXTS, prompt_name="none", combination=combination, batch_size=1)
    for side in ("left", "right"):
        batch = tokenizer(TEXTS, padding=True, padding_side=side, return_tensors="pt")
        with torch.no_grad():
            embeddings = model(**batch, combination=combination).embeddings
        assert np.abs(embeddings.numpy() - alone).max() < 1e-5


# choices of a calibrated model, beside the paper's; "dimensions" is an argument of `calibrate`
CHOICES = {
    "clr": {},
    "attention": {"hidden_source": "attention", "attention_layers": [0, 2, -1], "pooling": "weightedmean"},
    "values": {"hidden_source": "values"},
    "several prompts": {"default_prompt_name": ["prompteol", "none"], "pooling": "mean"},
    "dimensions": {"hidden_source": "attention"},
}


@pytest.fixture(scope="module", params=CHOICES)
def calibrated(request, loaded):
    model = loaded.with_config(**CHOICES[request.param])
    model.calibrate(MANY, dimensions=6 if request.param == "dimensions" else None)
    return model, np.stack([model.encode(text) for text in MANY])


def test_batch_size_and_order_of_a_calibrated_model(calibrated):
    model, alone = calibrated
    order = random.Random(0).sample(range(len(MANY)), len(MANY))
    for batch_size in (1, 3, 32):
        embeddings = model.encode([MANY[i] for i in order], batch_size=batch_size)
        np.testing.assert_allclose(embeddings, alone[order], rtol=0, atol=3e-5)  # small deviations divide rounding


def test_padding_side_of_a_calibrated_model(calibrated):
    model, alone = calibrated
    batch = model.tokenize(MANY)
    if batch["input_ids"].ndim == 2:
        length = batch["input_ids"].shape[1]
        shift = length - batch["attention_mask"].sum(dim=1, keepdim=True)
        left = (torch.arange(length) - shift) % length
        batch |= {name: batch[name].gather(1, left) for name in ("input_ids", "attention_mask")}
        assert batch["attention_mask"][:, -1].all()
    with torch.no_grad():
        np.testing.assert_allclose(model(**batch).embeddings, alone, rtol=0, atol=3e-5)


def test_threads_and_pickles_of_a_calibrated_model(calibrated):
    model, alone = calibrated
    with ThreadPoolExecutor(8) as threads:
        embeddings = np.stack(list(threads.map(model.encode, MANY)))
    np.testing.assert_allclose(embeddings, alone, rtol=0, atol=3e-5)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_allclose(again.encode(MANY), alone, rtol=0, atol=3e-5)


@pytest.mark.parametrize("source", ["attention", "values"])
def test_bfloat16_gives_float32(source):
    model = MoEEModel.from_pretrained(CHECKPOINT, dtype=torch.bfloat16, hidden_source=source, router_activation="clr")
    with torch.no_grad():
        output = model(**model.tokenize(TEXTS))
    assert {value.dtype for value in output.to_tuple()} == {torch.float32}
    alone, batch = (model.encode(MANY, batch_size=size) for size in (1, 32))
    assert alone.dtype == np.float32
    assert model.similarity_pairwise(alone, batch).min() > 0.999


def test_bfloat16():
    """Neighbours change the rounding of bfloat16 products, no more."""
    model = MoEEModel.from_pretrained(CHECKPOINT, dtype=torch.bfloat16)
    assert next(model.model.parameters()).dtype == torch.bfloat16
    for combination in COMBINATIONS:
        alone = model.encode(MANY, combination=combination, batch_size=1)
        batch = model.encode(MANY, combination=combination, batch_size=32)
        assert alone.dtype == np.float32
        assert model.similarity_pairwise(alone, batch).min() > 0.999


def test_threads_get_their_own_embeddings(loaded):
    jobs = [(MANY[i::16], COMBINATIONS[i % 4]) for i in range(16)] * 3
    expected = [loaded.encode(texts, combination=combination) for texts, combination in jobs]
    fresh = MoEEModel.from_pretrained(CHECKPOINT, dtype=torch.float32)  # its tokenizer not loaded yet
    with ThreadPoolExecutor(16) as threads:
        results = list(threads.map(lambda job: fresh.encode(job[0], combination=job[1]), jobs))
    for result, single in zip(results, expected, strict=True):
        assert np.abs(result - single).max() < 1e-5


def test_model_pickles_after_use():
    model = MoEEModel.from_pretrained(CHECKPOINT)
    expected = model.encode(TEXTS)
    assert np.array_equal(pickle.loads(pickle.dumps(model)).encode(TEXTS), expected)


def test_the_backbone_alone_is_left_as_it_was(loaded):
    """The hooks do nothing, and keep nothing, when the backbone runs outside the wrapper."""
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        keys = loaded.model(input_ids=ids).keys()
    assert keys in ({"last_hidden_state", "past_key_values"}, {"last_hidden_state", "cache"})  # until 5.23, and since


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_gradients_reach_the_backbone(combination):
    model = MoEEModel.from_pretrained(CHECKPOINT, dtype=torch.float32)
    model(input_ids=torch.tensor([[5, 6, 7]]), combination=combination).embeddings.square().sum().backward()
    assert model.model.layers[-1].mlp.gate.weight.grad.abs().sum() > 0


def test_default_dtype_and_autocast_leave_float32(model):
    expected = model.encode(TEXTS)
    torch.set_default_dtype(torch.float64)
    try:
        assert np.abs(model.encode(TEXTS) - expected).max() < 1e-5
    finally:
        torch.set_default_dtype(torch.float32)
    for pooling in ("lasttoken", "mean"):
        model.config.pooling = pooling
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            output = model(input_ids=torch.tensor([[5, 6, 7]]))
            assert {value.dtype for value in output.to_tuple()} == {torch.float32}
            assert model.similarity(output.embeddings, output.embeddings).dtype == torch.float32
