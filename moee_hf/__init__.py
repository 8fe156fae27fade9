"""MoEE: text embeddings from any pretrained mixture-of-experts language model, without training.

With the package imported, `AutoModel`, `AutoConfig` and `pipeline` of transformers know MoEE without remote code.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["ExpertsNF4Config", "MoEEConfig", "MoEEModel", "MoEEModelOutput", "UnsupportedBackboneError"]

# the small backbone in the package, by its name
EMBEDDED = "embedded"

# torch takes seconds to import, which `moee --help` need not wait for: the command imports what it needs when it runs
_started_as = [*sys.argv, ""][0]
_is_command = Path(_started_as).name in ("moee", "moee.exe") or (
    _started_as == "-m" and f"{__name__}.cli" in sys.orig_argv
)

if TYPE_CHECKING or not _is_command:
    from .model.backbone_moee import UnsupportedBackboneError
    from .model.configuration_moee import MoEEConfig
    from .model.experts_nf4_moee import ExpertsNF4Config
    from .model.modeling_moee import MoEEModel, MoEEModelOutput
    from .registration import register

    register(EMBEDDED)


def __getattr__(name: str) -> Any:
    # another program may be called moee too, and asks for what is not imported
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .registration import register

    register(EMBEDDED)
    files = ("configuration_moee", "modeling_moee", "backbone_moee", "experts_nf4_moee")
    modules = [import_module(f"{__name__}.model.{file}") for file in files]
    return next(vars(module)[name] for module in modules if name in vars(module))
