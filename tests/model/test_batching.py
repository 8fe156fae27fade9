"""Windows of a stream, batches of a window, and memory that does not hold one."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.common import MANY

from moee_hf.model import batching_moee
from moee_hf.model.batching_moee import Batches, padded_length, token_budget, windows


def test_windows_are_bounded(monkeypatch):
    monkeypatch.setattr(batching_moee, "WINDOW_TEXTS", 3)
    monkeypatch.setattr(batching_moee, "WINDOW_CHARACTERS", 10)
    texts = ["a", "b", "c", "d", "e" * 12, "f", "g" * 9, "h", "i"]
    parts = list(windows(texts, torch.device("cpu"), 4))
    assert [len(part) for part in parts] == [3, 2, 2, 2]
    assert [text for part in parts for text in part] == texts
    assert list(windows(texts, torch.device("cuda"), 4)) == [texts]
    monkeypatch.setattr(batching_moee, "ACCELERATOR_BYTES", 2000)  # for the vectors of a window
    parts = windows(["a"] * 12, torch.device("cuda"), 400)
    assert [len(part) for part in parts] == [5, 5, 2]


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


GIB = 2**30


@pytest.mark.parametrize(
    ("free", "of_tensors", "expected"),
    [(80, 0, 3.75), (3, 1, 2.0), (0.001, 0, None)],
    ids=["a large card", "half of what is free or kept", "hardly anything free"],
)
def test_the_budget_of_an_accelerator(free, of_tensors, expected, monkeypatch):
    """It counts bytes: free ones, and those that torch keeps for tensors to come."""
    module = SimpleNamespace(
        mem_get_info=lambda device: (int(free * GIB), 100 * GIB),
        memory_reserved=lambda device: (5 + of_tensors) * GIB,
        memory_allocated=lambda device: 5 * GIB,
    )
    mps = SimpleNamespace(
        recommended_max_memory=lambda: int((5 + free + of_tensors) * GIB), current_allocated_memory=lambda: 5 * GIB
    )
    for device, found in (("cuda", module), ("mps", mps)):
        monkeypatch.setattr(torch, "get_device_module", lambda device, found=found: found)
        expected_tokens = 1024 if expected is None else int(expected * GIB) // 300_000
        assert token_budget(torch.device(device), 300_000) == expected_tokens
        assert token_budget(torch.device(device), 1) == 32_768


def test_padding_is_bounded():
    """On a processor by what a batch costs, on an accelerator by its share; nothing of it in packed texts."""
    lengths = [100] * 100 + [90] * 100 + [50] * 100
    sizes = {}
    for device in ("cpu", "cuda"):
        batches = Batches(20_000, device=torch.device(device))
        sizes[device] = [len(places) for places, _ in batches.run(lambda places: None, lengths)]
        sizes[f"{device}, packed"] = [len(places) for places, _ in batches.run(lambda places: None, lengths, True)]
    assert sizes["cpu, packed"] == sizes["cuda, packed"] == [220, 80]
    assert sizes["cpu"] == [128, 64, 16, 64, 24, 4]
    assert sizes["cuda"] == [200, 100]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("MPS backend out of memory"),
    ],
)
def test_a_batch_that_memory_does_not_hold_is_halved(error, packed):
    tried = []

    def run(places):
        tried.append(len(places))
        if len(places) > 3:
            raise error
        return [place * 10 for place in places]

    lengths = [7, 5, 6, 5, 7, 6, 5, 5]
    batches = list(Batches(1000).run(run, lengths, packed))
    assert sorted(place for places, _ in batches for place in places) == list(range(8))
    assert all(result == [place * 10 for place in places] for places, result in batches)
    # what was learnt is kept
    assert tried == ([8, 3, 4, 1, 2, 2] if packed else [8, 4, 2, 2, 2, 2])


def test_errors_of_a_batch_are_its_own():
    def run(places):
        raise torch.OutOfMemoryError("too long a text")

    with pytest.raises(torch.OutOfMemoryError, match="too long a text"):
        list(Batches(1000).run(run, [9, 9]))

    def fail(places):
        raise RuntimeError("shapes")

    with pytest.raises(RuntimeError, match="shapes"):
        list(Batches(1000).run(fail, [9, 9]))
