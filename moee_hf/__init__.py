"""MoEE: text embeddings from any pretrained mixture-of-experts language model, without training."""

from transformers import AutoConfig, AutoModel
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_deepseek import DeepseekConfig
from .configuration_moee import MoEEConfig
from .modeling_deepseek import DeepseekModel
from .modeling_moee import MoEEModel, MoEEModelOutput
from .pipeline_moee import MoEEPipeline
from .routing_moee import UnsupportedBackboneError

__version__ = "0.1.0"

# with the package imported, transformers knows both architectures without remote code
AutoConfig.register(DeepseekConfig.model_type, DeepseekConfig, exist_ok=True)
AutoModel.register(DeepseekConfig, DeepseekModel, exist_ok=True)
AutoConfig.register(MoEEConfig.model_type, MoEEConfig, exist_ok=True)
AutoModel.register(MoEEConfig, MoEEModel, exist_ok=True)
PIPELINE_REGISTRY.register_pipeline("moee-embedding", MoEEPipeline, pt_model=AutoModel, type="text")

# what save_pretrained writes carries its code, for those who have not
MoEEConfig.register_for_auto_class()
MoEEModel.register_for_auto_class("AutoModel")

__all__ = ["MoEEConfig", "MoEEModel", "MoEEModelOutput", "UnsupportedBackboneError"]
