"""The configuration of a backbone, from what its `config.json` says."""

from __future__ import annotations

from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig, __version__

from .configuration_deepseek import DeepseekConfig


def backbone_config_from_dict(config: dict[str, Any]) -> PreTrainedConfig:
    """Return the configuration object for the content of a backbone's `config.json`.

    Raises:
        ValueError: If the dictionary has no model type, or one that transformers does not know.
    """
    # what belongs to the backbone's repository and would be wrong, or run its code, in ours
    config = {key: value for key, value in config.items() if key not in ("auto_map", "_name_or_path")}
    model_type = config.get("model_type")
    if model_type == DeepseekConfig.model_type:
        return DeepseekConfig.from_dict(config)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"MoEEConfig.backbone_config: expected the model_type of an architecture in transformers {__version__}; "
            f"got {model_type!r}. Architectures that exist as remote code alone are not wrapped; a newer transformers "
            "may carry this one."
        )
    return CONFIG_MAPPING[model_type].from_dict(config)
