"""What makes a folder a MoEE repository, whether the backbone's weights lie in it or not."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import HfApi
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import logging
from transformers.utils.hub import create_and_tag_model_card

from .configuration_moee import MoEEConfig
from .digests_moee import digest_of_file, is_weights
from .hub_moee import hub_errors, optional_file
from .tokenizer_moee import TokenizerNotFoundError

if TYPE_CHECKING:
    # named so that they travel with the code: transformers ships what is imported in this way
    from .handler import EndpointHandler  # noqa: F401
    from .pipeline_moee import MoEEPipeline  # noqa: F401
    from .pretrained_moee import MoEEPreTrainedModel
    from .sentence_moee import MoEETransformer  # noqa: F401

logger = logging.get_logger(__name__)

STATISTICS_NAME = "statistics.safetensors"


def write_repository(model: MoEEPreTrainedModel, config: MoEEConfig, folder: str | os.PathLike[str]) -> None:
    """Write all but the weights of a MoEE model into a folder.

    These are the configuration, with digests of all files that change embeddings, statistics, tokenizer, the code for
    `AutoModel` and `pipeline`, and what sentence-transformers reads.

    Args:
        model: The model.
        config: Its configuration, as it is to be stored.
        folder: The folder, which holds the weights, or nothing.
    """
    named = [path for path in Path(folder).iterdir() if is_weights(path.name)]
    if config.calibrated:
        named.append(Path(folder, STATISTICS_NAME))
        save_file(model.statistics.state_dict(), named[-1], metadata={"format": "pt"})
    try:
        named += map(Path, model.tokenizer.save_pretrained(folder))
    except TokenizerNotFoundError as error:
        logger.warning(f"The model is saved without a tokenizer. {error}")
    config.digests = {path.relative_to(folder).as_posix(): digest_of_file(path) for path in named if path.is_file()}
    config.architectures = [type(model).__name__]
    pipeline = {"impl": "pipeline_moee.MoEEPipeline", "pt": ["AutoModel"], "type": "text"}
    config.custom_pipelines = {"moee-embedding": pipeline}
    custom_object_save(model, folder, config=config)
    config.save_pretrained(folder)
    for name, content in _sentence_transformers_files(config).items():
        Path(folder, name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def push_files(
    model: MoEEPreTrainedModel,
    folder: str | os.PathLike[str],
    repo_id: str | None = None,
    before: Mapping[str, float] | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    tags: str | Sequence[str] | None = None,
    **commit: Any,
) -> Any:
    """Push the files that were written into a folder, and a model card, in one commit.

    Args:
        model: The model that is saved there.
        folder: The folder.
        repo_id: The repository; made if it is not there. None: the name of the folder.
        before: Files that were there, and when they were changed. None: none were.
        private: Whether a new repository becomes private.
        token: For the Hub.
        tags: Those of the card, besides the model's own.
        commit: `revision`, `create_pr`, `commit_message` and `commit_description` of `push_to_hub`.

    Raises:
        OSError: If the Hub cannot be reached, or refuses.
    """
    repo_id = repo_id or Path(folder).name
    tags = [*model.model_tags, *([tags] if isinstance(tags, str) else tags or [])]
    with hub_errors("push_to_hub: ", repo_id):
        repo_id = HfApi().create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
        create_and_tag_model_card(repo_id, tags, token=token).save(Path(folder, "README.md"))
        return model._upload_modified_files(folder, repo_id, before or {}, token=token, **commit)


def read_statistics(source: str, **hub_kwargs: Any) -> dict[str, torch.Tensor]:
    """Read the statistics of a calibrated model, from a folder or the Hub.

    Raises:
        OSError: If they cannot be had.
        ValueError: If they are not there, or damaged.
    """
    problem = "there is no such file"
    if path := optional_file(source, STATISTICS_NAME, **hub_kwargs):
        try:
            return load_file(path)
        except SafetensorError as error:
            problem = f"it cannot be read ({error})"
    raise ValueError(
        f"{source}: expected the statistics of a calibrated model in {STATISTICS_NAME}; {problem}. Fetch the "
        "repository anew, or set calibrated and standardize to false in its config.json."
    )


def _sentence_transformers_files(config: MoEEConfig) -> dict[str, Any]:
    name, templates = config.default_prompt_name, config.resolve_prompts()
    # its prompts are strings: several are one of JSON
    default = templates[0] if len(templates) == 1 else json.dumps(templates, ensure_ascii=False)
    # encode_query and encode_document ask for prompts of these names
    prompts = {"query": default, "document": default} | config.known_prompts
    if isinstance(name, list):
        prompts[name := "+".join(name)] = default
    return {
        "modules.json": [{"idx": 0, "name": "0", "path": "", "type": "sentence_moee.MoEETransformer"}],
        "sentence_bert_config.json": {
            "transformer_task": "feature-extraction",
            "modality_config": {"text": {"method": "forward", "method_output_name": "embeddings"}},
            "module_output_name": "sentence_embedding",
            # packed texts come without the mask that pooling needs
            "unpad_inputs": False,
        },
        "config_sentence_transformers.json": {
            "prompts": prompts,
            "default_prompt_name": name,
            "similarity_fn_name": "cosine",
        },
    }
