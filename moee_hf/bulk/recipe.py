"""All that decides which embeddings are in a folder, so that no other run mixes its own with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..files.folders import digest_of_folder, sha256

if TYPE_CHECKING:
    from ..model.configuration_moee import MoEEConfig


def model_recipe(config: MoEEConfig, source: str, commit: str | None, prompt: str | None) -> dict[str, Any]:
    """Return what a recipe says of a model, as JSON has it.

    Args:
        config: Of the model, with the choices that were made.
        source: Its folder or Hub id.
        commit: Its commit on the Hub. None: it is a folder, which is known by its content.
        prompt: As `MoEEConfig.find_prompts` takes it.

    Raises:
        OSError: If the statistics of the model cannot be read.
        ValueError: If there is no such prompt.
    """
    from ..model.configuration_moee import CHOICE_FIELDS
    from ..model.hub_moee import alias_of, optional_file
    from ..model.repository_moee import STATISTICS_NAME

    statistics = optional_file(source, STATISTICS_NAME, revision=commit) if config.calibrated else None
    # prompts are those that are used, not those that there are
    choices = CHOICE_FIELDS - {"prompts", "default_prompt_name"}
    return {
        "model": alias_of(source) or (Path(source).resolve().name if commit is None else source),
        "revision": commit or digest_of_folder(Path(source)),
        "statistics": None if statistics is None else sha256(statistics),
        "prompt": config.find_prompts(prompt),
        "choices": {name: getattr(config, name) for name in sorted(choices)},
    }


def versions() -> dict[str, str]:
    """Return the versions of the packages that compute embeddings."""
    import torch
    import transformers

    return {"moee_hf": __version__, "transformers": transformers.__version__, "torch": torch.__version__}
