"""The backbone's weights: from a repository itself or the one it refers to, safetensors only, and all of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file

from .configuration_moee import MoEEConfig
from .hub_moee import HUB_KWARGS, REVISION_KWARGS, hub_errors, resolve_commit, warn_if_moved
from .routing_moee import backbone_class


def load_backbone(source: str, config: MoEEConfig, **kwargs: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load the backbone of a MoEE repository or a plain checkpoint, by transformers' own code for it.

    Args:
        source: Folder or Hub id; for a reference, the repository that its configuration names is read instead.
        config: Configuration of the MoEE model.
        kwargs: Those of `PreTrainedModel.from_pretrained`.

    Returns:
        The backbone, and transformers' report on its weights.

    Raises:
        OSError: If the weights cannot be had.
        ValueError: If they are not safetensors, damaged, or not all those of the backbone.
    """
    if config.base_model_name_or_path is not None:
        source = config.base_model_name_or_path
        if os.path.exists(source):
            raise ValueError(
                f"MoEEConfig.base_model_name_or_path: expected a repository on the Hub; {source!r} is also a folder "
                "here, which would be read in its place. Work in another folder."
            )
        kwargs.pop("subfolder", None)
        revision = {name: kwargs[name] for name in REVISION_KWARGS if name in kwargs}
        revision["revision"] = config.base_model_revision
        kwargs["revision"] = resolve_commit(source, f"{source!r}, the backbone: ", **revision)
        warn_if_moved(source, kwargs.get("token"))
    if kwargs.setdefault("use_safetensors", True) is not True:
        raise ValueError("use_safetensors: expected True, as pickled weights are never read; got False.")
    # a weight of another shape is reported below, with those that are missing
    kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        with hub_errors(f"{source!r}, the backbone: ", source, kwargs["revision"]):
            _check_files(source, config.backbone_config, **kwargs)
            backbone, info = backbone_class(config.backbone_config).from_pretrained(
                source, config=config.backbone_config, **kwargs
            )
    except SafetensorError as error:
        raise ValueError(
            f"{source}: expected whole safetensors files; got one that cannot be read ({error}). Fetch it again."
        ) from error
    architecture = config.backbone_config.model_type
    if missing := sorted(info["missing_keys"]):
        raise ValueError(
            f"{source}: expected all weights of a {architecture} backbone; {len(missing)} are missing, the first "
            f"{missing[0]!r}, and would be random. Load the complete checkpoint that its config.json describes."
        )
    if mismatched := sorted(info["mismatched_keys"]):
        name, got, expected = mismatched[0]
        raise ValueError(
            f"{source}: expected the weights of the {architecture} backbone that its config.json describes; "
            f"{len(mismatched)} have another shape, the first {name!r}: {tuple(got)} in place of {tuple(expected)}."
        )
    return backbone, info


def _check_files(source: str, config: PreTrainedConfig, variant: str | None = None, **kwargs: Any) -> None:
    # transformers would look for pickled weights, have a service convert them, or follow an index anywhere
    if kwargs.get("gguf_file") is not None:
        return
    hub_kwargs = {name: kwargs[name] for name in HUB_KWARGS if name in kwargs}
    infix = "" if variant is None else f".{variant}"
    names = [f"model{infix}.safetensors", f"model.safetensors.index{infix}.json"]
    if named := getattr(config, "transformers_weights", None):
        _check_names(source, "config.json", [named], (".safetensors", ".safetensors.index.json"))
        names = [named]
    for name in names:
        if path := cached_file(source, name, _raise_exceptions_for_missing_entries=False, **hub_kwargs):
            if name.endswith(".json"):
                index = json.loads(Path(path).read_text(encoding="utf-8"))
                _check_names(source, name, index["weight_map"].values(), ".safetensors")
            return
    if not os.path.isdir(source):  # a file that cannot be reached looks like one that is not there
        HfApi().model_info(source, revision=kwargs["revision"], token=kwargs.get("token"))
    raise OSError(
        f"{source}: expected weights in safetensors; there is no {' and no '.join(names)}. Pickled weights are never "
        "read: convert them, for instance with transformers' save_pretrained, where you trust them."
    )


def _check_names(source: str, where: str, names: Iterable[str], endings: str | tuple[str, ...]) -> None:
    for name in names:
        if not name.endswith(endings) or Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{source}: expected weights in safetensors files beside {where}; it names {name!r}.")
