"""What makes a folder a MoEE repository, whether the backbone's weights lie in it or not."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import logging
from transformers.utils.hub import create_and_tag_model_card

from .configuration_moee import MoEEConfig
from .digests_moee import digest_of_file, is_weights
from .hub_moee import hub_errors, is_repo_id, optional_file
from .saving_moee import FILES_OF_A_SAVE
from .tokenizer_moee import TokenizerNotFoundError

if TYPE_CHECKING:
    # named so that they travel with the code: transformers ships what is imported in this way
    from .handler import EndpointHandler  # noqa: F401
    from .pipeline_moee import MoEEPipeline  # noqa: F401
    from .pretrained_moee import MoEEPreTrainedModel
    from .sentence_moee import MoEETransformer  # noqa: F401

logger = logging.get_logger(__name__)

STATISTICS_NAME = "statistics.safetensors"
CARD_NAME = "README.md"


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
    for name, content in _sentence_transformers_files(config).items():
        path = Path(folder, name)
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if "prompts" in content:
            named.append(path)
    config.digests = {path.relative_to(folder).as_posix(): digest_of_file(path) for path in named if path.is_file()}
    config.architectures = [type(model).__name__]
    pipeline = {"impl": "pipeline_moee.MoEEPipeline", "pt": ["AutoModel"], "type": "text"}
    config.custom_pipelines = {"moee-embedding": pipeline}
    custom_object_save(model, folder, config=config)
    config.save_pretrained(folder)


def check_push(repo_id: str, token: bool | str | None) -> None:
    """Check that a model may be pushed, before it is saved and the repository is made.

    Raises:
        OSError: If the Hub cannot be reached, or wants another token.
        ValueError: If no repository can have this id.
    """
    if not is_repo_id(repo_id):
        raise ValueError(f"repo_id: expected the id of a repository on the Hub, such as 'you/model'; got {repo_id!r}.")
    with hub_errors("push_to_hub: ", repo_id):
        HfApi().whoami(token=token)


def push_files(
    model: MoEEPreTrainedModel,
    folder: str | os.PathLike[str],
    names: Collection[str],
    repo_id: str,
    private: bool | None = None,
    token: bool | str | None = None,
    tags: str | Sequence[str] | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    **commit: Any,
) -> CommitInfo:
    """Push the files that were written into a folder, and a model card, in one commit.

    Of an earlier save, what this one does not have is removed from the repository.

    Args:
        model: The model that is saved there.
        folder: The folder.
        names: The files.
        repo_id: The repository; made if it is not there.
        private: Whether a new repository becomes private.
        token: For the Hub.
        tags: Those of the card, besides the model's own.
        revision: The branch, made if it is not there, or a pull request. None: the main branch.
        commit_message: The message of the commit.
        commit: `create_pr` and `commit_description` of `push_to_hub`.

    Raises:
        OSError: If the Hub cannot be reached, or refuses.
    """
    tags = [*model.model_tags, *([tags] if isinstance(tags, str) else tags or [])]
    api = HfApi(token=token)
    with hub_errors("push_to_hub: ", repo_id, revision):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        create_and_tag_model_card(repo_id, tags, token=token).save(Path(folder, CARD_NAME))
        if revision is not None and not revision.startswith("refs/pr/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        present = api.list_repo_files(repo_id, revision=revision)
        outdated = {name for name in present if FILES_OF_A_SAVE.fullmatch(name)}.difference(names)
        return api.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(name, Path(folder, name)) for name in {*names, CARD_NAME}),
                *(CommitOperationDelete(name) for name in outdated),
            ],
            commit_message=commit_message or f"Upload {type(model).__name__}",
            revision=revision,
            **commit,
        )


def check_base(repo_id: str, revision: str | None, token: bool | str | None) -> None:
    """Check that a reference can name a repository for its weights, which are read from its root.

    Raises:
        OSError: If the Hub cannot say.
        ValueError: If it has no weights in safetensors, or those of an adapter.
    """
    with hub_errors("save_reference: ", repo_id, revision):
        present = HfApi().list_repo_files(repo_id, revision=revision, token=token)
    if not {"model.safetensors", "model.safetensors.index.json"} & set(present) or "adapter_config.json" in present:
        raise ValueError(
            f"save_reference: expected a repository with the weights of a backbone in safetensors; {repo_id!r} has "
            "others, or none. Use save_pretrained, or push_to_hub without reference=True."
        )


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
