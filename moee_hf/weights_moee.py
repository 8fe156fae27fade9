"""The backbone's weights: from a repository itself or the one it refers to, safetensors only, and all of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, cached_file
from transformers.utils.hub import resolve_revision

from .configuration_moee import MoEEConfig
from .hub_moee import hub_errors, warn_if_moved
from .routing_moee import backbone_class

HUB_KWARGS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
REVISION_KWARGS = ("cache_dir", "local_files_only", "revision", "token")


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
        kwargs["revision"] = resolve_revision(source, **revision | {"revision": config.base_model_revision})
        warn_if_moved(source, kwargs.get("token"))
    if kwargs.setdefault("use_safetensors", True) is not True:
        raise ValueError("use_safetensors: expected True, as pickled weights are never read; got False.")
    # a weight of another shape is reported below, with those that are missing
    kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        with hub_errors(f"{source!r}, the backbone: ", source, kwargs["revision"]):
            _check_shards(source, config.backbone_config, **kwargs)
            try:
                backbone, info = backbone_class(config.backbone_config).from_pretrained(
                    source, config=config.backbone_config, **kwargs
                )
            except OSError:
                # transformers takes files that it cannot reach for files that are not there
                if not os.path.exists(source):
                    HfApi().model_info(source, revision=kwargs["revision"], token=kwargs.get("token"))
                raise
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


def _check_shards(source: str, config: PreTrainedConfig, variant: str | None = None, **kwargs: Any) -> None:
    # an index of shards may name files of any kind, anywhere
    index_name = SAFE_WEIGHTS_INDEX_NAME if variant is None else f"model.safetensors.index.{variant}.json"
    name = getattr(config, "transformers_weights", None) or index_name
    names = [name]
    if name.endswith(".json"):
        hub_kwargs = {name: kwargs[name] for name in HUB_KWARGS if name in kwargs}
        index = cached_file(source, name, _raise_exceptions_for_missing_entries=False, **hub_kwargs)
        names = [] if index is None else json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()
    for shard in names:
        if not shard.endswith(".safetensors") or Path(shard).is_absolute() or ".." in Path(shard).parts:
            raise ValueError(f"{source}: expected weights in safetensors files beside {name}; it names {shard!r}.")
