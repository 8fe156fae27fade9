"""The devices that there are, and texts that are shared out among processes."""

import contextlib
import copy
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.common import MANY, TEXTS
from transformers import AutoModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.utils import logging

from moee_hf.model import workers_moee
from moee_hf.model.devices_moee import accelerators
from moee_hf.model.handler import EndpointHandler


@pytest.fixture(scope="module")
def remote(saved):
    """A calibrated model whose code lies beside its weights, its modules, and two processes that it runs in."""
    model = get_class_from_dynamic_module("modeling_moee.MoEEModel", saved).from_pretrained(saved)
    model.calibrate(MANY, dimensions=16)
    name = type(model).__module__
    assert name.startswith("transformers_modules")
    devices, batching = (sys.modules[name.replace("modeling", part)] for part in ("devices", "batching"))
    with devices.running(model, [torch.device("cpu")] * 2) as workers:
        yield SimpleNamespace(model=model, devices=devices, batching=batching, workers=workers)
        # a caller that is gone closes its end of the pipe, and no process stays behind
        workers[0]._questions.close()
        assert workers[0]._process.wait(timeout=60) == 1


@pytest.fixture
def running(remote, monkeypatch):
    """The model, on devices whose processes are there already; windows are small."""
    monkeypatch.setattr(remote.devices, "running", lambda *arguments: contextlib.nullcontext(remote.workers))
    monkeypatch.setattr(remote.batching, "WINDOW_TEXTS", 16)
    return remote.model


@pytest.fixture
def no_process(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: pytest.fail("a process was started"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prompt_name": ["prompteol", "knowledge"], "standardize": False, "batch_size": 3},
        {"combination": "rw", "standardize": False, "normalize_embeddings": True},
        {"precision": "int8"},
        {"precision": "binary", "convert_to_tensor": True},
        {"alpha": 0.1, "standardize": False, "convert_to_numpy": False},
    ],
)
def test_embeddings_are_those_of_one_process(running, options):
    if options.get("standardize") is False:
        running = running.with_config(dimensions=None)
    texts = [*TEXTS, *MANY, *TEXTS[:3]]
    expected, got = (running.encode(texts, devices=devices, **options) for devices in (None, ["cpu", "cpu"]))
    assert type(got) is type(expected)
    expected, got = (np.stack([np.asarray(row) for row in rows]) for rows in (expected, got))
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    rounding = 1 if options.get("precision") == "int8" else 1e-6 * np.abs(expected).max()
    assert np.abs(got.astype(float) - expected.astype(float)).max() <= rounding
    assert running.encode("A text.", devices=["cpu", "cpu"]).shape == running.encode("A text.").shape


def test_streams_are_read_in_flat_memory_and_counted(running):
    read, counted = [], []

    def count(factory, args, kwargs):
        counted.append(kwargs["total"])
        return contextlib.nullcontext(SimpleNamespace(update=counted.append))

    texts = [*MANY, *MANY]
    before = logging.set_tqdm_hook(count)
    try:
        parts = running.encode_stream((read.append(text) or text for text in texts), devices=["cpu", "cpu"])
        assert read == []
        first = next(parts)
        assert (len(first), len(read)) == (32, 64)  # one group of windows is worked on while another is yielded
        got = np.concatenate([first, *parts])
        assert np.abs(got - running.encode(texts)).max() < 1e-5
        counted.clear()
        running.with_config(dimensions=None).encode(
            texts, prompt_name=["prompteol", "none"], standardize=False, devices=["cpu", "cpu"]
        )
    finally:
        logging.set_tqdm_hook(before)
    assert counted[0] == sum(counted[1:]) == 2 * len(texts)


@pytest.mark.parametrize(
    ("texts", "error", "message", "num_before"),
    [
        ([*MANY[:70], "", *MANY[70:], ""], ValueError, r"^texts\[70\]: expected a text with tokens", 64),
        ([*MANY[:50], "\ud800"], ValueError, r"^texts\[50\]: expected valid Unicode", 48),
        ([*MANY[:40], 7], TypeError, r"^texts\[40\]: expected a string; got 7", 32),
    ],
)
def test_errors_name_the_text_after_what_came_before_it(running, texts, error, message, num_before):
    got = []
    model = running.with_config(dimensions=None)
    with pytest.raises(error, match=message):
        got.extend(model.encode_stream(texts, prompt_name="none", standardize=False, devices=["cpu", "cpu"]))
    assert sum(map(len, got)) == num_before


def test_an_error_inside_a_process_names_its_device(remote):
    with pytest.raises(RuntimeError, match=r"^devices: expected cpu to embed .*; got TypeError: .*\. Lower batch"):
        remote.workers[0].ask("no question").result()


