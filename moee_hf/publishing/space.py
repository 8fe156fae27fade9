"""A Space of the demo: a folder with the program, the package and the name of the model, all of it pinned."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import sys
from pathlib import Path
from string import Template
from typing import Any

import torch
import yaml
from packaging.requirements import Requirement

from .. import EMBEDDED, __version__
from ..files.folders import check_new_folder, filled_aside
from ..info import model_info
from ..model.configuration_moee import MoEEConfig, resolve_config
from ..model.hub_moee import resolve_commit
from .building import with_namespace
from .recipes import Recipe, check_repo_id
from .record import CARD_NAME, BuildRecord, digests

# the licence of the package, which is all that a Space holds, but for the embedded weights
LICENSE = "apache-2.0"
_PACKAGE = Path(__file__).parents[1]


def build_space(
    recipe: Recipe, folder: str | os.PathLike[str], *, repo_id: str | None = None, token: str | None = None
) -> Path:
    """Build a Space that shows the demo of a model; `push` pushes it.

    The model is loaded where the Space runs, from the Hub at a commit that is fixed here; no weights are read. The
    embedded model is in the Space.

    Args:
        recipe: The model, on the Hub or embedded.
        folder: A folder that is empty, or is not there yet.
        repo_id: In place of the recipe's, as in `build`.
        token: For the Hub. None: that of `hf auth login`.

    Raises:
        OSError: If the model is not on the Hub.
        ValueError: If the folder is not empty, or the recipe names a folder, or fields that the model does not have.
        ImportError: If the packages of the demo are not installed.
    """
    target, source = check_new_folder(folder), recipe.base_model_name_or_path
    repo_id = recipe.repo_id if repo_id is None else repo_id
    check_repo_id("repo_id", repo_id)
    if source != EMBEDDED and os.path.isdir(source):
        raise ValueError(
            f"base_model_name_or_path: expected a repository on the Hub, from which a Space loads; got the folder "
            f"{source!r}. Publish it first, and name its repository."
        )
    repo_id = with_namespace(repo_id, token)
    commit = None if source == EMBEDDED else resolve_commit(source, revision=recipe.base_model_revision, token=token)
    config = resolve_config(source, revision=commit, token=token)
    config.choose(**recipe.config)
    with filled_aside(target) as aside:
        _fill(aside, recipe, config, repo_id, commit)
    return target


def _fill(folder: Path, recipe: Recipe, config: MoEEConfig, repo_id: str, commit: str | None) -> None:
    source = recipe.base_model_name_or_path
    is_embedded = source == EMBEDDED
    left_out = ["__pycache__"] if is_embedded else ["__pycache__", EMBEDDED]
    shutil.copytree(_PACKAGE, folder / _PACKAGE.name, ignore=shutil.ignore_patterns(*left_out))
    shutil.copy(_PACKAGE / "demo" / "app.py", folder)
    settings = {"model": source, "revision": commit, "choices": recipe.config}
    (folder / "space.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    requirements = _requirements()
    lines = [f"{name}=={version}\n" for name, version in requirements.items()]
    (folder / "requirements.txt").write_text("".join(lines), encoding="utf-8")
    metadata: dict[str, Any] = {
        "title": repo_id.partition("/")[2],
        "emoji": "🧭",
        "sdk": "gradio",
        "sdk_version": requirements["gradio"],
        "python_version": f"{sys.version_info.major}.{sys.version_info.minor}",
        "app_file": "app.py",
        "license": (recipe.license or LICENSE) if is_embedded else LICENSE,
        "short_description": "Texts compared by a mixture-of-experts model",
    }
    template = Template(Path(__file__).with_name("space.md").read_text(encoding="utf-8"))
    card = template.substitute(
        metadata=yaml.safe_dump(
            metadata | ({} if is_embedded else {"models": [source]}), sort_keys=False, allow_unicode=True
        ).strip(),
        name=metadata["title"],
        model="the small model in the package" if is_embedded else f"[{source}](https://huggingface.co/{source})",
        memory=f"{model_info(config).memory(torch.bfloat16) / 2**30:.2f}",
        version=__version__,
    )
    (folder / CARD_NAME).write_text(card, encoding="utf-8")
    base = None if is_embedded else source
    versions = {"moee_hf": __version__, **requirements}
    BuildRecord(repo_id, base, commit, versions, digests(folder), "space").write(folder)


def _requirements() -> dict[str, str]:
    """What the package with its demo needs, and the versions that are installed here."""
    needed = [Requirement(line) for line in importlib.metadata.requires("moee_hf") or []]
    names = [
        requirement.name
        for requirement in needed
        if any(requirement.marker is None or requirement.marker.evaluate({"extra": extra}) for extra in ("", "demo"))
    ]
    try:
        # what comes behind a + is where a build was made, which an index of packages does not know
        return {name: importlib.metadata.version(name).partition("+")[0] for name in dict.fromkeys(names)}
    except importlib.metadata.PackageNotFoundError as error:
        raise ImportError(f'A Space needs the packages of the demo ({error}): pip install "moee_hf[demo]".') from error
