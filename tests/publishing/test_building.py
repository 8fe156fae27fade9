"""Folders built from a recipe: all of it or nothing, and the same every time."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from support.common import CHECKPOINT
from support.publishing import recipe_file

import moee_hf
from moee_hf import MoEEModel
from moee_hf.model import hub_moee
from moee_hf.publishing import build, read_recipe


def test_builds_are_equal_to_the_byte(recipe, tmp_path):
    one, two = (build(read_recipe(recipe), tmp_path / name) for name in ("one", "two"))
    for path in one.iterdir():
        assert path.read_bytes() == (two / path.name).read_bytes(), path.name


def test_every_saved_repository_can_be_an_endpoint(built, tmp_path):
    MoEEModel.from_pretrained(CHECKPOINT).save_pretrained(tmp_path / "saved")
    handler = Path(moee_hf.__file__).with_name("model") / "handler.py"
    for folder in (built, tmp_path / "saved"):
        assert (folder / "handler.py").read_bytes() == handler.read_bytes()


def test_no_reference_to_a_backbone_that_is_not_on_the_hub(tmp_path, monkeypatch):
    """But in a folder, as that of the name "embedded"."""
    monkeypatch.setitem(hub_moee._ALIASES, "small", str(CHECKPOINT))
    recipe = recipe_file(tmp_path, base_model_name_or_path="small", base_model_revision=None)
    with pytest.raises(ValueError, match="save_reference: expected a model whose weights are those in the root"):
        build(read_recipe(recipe), tmp_path / "built", repo_id="me/trial")


def test_build_does_not_write_over_anything(built, recipe):
    before = {path.name: path.read_bytes() for path in built.iterdir()}
    with pytest.raises(ValueError, match="expected a new or empty folder"):
        build(read_recipe(recipe), built)
    assert {path.name: path.read_bytes() for path in built.iterdir()} == before


def test_a_build_that_fails_leaves_nothing(hub, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("moee_hf.publishing.building.model_card", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build(read_recipe(recipe), tmp_path / "built")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("built")] == []


def test_no_name_without_a_namespace(recipe, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match="expected 'namespace/published'"):
        build(read_recipe(recipe), tmp_path / "b")


@pytest.mark.parametrize("repo_id", ["a b/c", "/", "x/", "a/b/c", "author/a--b", "../x", ""])
def test_names_that_no_repository_can_have(recipe, tmp_path, repo_id):
    with pytest.raises(ValueError, match="repo_id: expected 'namespace/name' or 'name'"):
        build(read_recipe(recipe), tmp_path / "built", repo_id=repo_id)


def test_changed_weights_are_not_lost_in_a_reference(hub, recipe, tmp_path):
    model = MoEEModel.from_pretrained("lab/backbone")
    model.encode("A text.")
    model.save_reference(tmp_path / "one")
    with torch.no_grad():
        model.model.layers[0].mlp.gate.weight.mul_(2)
    with pytest.raises(ValueError, match="they were changed since, which a reference cannot hold"):
        model.save_reference(tmp_path / "two")
    assert not (tmp_path / "two").exists()


def test_a_reference_to_a_reference_names_the_weights(hub, recipe, tmp_path):
    MoEEModel.from_pretrained("lab/backbone").push_to_hub("author/first", reference=True)
    recipe = recipe_file(tmp_path, base_model_name_or_path="author/first")
    folder = build(read_recipe(recipe), tmp_path / "built")
    assert ModelCard.load(folder / "README.md").data.base_model == "lab/backbone"
    record = json.loads((folder / "moee_build.json").read_text())
    assert (record["base_model"], record["base_model_revision"]) == ("lab/backbone", hub.head("lab/backbone"))
