"""The fields of a `MoEEConfig`, from the files of a MoEE repository or of a plain checkpoint."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterator
from typing import Any

from .configuration_backbone_moee import MODEL_TYPE
from .digests_moee import check_config, is_interrupted_save
from .hub_moee import hub_errors, optional_file, resolve_commit, resolve_source

# beside a plain checkpoint: fields of MoEEConfig, but for those that say which backbone it is
FIELDS_NAME = "moee_config.json"
# the argument that says where fields were read
SOURCE = "_source"


def read_config_dict(
    read: Callable[..., tuple[Any, dict[str, Any]]],
    name_or_path: str | os.PathLike[str],
    known: Collection[str],
    /,
    **kwargs: Any,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields of a `MoEEConfig`, and the arguments that were not read.

    Args:
        read: transformers' own reading of a `config.json`.
        name_or_path: Folder or Hub id.
        known: The fields that may lie beside a plain checkpoint.
        kwargs: Those of `PreTrainedConfig.get_config_dict`.

    Raises:
        OSError: If there is no configuration, or a damaged one.
    """
    source = resolve_source(name_or_path)
    kwargs["revision"] = resolve_commit(source, **kwargs)
    with hub_errors(f"{source!r}: ", source, kwargs["revision"]):
        config, unused = read(source, **kwargs)
    if config == {} and is_interrupted_save(source):
        raise OSError(
            f"{source!r}: expected a saved model; there is what a save has left that was interrupted, or is not done "
            "yet. Save the model again."
        )
    if config == {}:
        is_packed = not os.path.isdir(source) or any(file.endswith(".gguf") for file in os.listdir(source))
        hint = " A GGUF file needs that of its model beside it, and the tokenizer, or config=..." * is_packed
        raise OSError(f"{source!r}: expected a folder with a config.json; there is none in it.{hint}")
    if not isinstance(config, dict):
        raise OSError(f"{source!r}: expected a mapping in its config.json; got {config!r}.")
    if config.get("model_type") != MODEL_TYPE:
        fields = _fields_beside(source, known, **kwargs) if os.path.isdir(source) else {}
        config = fields | {"model_type": MODEL_TYPE, "backbone_config": config}
    return config, unused | {SOURCE: source}


def saved_fields(source: str | None, fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a `config.json` of a MoEE model as they are meant now.

    Args:
        source: Folder or Hub id that they were read from. None: they are from memory.
        fields: The fields, which may be those of an earlier version.

    Raises:
        OSError: If there is no backbone in them, or they are not what was saved.
    """
    if source is not None:
        if not isinstance(fields.get("backbone_config"), dict):
            raise OSError(f"{str(source)!r}: expected a backbone_config in the config.json of a MoEE model; got none.")
        check_config(str(source), fields)
    if fields.get("calibrated"):  # what was calibrated before there was this field
        fields = {"router_standardization": "zscore"} | fields
    return fields


@contextlib.contextmanager
def errors_of(source: str | None) -> Iterator[None]:
    """Name the folder or repository in a `ValueError` about fields that were read there. None: from memory."""
    try:
        yield
    except ValueError as error:
        if source is None:
            raise
        raise ValueError(f"{str(source)!r}: {error}") from error


def _fields_beside(folder: str, known: Collection[str], **kwargs: Any) -> dict[str, Any]:
    """The fields in `moee_config.json` of a folder with a plain checkpoint."""
    if (path := optional_file(folder, FIELDS_NAME, **kwargs)) is None:
        return {}
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OSError(f"{path}: expected JSON; {error}. Fetch it again.") from error
    if not isinstance(fields, dict) or not fields.keys() <= set(known):
        raise OSError(f"{path}: expected a mapping of {', '.join(sorted(known))}; got {fields!r}.")
    return fields
