"""Windows of a stream, batches of a window, and memory that does not hold one."""

import numpy as np
import pytest
import torch
from support.common import MANY

from moee_hf.model import batching_moee
from moee_hf.model.batching_moee import Batches, padded_length, windows


def test_windows_are_bounded(monkeypatch):
    monkeypatch.setattr(batching_moee, "WINDOW_TEXTS", 3)
    monkeypatch.setattr(batching_moee, "WINDOW_CHARACTERS", 10)
    texts = ["a", "b", "c", "d", "e" * 12, "f", "g" * 9, "h", "i"]
    parts = list(windows(texts, torch.device("cpu")))
    assert [len(part) for part in parts] == [3, 2, 2, 2]
    assert [text for part in parts for text in part] == texts
    assert list(windows(texts, torch.device("cuda"))) == [texts]


def test_padded_length():
    assert [padded_length(length) for length in (1, 15, 17, 33, 36, 63, 65, 512)] == [1, 15, 18, 36, 36, 64, 72, 512]


def test_batches_keep_to_the_budget(model, tokens_read, monkeypatch):
    expected = model.encode(MANY)
    tokens_read.clear()
    monkeypatch.setattr(batching_moee, "CPU_TOKENS", 100)
    assert np.abs(model.encode(MANY) - expected).max() < 1e-5
    assert max(rows * tokens for _, rows, tokens in tokens_read) <= 100
    tokens_read.clear()
    model.encode(MANY, batch_size=2)
    assert max(rows for _, rows, _ in tokens_read) == 2


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("MPS backend out of memory"),
    ],
)
def test_a_batch_that_memory_does_not_hold_is_halved(error):
    tried = []

    def run(places):
        tried.append(len(places))
        if len(places) > 3:
            raise error
        return [place * 10 for place in places]

    lengths = [7, 5, 6, 5, 7, 6, 5, 5]
    batches = list(Batches(1000).run(run, lengths))
    assert sorted(place for places, _ in batches for place in places) == list(range(8))
    assert all(result == [place * 10 for place in places] for places, result in batches)
    assert tried[:3] == [8, 4, 2]
    assert 4 not in tried[2:]  # what was learnt is kept


def test_errors_of_a_batch_are_its_own():
    def run(places):
        raise torch.OutOfMemoryError("too long a text")

    with pytest.raises(torch.OutOfMemoryError, match="too long a text"):
        list(Batches(1000).run(run, [9, 9]))

    def fail(places):
        raise RuntimeError("shapes")

    with pytest.raises(RuntimeError, match="shapes"):
        list(Batches(1000).run(fail, [9, 9]))
