"""The backbone's weights: from a repository itself or the one it refers to, safetensors or GGUF, and all of them."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils.logging import get_logger

from .backbone_moee import backbone_class
from .configuration_moee import MoEEConfig
from .gguf_moee import gguf_arguments
from .hub_moee import hub_errors, optional_file, resolve_commit, warn_if_moved

logger = get_logger(__name__)


@dataclass(frozen=True)
class LoadedBackbone:
    """A backbone, and where its weights are from.

    Args:
        backbone: The backbone.
        info: transformers' report on its weights.
        base: The repository on the Hub, and its commit, that a reference can name for them. None: there is none.
    """

    backbone: PreTrainedModel
    info: dict[str, Any]
    base: tuple[str, str] | None


def load_backbone(source: str, config: MoEEConfig, **kwargs: Any) -> LoadedBackbone:
    """Load the backbone of a MoEE repository or a plain checkpoint, by transformers' own code for it.

    Args:
        source: Folder or Hub id; for a reference, the repository that its configuration names is read instead.
        config: Configuration of the MoEE model.
        kwargs: Those of `PreTrainedModel.from_pretrained`.

    Raises:
        OSError: If the weights cannot be had.
        ValueError: If they are neither safetensors nor GGUF, damaged, or not all those of the backbone.
    """
    if config.base_model_name_or_path is not None:
        source, kwargs = resolve_reference(config, **kwargs)
    if kwargs.setdefault("use_safetensors", True) is not True:
        raise ValueError("use_safetensors: expected True, as pickled weights are never read; got False.")
    # a weight of another shape is reported by `_check_loaded`, with those that are missing
    kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        with hub_errors(f"{source!r}, the backbone: ", source, kwargs["revision"]), _report_on_failure():
            gguf_file = _find_weights(source, config.backbone_config, **kwargs)
            arguments = {"pretrained_model_name_or_path": source, "config": config.backbone_config, **kwargs}
            if gguf_file is not None:
                arguments = _from_gguf(gguf_file, **arguments)
            backbone, info = backbone_class(arguments["config"]).from_pretrained(**arguments)
    except SafetensorError as error:
        raise ValueError(
            f"{source}: expected whole safetensors files; got one that cannot be read ({error}). Fetch it again."
        ) from error
    except RuntimeError as error:
        if "CONVERSION" not in str(error):
            raise
        if kwargs.get("quantization_config") is not None:
            raise ValueError(
                f"{source}: expected weights that can be quantized where they are loaded to; some cannot, as the "
                "report above says. Of those on disk (offload_folder), only quantization_config='nf4' can be had."
            ) from error
        raise ValueError(
            f"{source}: expected the weights of the {config.backbone_config.model_type} backbone that its config.json "
            "describes; some cannot be put together, as the report above says. Fetch the complete checkpoint."
        ) from error
    _check_loaded(source, backbone, info)
    special = gguf_file is not None or any(kwargs.get(name) for name in ("subfolder", "variant"))
    base = None if special or kwargs["revision"] is None else (source, kwargs["revision"])
    return LoadedBackbone(backbone, info, base)


def _from_gguf(path: Path, config: PreTrainedConfig, **arguments: Any) -> dict[str, Any]:
    """The arguments of `from_pretrained`, with the weights of a GGUF file, which are those of a text model."""
    if (quantization := arguments.get("quantization_config")) is not None:
        raise ValueError(
            f"quantization_config: expected None beside {path.name}, whose weights are dequantized; got "
            f"{type(quantization).__name__}. Leave it out, or load safetensors."
        )
    config = copy.deepcopy(config.get_text_config())
    if hasattr(config, "quantization_config"):  # of the safetensors that it was made for
        del config.quantization_config
    return arguments | {"config": config, "gguf_file": None} | gguf_arguments(path, config)


def resolve_reference(config: MoEEConfig, **kwargs: Any) -> tuple[str, dict[str, Any]]:
    """Return the repository that a reference names for its weights, and how to load from there."""
    source: Any = config.base_model_name_or_path
    if os.path.exists(source):
        raise ValueError(
            f"MoEEConfig.base_model_name_or_path: expected a repository on the Hub; {source!r} is also a folder "
            "here, which would be read in its place. Work in another folder."
        )
    # both belong to the repository with the reference
    kwargs = {key: value for key, value in kwargs.items() if key not in ("subfolder", "adapter_kwargs")}
    kwargs["revision"] = config.base_model_revision
    kwargs["revision"] = resolve_commit(source, f"{source!r}, the backbone: ", **kwargs)
    warn_if_moved(source, **kwargs)
    return source, kwargs


def _check_loaded(source: str, backbone: PreTrainedModel, info: dict[str, Any]) -> None:
    """Raise `ValueError` unless all weights of a backbone were loaded; warn of those that were not read."""
    architecture = backbone.config.model_type
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
    if left := _left_over(backbone, info["unexpected_keys"]):
        logger.warning(
            f"{source}: {len(left)} weights were not read, the first {left[0]!r}, as the configuration describes a "
            f"{architecture} backbone without them. That is right if they predict further tokens; else load the "
            "checkpoint with its own config.json."
        )


@contextlib.contextmanager
def _report_on_failure() -> Iterator[None]:
    """Hold back transformers' table of weights that do not fit, unless loading fails, whose error refers to it."""
    reports: list[logging.LogRecord] = []
    thread = threading.get_ident()

    def is_no_report(record: logging.LogRecord) -> bool:
        if is_report := record.thread == thread and "LOAD REPORT" in record.getMessage():
            reports.append(record)
        return not is_report

    log = logging.getLogger("transformers.modeling_utils")
    log.addFilter(is_no_report)
    try:
        yield
        reports.clear()
    finally:
        log.removeFilter(is_no_report)
        for record in reports:
            log.handle(record)


