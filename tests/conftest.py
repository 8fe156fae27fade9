import copy
import gc
import logging
import os
import resource
import socket
import tempfile
from pathlib import Path

# nothing here may reach for the Hub: a server of our own takes its place for tests that ask for the fixture `hub`, and
# the cache is empty. Set before huggingface_hub reads it
_socket = socket.socket()
_socket.bind(("127.0.0.1", 0))
_home = tempfile.TemporaryDirectory()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{_socket.getsockname()[1]}"
os.environ["HF_HOME"] = _home.name
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("HF_TOKEN", None)
if "PYTEST_XDIST_WORKER" in os.environ:  # the processes share the processor
    os.environ["OMP_NUM_THREADS"] = "1"

import datasets
import huggingface_hub
import pytest
import torch
import transformers
from support import evaluation_data
from support.common import CHECKPOINT
from support.deprecations import raise_logged_deprecations
from support.hub import Hub

from moee_hf import MoEEModel


@pytest.fixture(autouse=True)
def warnings_are_logged():
    """The command line turns those of transformers off in its process; not for the tests that come after it."""
    verbosity = transformers.logging.get_verbosity()
    yield
    transformers.logging.set_verbosity(verbosity)


@pytest.fixture(autouse=True, scope="session")
def quiet():
    datasets.disable_progress_bars()
    logging.getLogger("mteb").setLevel(logging.ERROR)
    raise_logged_deprecations()
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session")
def loaded() -> MoEEModel:
    """The small model in float32, with the paper's defaults."""
    return MoEEModel.from_pretrained(CHECKPOINT, dtype=torch.float32)


@pytest.fixture(scope="session")
def saved(loaded, tmp_path_factory) -> Path:
    """A folder with the model in float32."""
    folder = tmp_path_factory.mktemp("saved")
    loaded.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """A folder with small sets of the six types of tasks."""
    return evaluation_data.write(tmp_path_factory.mktemp("data"))


@pytest.fixture
def model(loaded: MoEEModel):
    """The same model for every test; what one changes in configuration and statistics is undone."""
    config, statistics = loaded.config, loaded.statistics
    loaded.config, loaded.statistics = copy.deepcopy(config), copy.deepcopy(statistics)
    yield loaded
    loaded.config, loaded.statistics = config, statistics


@pytest.fixture(scope="session")
def _server(tmp_path_factory):
    with Hub(tmp_path_factory.mktemp("xet")).serve(_socket) as hub:
        yield hub


@pytest.fixture
def hub(_server, monkeypatch, tmp_path):
    """A Hub with nothing in it, an empty cache, and the token of the user `author`."""
    _server.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_TOKEN", "hf_author")
    return _server


@pytest.fixture
def full_disk():
    """The limit of a file's size stands in for it; the header alone is under it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def pytest_collection_finish():
    # what was imported stays; the garbage collector need not look through it again and again
    gc.freeze()


def pytest_terminal_summary(terminalreporter):
    passed = [report.nodeid for report in terminalreporter.getreports("passed")]
    agree = sum("::test_hidden_states_and_routing_weights[" in test for test in passed)
    refused = sum("::test_refused_by_name[" in test for test in passed)
    if agree or refused:
        terminalreporter.write_line(
            f"{agree} architectures agree with their own modules, {refused} are refused by name"
        )
