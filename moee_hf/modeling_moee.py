"""The MoEE model: a pretrained mixture-of-experts language model, read as a text embedding model without training.

*Your Mixture-of-Experts LLM Is Secretly an Embedding Model For Free* (arXiv 2410.10814).
"""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.dynamic_module_utils import custom_object_save
from transformers.initialization import no_init_weights
from transformers.utils import ModelOutput, cached_file, can_return_tuple, logging

from .configuration_moee import MoEEConfig, resolve_source
from .functional_moee import (
    COMBINATIONS,
    check_alpha,
    check_choice,
    combine,
    pad_right,
    similarity,
    similarity_pairwise,
)
from .prompts_moee import TokenizerNotFoundError, check_template, check_texts, load_tokenizer, tokenize
from .routing_moee import Reading, backbone_class, install_hooks, layer_to_read, reading, text_model
from .statistics_moee import Statistics

logger = logging.get_logger(__name__)

_HUB_KWARGS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
_tokenizer_lock = threading.Lock()

STATISTICS_NAME = "statistics.safetensors"


@dataclass
class MoEEModelOutput(ModelOutput):
    """What `MoEEModel` makes of a batch of texts; every tensor is float32.

    Args:
        embeddings: `torch.Tensor` of shape `(batch_size, embedding_size)`: HS and RW, combined.
        pooled_hidden_state: `torch.Tensor` of shape `(batch_size, hidden_size)`: HS, not standardized.
        router_weights: `torch.Tensor` of shape `(batch_size, num_moe_layers, num_experts)`: RW, not standardized.
    """

    embeddings: torch.Tensor | None = None
    pooled_hidden_state: torch.Tensor | None = None
    router_weights: torch.Tensor | None = None


