"""The configuration of a backbone, from what its `config.json` says."""

from __future__ import annotations

from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig, __version__

from .arguments_moee import in_one_sentence
from .configuration_deepseek import DeepseekConfig

MODEL_TYPE = "moee"


def backbone_config_from_dict(config: dict[str, Any]) -> PreTrainedConfig:
    """Return the configuration object for the content of a backbone's `config.json`.

    Raises:
        ValueError: If the dictionary has no model type, or one that transformers does not know.
    """
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
    check_is_backbone(model_type)
    with in_one_sentence(f"MoEEConfig.backbone_config: expected the fields of a {model_type} configuration"):
        return kind.from_dict(config)


def check_is_backbone(model_type: str) -> None:
    """Raise `ValueError` if this is the type of a model that wraps a backbone, not of a backbone."""
    if model_type == MODEL_TYPE:
        raise ValueError(
            f"MoEEConfig.backbone_config: expected the configuration of a backbone; got one of type {MODEL_TYPE!r}, "
            "which has a backbone itself. Give its backbone_config."
        )
