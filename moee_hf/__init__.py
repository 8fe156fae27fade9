"""MoEE: text embeddings from any pretrained mixture-of-experts language model, without training.

With the package imported, `AutoModel`, `AutoConfig` and `pipeline` of transformers know MoEE without remote code.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["MoEEConfig", "MoEEModel", "MoEEModelOutput", "UnsupportedBackboneError"]

# the small backbone in the package, by its name
EMBEDDED = "embedded"

# torch takes seconds to import, which `moee --help` need not wait for: the command, which Python starts by one of
# these names, imports what it needs when it needs it
if TYPE_CHECKING or Path(sys.argv[0]).stem not in ("moee", "-m"):
    from .model.backbone_moee import UnsupportedBackboneError
    from .model.configuration_moee import MoEEConfig
    from .model.modeling_moee import MoEEModel, MoEEModelOutput
    from .registration import register

    register(EMBEDDED)
