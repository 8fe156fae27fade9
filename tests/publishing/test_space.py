"""Spaces: complete, pinned, pushed as models are, and at work where nothing else of this package is."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from support.common import CHECKPOINT, ROOT, TEXTS
from support.hub_cards import metadata, space_errors
from support.publishing import load_script, recipe_file
from support.serving import free_port

from moee_hf import MoEEModel
from moee_hf.publishing import build_space, files_to_push, push, read_recipe

pytest.importorskip("gradio")


@pytest.fixture
def space(hub, recipe, tmp_path) -> Path:
    """A Space of the small model, built by the script."""
    folder = tmp_path / "space"
    assert load_script("build").main(["--space", str(recipe), str(folder)]) == 0
    return folder


def test_a_space_is_complete_and_pinned(hub, space):
    names = {path.relative_to(space).as_posix() for path in space.rglob("*") if path.is_file()}
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "moee_hf").rglob("*.py")}
    assert package | {"app.py", "space.json", "requirements.txt", "README.md", "moee_build.json"} <= names
    assert not any("__pycache__" in name or name.startswith("moee_hf/embedded/") for name in names)
    assert sum((space / name).stat().st_size for name in names) < 2e6
    pins = dict(line.split("==") for line in (space / "requirements.txt").read_text().splitlines())
    assert {"torch", "transformers", "gradio"} <= pins.keys()
    assert all(importlib.metadata.version(name).split("+")[0] == version for name, version in pins.items())
    settings = {"model": "lab/backbone", "revision": hub.head("lab/backbone"), "choices": {"alpha": 0.5}}
    assert json.loads((space / "space.json").read_text()) == settings
    content = (space / "README.md").read_text()
    assert space_errors(content) == []
    card = metadata(content.encode())
    assert (card["sdk_version"], card["models"], card["license"]) == (pins["gradio"], ["lab/backbone"], "apache-2.0")
    assert (space / card["app_file"]).is_file()


def test_a_space_is_pushed_as_a_model_is(hub, space):
    assert load_script("push").main([str(space)]) == 0
    head = hub.head("spaces/author/published")
    built = {path.relative_to(space).as_posix() for path in space.rglob("*") if path.is_file()}
    assert hub.files("spaces/author/published").keys() == built | {".gitattributes"}
    assert "author/published" not in hub.repositories
    compiled = space / "moee_hf" / "__pycache__" / "info.pyc"  # who tries the folder has such
    compiled.parent.mkdir()
    compiled.write_bytes(b"0")
    push(space)
    assert hub.head("spaces/author/published") == head
    (space / "app.py").write_text("print()")
    with pytest.raises(ValueError, match=r"removed since: app\.py"):
        push(space)
    record = json.loads((space / "moee_build.json").read_text())
    (space / "moee_build.json").write_text(json.dumps(record | {"repo_type": "dataset"}))
    with pytest.raises(ValueError, match="expected the record of a build"):
        files_to_push(space)


def test_what_is_not_pinned_or_licensed_is_not_pushed(space):
    card, record = space / "README.md", json.loads((space / "moee_build.json").read_text())
    card.write_text(re.sub("(?m)^license: .*\n", "", card.read_text()))
    with pytest.raises(ValueError, match="expected a licence"):
        push(space)
    (space / "moee_build.json").write_text(json.dumps(record | {"base_model_revision": "main"}))
    with pytest.raises(ValueError, match="pinned to a commit; got 'main'"):
        push(space)


def test_the_embedded_model_is_in_its_space(tmp_path):
    recipe = yaml.safe_load((ROOT / "configs" / "embedded.yaml").read_text())
    space = build_space(read_recipe(ROOT / "configs" / "embedded.yaml"), tmp_path / "space", repo_id="me/space")
    for path in (ROOT / "moee_hf" / "embedded").iterdir():
        assert (space / "moee_hf" / "embedded" / path.name).stat().st_size == path.stat().st_size
    assert json.loads((space / "space.json").read_text()) == {"model": "embedded", "revision": None, "choices": {}}
    card = metadata((space / "README.md").read_bytes())
    assert "models" not in card
    assert card["license"] == recipe["license"]
    files_to_push(space)


def test_what_no_space_can_load_is_refused(hub, tmp_path):
    recipe = read_recipe(recipe_file(tmp_path, base_model_name_or_path="lab/nothing"))
    with pytest.raises(OSError, match="lab/nothing"):
        build_space(recipe, tmp_path / "space")
    with pytest.raises(ValueError, match="expected a repository on the Hub, from which a Space loads"):
        build_space(replace(recipe, base_model_name_or_path=str(CHECKPOINT)), tmp_path / "space")
    assert not (tmp_path / "space").exists()


# as where only the folder is: what the checkout has on the path is taken off it
PROGRAM = f"""
import runpy, sys
sys.path[:] = [path for path in sys.path if not path.startswith({str(ROOT)!r})]
runpy.run_path("app.py", run_name="__main__")
"""


@pytest.mark.slow
def test_a_space_answers(hub, space):
    from gradio_client import Client

    port = free_port()
    environment = {"GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1", "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, cwd=space, env=os.environ | environment) as process:
        try:
            url, end = f"http://127.0.0.1:{port}", time.monotonic() + 240
            while True:
                try:
                    urllib.request.urlopen(f"{url}/config").close()
                    break
                except OSError:
                    assert process.poll() is None
                    assert time.monotonic() < end
                    time.sleep(0.1)
            got = Client(url, verbose=False).predict(*TEXTS[:2], api_name="/compare")
        finally:
            process.kill()
    first, second = MoEEModel.from_pretrained(CHECKPOINT, alpha=0.5).encode(TEXTS[:2], normalize_embeddings=True)
    np.testing.assert_allclose(got["similarity"][0][1], first @ second, atol=1e-4)
