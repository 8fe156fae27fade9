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
            results = [threads.start(run, item) for item in ("a", "b")]
        assert [result() for result in results] == [("a", 2, True), ("b", 2, True)]
        results = [threads.start(run, item) for item in ("c", "d")]
        assert [result() for result in results] == [("c", 2, False), ("d", 2, False)]
        # other threads that begin meanwhile have all of torch's
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
        results = [threads.start(run, item) for item in (1, 2)]
        begun.wait(timeout=30)
    for result in results:
        with pytest.raises(_StoppedError):
            result()
    assert sorted(ended) == [1, 2]


def test_the_last_batches_are_smaller_so_that_threads_end_together(four_threads):
    used = set()

    def run(indices):
        used.add(threading.get_ident())
        time.sleep(0.001 * len(indices))
        return torch.get_num_threads()

    batches = list(Batches(1024, at_once=2).run(run, [16] * 256))
    sizes = [len(indices) for indices, _ in batches]
    assert [index for indices, _ in batches for index in indices] == list(range(256))
    assert sizes == [64, 64, 64, 32, 16, 16]
    assert {result for _, result in batches} == {2}
    assert len(used) == 2
    assert threading.get_ident() not in used


def test_a_single_batch_has_all_threads(four_threads):
    def run(indices):
        return indices, torch.get_num_threads(), threading.current_thread()

    for lengths in ([10, 9], [5000]):
        (batch,) = Batches(1024, at_once=2).run(run, lengths)
        everything = list(range(len(lengths)))
        assert batch == (everything, (everything, 4, threading.current_thread()))


def test_batches_that_memory_does_not_hold_side_by_side_run_one_by_one():
    tried = []

    def run(indices):
        tried.append((indices, threading.current_thread() is threading.main_thread()))
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return indices

    lengths = [600, 500, 400, 300, 200, 100]
    batches = list(Batches(1000, at_once=2).run(run, lengths))
    assert sorted(index for indices, _ in batches for index in indices) == list(range(6))
    assert all(result == indices == sorted(indices) for indices, result in batches)  # the longest first
    assert len({str(indices) for indices, is_main in tried if not is_main}) == 3  # two ran, and one waited
    assert [is_main for _, is_main in tried if is_main] == [True] * len(batches)


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
