"""What the embeddings of a corpus depend on, and where they are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import cached_assets_path

from .. import __version__
from ..files.folders import digest_of_folder, digest_of_tensors
from .corpus import CorpusFile

if TYPE_CHECKING:
    from ..model.modeling_moee import MoEEModel


def digest_of_index(model: MoEEModel, templates: Sequence[str], corpus: CorpusFile) -> str:
    """Return a digest of all that the embeddings of a corpus depend on, in hexadecimal.

    Args:
        model: The model; its configuration and statistics are those in memory.
        templates: The prompts of the texts.
        corpus: The texts.
    """
    from ..model.configuration_moee import CHOICE_FIELDS

    config, quantizer = model.config, getattr(model.model, "hf_quantizer", None)
    # prompts are those that are used, not those that there are
    choices = CHOICE_FIELDS - {"prompts", "default_prompt_name"}
    recipe: dict[str, Any] = {
        "moee_hf": __version__,
        "weights": _weights_of(model),
        "dtype": str(model.dtype),
        "quantization": None if quantizer is None else quantizer.quantization_config.to_dict(),
        "statistics": digest_of_tensors(model.statistics),
        "choices": {name: getattr(config, name) for name in sorted(choices)},
        "prompt": list(templates),
        "corpus": corpus.digest,
    }
    return hashlib.sha256(json.dumps(recipe, sort_keys=True, default=str).encode()).hexdigest()


def _weights_of(model: MoEEModel) -> Any:
    """What the weights are known by: files at a commit of the Hub, or of a digest; of those in memory, a digest."""
    from ..model.adapters_moee import has_adapters

    origin = model.origin
    if not origin.source or model.weights_changed or has_adapters(model.model):
        return digest_of_tensors(model.model)
    if origin.revision:
        return [origin.source, origin.revision, origin.files]
    return [digest_of_folder(Path(origin.source, origin.files.get("subfolder", ""))), origin.files]


def cache_folder() -> Path:
    """Return the folder of all indexes: `moee_hf/search` among the assets in the cache of Hugging Face.

    The environment moves it: `HF_ASSETS_CACHE`, `HF_HOME` or `XDG_CACHE_HOME`.
    """
    return cached_assets_path("moee_hf", "search", "indexes")
