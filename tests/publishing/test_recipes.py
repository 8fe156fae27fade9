"""Recipes: those of this repository, and what is wrong with others."""

import shutil
import tomllib

import pytest
import yaml
from support.common import ROOT
from support.hub import card_errors
from support.publishing import recipe_file

from moee_hf.files import folders
from moee_hf.publishing import read_recipe, recipe_of


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes(path):
    recipe = read_recipe(path)
    assert recipe.license
    fields = {key: getattr(recipe, key) for key in ("license", "license_name", "license_link", "language")}
    metadata = {key: value for key, value in fields.items() if value is not None}
    assert card_errors(f"---\n{yaml.safe_dump(metadata)}\n---\n") == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alhpa": 1.0}, "expected keys among .*; got 'alhpa'"),
        ({"alpha": -1.0}, r"recipe\.yaml: MoEEConfig\.alpha"),
        ({"backbone_config": {}}, "got 'backbone_config'"),
        ({"repo_id": None}, "expected repo_id, the id of a repository; got None"),
        ({"base_model_name_or_path": "../x"}, "expected the id of a repository on the Hub"),
        ({"repo_id": "a b"}, "repo_id: expected 'namespace/name' or 'name'"),
        ({"license": ["mit"]}, "expected a string for license"),
        ({"language": False}, "expected a string for language; got False"),
        ({"prompts": {1: "{text}"}}, "prompts: a name: expected a string; got 1"),
        ({"default_prompt_name": ["none", "nope"]}, "default_prompt_name: expected one of .*; got 'nope'"),
        (
            {"default_prompt_name": 1},
            "default_prompt_name: expected the name of a prompt, a list of names, or None; got 1",
        ),
    ],
)
def test_recipes_that_are_wrong(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_recipe(recipe_file(tmp_path, **changes))


@pytest.mark.parametrize("content", ["", "\t- x", "[]", "5"])
def test_recipes_that_are_none(tmp_path, content):
    (tmp_path / "recipe.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"recipe\.yaml: expected (a mapping|YAML)"):
        read_recipe(tmp_path / "recipe.yaml")


def test_recipes_travel_with_the_wheel(tmp_path, monkeypatch):
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    for source, target in wheel["force-include"].items():
        shutil.copytree(ROOT / source, tmp_path / target)
    monkeypatch.setattr(folders, "__file__", str(tmp_path / "moee_hf" / "files" / "folders.py"))
    assert folders.shipped("paper/olmoe.yaml").is_relative_to(tmp_path)
    assert recipe_of("olmoe-1b-7b") == read_recipe(ROOT / "configs" / "olmoe-1b-7b.yaml")
