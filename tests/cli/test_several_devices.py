"""`moee embed --devices`, and `--device` with any accelerator that torch has."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.common import CHECKPOINT

from moee_hf import MoEEModel
from moee_hf.cli import main

EMBED = ["embed", "a.txt", "--output", "x.npy", "--model", str(CHECKPOINT)]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working directory, with two texts."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    return tmp_path


@pytest.fixture
def two_xpus(monkeypatch):
    """Two accelerators of a kind that is not CUDA."""
    here = SimpleNamespace(is_available=lambda: True, current_accelerator=lambda: torch.device("xpu"))
    monkeypatch.setattr(torch, "accelerator", here, raising=False)
    monkeypatch.setattr(torch.xpu, "device_count", lambda: 2)


@pytest.fixture
def calls(model, monkeypatch):
    """What a model was loaded and asked with."""
    calls = {}

    def encode_stream(model, texts, **options):
        calls.update(options)
        return iter([np.zeros((len(list(texts)), 2), np.float32)])

    monkeypatch.setattr(MoEEModel, "from_pretrained", lambda *args, **kwargs: calls.update(kwargs) or model)
    monkeypatch.setattr(MoEEModel, "encode_stream", encode_stream)
    return calls


@pytest.mark.parametrize(
    ("flags", "device_map", "devices"),
    [
        ([], "auto", None),
        (["--device", "xpu"], "xpu", None),
        (["--device", "xpu:1"], "xpu:1", None),
        (["--device", "cpu"], "cpu", None),
        (["--devices", "all"], "cpu", "all"),
        (["--devices", "xpu:0,xpu:1,cpu"], "cpu", ["xpu:0", "xpu:1", "cpu"]),
    ],
)
@pytest.mark.usefixtures("two_xpus")
def test_where_the_model_is_loaded_and_runs(folder, calls, flags, device_map, devices):
    assert main([*EMBED, *flags]) == 0
    assert (calls["device_map"], calls["devices"], calls["dtype"]) == (device_map, devices, "auto")
    assert np.load("x.npy").shape == (2, 2)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--device", "xpu:2"], "--device: expected one that is here (auto, cpu, xpu:0, xpu:1); got 'xpu:2'."),
        (["--devices", "xpu:1,cuda:9"], "--devices: expected one that is here (cpu, xpu:0, xpu:1); got 'cuda:9'."),
        (["--devices", "xpu:1,"], "--devices: expected one that is here (cpu, xpu:0, xpu:1); got ''."),
    ],
)
@pytest.mark.usefixtures("two_xpus")
def test_a_device_that_is_not_there(folder, calls, flags, message, capsys):
    assert main([*EMBED, *flags]) == 1
    assert capsys.readouterr().err == f"moee: {message}\n"
    assert calls == {}


def test_all_of_no_accelerators(calls, monkeypatch, capsys):
    monkeypatch.setattr(torch, "accelerator", SimpleNamespace(is_available=lambda: False), raising=False)
    assert main([*EMBED, "--devices", "all"]) == 1
    assert capsys.readouterr().err.startswith("moee: --devices: expected an accelerator for 'all'; got none")
    assert calls == {}


def test_device_or_devices(capsys):
    with pytest.raises(SystemExit):
        main([*EMBED, "--device", "cpu", "--devices", "cpu,cpu"])
    assert "argument --devices: not allowed with argument --device" in capsys.readouterr().err


def test_what_happened_to_a_process_is_one_sentence(folder, calls, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise RuntimeError("devices: expected cpu to embed; got OutOfMemoryError: CUDA out of memory.")

    monkeypatch.setattr(MoEEModel, "encode_stream", fail)
    assert main([*EMBED, "--devices", "cpu,cpu"]) == 1
    assert capsys.readouterr().err == (
        "moee: --devices: expected cpu to embed; got OutOfMemoryError: CUDA out of memory.\n"
    )
    assert not (folder / "x.npy").exists()
