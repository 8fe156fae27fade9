"""The MoEE model: a pretrained mixture-of-experts language model, read as a text embedding model without training.

*Your Mixture-of-Experts LLM Is Secretly an Embedding Model For Free* (arXiv 2410.10814).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.utils import ModelOutput, can_return_tuple, logging

from .backbone_moee import is_causal
from .capture_moee import install_hooks
from .configuration_moee import MoEEConfig
from .functional_moee import Mix, similarity, similarity_pairwise, split_concat
from .inference_moee import embeddings_of, input_device, pad, right_padded, run_batch, token_ids, wanted_of
from .pretrained_moee import MoEEPreTrainedModel
from .prompts_moee import check_texts
from .statistics_moee import Statistics, StatisticsFit
from .stream_moee import embed_stream

logger = logging.get_logger(__name__)


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


class MoEEModel(MoEEPreTrainedModel):
    """Text embeddings from the hidden state and the routing weights of a mixture-of-experts language model.

    The wrapped language model is available, unchanged, as `model.model`.

    Args:
        config: A `MoEEConfig`.
        backbone: The backbone itself, with its weights and configuration. None: one with random weights, after
            `config.backbone_config`.

    Raises:
        UnsupportedBackboneError: If the backbone has no routers that MoEE can read.
        ValueError: If the configuration names a layer that the backbone does not have.
    """

    def __init__(self, config: MoEEConfig, backbone: PreTrainedModel | None = None):
        super().__init__(config, backbone)
        config.router_shape, self.num_layers = install_hooks(self.model)
        self.is_causal = is_causal(self.model)
        wanted_of(self)  # layers that the backbone does not have are refused here, not at the first text
        self.statistics = Statistics(config.hidden_size, config.router_shape)
        with no_init_weights():  # the backbone has its weights
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
        standardize: bool | None = None,
    ) -> MoEEModelOutput:
        """Embed a batch of tokenised texts (section 3 of the paper).

        Args:
            input_ids: Token ids of shape `(batch_size, sequence_length)`, padded on either side.
            attention_mask: 1 for a token, 0 for padding, of the same shape. None: no padding.
            token_type_ids: Not read; some tokenizers return them, and a language model has no use for them.
            inputs_embeds: Token embeddings of shape `(batch_size, sequence_length, hidden_size)` in place of the ids.
            combination: In place of the configuration's, here and below.
            alpha: Weight of RW in `"sum"`.
            standardize: Whether to standardize HS and RW with the model's statistics.

        Raises:
            ValueError: If a text has no token, shapes do not fit, or statistics are asked for that are not there.
        """
        mix = self.config.mix(combination, alpha, standardize)
        batch = right_padded(input_ids, attention_mask, inputs_embeds)
        capture = run_batch(self, batch, wanted_of(self))
        return MoEEModelOutput(
            embeddings=embeddings_of(self, capture, mix),  # [B, N]
            pooled_hidden_state=capture.hidden,  # [B, D]
            router_weights=capture.routing_weights(),  # [B, L, E]
        )

    def encode(
        self,
        texts: str | Iterable[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        normalize_embeddings: bool = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        combination: str | None = None,
        alpha: float | None = None,
        standardize: bool | None = None,
    ) -> np.ndarray | torch.Tensor | list[torch.Tensor]:
        """Embed texts; a text's embedding depends on that text alone, not on the others or the batch size.

        Args:
            texts: One text, or several.
            prompt_name: Name of a prompt of the configuration. None: its `default_prompt_name`.
            prompt: A template with `{text}` once, in place of a prompt by name. For example, with
                `'The essence of "{text}" is:"'` the text `A man.` is read as `The essence of "A man." is:"`.
            batch_size: The most texts per forward pass. None: as many as the device is fast with.
            show_progress_bar: None: on a terminal, once the work has taken some seconds.
            normalize_embeddings: Whether embeddings have length 1.
            convert_to_numpy: Whether to return an array. False: a list of tensors.
            convert_to_tensor: Whether to return one tensor, on the model's device, instead.
            combination: In place of the configuration's, here and below.
            alpha: Weight of RW in `"sum"`. For example, with 0.5 the cosine of two embeddings is that of their HS
                plus half that of their RW, divided by 1.5.
            standardize: Whether to standardize HS and RW with the model's statistics.

        Returns:
            Float32 of shape `(embedding_size,)` for one text, `(n, embedding_size)` for n in the order given.

        Raises:
            TypeError: If a text is not a string.
            ValueError: If a text is empty, the prompt is unknown or leaves no room for text, or an embedding is not
                finite.
        """
        one, texts = isinstance(texts, str), check_texts(texts)
        template = self.config.resolve_prompt(prompt_name, prompt)
        mix = self.config.mix(combination, alpha, standardize, normalize_embeddings)
        embeddings, end = np.empty((len(texts), self.config.embedding_size_for(mix.combination)), np.float32), 0
        for part in embed_stream(self, texts, template, mix, batch_size, show_progress_bar):
            embeddings[end : (end := end + len(part))] = part
        result = embeddings[0] if one else embeddings
        if convert_to_tensor:
            return torch.from_numpy(result).to(input_device(self))
        if convert_to_numpy:
            return result
        return torch.from_numpy(result) if one else list(torch.from_numpy(result))

    def encode_stream(
        self,
        texts: Iterable[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        normalize_embeddings: bool = False,
        combination: str | None = None,
        alpha: float | None = None,
        standardize: bool | None = None,
    ) -> Iterator[np.ndarray]:
        """Embed any number of texts as they come, in flat memory; arguments and errors are those of `encode`.

        Returns:
            An iterator over float32 arrays of shape `(n, embedding_size)`, each of the next n texts, a thousand or so.
        """
        template = self.config.resolve_prompt(prompt_name, prompt)
        mix = self.config.mix(combination, alpha, standardize, normalize_embeddings)
        return embed_stream(self, texts, template, mix, batch_size, show_progress_bar)

    def tokenize(
        self, texts: str | Iterable[str], prompt_name: str | None = None, prompt: str | None = None
    ) -> dict[str, torch.Tensor]:
        """Tokenise texts inside a prompt, as one batch for `forward`; arguments and errors are those of `encode`.

        Returns:
            `input_ids` and `attention_mask` of shape `(n, sequence_length)`, on the CPU.
        """
        return pad(token_ids(self, check_texts(texts), self.config.resolve_prompt(prompt_name, prompt)))

    @property
    def max_length(self) -> int:
        """The most tokens of a text with its prompt: the configuration's, or what tokenizer and backbone allow."""
        if self.config.max_length is not None:
            return self.config.max_length
        positions = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        return min(limit for limit in (self.tokenizer.model_max_length, positions) if limit)

    similarity = staticmethod(similarity)
    similarity_pairwise = staticmethod(similarity_pairwise)

    def calibrate(
        self,
        texts: Iterable[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
    ) -> None:
        """Fit mean and standard deviation of HS and RW on a corpus, store them, and standardize with them from now on.

        HS is standardized, and RW as `config.router_standardization` says. The texts are read once, as they come, and
        not kept. The statistics hold for embeddings of the same prompt, `pooling`, `hidden_layer` and
        `router_activation`, and for any choice of `router_layers`, `combination` and `alpha`.

        Args:
            texts: General text of the kind to be embedded, some thousands; never the texts of a test.
            prompt_name: As in `encode`, here and below.
            prompt: A template with `{text}` once.
            batch_size: As in `encode`; the statistics do not depend on it beyond the rounding of float32.
            show_progress_bar: None: on a terminal, once the work has taken some seconds.

        Raises:
            TypeError: If a text is not a string.
            ValueError: If there are fewer than two texts, or one cannot be embedded; the model stays as it was then.
        """
        template = self.config.resolve_prompt(prompt_name, prompt)
        fit, shape = StatisticsFit(), self.config.router_shape
        everything = replace(wanted_of(self), routers=tuple(range(shape[0])))
        for part in embed_stream(self, texts, template, Mix("concat"), batch_size, show_progress_bar, everything):
            fit.update(*split_concat(torch.from_numpy(part), self.config.hidden_size, shape))
        self.set_statistics(**fit.result())
        self.config.standardize = True
        self.config.calibration = self.config.calibration_key(template)

    def set_statistics(self, **statistics: torch.Tensor) -> None:
        """Store the statistics that `config.standardize` uses; they are saved and loaded with the model.

        Args:
            statistics: `hidden_mean` and `hidden_std`, of shape `(hidden_size,)`; `routing_mean` and `routing_std`, of
                shape `config.router_shape`: of all routers, whichever `config.router_layers` reads.

        Raises:
            ValueError: If one is missing, unknown, of another shape or not finite, or a standard deviation is not
                positive.
        """
        self.statistics.store(**statistics)
        self.config.calibrated, self.config.calibration = True, None

    def check_calibration(self, template: str) -> None:
        """Warn if the model's statistics were not fitted with this prompt and what the configuration is now."""
        if self.config.calibration not in (None, now := self.config.calibration_key(template)):
            logger.warning_once(
                f"The statistics of this model were fitted with {self.config.calibration}; these embeddings are made "
                f"with {now}. Calibrate anew, or pass standardize=False."
            )

    def with_config(self, **fields: Any) -> MoEEModel:
        """Return a model that shares the weights of this one, with a configuration and statistics of its own.

        Args:
            fields: Choices of `MoEEConfig` in which the two differ, such as `pooling`.

        Raises:
            ValueError: If `MoEEConfig` has no such choice, a choice has no such value, or the backbone no such layer.
        """
        other = copy.copy(self)
        other._modules = dict(self._modules)
        other.config, other.statistics = copy.deepcopy(self.config), copy.deepcopy(self.statistics)
        other.config.choose(**fields)
        wanted_of(other)  # refuses layers that the backbone does not have
        return other
