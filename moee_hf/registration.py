"""What transformers shall know of this package, and when it is told.

torch and transformers take seconds to import. So `import moee_hf` imports neither, and yet `AutoModel` and `pipeline`
know MoEE whichever of the two packages is imported first: they are told as soon as transformers is there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

# the small backbone in the package, by its name
EMBEDDED = "embedded"
_MODEL = f"{__package__}.model."


def register_soon() -> None:
    """Register the model with transformers now, or if it is not imported yet, as soon as it is."""
    if "transformers" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _Watch())


class _Watch(MetaPathFinder):
    """Sees imports of transformers and of the model's files, and registers the model once none is half done."""

    def __init__(self) -> None:
        self.num_open = 0

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "transformers" and not fullname.startswith(_MODEL):
            return None
        finders = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec")]
        spec = next((found for finder in finders if (found := finder.find_spec(fullname, path, target))), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                self.num_open += 1
                try:
                    execute(module)
                finally:
                    self.num_open -= 1
                # a file of the model imports transformers, and is needed whole for the registration
                if self.num_open == 0 and "transformers" in sys.modules and self in sys.meta_path:
                    sys.meta_path.remove(self)
                    _register()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _register() -> None:
    from transformers import AutoConfig, AutoModel
    from transformers.pipelines import PIPELINE_REGISTRY

    from .model.configuration_deepseek import DeepseekConfig
    from .model.configuration_moee import MoEEConfig
    from .model.hub_moee import register_alias
    from .model.modeling_deepseek import DeepseekModel
    from .model.modeling_moee import MoEEModel
    from .model.pipeline_moee import MoEEPipeline

    register_alias(EMBEDDED, Path(__file__).parent / EMBEDDED)
    # transformers knows both architectures without remote code
    AutoConfig.register(DeepseekConfig.model_type, DeepseekConfig, exist_ok=True)
    AutoModel.register(DeepseekConfig, DeepseekModel, exist_ok=True)
    AutoConfig.register(MoEEConfig.model_type, MoEEConfig, exist_ok=True)
    AutoModel.register(MoEEConfig, MoEEModel, exist_ok=True)
    PIPELINE_REGISTRY.register_pipeline("moee-embedding", MoEEPipeline, pt_model=AutoModel, type="text")
    # what save_pretrained writes carries its code, so that it loads without this package
    MoEEConfig.register_for_auto_class()
    MoEEModel.register_for_auto_class("AutoModel")
