"""What the authors' released code computes, on checkpoints whose features it took itself."""

import json

import numpy as np
import pytest
import torch
from support import metrics
from support.common import GOLDEN, TEXTS
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from moee_hf import MoEEModel
from moee_hf.evaluation.paper import released_code

COMBINATIONS = ("hs", "rw", "concat", "sum")


@pytest.fixture(scope="module", params=["deepseek", "olmoe", "qwen"])
def official(request):
    """The golden checkpoint of a family, and the features that the released code takes from it."""
    expected = json.loads((GOLDEN / request.param / "expected.json").read_text())
    return MoEEModel.from_pretrained(GOLDEN / request.param), expected


def official_vectors(expected, combination, standardize):
    """The released code's arithmetic, in numpy: z-scores over the batch with n - 1, and the weighted cosines."""
    hidden = np.array(expected["hs"], np.float64)
    routing = np.array(expected["rw_raw"], np.float64).reshape(len(hidden), -1)

    def z(values):
        return (values - values.mean(axis=0)) / (values.std(axis=0, ddof=1) + 1e-8)

    if combination == "hs":
        return hidden
    if combination == "rw":
        return z(routing)
    if combination == "concat":
        return z(np.concatenate([hidden, routing], axis=1))
    return metrics.embedding(*((z(hidden), z(routing)) if standardize else (hidden, routing)), "sum")


@pytest.mark.parametrize("combination", COMBINATIONS)
@pytest.mark.parametrize("standardize", [True, False])
def test_released_vectors_on_golden_checkpoints(official, combination, standardize):
    """A left-padded batch, as the released code makes it."""
    model, expected = official
    model.config.router_activation = released_code.router_activation(model.config.backbone_config.model_type)
    length = max(map(len, expected["input_ids"]))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in expected["input_ids"]])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in expected["input_ids"]])
    with torch.no_grad():
        output = model(input_ids=ids, attention_mask=mask)
    vectors = released_code.embed_batch(
        output.pooled_hidden_state, output.router_weights, combination, standardize=standardize
    )
    np.testing.assert_allclose(vectors, official_vectors(expected, combination, standardize), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_released_encoder_on_golden_checkpoints(official, combination):
    """The whole way, from texts: a tokenizer of numbers, which leaves out the quotes and the full stop put in."""
    model, expected = official
    tokenizer = Tokenizer(
        models.WordLevel({f"t{n}": n for n in range(model.get_input_embeddings().num_embeddings)}, "t0")
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(mark, "") for mark in ('"', ".")])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model.tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    texts = [" ".join(f"t{n}" for n in row) for row in expected["input_ids"]]
    (found,) = released_code.released_encoders(model, ["none"], [combination])
    for encoder in found:
        vectors = official_vectors(expected, combination, encoder.standardize)
        np.testing.assert_allclose(encoder.embed(texts), vectors, atol=1e-3, rtol=1e-3)


def test_released_code_knows_three_architectures():
    with pytest.raises(
        ValueError, match="released_code: expected a model of deepseek, olmoe, qwen2_moe; got 'mixtral'"
    ):
        released_code.router_activation("mixtral")


def test_released_batch_of_one_is_nothing():
    hidden, routing = torch.randn(1, 8), torch.rand(1, 2, 4)
    assert not released_code.embed_batch(hidden, routing, "concat").any()
    assert torch.equal(released_code.embed_batch(hidden, routing, "hs"), hidden)


@pytest.mark.parametrize(
    ("text", "edited"),
    [
        ("A man", "A man."),
        ("A man.", "A man."),
        ("Really?", "Really?"),
        ('He said "no"', "He said 'no'"),
        ("snake_case", "snake case."),
        ("", ""),
        ("ends with a space ", "ends with a space ."),
    ],
)
def test_released_edits(text, edited):
    assert released_code.edit(text) == edited


def test_released_encoder_depends_on_neighbours(model, monkeypatch):
    """Batches of 128 texts in their order, each standardized by itself, of edited texts in quotes."""
    texts = [f"{text} {number}" for number in range(40) for text in TEXTS]
    (found,) = released_code.released_encoders(model, ["none"], ["concat"])
    vectors = found[0].embed(texts)
    model.config.router_activation = "logits"
    raw = model.encode(
        [released_code.edit(text) for text in texts], prompt='"{text}"', combination="concat", convert_to_tensor=True
    )
    for start in range(0, len(texts), 128):
        batch = raw[start : start + 128]
        expected = (batch - batch.mean(dim=0)) / (batch.std(dim=0) + 1e-8)
        torch.testing.assert_close(vectors[start : start + 128], expected, atol=2e-2, rtol=1e-2)