def _left_over(backbone: PreTrainedModel, unexpected: Iterable[str]) -> list[str]:
    """Return the weights of modules that the backbone has; those of others, such as a head, are no part of it."""
    modules = dict(backbone.named_children())
    prefix = f"{backbone.base_model_prefix}."
    return sorted(name for name in unexpected if name.removeprefix(prefix).split(".")[0] in modules)


def _find_weights(
    source: str,
    config: PreTrainedConfig,
    variant: str | None = None,
    gguf_file: str | None = None,
    subfolder: str = "",
    **kwargs: Any,
) -> Path | None:
    """Return the GGUF file with the weights, None for safetensors, which transformers finds as they are found here.

    transformers would also read pickled weights, have a service convert them, follow an index anywhere, or load
    another model because an adapter says so.
    """
    kwargs["subfolder"] = subfolder
    if optional_file(source, "adapter_config.json", **kwargs):
        raise ValueError(
            f"{source}: expected the weights of a backbone; there is an adapter_config.json. Merge the adapter into "
            "its base model, and load what that saves."
        )
    if gguf_file is not None:
        _check_names(source, "gguf_file", [gguf_file], ".gguf")
        if variant is not None:
            raise ValueError(f"variant: expected None with gguf_file, which names the file; got {variant!r}.")
        if path := optional_file(source, gguf_file, **kwargs):
            return path
        raise OSError(f"{source}: expected the weights in {gguf_file}, as gguf_file says; there is no such file.")
    infix = "" if variant is None else f".{variant}"
    names = [f"model{infix}.safetensors", f"model.safetensors.index{infix}.json"]
    if named := getattr(config, "transformers_weights", None):
        _check_names(source, "config.json", [named], ".safetensors", ".safetensors.index.json")
        names = [named]
    for name in names:
        if path := optional_file(source, name, **kwargs):
            if path.suffix == ".json":
                _check_names(source, name, _shards(source, path), ".safetensors")
            return None
    problem = f"{source}: expected weights in safetensors; there is no {' and no '.join(names)}"
    if variant is None and not named and os.path.isdir(source):
        packed = [path for path in Path(source, subfolder).glob("*.gguf") if path.is_file()]
        if len(packed) == 1:
            return packed[0]
        problem += f", and there are {len(packed)} GGUF files, of which one would do"
    raise OSError(
        f"{problem}. gguf_file=... names a GGUF file. Pickled weights are never read: convert them, for instance with "
        "transformers' save_pretrained, where you trust them."
    )


def _shards(source: str, index: Path) -> Iterable[str]:
    try:
        shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not isinstance(shards, dict) or not shards:
            raise TypeError(f"weight_map is {shards!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{source}: expected an index of shards with a weight_map in {index.name}; it cannot be read as one "
            f"({error!r}). Fetch it again."
        ) from error
    return shards.values()


def _check_names(source: str, where: str, names: Iterable[Any], *endings: str) -> None:
    for name in names:
        inside = isinstance(name, str) and not Path(name).is_absolute() and ".." not in Path(name).parts
        if not inside or not name.endswith(endings):
            expected = " or ".join(endings)
            raise ValueError(f"{source}: expected {where} to name {expected} files beside it; it names {name!r}.")
