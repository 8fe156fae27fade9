import shutil
from pathlib import Path

import huggingface_hub
import pytest
from support.common import BACKBONE
from support.publishing import recipe_file

from moee_hf.publishing import build, read_recipe


@pytest.fixture(params=["xet", pytest.param("lfs", marks=pytest.mark.by_hand)])
def storage(request, monkeypatch) -> str:
    """Where the Hub keeps large files, and the client's way of sending them."""
    disabled = request.param == "lfs"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", disabled)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", str(int(disabled)))
    return request.param


@pytest.fixture
def recipe(hub, tmp_path) -> Path:
    """A recipe whose backbone is in a repository of the Hub."""
    hub.add("lab/backbone", BACKBONE)
    return recipe_file(tmp_path)


@pytest.fixture(scope="session")
def builds(tmp_path_factory) -> Path:
    """Where folders stay that many tests take a copy of."""
    return tmp_path_factory.mktemp("builds")


@pytest.fixture
def built(recipe, builds, tmp_path) -> Path:
    """A folder built from the recipe, a reference, for one test to change; a commit has the same id every time."""
    if not (builds / "built").exists():
        build(read_recipe(recipe), builds / "built", reference=True)
    return shutil.copytree(builds / "built", tmp_path / "built")
