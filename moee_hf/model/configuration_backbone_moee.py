"""The configuration of a backbone, from what its `config.json` says."""

from __future__ import annotations

from typing import Any

from transformers import CONFIG_MAPPING, OlmoeConfig, PreTrainedConfig, __version__

from .arguments_moee import check_fields, in_one_sentence
from .configuration_deepseek import DeepseekConfig

MODEL_TYPE = "moee"


def as_backbone_config(config: Any) -> PreTrainedConfig:
    """Return the configuration of a backbone as an object.

    Args:
        config: The object, or the content of a `config.json`. None: that of OLMoE-1B-7B.

    Raises:
        ValueError: If it is none, or has no model type that transformers knows.
    """
    if isinstance(config, dict):
        config = _from_dict(config)
    config = OlmoeConfig() if config is None else config
    if not isinstance(config, PreTrainedConfig):
        raise ValueError(
            "MoEEConfig.backbone_config: expected the configuration of a backbone, or a dictionary of one; got "
            f"{config!r}."
        )
    _check_is_backbone(config.model_type)
    return config


def _from_dict(config: dict[str, Any]) -> PreTrainedConfig:
    # what belongs to the backbone's repository and would be wrong, or run its code, in ours
    config = {key: value for key, value in config.items() if key not in ("auto_map", "_name_or_path")}
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or (
        model_type not in CONFIG_MAPPING and model_type != DeepseekConfig.model_type
    ):
        raise ValueError(
            f"MoEEConfig.backbone_config: expected the model_type of an architecture in transformers {__version__}; "
            f"got {model_type!r}. Architectures that exist as remote code alone are not wrapped; a newer transformers "
            "may carry this one."
        )
    kind = DeepseekConfig if model_type == DeepseekConfig.model_type else CONFIG_MAPPING[model_type]
    _check_is_backbone(model_type)
    with in_one_sentence(f"MoEEConfig.backbone_config: expected the fields of a {model_type} configuration"):
        check_fields("MoEEConfig.backbone_config", config)
        return kind.from_dict(config)


def _check_is_backbone(model_type: str) -> None:
    if model_type == MODEL_TYPE:
        raise ValueError(
            f"MoEEConfig.backbone_config: expected the configuration of a backbone; got one of type {MODEL_TYPE!r}, "
            "which has a backbone itself. Give its backbone_config."
        )
