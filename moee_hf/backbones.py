"""Which architectures of the installed transformers MoEE can use, read from transformers itself."""

from __future__ import annotations

import inspect
from pathlib import Path

from transformers import CONFIG_MAPPING, MODEL_MAPPING, PreTrainedConfig

from .configuration_deepseek import DeepseekConfig
from .routing_moee import REFUSED


def supported_backbones() -> list[str]:
    """Return the `model_type` of every architecture whose routing weights MoEE reads, sorted.

    An architecture counts if it reads text, transformers declares routers to record in its modelling file, and has a
    base model for it. Those that put any text model inside (LLaVA, InternVL, ...) work with a mixture of experts
    inside too, and are not listed.
    """
    supported = [DeepseekConfig.model_type]
    for model_type, config_class in CONFIG_MAPPING.items():
        if model_type not in REFUSED and config_class in MODEL_MAPPING and _reads_text(config_class):
            source = Path(inspect.getfile(config_class))
            modelling = source.with_name(source.name.replace("configuration_", "modeling_"))
            if modelling.is_file() and '"router_logits": ' in modelling.read_text(encoding="utf-8"):
                supported.append(model_type)
    return sorted(set(supported))


def _reads_text(config_class: type[PreTrainedConfig]) -> bool:
    return hasattr(config_class, "vocab_size") or "text_config" in config_class.sub_configs
