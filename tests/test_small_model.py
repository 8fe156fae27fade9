"""The model of most tests is one on which mistakes show: texts differ in HS, in RW and in the experts they visit."""

import itertools

import pytest
import torch
from support.common import CHECKPOINT, TEXTS
from transformers import AutoTokenizer

HARD = [*TEXTS, " two  spaces ", "\t\r\n", "漢字かな", "مرحبا", "👩‍👩‍👧‍👦", "\x00\x7f", "<|endoftext|>"]


def test_every_text_comes_back_from_its_ids():
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    assert [tokenizer.decode(tokenizer(text)["input_ids"]) for text in HARD] == HARD
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|endoftext|>", "<|pad|>")


@pytest.mark.parametrize("prompt", ["none", "prompteol"])
@pytest.mark.parametrize("combination", ["hs", "rw", "sum"])
def test_texts_have_different_embeddings(model, prompt, combination):
    """With PromptEOL too, where all end in the same tokens."""
    embeddings = model.encode(TEXTS, prompt_name=prompt, combination=combination)
    assert model.similarity(embeddings, embeddings).fill_diagonal_(-1).max() < 0.95  # 0.90 on some processors


def test_texts_visit_different_experts(model):
    with torch.no_grad():
        routing = [model(**model.tokenize(text)).router_weights[0] for text in TEXTS]
    visited = [[frozenset(layer) for layer in weights.topk(4).indices.tolist()] for weights in routing]
    assert all(one != other for one, other in itertools.combinations(visited, 2))
    assert all(len(set(layer)) > len(TEXTS) / 2 for layer in zip(*visited, strict=True))
