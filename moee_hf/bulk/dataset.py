"""A folder of embeddings as a data set: its card, and its way to the Hub."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from huggingface_hub import CommitInfo, DatasetCardData, HfApi, hf_hub_download

from .. import __version__
from ..model.hub_moee import hub_errors
from .folder import CARD, MANIFEST

_NUMBERS = {
    "float32": "a list of float32",
    "int8": "a list of int8, one for each dimension",
    "uint8": "a list of uint8, one for each dimension",
    "binary": "a list of int8, with the signs of eight dimensions in the bits of each",
    "ubinary": "a list of uint8, with the signs of eight dimensions in the bits of each",
}


def dataset_card(place: str, recipe: Mapping[str, Any], columns: Sequence[str], source: str) -> str:
    """Write the card of a data set, with the metadata by which `load_dataset` and the Hub find the files.

    Args:
        place: The folder, or the repository on the Hub.
        recipe: The recipe of the folder.
        columns: The columns of a file.
        source: How to load the model: its Hub id, a name of the package, or the path of a folder.
    """
    choices, precision = recipe["choices"], recipe["precision"]
    call = {
        "prompt": recipe["prompt"][0] if len(recipe["prompt"]) == 1 else recipe["prompt"],
        "combination": choices["combination"],
        "alpha": choices["alpha"] if choices["combination"] == "sum" else None,
        "normalize_embeddings": recipe["normalize"] or None,
        "precision": None if precision == "float32" else precision,
    }
    metadata = DatasetCardData(
        tags=["embeddings", "moee", "mixture-of-experts"],
        configs=[{"config_name": "default", "data_files": "**/*.parquet"}],
    )
    rows = {name: value for name, value in recipe.items() if name != "choices"} | choices
    return Template(Path(__file__).with_name("card.md").read_text(encoding="utf-8")).substitute(
        metadata=metadata.to_yaml(),
        name=Path(place).name,
        place=place,
        model=recipe["model"],
        source=source,
        revision=f', revision="{recipe["revision"]}"' if source == recipe["model"] and "/" in source else "",
        columns=", ".join(f"`{column}`" for column in columns),
        numbers=_NUMBERS[precision],
        call=", ".join(f"{name}={value!r}" for name, value in call.items() if value is not None),
        recipe="\n".join(f"| {name} | `{_cell(value)}` |" for name, value in rows.items()),
        version=__version__,
    )


def _cell(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("|", "\\|")


def push_dataset(folder: str, repo_id: str, private: bool | None = None) -> CommitInfo:
    """Push a folder of embeddings, which is complete, to the Hub as a data set.

    What was uploaded by a push that was interrupted, or is there already, is not uploaded again.

    Args:
        folder: The folder.
        repo_id: The repository of the data set; made if it is not there.
        private: Whether a new one becomes private.

    Raises:
        OSError: If the Hub refuses.
        ValueError: If the repository holds something else.
    """
    api = HfApi()
    with hub_errors(f"{repo_id}: ", repo_id):
        api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        head = api.dataset_info(repo_id)
        _check_same(repo_id, head, Path(folder))
        return api.upload_folder(
            repo_id=repo_id,
            repo_type="dataset",
            folder_path=folder,
            allow_patterns=["*.parquet", MANIFEST, CARD],
            ignore_patterns=[".*", "**/.*"],
            parent_commit=head.sha,
            commit_message=f"Embeddings made by moee_hf {__version__}",
        )


def _check_same(repo_id: str, head: Any, folder: Path) -> None:
    """Raise `ValueError` if a repository holds something else than embeddings of the recipe of a folder."""
    present = {file.rfilename for file in head.siblings or []} - {".gitattributes", CARD}
    if not present:
        return
    mine = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if MANIFEST in present:
        path = hf_hub_download(repo_id, MANIFEST, repo_type="dataset", revision=head.sha)
        if json.loads(Path(path).read_text(encoding="utf-8")).get("recipe") == mine["recipe"]:
            return
    raise ValueError(
        f"{repo_id}: expected an empty repository, or one with embeddings of the same recipe; it holds "
        f"{', '.join(sorted(present)[:3])}. Push to another."
    )
