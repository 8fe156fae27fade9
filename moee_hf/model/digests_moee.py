"""Whether a folder holds a saved model as it was saved: digests of its files, and what an interrupted save leaves."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.hf_api import RepoFile

from .hub_moee import hub_errors, optional_file

CONFIG_NAME = "config.json"
# hidden folders that saves write into first
STAGING_PREFIX = ".moee-saving-"
# of a configuration, what the place that it is read from adds or changes
_OF_THE_PLACE = ("digests", "auto_map", "custom_pipelines", "_commit_hash", "_name_or_path", "transformers_version")
# git may change the ends of lines of these on Windows
_TEXT = (".json", ".txt", ".jinja")
# of tokenizer_config.json, what says nothing of the ids of an unpadded text, or what trainers set for themselves: they
# write their tokenizer beside a model that they have saved
_OF_THE_CALLER = {
    *(
        "padding_side",
        "truncation_side",
        "pad_token",
        "pad_token_type_id",
        "pad_to_multiple_of",
        "max_length",
        "stride",
    ),
    *("truncation_strategy", "model_max_length", "chat_template", "name_or_path", "processor_class"),
    *("backend", "is_local", "clean_up_tokenization_spaces", "transformers_version", "_commit_hash"),
}


def is_interrupted_save(folder: str | os.PathLike[str]) -> bool:
    """Whether a save into a folder was killed, so that it holds no model, or is under way."""
    path = Path(folder)
    return path.is_dir() and not (path / CONFIG_NAME).exists() and any(path.glob(f"{STAGING_PREFIX}*"))


def digest_of_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal: of a text file, of what changes the ids of a text."""
    if path.suffix in _TEXT:
        content = path.read_bytes().replace(b"\r\n", b"\n")
        return hashlib.sha256(_that_matters(path.name, content)).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _that_matters(name: str, content: bytes) -> bytes:
    if name == "tokenizer.json":
        return content[max(content.find(b'"added_tokens"'), 0) :]  # before it stands how the last call padded and cut
    if name == "tokenizer_config.json":
        with contextlib.suppress(ValueError, AttributeError):  # damaged, and so not what was saved
            fields = {key: value for key, value in json.loads(content).items() if key not in _OF_THE_CALLER}
            return json.dumps(fields, sort_keys=True).encode()
    return content


def digest_of_config(fields: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the content of a `config.json`, but for the digests in it and the code that it names."""
    content = {name: _as_read(value) for name, value in fields.items() if name not in _OF_THE_PLACE}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _as_read(value: Any) -> Any:
    """Return a value with infinity where transformers writes `{"__float__": "Infinity"}`, as it reads it."""
    if isinstance(value, list):
        return [_as_read(part) for part in value]
    if isinstance(value, dict):
        return float(value["__float__"]) if "__float__" in value else {key: _as_read(value[key]) for key in value}
    return value


def check_config(source: str, fields: Mapping[str, Any]) -> None:
    """Raise `OSError` if the content of a `config.json` is not what its own digest says."""
    digests = fields.get("digests")
    if isinstance(digests, Mapping) and CONFIG_NAME in digests:
        _compare(source, CONFIG_NAME, digest_of_config(fields), digests[CONFIG_NAME])


def check_files(source: str, digests: Mapping[str, str], weights: bool, **hub_kwargs: Any) -> None:
    """Check the files beside a configuration.

    Args:
        source: Folder or Hub id.
        digests: Those of the configuration, by name of file.
        weights: Whether to check the files with weights too, which takes as long as reading them.
        hub_kwargs: Those of `optional_file`.

    Raises:
        OSError: If a file is not what its digest says, or not there.
    """
    for name, digest in digests.items():
        if name != CONFIG_NAME and (weights or not is_weights(name)):
            path = optional_file(source, name, **hub_kwargs)
            _compare(source, name, None if path is None else digest_of_file(path), digest)


def check_weights_of(repo_id: str, commit: str | None, **hub_kwargs: Any) -> None:
    """Check the weights that a reference is loaded with, which are in the cache, by what the Hub knows of them.

    Args:
        repo_id: The repository with the weights in its root.
        commit: Its commit.
        hub_kwargs: Those of `optional_file`.

    Raises:
        OSError: If a file is another than that of the Hub, or the Hub cannot be reached.
    """
    with hub_errors(f"{repo_id!r}: ", repo_id, commit):
        files = list(HfApi().list_repo_tree(repo_id, revision=commit, token=hub_kwargs.get("token")))
    for file in files:
        if not isinstance(file, RepoFile) or not is_weights(file.path):
            continue
        path = optional_file(repo_id, file.path, **hub_kwargs | {"revision": commit, "subfolder": ""})
        if path is None or not _is_on_hub(path, file):
            raise OSError(
                f"{repo_id}: expected {file.path} as it is on the Hub; its content in the cache is another. Fetch "
                "it again, with force_download=True."
            )


def _is_on_hub(path: Path, file: RepoFile) -> bool:
    if file.lfs is not None:
        return digest_of_file(path) == file.lfs.sha256
    content = path.read_bytes()  # a small one, which the Hub has in git
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == file.blob_id


def is_weights(name: str) -> bool:
    """Whether a file of this name holds weights, or tells which files do."""
    return name.startswith("model") and name.endswith((".safetensors", ".json"))


def _compare(source: str, name: str, found: str | None, expected: str) -> None:
    if found != expected:
        problem = "there is none" if found is None else "its content is another"
        raise OSError(
            f"{source}: expected {name} as it was saved; {problem}. Fetch it again, or if you changed it, remove its "
            f"entry under digests in {CONFIG_NAME}."
        )
