"""A complete repository folder from a recipe."""

from __future__ import annotations

import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import HfApi
from huggingface_hub.errors import LocalTokenNotFoundError
from safetensors.numpy import save_file

from .. import __version__
from ..files.folders import check_new_folder, filled_aside
from ..model.hub_moee import hub_errors
from ..model.modeling_moee import MoEEModel
from .card import EXAMPLES, combinations_of, model_card
from .recipes import Recipe, check_repo_id
from .record import CARD_NAME, BuildRecord, digests
from .verifying import VERIFICATION_NAME


def build(
    recipe: Recipe,
    folder: str | os.PathLike[str],
    *,
    reference: bool | None = True,
    repo_id: str | None = None,
    token: str | None = None,
    **kwargs: Any,
) -> Path:
    """Build a complete repository folder: a saved model, its card, and embeddings to verify it with.

    Args:
        recipe: The model.
        folder: A folder that is empty, or is not there yet.
        reference: Whether the weights stay in the backbone's repository. False: they are copied. None: they stay
            where they are on the Hub.
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
    repo_id = with_namespace(repo_id, token)
    source, revision = recipe.base_model_name_or_path, recipe.base_model_revision
    model = MoEEModel.from_pretrained(source, revision=revision, token=token, **kwargs | recipe.config)
    if reference is None:
        reference = model.origin.base is not None
    with filled_aside(target) as aside:
        _fill(aside, model, recipe, repo_id, reference)
    return target


def with_namespace(repo_id: str, token: str | None) -> str:
    """Return the id of a repository with a namespace: its own, or that of the token's user.

    Raises:
        OSError: If the Hub cannot say who that is.
        ValueError: If there is no token.
    """
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


def _fill(folder: Path, model: MoEEModel, recipe: Recipe, repo_id: str, reference: bool) -> None:
    (model.save_reference if reference else model.save_pretrained)(folder)
    (folder / "requirements.txt").write_text("\n".join(_requirements()) + "\n", encoding="utf-8")
    texts = [text for source, sentences in EXAMPLES.items() for text in (source, *sentences)]
    vectors: dict[str, Any] = {
        name: model.encode(texts, combination=name, normalize_embeddings=True)
        for name in combinations_of(model.config)
    }
    save_file(vectors, folder / VERIFICATION_NAME, metadata={"texts": json.dumps(texts)})
    (folder / CARD_NAME).write_text(model_card(model, recipe, repo_id, reference), encoding="utf-8")
    versions = {"moee_hf": __version__, "transformers": transformers.__version__, "torch": torch.__version__}
    base, commit = model.origin.base or (None, None)
    BuildRecord(repo_id, base, commit, versions, digests(folder)).write(folder)


def _requirements() -> list[str]:
    requirements = importlib.metadata.requires("moee_hf") or []
    return [requirement for requirement in requirements if "extra ==" not in requirement]