@pytest.mark.parametrize(
    ("program", "number", "message"),
    [
        ("import time; time.sleep(600)", signal.SIGKILL, "was ended by SIGKILL. The machine's memory may be short"),
        ("raise SystemExit(7)", None, "ended with exit code 7"),
    ],
)
def test_a_process_that_ends_ends_the_others(model, monkeypatch, program, number, message):
    started = []

    class Process(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            started.append(self)
            if number is not None and len(started) == 2:
                os.kill(self.pid, number)

    monkeypatch.setattr(workers_moee, "PROGRAM", program)
    monkeypatch.setattr(subprocess, "Popen", Process)
    with pytest.raises(RuntimeError, match=f"^devices: expected cpu to embed its share of the texts; .*{message}"):
        model.encode(TEXTS, devices=["cpu", "cpu", "cpu"])
    assert len(started) == 3
    assert all(process.returncode is not None for process in started)


@pytest.mark.parametrize(
    ("devices", "error", "message"),
    [
        ("cpu", ValueError, r"devices: expected several in a list, or 'all'; got 'cpu'"),
        ("all", ValueError, "devices: expected an accelerator for 'all'; got none"),
        ([], ValueError, "devices: expected one or more; got an empty list"),
        (["cpu", "cuda:7"], ValueError, r"devices: expected one that is here \(cpu\); got 'cuda:7'"),
        (["cpu:1"], ValueError, r"devices: expected one that is here \(cpu\); got 'cpu:1'"),
        (["meta"], ValueError, r"devices: expected one that is here \(cpu\); got 'meta'"),
        (["gpu"], ValueError, r"devices: expected one that is here \(cpu\); got 'gpu'"),
        ([0], TypeError, "devices: expected a name, such as 'cuda:0'; got 0 of type int"),
        (2, TypeError, "devices: expected a list of names, .*; got 2 of type int"),
        ({"cpu": 1}, TypeError, "devices: expected a list of names, .*; got {'cpu': 1} of type dict"),
    ],
)
@pytest.mark.usefixtures("no_process")
def test_devices_that_cannot_be(model, monkeypatch, devices, error, message):
    monkeypatch.setattr(torch, "accelerator", SimpleNamespace(is_available=lambda: False), raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for encode in (model.encode, model.encode_stream):
        with pytest.raises(error, match=f"^{message}"):
            encode(TEXTS, devices=devices)


@pytest.mark.usefixtures("no_process")
def test_what_else_is_refused_before_a_process_starts(model, monkeypatch):
    def refused(message, model=model, texts=TEXTS, **options):
        with pytest.raises((TypeError, ValueError), match=f"^{message}"):
            model.encode(texts, devices=["cpu"], **options)

    refused("batch_size: expected a number", batch_size=0)
    refused("show_progress_bar: expected True or False", show_progress_bar=1)
    refused(r"texts\[1\]: expected a string", texts=["a", None])
    assert model.encode([], devices=["cpu"]).shape == model.encode([]).shape
    refused("devices: expected a model on the CPU.*; got one that is offloaded", copy.deepcopy(model).to("meta"))
    elsewhere = SimpleNamespace(is_meta=False, device=torch.device("cuda:0"))
    monkeypatch.setattr(model.model, "hf_quantizer", object(), raising=False)
    refused("devices: expected a model on the CPU.*; got one that is quantized")
    monkeypatch.setattr(model, "parameters", lambda: iter([elsewhere]))
    refused(r"devices: expected a model on the CPU.*; got one on cuda:0.*model\.to\('cpu'\)")


@pytest.mark.usefixtures("no_process")
def test_a_model_that_does_not_pickle(model, monkeypatch):
    monkeypatch.setattr(workers_moee, "Worker", lambda device: SimpleNamespace(kill=list, close=list))
    monkeypatch.setattr(model, "own", lambda: None, raising=False)
    with pytest.raises(ValueError, match=r"^devices: expected a model that other processes can have; got one"):
        model.encode(TEXTS, devices=["cpu"])


@pytest.mark.usefixtures("no_process", "full_disk")
def test_no_room_for_the_copy_that_the_processes_read(model, monkeypatch):
    monkeypatch.setattr(workers_moee, "Worker", lambda device: SimpleNamespace(kill=list, close=list))
    with pytest.raises(RuntimeError, match=r"^devices: expected room in memory for a copy of the model.*\. Free some"):
        model.encode(TEXTS, devices=["cpu"])


@pytest.mark.parametrize("torch_tells", [True, False], ids=["torch.accelerator", "torch 2.5"])
@pytest.mark.parametrize(("kind", "count"), [("cuda", 2), ("xpu", 1), ("mps", 1), ("cpu", 0)])
def test_any_accelerator_that_torch_has_is_found(monkeypatch, kind, count, torch_tells):
    for name in ("cuda", "xpu", "mps"):
        monkeypatch.setattr(getattr(torch, name), "device_count", lambda name=name: count * (name == kind))
    here = SimpleNamespace(is_available=lambda: count > 0, current_accelerator=lambda: torch.device(kind))
    monkeypatch.setattr(torch, "accelerator", here, raising=False)
    if not torch_tells:
        monkeypatch.delattr(torch, "accelerator")
    assert accelerators() == [f"{kind}:{index}" for index in range(count)]


@pytest.mark.parametrize(("is_available", "expected"), [(True, "auto"), (False, "cpu")])
def test_the_handler_takes_whatever_accelerator_there_is(is_available, expected, monkeypatch):
    monkeypatch.setattr(AutoModel, "from_pretrained", lambda *args, **kwargs: kwargs)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: is_available)
    assert EndpointHandler("folder").model["device_map"] == expected
