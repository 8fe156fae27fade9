"""Models as caches know them: `datasets` compares their pickles."""

import copy
import pickle

import pytest
import torch
from datasets.fingerprint import Hasher
from sentence_transformers import SentenceTransformer
from support.common import TEXTS
from transformers import AutoModel

from moee_hf import MoEEModel

LOADERS = {
    "MoEEModel": MoEEModel.from_pretrained,
    "AutoModel": lambda folder: AutoModel.from_pretrained(folder, trust_remote_code=True),
    "SentenceTransformer": lambda folder: SentenceTransformer(str(folder), trust_remote_code=True, device="cpu"),
}


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_equal_models_have_equal_hashes(saved, load):
    first = load(saved)
    torch.nn.Linear(1, 1).register_forward_hook(print)  # torch counts the hooks of a process
    second = load(saved)
    expected = Hasher.hash(first)
    assert Hasher.hash(second) == expected
    if load is not LOADERS["SentenceTransformer"]:  # which notes in itself that it was used
        second.encode(TEXTS)
        assert Hasher.hash(second) == expected
    next(iter(second.parameters())).data[0] += 1
    assert Hasher.hash(second) != expected


def test_other_choices_have_other_hashes(model):
    hashes = {Hasher.hash(model.with_config(**fields)) for fields in ({}, {"alpha": 2.0}, {"pooling": "mean"})}
    assert len(hashes) == 3


def test_a_copy_has_not_changed(saved):
    model = MoEEModel.from_pretrained(saved)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.with_config(alpha=2.0)]
    assert not any(other.weights_changed for other in [model, *copies])
    with torch.no_grad():
        model.model.norm.weight += 1
    assert model.weights_changed
    assert copy.deepcopy(model).weights_changed
    assert pickle.loads(pickle.dumps(model)).weights_changed
