"""A built folder, pushed to the Hub in one commit."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    hf_hub_download,
)

from .. import __version__
from ..model.hub_moee import hub_errors
from .record import CARD_NAME, RECORD_NAME, BuildRecord, digests


def files_to_push(folder: str | os.PathLike[str]) -> dict[str, int]:
    """Check a built folder, and return the size in bytes of every file that `push` would push, by name.

    Raises:
        ValueError: If a file was changed, added or removed since the folder was built (the card, README.md, may be
            edited), the backbone is not pinned to a commit, or the card names no licence.
    """
    folder = Path(folder)
    if not (folder / RECORD_NAME).is_file():
        raise ValueError(f"{folder}: expected a folder made by build; it has no {RECORD_NAME}.")
    record, now = BuildRecord.read(folder / RECORD_NAME), digests(folder)
    if dirty := sorted(name for name in record.sha256.keys() | now.keys() if record.sha256.get(name) != now.get(name)):
        raise ValueError(
            f"{folder}: expected the files as built; changed, added or removed since: {', '.join(dirty)}. "
            "Build the folder anew."
        )
    _check_pinned(folder, record)
    _check_licence(folder / CARD_NAME)
    return {name: (folder / name).stat().st_size for name in sorted([*now, CARD_NAME, RECORD_NAME])}


def table_of_files(files: Mapping[str, int]) -> Iterator[str]:
    """Yield a line for each file that `files_to_push` returned, and one for all of them."""
    for name, size in [*files.items(), ("total", sum(files.values()))]:
        yield f"{size:>15,}  {name}"


def _check_pinned(folder: Path, record: BuildRecord) -> None:
    revision = record.base_model_revision
    if record.repo_type == "model":
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        revision = config.get("base_model_revision") or revision
    if record.base_model and not re.fullmatch("[0-9a-f]{40}", revision or ""):
        raise ValueError(
            f"{folder}: expected the backbone {record.base_model!r} pinned to a commit; got {revision!r}, which "
            "may be another model tomorrow. Build the folder anew."
        )


def _check_licence(card: Path) -> None:
    try:
        license_id = ModelCard.load(card).data.get("license")
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{card}: expected a model card with YAML at its head; {error}") from error
    if not license_id:
        raise ValueError(
            f"{card}: expected a licence, that of the backbone; the card names none. Put license: into the recipe "
            "and build the folder anew, give --license to moee publish, or put it into the card."
        )


def push(folder: str | os.PathLike[str], *, private: bool | None = None, token: str | None = None) -> CommitInfo:
    """Push a built folder to the repository that it was built for, in one commit.

    Until that commit the repository stays as it was. What was uploaded by a push that was interrupted, or is there
    already, is not uploaded again.

    Args:
        folder: A folder made by `build` or `build_space`.
        private: Whether a repository that is not there yet becomes private.
        token: For the Hub. None: that of `hf auth login`.

    Raises:
        OSError: If the Hub refuses.
        ValueError: If the folder is not as it must be (see `files_to_push`), or the repository holds another model.
    """
    files = files_to_push(folder)
    record = BuildRecord.read(Path(folder, RECORD_NAME))
    repo_id, kind = record.repo_id, record.repo_type
    api = HfApi(token=token)
    with hub_errors(f"{repo_id}: ", repo_id):
        sdk = "gradio" if kind == "space" else None
        api.create_repo(repo_id, repo_type=kind, space_sdk=sdk, private=private, exist_ok=True)
        head = api.repo_info(repo_id, repo_type=kind)
        outdated = _built_before(repo_id, head, kind, token) - files.keys()
        # one commit on top of what was just seen, or none
        return api.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(name, Path(folder, name)) for name in files),
                *(CommitOperationDelete(name) for name in sorted(outdated)),
            ],
            repo_type=kind,
            commit_message=f"MoEE {kind} built by moee_hf {__version__}",
            parent_commit=head.sha,
        )


def _built_before(repo_id: str, head: Any, kind: str, token: str | None) -> set[str]:
    """The files of an earlier build that are in the repository, which may hold nothing else."""
    present = {file.rfilename for file in head.siblings or []} - {".gitattributes", CARD_NAME}
    if not present:
        return set()
    if RECORD_NAME not in present:
        raise ValueError(
            f"{repo_id}: expected an empty repository, or one that push made; it holds "
            f"{', '.join(sorted(present)[:3])}, which are not replaced. Build for another repository."
        )
    record = hf_hub_download(repo_id, RECORD_NAME, repo_type=kind, revision=head.sha, token=token)
    return present & BuildRecord.read(Path(record)).sha256.keys()
