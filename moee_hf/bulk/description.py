"""How embeddings are made, in words that are kept with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import __version__

if TYPE_CHECKING:
    from ..model.configuration_moee import MoEEConfig


def describe(
    config: MoEEConfig,
    source: str,
    commit: str | None,
    prompt: str | None = None,
    normalize: bool = False,
    precision: str = "float32",
    quantization: str | None = None,
) -> dict[str, str]:
    """Return the metadata of a file with embeddings.

    Args:
        config: Of the model, with the choices that were made.
        source: Its folder or Hub id.
        commit: Its commit on the Hub. None: it is a folder.
        prompt: Name or template, as `MoEEConfig.find_prompts` takes it. None: the model's default.
        normalize: Whether embeddings have length 1.
        precision: As `MoEEModel.encode` takes it.
        quantization: What was asked for of a model that is stored whole. None: nothing.
    """
    from ..model.hub_moee import alias_of
    from ..model.quantization_moee import stored_method

    mix = config.mix()
    default = config.default_prompt_name
    default = "+".join(default) if isinstance(default, list) else default
    return {
        "model": alias_of(source) or source,
        "revision": commit or "",
        "quantization": quantization or stored_method(config.backbone_config) or "",
        "prompt": prompt or default or "none",
        "combination": mix.combination,
        "alpha": str(mix.alpha),
        "normalized": str(normalize or precision != "float32"),
        "dimensions": str(mix.dimensions or ""),
        "precision": precision,
        "moee_hf": __version__,
    }
