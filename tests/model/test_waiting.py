"""Nothing inside a batch waits for a device: run here with tensors that have no values, whoever asks for one fails."""

import contextlib
import copy
import sys

import pytest
import torch
from support.common import LONG_PROMPT, MANY, set_random_statistics
from support.packed_attention import packed_attention
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from transformers import masking_utils

from moee_hf.model import experts_moee, inference_moee, layout_moee
from moee_hf.model.batching_moee import Batches
from moee_hf.model.inference_moee import embeddings_of, run_texts, token_ids, wanted_of


@pytest.fixture(scope="module")
def calibrated(loaded):
    model = copy.deepcopy(loaded).bfloat16()
    set_random_statistics(model)
    model.config.standardize = True
    return model.with_config(router_layers=[1, 2], router_layer_weights=[1.0, 2.0])


@pytest.mark.parametrize("prompt", ["{text}", LONG_PROMPT], ids=["short", "prefix"])
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("pooling", ["lasttoken", "mean"])
def test_nothing_waits_for_the_device(calibrated, prompt, packed, pooling, monkeypatch):
    model = copy.deepcopy(calibrated).with_config(pooling=pooling)
    ids, mode = token_ids(model, MANY, prompt), FakeTensorMode(allow_non_fake_inputs=True)
    replace_by_fakes(model, mode)
    for name in ("pad", "pack", "layout_of"):
        monkeypatch.setattr(inference_moee, name, on_the_host(getattr(inference_moee, name)))
    monkeypatch.setattr(layout_moee.Padded, "rows", on_the_host(layout_moee.Padded.rows))
    for name in ("functional_moee", "inference_moee", "layout_moee", "statistics_moee"):
        monkeypatch.setattr(sys.modules[f"moee_hf.model.{name}"], "send", lambda tensor, device: sent(mode, tensor))
    monkeypatch.setattr(masking_utils, "is_tracing", lambda tensor: False)  # as with tensors that have values
    monkeypatch.setattr(experts_moee, "has_grouped_products", lambda device: True)
    monkeypatch.setattr(inference_moee, "is_asynchronous", lambda device: True)
    attention = packed_attention(model.model, lambda module, query, *args, **kwargs: (query.transpose(1, 2), None))
    mix, num_texts = model.config.mix(), 0
    assert mix.standardize
    with attention if packed else contextlib.nullcontext(), mode, torch.inference_mode():
        for indices, capture in run_texts(model, ids, wanted_of(model, mix), Batches(300)):
            hidden, routing = capture.hidden_and_routing("state", model.config.router_activation)
            embeddings = embeddings_of(model, hidden, routing, mix)
            assert embeddings.shape == (len(indices), model.config.embedding_size)
            num_texts += len(indices)
    assert num_texts == len(MANY)


def replace_by_fakes(model, mode):
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            tensors.update({name: mode.from_tensor(tensor) for name, tensor in tensors.items() if tensor is not None})


def on_the_host(function):
    """A function whose own tensors have values."""

    def run(*args, **kwargs):
        with unset_fake_temporarily():
            return function(*args, **kwargs)

    return run


def sent(mode, tensor):
    return tensor if hasattr(tensor, "fake_mode") else mode.from_tensor(tensor)
