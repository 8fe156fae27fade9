"""Publishing: a complete repository folder from a recipe, pushed in one commit."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    ModelInfo,
    hf_hub_download,
)
from huggingface_hub.errors import LocalTokenNotFoundError
from safetensors.numpy import save_file

from . import __version__
from .files import check_new_folder, sha256
from .functional_moee import COMBINATIONS
from .hub_moee import hub_errors
from .model_card import EXAMPLES, model_card
from .modeling_moee import MoEEModel
from .recipes import Recipe, check_repo_id

BUILD_NAME = "moee_build.json"
VERIFICATION_NAME = "verification.safetensors"


def build(
    recipe: Recipe,
    folder: str | os.PathLike[str],
    *,
    reference: bool = True,
    repo_id: str | None = None,
    token: str | None = None,
    **kwargs: Any,
) -> Path:
    """Build a complete repository folder: model, card, handler, and embeddings to verify it with.

    Args:
        recipe: The model.
        folder: A folder that is empty, or is not there yet.
        reference: Whether the weights stay in the backbone's repository. False: they are copied.
        repo_id: In place of the recipe's; without a namespace, that of the token's user is put before it.
        token: For the Hub. None: that of `hf auth login`.
        kwargs: Those of `MoEEModel.from_pretrained`, such as `device_map`.

    Raises:
        OSError: If the backbone cannot be had.
        ValueError: If the folder is not empty, or a reference is asked for of a backbone that is not on the Hub.
    """
    target = check_new_folder(folder)
    repo_id = recipe.repo_id if repo_id is None else repo_id
    check_repo_id("repo_id", repo_id)
    repo_id = _with_namespace(repo_id, token)
    source, revision = recipe.base_model_name_or_path, recipe.base_model_revision
    model = MoEEModel.from_pretrained(source, revision=revision, token=token, **kwargs | recipe.config)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{target.name}.") as temporary:
        folder = Path(temporary, target.name)
        folder.mkdir()
        _fill(folder, model, recipe, repo_id, reference)
        os.replace(folder, target)  # all of it, or nothing
    return target


def _fill(folder: Path, model: MoEEModel, recipe: Recipe, repo_id: str, reference: bool) -> None:
    base, commit = model._origin or (None, None)
    if reference:
        model.save_reference(folder)
    else:
        model.save_pretrained(folder)
    shutil.copyfile(Path(__file__).with_name("handler.py"), folder / "handler.py")
    (folder / "requirements.txt").write_text("\n".join(_requirements()) + "\n", encoding="utf-8")
    texts = [text for source, sentences in EXAMPLES.items() for text in (source, *sentences)]
    vectors: dict[str, Any] = {
        name: model.encode(texts, combination=name, normalize_embeddings=True) for name in COMBINATIONS
    }
    save_file(vectors, folder / VERIFICATION_NAME, metadata={"texts": json.dumps(texts)})
    card = model_card(model, recipe, repo_id, base, commit, reference)
    (folder / "README.md").write_text(card, encoding="utf-8")
    record = {
        "repo_id": repo_id,
        "base_model": base,
        "base_model_revision": commit,
        "versions": {"moee_hf": __version__, "transformers": transformers.__version__, "torch": torch.__version__},
        "sha256": _digests(folder),
    }
    (folder / BUILD_NAME).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def files_to_push(folder: str | os.PathLike[str]) -> dict[str, int]:
    """Check a built folder, and return the size in bytes of every file that `push` would push, by name.

    Raises:
        ValueError: If a file was changed, added or removed since the folder was built (the card, README.md, may be
            edited), the backbone is not pinned to a commit, or the card names no licence.
    """
    folder = Path(folder)
    if not (folder / BUILD_NAME).is_file():
        raise ValueError(f"{folder}: expected a folder made by build; it has no {BUILD_NAME}.")
    record = _record(folder / BUILD_NAME)
    built, now = record["sha256"], _digests(folder)
    if dirty := sorted(name for name in built.keys() | now.keys() if built.get(name) != now.get(name)):
        raise ValueError(
            f"{folder}: expected the files as built; changed, added or removed since: {', '.join(dirty)}. "
            "Build the folder anew."
        )
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    revision = config.get("base_model_revision") or record["base_model_revision"]
    if record["base_model"] and not re.fullmatch("[0-9a-f]{40}", revision or ""):
        raise ValueError(
            f"{folder}: expected the backbone {record['base_model']!r} pinned to a commit; got {revision!r}, which "
            "may be another model tomorrow. Build the folder anew."
        )
    try:
        license_id = ModelCard.load(folder / "README.md").data.get("license")
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{folder}/README.md: expected a model card with YAML at its head; {error}") from error
    if not license_id:
        raise ValueError(
            f"{folder}/README.md: expected a licence, that of the backbone; the card names none. Put license: into "
            "the recipe and build the folder anew, or into the card."
        )
    return {name: (folder / name).stat().st_size for name in sorted([*now, "README.md", BUILD_NAME])}


def push(folder: str | os.PathLike[str], *, private: bool | None = None, token: str | None = None) -> CommitInfo:
    """Push a built folder to the repository that it was built for, in one commit.

    Until that commit the repository stays as it was. What was uploaded by a push that was interrupted, or is there
    already, is not uploaded again.

    Args:
        folder: A folder made by `build`.
        private: Whether a repository that is not there yet becomes private.
        token: For the Hub. None: that of `hf auth login`.

    Raises:
        OSError: If the Hub refuses.
        ValueError: If the folder is not as it must be (see `files_to_push`), or the repository holds another model.
    """
    files = files_to_push(folder)
    repo_id = _record(Path(folder, BUILD_NAME))["repo_id"]
    api = HfApi(token=token)
    with hub_errors(f"{repo_id}: ", repo_id):
        api.create_repo(repo_id, private=private, exist_ok=True)
        head = api.model_info(repo_id)
        outdated = _built_before(repo_id, head, token) - files.keys()
        # one commit on top of what was just seen, or none
        return api.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(name, Path(folder, name)) for name in files),
                *(CommitOperationDelete(name) for name in sorted(outdated)),
            ],
            commit_message=f"MoEE model built by moee_hf {__version__}",
            parent_commit=head.sha,
        )


def _built_before(repo_id: str, head: ModelInfo, token: str | None) -> set[str]:
    """The files of an earlier build that are in the repository, which may hold no other model."""
    present = {file.rfilename for file in head.siblings or []} - {".gitattributes", "README.md"}
    if not present:
        return set()
    if BUILD_NAME not in present:
        raise ValueError(
            f"{repo_id}: expected an empty repository, or one pushed by these scripts; it holds "
            f"{', '.join(sorted(present)[:3])}, which are not replaced. Build for another repository."
        )
    record = hf_hub_download(repo_id, BUILD_NAME, revision=head.sha, token=token)
    return present & _record(Path(record))["sha256"].keys()


def _record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if {"repo_id", "base_model", "base_model_revision", "sha256"} <= record.keys():
            return record
    except (ValueError, AttributeError):
        pass
    raise ValueError(f"{path}: expected the record of a build; it cannot be read as one. Build the folder anew.")


def _with_namespace(repo_id: str, token: str | None) -> str:
    if "/" in repo_id:
        return repo_id
    try:
        with hub_errors(f"{repo_id}: no namespace is given, and ", repo_id):
            return f"{HfApi().whoami(token=token)['name']}/{repo_id}"
    except LocalTokenNotFoundError as error:
        raise ValueError(
            f"repo_id: expected 'namespace/{repo_id}', or a token whose user is the namespace; got {repo_id!r} and no "
            "token. Name the repository in full, or log in with `hf auth login`."
        ) from error


def _requirements() -> list[str]:
    requirements = importlib.metadata.requires("moee_hf") or []
    return [requirement for requirement in requirements if "extra ==" not in requirement]


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder but the two that `build` writes last."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: sha256(path) for name, path in files.items() if name not in ("README.md", BUILD_NAME)}
