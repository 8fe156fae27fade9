"""A model to publish, as one YAML file describes it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ..files.folders import shipped
from ..model.configuration_moee import CHOICE_FIELDS, MoEEConfig
from ..model.hub_moee import is_repo_id


@dataclass(frozen=True)
class Recipe:
    """A model to publish.

    Args:
        repo_id: Repository to publish it in; without a namespace, in that of whoever publishes.
        base_model_name_or_path: Repository of the backbone, `"embedded"`, or a folder with a saved model.
        base_model_revision: Its branch, tag or commit. None: the newest.
        config: Other fields of `MoEEConfig`.
        license: Identifier of the backbone's licence on the Hub.
        license_name: Name of a licence that is `other`.
        license_link: Where to read that.
        language: ISO 639 codes of the languages that the backbone was trained for.
    """

    repo_id: str
    base_model_name_or_path: str
    config: dict[str, Any]
    base_model_revision: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    language: str | list[str] | None = None


def recipe_of(source: str, repo_id: str | None = None, license_id: str | None = None) -> Recipe:
    """Return the recipe that a word stands for.

    Args:
        source: A YAML file, the name of a recipe that comes with the package, or a folder with a saved model.
        repo_id: Repository to publish it in. None: the recipe's.
        license_id: Identifier of the backbone's licence. None: the recipe's.

    Raises:
        ValueError: If it is none of these, a recipe is none, or a folder is to be published nowhere.
        OSError: If a file cannot be read.
    """
    if os.path.isdir(source):
        if repo_id is None:
            raise ValueError("repo_id: expected the repository for a folder, 'name' or 'namespace/name'; got none.")
        recipe = Recipe(repo_id, source, {})
    else:
        recipe = read_recipe(_recipe_file(source))
    given: dict[str, Any] = {"repo_id": repo_id, "license": license_id}
    return replace(recipe, **{name: value for name, value in given.items() if value is not None})


def _recipe_file(source: str) -> Path:
    if os.path.exists(source):
        return Path(source)
    recipes = {path.stem: path for path in sorted(shipped("").glob("*.yaml"))}
    if source not in recipes:
        raise ValueError(
            f"{source}: expected a folder with a saved model, a recipe in YAML, or the name of one "
            f"({', '.join(sorted(recipes))}); there is none of this name."
        )
    return recipes[source]


def read_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Read a recipe from a YAML file, in which fields of `Recipe` and of `MoEEConfig` stand side by side.

    Raises:
        ValueError: If a key is unknown, a value is not one that the field takes, or `repo_id` or
            `base_model_name_or_path` is missing.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: expected YAML; got what cannot be read as such ({error}).") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a mapping; got {content!r}.")
    own = Recipe.__annotations__.keys() - {"config"}
    if unknown := [key for key in content if key not in own | CHOICE_FIELDS]:
        raise ValueError(f"{path}: expected keys among {', '.join(sorted(own | CHOICE_FIELDS))}; got {unknown[0]!r}.")
    for required in ("repo_id", "base_model_name_or_path"):
        if not isinstance(content.get(required), str):
            raise ValueError(f"{path}: expected {required}, the id of a repository; got {content.get(required)!r}.")
    check_repo_id(f"{path}: repo_id", content["repo_id"])
    recipe = {key: value for key, value in content.items() if key in own}
    for key, value in recipe.items():
        _check_strings(path, key, value)
    try:
        MoEEConfig(**{key: value for key, value in content.items() if key in MoEEConfig.__annotations__})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Recipe(config={key: value for key, value in content.items() if key not in own}, **recipe)


def _check_strings(path: str | os.PathLike[str], key: str, value: Any) -> None:
    parts = value if key == "language" and isinstance(value, list) else [value]
    if not all(part is None or isinstance(part, str) for part in parts):
        raise ValueError(f"{path}: expected a string for {key}; got {value!r}. In YAML, put no and numbers in quotes.")


def check_repo_id(name: str, repo_id: str) -> None:
    """Raise `ValueError` unless a repository can be called so; `name` says where it stands."""
    if not is_repo_id(repo_id):
        raise ValueError(
            f"{name}: expected 'namespace/name' or 'name', of letters, digits, '-', '_' and '.'; got {repo_id!r}."
        )
