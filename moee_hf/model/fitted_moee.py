"""What a model is made for, was fitted to on a corpus, and whether that is what it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transformers.utils import logging

from .choices_moee import PRECISIONS, check_choice
from .functional_moee import Mix

if TYPE_CHECKING:
    from .configuration_moee import MoEEConfig

logger = logging.get_logger(__name__)


def find_max_length(config: MoEEConfig, tokenizer_limit: int) -> int:
    """Return the most tokens of a text with its prompt; warn if more are chosen than the model is made for.

    Args:
        config: The configuration, with its `max_length`.
        tokenizer_limit: The most tokens that the tokenizer allows.
    """
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    limit = min(limit for limit in (tokenizer_limit, positions) if limit)
    if config.max_length is None:
        return limit
    if config.max_length > limit:  # which most backbones take, as they rotate by any position
        logger.warning_once(
            f"MoEEConfig.max_length: expected at most {limit} tokens, as backbone and tokenizer allow; got "
            f"{config.max_length}. Embeddings of longer texts may be of little use."
        )
    return config.max_length


def check_calibrated(calibrated: bool) -> None:
    """Raise `ValueError` unless a model has the statistics that embeddings are standardized with."""
    if not calibrated:
        raise ValueError(
            "MoEEConfig.standardize: expected a model with statistics of a corpus; this one has none. Fit them with "
            "model.calibrate(texts), or choose standardize=False."
        )


def calibration_key(config: MoEEConfig, templates: Sequence[str]) -> dict[str, Any]:
    """Return what the statistics of a corpus depend on: the templates of prompts, and choices of a model."""
    fields = ["pooling", "hidden_layer", "router_activation"]
    if config.hidden_source != "state":
        fields[1:2] = ["hidden_source", "attention_layers"]
    prompt = templates[0] if len(templates) == 1 else list(templates)
    return {"prompt": prompt} | {field: getattr(config, field) for field in fields}


def calibrated_prompts(config: MoEEConfig) -> list[str]:
    """Return the templates that a model was calibrated in; none if they are not known."""
    prompt = (config.calibration or {}).get("prompt", [])
    return [prompt] if isinstance(prompt, str) else prompt


def find_prompt_indices(config: MoEEConfig, templates: Sequence[str]) -> list[int]:
    """Return which of the prompts that a model was calibrated in each template is; 0 for others."""
    fitted = calibrated_prompts(config)
    return [fitted.index(template) if template in fitted else 0 for template in templates]


def check_calibration(config: MoEEConfig, templates: Sequence[str]) -> None:
    """Warn if a model was not calibrated in these prompts, and with its choices as they are now."""
    fitted, now = config.calibration, calibration_key(config, templates)
    if fitted is None:
        return
    same_choices = fitted | {"prompt": None} == now | {"prompt": None}
    if not (same_choices and set(templates) <= set(calibrated_prompts(config))):
        logger.warning_once(
            f"The statistics of this model were fitted with {fitted}; these embeddings are made with {now}. Calibrate "
            "anew, or pass standardize=False."
        )


def compression_key(config: MoEEConfig, mix: Mix) -> dict[str, Any]:
    """Return what principal components and the range of int8 depend on, besides the statistics."""
    key: dict[str, Any] = {"combination": mix.combination, "standardize": mix.standardize}
    if mix.combination == "sum":
        key["alpha"] = float(mix.alpha)
    if mix.reads_routing:
        key |= {"router_layers": config.router_layers, "router_layer_weights": config.router_layer_weights}
    return key


def check_compression(config: MoEEConfig, mix: Mix, name: str) -> None:
    """Raise `ValueError` unless a model was fitted to compress embeddings of this mix; `name` says what asks."""
    if config.compression is None:
        raise ValueError(
            f"{name}: expected a model that was fitted to a corpus; this one was not. Fit it with "
            "model.calibrate(texts, dimensions=...)."
        )
    fitted = {name: value for name, value in config.compression.items() if name != "dimensions"}
    if fitted != (now := compression_key(config, mix)):
        raise ValueError(
            f"{name}: expected embeddings as the model was fitted to, with {fitted}; got {now}. Ask for those, fit "
            "anew with model.calibrate or model.compress, or choose dimensions=None and float32."
        )
    if mix.dimensions is not None and mix.dimensions > (most := config.compression.get("dimensions") or 0):
        raise ValueError(
            f"{name}: expected at most {most} dimensions, as the model was fitted to; got {mix.dimensions}. Fit more "
            "with model.calibrate(texts, dimensions=...) or model.compress."
        )


def check_precision(config: MoEEConfig, mix: Mix, precision: str) -> None:
    """Raise `ValueError` unless embeddings of this mix can be had in this precision."""
    check_choice("precision", precision, PRECISIONS)
    if precision in ("int8", "uint8"):
        check_compression(config, mix, "precision")
        fitted = (config.compression or {}).get("dimensions")
        if mix.dimensions != fitted:  # unit vectors of fewer dimensions have another range
            raise ValueError(
                f"precision: expected embeddings of {fitted or 'all'} dimensions for {precision!r}, as the model was "
                f"fitted to; got {mix.dimensions or 'all'}. Fit anew with model.calibrate or model.compress."
            )
    elif precision != "float32" and not mix.standardize:
        raise ValueError(
            f"precision: expected standardized embeddings for {precision!r}; raw ones have the same signs for nearly "
            "all texts. Calibrate the model, or choose 'float32'."
        )
