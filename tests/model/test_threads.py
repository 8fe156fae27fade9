"""Batches side by side on a processor."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from support.common import MANY
from support.tiny_backbones import tiny_model
from transformers import OlmoeConfig

from moee_hf.model import batching_moee, inference_moee
from moee_hf.model.backbone_moee import can_run_side_by_side
from moee_hf.model.batching_moee import Batches
from moee_hf.model.capture_moee import active_capture
from moee_hf.model.inference_moee import batches_for
from moee_hf.model.threads_moee import MOST_AT_ONCE, Threads, _StoppedError


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_items_run_side_by_side_with_a_share_of_the_threads(four_threads):
    meeting = threading.Barrier(2)

    def run(item):
        meeting.wait(timeout=30)  # no item ends before the other has begun
        return item, torch.get_num_threads(), torch.is_inference_mode_enabled()

    with Threads(2) as threads:
        with torch.inference_mode():
            results = [result() for result in threads.run(run, ["a", "b"])]
        assert results == [("a", 2, True), ("b", 2, True)]
        assert [result() for result in threads.run(run, ["c", "d"])] == [("c", 2, False), ("d", 2, False)]
        # a single item has all threads, and other threads that begin meanwhile have theirs
        (alone,) = threads.run(lambda item: (item, torch.get_num_threads(), threading.current_thread()), ["e"])
        assert alone() == ("e", 4, threading.current_thread())
        with ThreadPoolExecutor(1) as other:
            assert other.submit(torch.get_num_threads).result() == 4
    assert torch.get_num_threads() == 4


def test_what_is_left_is_given_up():
    """As by Ctrl-C: a pass ends where it next looks for its capture, which it does in every layer."""
    begun, ended = threading.Barrier(3), []

    def run(item):
        begun.wait(timeout=30)
        try:
            while True:
                active_capture()
                time.sleep(0.001)
        finally:
            ended.append(item)

    with Threads(2) as threads:
        results = list(threads.run(run, [1, 2]))
        begun.wait(timeout=30)
    for result in results:
        with pytest.raises(_StoppedError):
            result()
    assert sorted(ended) == [1, 2]


def test_batches_run_as_many_at_once_as_there_are_and_the_rest_alone(four_threads):
    running, most, sizes = [], [], []

    def run(indices):
        running.append(indices)
        time.sleep(0.05)
        most.append(len(running))
        running.remove(indices)
        return torch.get_num_threads()

    for indices, result in Batches(10, at_once=4).run(run, [10] * 10):
        sizes.append((indices, result))
    assert [indices for indices, _ in sizes] == [[index] for index in range(10)]
    # two whole rounds; then two of four, which is no more than half, have all threads one by one
    assert [result for _, result in sizes] == [1] * 8 + [4, 4]
    assert max(most[:8]) > 1
    assert most[8:] == [1, 1]


def test_batches_that_memory_does_not_hold_side_by_side_run_one_by_one():
    lock, tried = threading.Lock(), []

    def run(indices):
        with lock:
            tried.append(indices)
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return indices

    batches = list(Batches(20, at_once=2).run(run, [10, 9, 8, 7, 6, 5]))
    assert batches == [([0, 1], [0, 1]), ([2, 3], [2, 3]), ([4, 5], [4, 5])]
    assert sorted(tried[:2]) == [[0, 1], [2, 3]]
    assert tried[2:] == [[0, 1], [2, 3], [4, 5]]


def test_errors_are_those_of_the_function():
    def run(indices):
        raise ValueError(f"batch {indices}")

    with pytest.raises(ValueError, match=r"batch \[0\]"):
        list(Batches(10, at_once=2).run(run, [10, 9, 8]))


@pytest.mark.parametrize("pooling", ["lasttoken", "mean"])
def test_embeddings_are_those_of_batches_one_by_one(model, pooling, four_threads, monkeypatch):
    model.config.pooling = pooling
    monkeypatch.setattr(batching_moee, "CPU_TOKENS", 100)
    expected = model.encode(MANY, batch_size=1000)
    used = set()
    monkeypatch.setattr(
        inference_moee,
        "run_batch",
        lambda *a, f=inference_moee.run_batch, **k: used.add(threading.get_ident()) or f(*a, **k),
    )
    assert batches_for(model, None).at_once == 4
    found = model.encode(MANY)
    assert len(used) > 1
    torch.set_num_threads(1)
    assert batches_for(model, None).at_once == 1
    assert np.abs(model.encode(MANY) - found).max() < 1e-5
    assert np.abs(expected - found).max() < 1e-5


def test_passes_that_could_disturb_each_other_run_one_by_one():
    model = tiny_model("olmoe").model
    assert can_run_side_by_side(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert not can_run_side_by_side(model)
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    grows = type(model)(OlmoeConfig(**{**model.config.to_dict(), "rope_parameters": rope}))
    assert not can_run_side_by_side(grows)
    with torch.device("meta"):
        assert not can_run_side_by_side(type(model)(model.config))
    assert not can_run_side_by_side(type("Other", (type(model),), {"__module__": "remote_code"})(model.config))
    model.layers[0].compile()
    assert not can_run_side_by_side(model)


def test_a_machine_with_many_processors_does_not_hold_a_batch_for_each(model, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert batches_for(model, None).at_once == MOST_AT_ONCE
