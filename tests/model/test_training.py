"""Gradients of `forward`, with and without gradient checkpointing."""

import copy
import dataclasses
import functools

import pytest
import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from support.common import TEXTS
from torch.utils.checkpoint import checkpoint
from transformers import TrainingArguments

# its name from transformers 5.23 on, and before
CHECKPOINTING = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in {field.name for field in dataclasses.fields(TrainingArguments)}
)
CHOICES = {
    "sum": {},
    "layer in the middle, mean": {"hidden_layer": 2, "pooling": "mean"},
    "attention": {"hidden_source": "attention", "router_layers": [1, 3]},
    "values": {"hidden_source": "values", "router_activation": "clr"},
}


@pytest.fixture
def trained(model):
    """A copy of the model that is trained, as gradients stay with the weights."""
    return copy.deepcopy(model).train()


def enable_checkpointing(model, **kwargs):
    getattr(model, f"{CHECKPOINTING}_enable")(kwargs)


def gradients(model, batch) -> dict[str, torch.Tensor]:
    model.zero_grad()
    output = model(**batch)
    (output.embeddings[0] * torch.arange(output.embeddings.shape[1])).sum().backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("choices", CHOICES.values(), ids=CHOICES)
def test_gradients_with_checkpointing(trained, choices):
    model = trained.with_config(**choices)
    batch = model.tokenize(TEXTS[:2])
    expected = gradients(model, batch)
    assert {f"model.layers.{router}.mlp.gate.weight" for router in model.config.router_indices} <= expected.keys()
    enable_checkpointing(model, use_reentrant=False)
    got = gradients(model, batch)
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient)


def test_checkpointing_of_the_backbone_alone(trained):
    batch = trained.tokenize(TEXTS[:2])
    expected = gradients(trained, batch)
    for module in trained.model.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = True
            module._gradient_checkpointing_func = functools.partial(checkpoint, use_reentrant=False)
    for name, gradient in gradients(trained, batch).items():
        torch.testing.assert_close(gradient, expected[name])


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")  # sentence-transformers calls it
def test_sentence_transformers_trains_the_same(saved, tmp_path):
    def trained_weights(gradient_checkpointing: bool) -> dict[str, torch.Tensor]:
        model = SentenceTransformer(str(saved), trust_remote_code=True, device="cpu")
        before = {name: weight.clone() for name, weight in model.state_dict().items()}
        arguments = SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path),
            max_steps=1,
            learning_rate=1e-3,
            report_to=[],
            use_cpu=True,
            save_strategy="no",
            disable_tqdm=True,
            **({CHECKPOINTING: True} if gradient_checkpointing else {}),
        )
        data = Dataset.from_dict({"anchor": TEXTS[:4], "positive": TEXTS[3:]})
        SentenceTransformerTrainer(model, arguments, data, loss=MultipleNegativesRankingLoss(model)).train()
        weights = model.state_dict()
        assert sum(not torch.equal(weights[name], weight) for name, weight in before.items()) > 40
        return weights

    expected = trained_weights(False)
    for name, weight in trained_weights(True).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-5)


def test_reentrant_checkpoints_are_refused(trained):
    enable_checkpointing(trained, use_reentrant=True)
    with pytest.raises(ValueError, match="expected use_reentrant=False"):
        trained(**trained.tokenize(TEXTS[:2]))
