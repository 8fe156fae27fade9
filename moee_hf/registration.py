"""What transformers knows of this package: `AutoModel`, `AutoConfig` and `pipeline`, without remote code."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from transformers import AutoConfig, AutoModel
from transformers.pipelines import PIPELINE_REGISTRY

from .model.configuration_deepseek import DeepseekConfig
from .model.configuration_moee import MoEEConfig
from .model.hub_moee import register_alias
from .model.modeling_deepseek import DeepseekModel
from .model.modeling_moee import MoEEModel
from .model.pipeline_moee import MoEEPipeline


@cache
def register(name: str) -> None:
    """Let transformers know MoEE and the architectures that come with it, and a name stand for the embedded model."""
    register_alias(name, Path(__file__).parent / name)
    AutoConfig.register(DeepseekConfig.model_type, DeepseekConfig, exist_ok=True)
    AutoModel.register(DeepseekConfig, DeepseekModel, exist_ok=True)
    AutoConfig.register(MoEEConfig.model_type, MoEEConfig, exist_ok=True)
    AutoModel.register(MoEEConfig, MoEEModel, exist_ok=True)
    PIPELINE_REGISTRY.register_pipeline("moee-embedding", MoEEPipeline, pt_model=AutoModel, type="text")
    # what save_pretrained writes carries its code, so that it loads without this package
    MoEEConfig.register_for_auto_class()
    MoEEModel.register_for_auto_class("AutoModel")
