"""Fixtures that tests of several folders share; conftest.py loads this file where tests run."""

import copy
import logging
import resource
from pathlib import Path

import datasets
import huggingface_hub
import pytest
import torch
import transformers

from moee_hf import MoEEModel
from support import evaluation_data
from support.common import BACKBONE, CHECKPOINT
from support.deprecations import raise_logged_deprecations
from support.environment import HUB_SOCKET
from support.hub import Hub


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
    torch.set_num_threads(1)  # with more, batches run side by side: a matter of test_threads.py


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
    assert not hasattr(loaded.model, "_output_capturing_hooks_installed"), "ask backbone_alone() for router logits"


@pytest.fixture(scope="session")
def _server(tmp_path_factory):
    with Hub(tmp_path_factory.mktemp("xet")).serve(HUB_SOCKET) as hub:
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
def backbone(hub) -> str:
    """A plain checkpoint on the Hub."""
    hub.add("lab/backbone", BACKBONE)
    return "lab/backbone"


@pytest.fixture(scope="session")
def files_of_reference() -> dict[str, bytes]:
    """What the first test that needs a reference repository has pushed: the same every time."""
    return {}


@pytest.fixture
def reference(hub, backbone, files_of_reference) -> str:
    """A reference repository on the Hub, of the backbone."""
    name = "author/reference"
    if not files_of_reference:
        MoEEModel.from_pretrained(backbone, alpha=0.5).push_to_hub(name, reference=True)
        files_of_reference.update({path: file.content for path, file in hub.files(name).items()})
    hub.add(name, files_of_reference)
    return name


@pytest.fixture
def full_disk():
    """The limit of a file's size stands in for it; the header alone is under it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
