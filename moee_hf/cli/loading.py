"""The model that flags name, loaded with the choices that they make."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from .. import EMBEDDED
from .choices import check_effects
from .memory import share_one_heap

if TYPE_CHECKING:  # they import torch, which takes seconds: a command does so when it runs
    from ..model.configuration_moee import MoEEConfig
    from ..model.modeling_moee import MoEEModel


def load_model(arguments: argparse.Namespace, default: str = EMBEDDED) -> MoEEModel:
    """Load the model that the flags name, or else the default, with the choices that they make.

    Raises:
        ValueError: If a device is not there, a name is empty, a flag has no effect on this model, or two exclude each
            other.
        ImportError: If the package that quantizes is not installed.
    """
    import_transformers()
    from ..model.modeling_moee import MoEEModel

    devices = getattr(arguments, "devices", None)
    if devices is not None and arguments.quantize is not None:
        raise ValueError(
            "quantize: expected no --devices beside it, as processes do not share quantized weights; got "
            f"{devices!r}. Leave one of the two out."
        )
    device = _device(arguments.device, devices)
    on_processor = device == "cpu" and devices is None
    if on_processor:
        share_one_heap()
    dtype = arguments.dtype or ("float32" if on_processor else "auto")
    source = default if arguments.model is None else arguments.model
    check_source(source, arguments.revision)
    hub: dict[str, Any] = {} if arguments.revision is None else {"revision": arguments.revision}
    fields = _choices(arguments)
    quantization = {} if arguments.quantize is None else {"quantization_config": arguments.quantize}
    model = MoEEModel.from_pretrained(source, dtype=dtype, device_map=device, **hub, **quantization, **fields)
    check_effects(fields, vars(model.config))
    return model


def load_config(arguments: argparse.Namespace) -> tuple[str, str | None, MoEEConfig]:
    """Return the folder or Hub id of the model that the flags name, its commit there, and its configuration.

    Raises:
        OSError: If it is not there, or damaged.
        ValueError: As `load_model`, where that can be known without the weights.
    """
    import_transformers()
    from ..model.configuration_moee import resolve_config
    from ..model.hub_moee import resolve_commit, resolve_source

    check_source(arguments.model, arguments.revision)
    source = resolve_source(arguments.model)
    commit = resolve_commit(source, revision=arguments.revision)
    config = resolve_config(source, revision=commit)
    fields = _choices(arguments)
    config.choose(**fields)
    check_effects(fields, vars(config))
    return source, commit, config


def _choices(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of `MoEEConfig` that flags choose, as far as they can be checked without the model's own."""
    fields = {name: value for name in arguments.choices if (value := getattr(arguments, name)) is not None}
    if "router_layers" in fields:  # those of the model are of other layers
        fields.setdefault("router_layer_weights", None)
    check_effects(fields, fields)
    return fields


def check_source(source: str, revision: str | None) -> None:
    """Raise `ValueError` if the name of a model or of a revision is empty, or the model is a folder and has none."""
    if not source.strip():
        raise ValueError("model: expected a folder, or the id of a repository; got an empty name. Name one.")
    if revision is None:
        return
    from ..model.hub_moee import resolve_source

    if not revision.strip() or os.path.exists(resolve_source(source)):
        raise ValueError(
            f"revision: expected a branch, tag or commit of a model on the Hub; got {revision!r} of {source!r}. A "
            "folder of this machine has no revisions. Leave --revision out, or name a repository."
        )


def import_transformers() -> None:
    """Let transformers know this package, report errors alone, and show progress on a terminal alone."""
    for noisy in ("torchao", "torch.utils._pytree"):  # where torchao is installed, transformers imports it
        logging.getLogger(noisy).setLevel(logging.ERROR)
    import transformers

    from ..registration import register

    register(EMBEDDED)
    # it reports the language-model head of every checkpoint as unexpected
    transformers.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        transformers.logging.disable_progress_bar()


def _device(name: str | None, devices: list[str] | str | None) -> str:
    """Return where the model is loaded to; for several devices that is the processor, from which they take it."""
    from ..model.devices_moee import accelerators, find_device, find_devices

    if devices is not None:
        find_devices(devices)  # before the model is loaded
        return "cpu"
    if name is None:
        return "auto" if accelerators() else "cpu"
    return name if name == "auto" else str(find_device("device", name, others=["auto"]))
