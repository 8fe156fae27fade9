"""MoEE: text embeddings from any pretrained mixture-of-experts language model, without training."""

from pathlib import Path

from transformers import AutoConfig, AutoModel
from transformers.pipelines import PIPELINE_REGISTRY

from .model.backbone_moee import UnsupportedBackboneError
from .model.configuration_deepseek import DeepseekConfig
from .model.configuration_moee import MoEEConfig
from .model.hub_moee import register_alias
from .model.modeling_deepseek import DeepseekModel
from .model.modeling_moee import MoEEModel, MoEEModelOutput
from .model.pipeline_moee import MoEEPipeline

__version__ = "0.1.0"

# the small backbone in the package, by its name
EMBEDDED = "embedded"
register_alias(EMBEDDED, Path(__file__).parent / EMBEDDED)

# with the package imported, transformers knows both architectures without remote code
AutoConfig.register(DeepseekConfig.model_type, DeepseekConfig, exist_ok=True)
AutoModel.register(DeepseekConfig, DeepseekModel, exist_ok=True)
AutoConfig.register(MoEEConfig.model_type, MoEEConfig, exist_ok=True)
AutoModel.register(MoEEConfig, MoEEModel, exist_ok=True)
PIPELINE_REGISTRY.register_pipeline("moee-embedding", MoEEPipeline, pt_model=AutoModel, type="text")

# what save_pretrained writes carries its code, so that it loads without this package
MoEEConfig.register_for_auto_class()
MoEEModel.register_for_auto_class("AutoModel")

__all__ = ["MoEEConfig", "MoEEModel", "MoEEModelOutput", "UnsupportedBackboneError"]