class MoEEPreTrainedModel(PreTrainedModel):
    """Loading and saving: the backbone's weights go in and out as transformers has them for the backbone itself."""

    config_class = MoEEConfig
    base_model_prefix = "model"
    model_tags = ["moee", "mixture-of-experts", "feature-extraction"]
    # whatever is asked of the wrapper, the backbone checks for itself
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    tokenizer_kwargs: dict[str, Any]
    _tokenizer: PreTrainedTokenizerBase | None

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        # transformers looks for an experts class in this module's source; it is in the backbone's
        return True

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        config: MoEEConfig | None = None,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Load a MoEE repository, or any plain MoE checkpoint, from a folder or the Hub.

        Args:
            pretrained_model_name_or_path: Folder or Hub id; `"embedded"` is the small backbone in the package.
            config: A `MoEEConfig` in place of the one at the source.
            output_loading_info: Whether to return transformers' report on the weights too.
            kwargs: Those of `PreTrainedModel.from_pretrained` (`dtype`, `device_map`, `attn_implementation`,
                `experts_implementation`, `quantization_config`, `revision`, ...), and fields of `MoEEConfig`.

        Raises:
            UnsupportedBackboneError: If the checkpoint has no routers that MoEE can read.
            ValueError: If the checkpoint lacks weights of the backbone.
        """
        source = resolve_source(pretrained_model_name_or_path)
        hub_kwargs = {name: kwargs[name] for name in _HUB_KWARGS if name in kwargs}
        if config is None:
            fields = {name: kwargs.pop(name) for name in MoEEConfig.__annotations__ if name in kwargs}
            config = MoEEConfig.from_pretrained(source, **hub_kwargs, **fields)
        config = copy.deepcopy(config)
        cls.without_weights(config)  # a backbone that MoEE refuses is refused before its weights are fetched
        backbone, info = backbone_class(config.backbone_config).from_pretrained(
            source, config=config.backbone_config, output_loading_info=True, **kwargs
        )
        if missing := sorted(info["missing_keys"]):
            raise ValueError(
                f"{source}: expected all weights of a {config.backbone_config.model_type} backbone; {len(missing)} "
                f"are missing, the first {missing[0]!r}, and would be random. Load the complete checkpoint that its "
                "config.json describes."
            )
        config.name_or_path = source
        model = cls(config, backbone).eval()
        if config.calibrated:
            model.set_statistics(**load_file(cached_file(source, STATISTICS_NAME, **hub_kwargs)))
        model.tokenizer_kwargs = hub_kwargs | {"trust_remote_code": kwargs.get("trust_remote_code")}
        return (model, info) if output_loading_info else model

    @classmethod
    def without_weights(cls, config: MoEEConfig) -> Any:
        """Build a model on the meta device: its shapes, without memory or time for its weights."""
        with torch.device("meta"), no_init_weights():
            return cls(copy.deepcopy(config))

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Save weights, statistics, configuration, code and tokenizer: `AutoModel` needs this package no more.

        Args:
            save_directory: The folder; made if it is not there.
            kwargs: Those of `PreTrainedModel.save_pretrained`, `push_to_hub` excepted: that is a method of its own.
        """
        self.model.save_pretrained(save_directory, **kwargs)
        if self.config.calibrated:
            save_file(self.statistics.state_dict(), Path(save_directory, STATISTICS_NAME), metadata={"format": "pt"})
        self.config.architectures = [type(self).__name__]
        custom_object_save(self, save_directory, config=self.config)
        self.config.save_pretrained(save_directory)
        try:
            self.tokenizer.save_pretrained(save_directory)
        except TokenizerNotFoundError as error:
            logger.warning(f"{save_directory}: saved without a tokenizer. {error}")

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the source that the model was loaded from, loaded at first use; another can be set.

        Raises:
            TokenizerNotFoundError: If the source has none.
        """
        with _tokenizer_lock:
            if self._tokenizer is None:
                self._tokenizer = load_tokenizer(self.name_or_path, **self.tokenizer_kwargs)
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer


class MoEEModel(MoEEPreTrainedModel):
    """Text embeddings from the hidden state and the routing weights of a mixture-of-experts language model.

    The backbone is `model.model`, whole and unchanged, for anything but embeddings.

    Args:
        config: A `MoEEConfig`.
        backbone: The backbone itself, loaded. None: one with random weights, after `config.backbone_config`.

    Raises:
        UnsupportedBackboneError: If the backbone has no routers that MoEE can read.
        ValueError: If the configuration names a layer that the backbone does not have.
    """

    def __init__(self, config: MoEEConfig, backbone: PreTrainedModel | None = None):
        super().__init__(config)
        if backbone is None:
            backbone = backbone_class(config.backbone_config)._from_config(config.backbone_config)
        self.model = backbone
        config.backbone_config = backbone.config
        config.backbone_config.name_or_path = ""  # the path of one machine has no place in a repository's config.json
        config.router_shape, self.num_layers = install_hooks(self.model)
        layer_to_read(config.hidden_layer, self.num_layers)  # refused here, not at the first text
        self.statistics = Statistics(config.hidden_size, config.routing_shape)
        self.tokenizer_kwargs = {}
        self._tokenizer = None
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        combination: str | None = None,
        alpha: float | None = None,
    ) -> MoEEModelOutput:
        """Embed a batch of tokenised texts (section 3 of the paper).

        Args:
            input_ids: Token ids of shape `(batch_size, sequence_length)`, padded on either side.
            attention_mask: 1 for a token, 0 for padding, of the same shape. None: no padding.
            token_type_ids: Not read; some tokenizers return them, and a language model has no use for them.
            inputs_embeds: Token embeddings of shape `(batch_size, sequence_length, hidden_size)` in place of the ids.
            combination: In place of the configuration's.
            alpha: In place of the configuration's.

        Raises:
            ValueError: If a text has no token, or shapes do not fit.
        """
        config = self.config
        inputs, mask = self._right_padded(input_ids, attention_mask, inputs_embeds)
        layer = layer_to_read(config.hidden_layer, self.num_layers)
        with reading(Reading(mask, config.pooling, config.router_activation, config.router_rows, layer)) as read:
            output = text_model(self.model)(**inputs, attention_mask=mask, use_cache=False)
        hidden = read.hidden_state(output.last_hidden_state)  # [B, D]
        routing = read.routing_weights(hidden.device)  # [B, L, E]
        h, r = self.statistics(hidden, routing) if config.standardize else (hidden, routing)
        combination = config.combination if combination is None else combination
        alpha = config.alpha if alpha is None else alpha
        embeddings = combine(h, r, combination, alpha)  # [B, N]
        return MoEEModelOutput(embeddings=embeddings, pooled_hidden_state=hidden, router_weights=routing)

    def encode(
        self,
        texts: str | Iterable[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        normalize_embeddings: bool = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        combination: str | None = None,
        alpha: float | None = None,
    ) -> np.ndarray | torch.Tensor | list[torch.Tensor]:
        """Embed texts; a text's embedding depends on that text alone, not on the others or the batch size.

        Args:
            texts: One text, or several.
            prompt_name: Name of a prompt of the configuration. None: its `default_prompt_name`.
            prompt: A template with `{text}` once, in place of a prompt by name.
            batch_size: Texts per forward pass.
            show_progress_bar: None: on a terminal, once the work has taken some seconds.
            normalize_embeddings: Whether embeddings have length 1.
            convert_to_numpy: Whether to return an array. False: a list of tensors.
            convert_to_tensor: Whether to return one tensor, on the model's device, instead.
            combination: In place of the configuration's.
            alpha: In place of the configuration's.

        Returns:
            Float32 of shape `(embedding_size,)` for one text, `(n, embedding_size)` for n in the order given.

        Raises:
            TypeError: If a text is not a string.
            ValueError: If a text is empty, or the prompt is unknown or leaves no room for text.
        """
        config = self.config
        one, texts = isinstance(texts, str), check_texts(texts)
        if prompt is None:
            prompt = config.template(config.default_prompt_name if prompt_name is None else prompt_name)
        check_template("prompt", prompt)
        combination = config.combination if combination is None else combination
        check_choice("combination", combination, COMBINATIONS)
        alpha = config.alpha if alpha is None else alpha
        check_alpha("alpha", alpha)
        if batch_size < 1:
            raise ValueError(f"batch_size: expected a number of texts >= 1; got {batch_size!r}.")
        max_length = self._max_length()
        ids, num_cut = tokenize(self.tokenizer, texts, prompt, max_length)
        if num_cut:
            logger.warning(
                f"{num_cut} of {len(texts)} texts were cut at their end to fit max_length={max_length} tokens."
            )

        embeddings = torch.empty(
            len(texts), config.size(combination), device=self.device if convert_to_tensor else "cpu"
        )
        order = sorted(range(len(texts)), key=lambda i: len(ids[i]), reverse=True)
        progress = logging.tqdm(
            total=len(texts),
            desc="Embedding",
            unit="text",
            disable=None if show_progress_bar is None else not show_progress_bar,
            delay=5 if show_progress_bar is None else 0,
        )
        self.eval()
        with torch.inference_mode(), progress:
            for start in range(0, len(order), batch_size):
                batch = order[start : start + batch_size]
                output = self(**self._batch([ids[i] for i in batch]), combination=combination, alpha=alpha)
                vectors = F.normalize(output.embeddings, dim=-1) if normalize_embeddings else output.embeddings
                embeddings[batch] = vectors.to(embeddings.device)
                progress.update(len(batch))
        result = embeddings.numpy() if convert_to_numpy and not convert_to_tensor else embeddings
        if one:
            return result[0]
        return result if convert_to_numpy or convert_to_tensor else list(result)

    similarity = staticmethod(similarity)
    similarity_pairwise = staticmethod(similarity_pairwise)

    def set_statistics(self, **statistics: torch.Tensor) -> None:
        """Store the statistics that `config.standardize` uses; they are saved and loaded with the model.

        Args:
            statistics: `hidden_mean` and `hidden_std`, of shape `(hidden_size,)`; `routing_mean` and `routing_std`, of
                shape `(num_moe_layers, num_experts)`.

        Raises:
            ValueError: If one is missing, unknown or of another shape.
        """
        self.statistics.store(self.device, **statistics)
        self.config.calibrated = True

    def _right_padded(
        self, input_ids: torch.Tensor | None, attention_mask: torch.Tensor | None, inputs_embeds: torch.Tensor | None
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        values = input_ids if inputs_embeds is None else inputs_embeds
        if values is None or (input_ids is not None and inputs_embeds is not None):
            raise ValueError("MoEEModel: expected either input_ids or inputs_embeds; got both or neither.")
        name = "input_ids" if inputs_embeds is None else "inputs_embeds"
        if attention_mask is None:
            attention_mask = torch.ones(values.shape[:2], dtype=torch.long)
        mask = (attention_mask != 0).long().to(values.device)  # [B, T]
        if mask.shape != values.shape[:2]:
            raise ValueError(
                f"attention_mask: expected the shape {tuple(values.shape[:2])} of {name}; got {tuple(mask.shape)}."
            )
        if len(without := (mask.sum(dim=1) == 0).nonzero()):
            raise ValueError(
                f"attention_mask: expected at least one token in every text; got none in text {without[0].item()}."
            )
        values, mask = pad_right(mask, values, mask)
        return {name: values}, mask

    def _batch(self, ids: list[list[int]]) -> dict[str, torch.Tensor]:
        # the value of padding is never read, so any id that the embedding knows will do
        pad = self.tokenizer.pad_token_id or 0
        length = max(map(len, ids))
        input_ids = torch.tensor([row + [pad] * (length - len(row)) for row in ids])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in ids])
        # a model spread over devices moves its inputs by itself
        device = "cpu" if hasattr(self.model, "hf_device_map") else self.device
        return {"input_ids": input_ids.to(device), "attention_mask": mask.to(device)}

    def _max_length(self) -> int:
        if self.config.max_length is not None:
            return self.config.max_length
        positions = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        return min(limit for limit in (self.tokenizer.model_max_length, positions) if limit)
