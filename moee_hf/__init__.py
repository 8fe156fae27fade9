"""MoEE: text embeddings from any pretrained mixture-of-experts language model, without training.

With the package imported, `AutoModel`, `AutoConfig` and `pipeline` of transformers know MoEE without remote code.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .registration import EMBEDDED as EMBEDDED
from .registration import register_soon

if TYPE_CHECKING:
    from .model.backbone_moee import UnsupportedBackboneError
    from .model.configuration_moee import MoEEConfig
    from .model.modeling_moee import MoEEModel, MoEEModelOutput

__version__ = "0.1.0"
__all__ = ["MoEEConfig", "MoEEModel", "MoEEModelOutput", "UnsupportedBackboneError"]

# imported when they are first asked for, as they import torch
_FILES = {
    "MoEEConfig": "configuration_moee",
    "MoEEModel": "modeling_moee",
    "MoEEModelOutput": "modeling_moee",
    "UnsupportedBackboneError": "backbone_moee",
}


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".model.{_FILES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_soon()
