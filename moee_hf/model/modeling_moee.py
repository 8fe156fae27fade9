"""The MoEE model: a pretrained mixture-of-experts language model, read as a text embedding model without training.

*Your Mixture-of-Experts LLM Is Secretly an Embedding Model For Free* (arXiv 2410.10814).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.utils import ModelOutput, can_return_tuple

from .backbone_moee import is_causal
from .calibration_moee import BETTER_ROUTING, apply_fits, fit_compression, fit_corpus, take_fits
from .checkpointing_moee import keep_captures
from .compression_moee import quantize
from .configuration_moee import MoEEConfig
from .devices_moee import embed_on_devices
from .fitted_moee import calibrated_prompts, check_precision, find_max_length, find_prompt_indices
from .functional_moee import check_count, check_flag, similarity, similarity_pairwise
from .hooks_moee import install_hooks
from .inference_moee import check_finite, embeddings_of, finish, pad, run_batch, token_ids, wanted_of
from .inputs_moee import forward_batch, input_device
from .pretrained_moee import MoEEPreTrainedModel
from .prompts_moee import check_texts
from .statistics_moee import Statistics
from .stream_moee import embed_stream


@dataclass
class MoEEModelOutput(ModelOutput):
    """What `MoEEModel` makes of a batch of texts; every tensor is float32.

    Args:
        embeddings: `torch.Tensor` of shape `(batch_size, embedding_size)`: HS and RW, combined.
        pooled_hidden_state: `torch.Tensor` of shape `(batch_size, hidden_size)`: HS, not standardized.
        router_weights: `torch.Tensor` of shape `(batch_size, num_moe_layers, num_experts)`: RW, not standardized.

    Of texts inside several prompts the last two have the shapes `(batch_size, num_prompts, ...)`.
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
        self.readable = install_hooks(self.model)
        config.router_shape, config.hidden_sizes = self.readable.router_shape, self.readable.hidden_sizes
        self.is_causal = is_causal(self.model)
        wanted_of(self)  # layers that the backbone does not have are refused here, not at the first text
        self.statistics = Statistics()
        with no_init_weights():  # the backbone has its weights
            self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        prompt_indices: torch.Tensor | None = None,
        combination: str | None = None,
        alpha: float | None = None,
        standardize: bool | None = None,
    ) -> MoEEModelOutput:
        """Embed a batch of tokenised texts (section 3 of the paper); tensors may be arrays or lists, on any device.

        Args:
            input_ids: Token ids of shape `(batch_size, sequence_length)`, padded on either side; or of each text in
                several prompts, whose embeddings are averaged, `(batch_size, num_prompts, sequence_length)`.
            attention_mask: 1 for a token, 0 for padding, of the same shape. None: no padding.
            token_type_ids: Not read; some tokenizers return them, and a language model has no use for them.
            inputs_embeds: Token embeddings of shape `(batch_size, sequence_length, hidden_size)` in place of the ids.
            prompt_indices: Which of several prompts that the model is calibrated for the texts stand in, of shape
                `(batch_size, num_prompts)`; `tokenize` gives them. None: the first ones.
            combination: In place of the configuration's, here and below.
            alpha: Weight of RW in `"sum"`.
            standardize: Whether to standardize HS and RW with the model's statistics.

        Raises:
            TypeError: If ids are no integers, or an argument is no tensor, array or list of numbers.
            ValueError: If a text has no token, a shape does not fit, an id is not in the vocabulary, statistics are
                asked for that are not there, or an embedding is not finite.
        """
        mix = self.config.mix(combination, alpha, standardize)
        batch, num_prompts, prompt = forward_batch(self, input_ids, attention_mask, inputs_embeds, prompt_indices)
        fitted = prompt_indices is not None or self.statistics.num_prompts in (1, num_prompts)
        if mix.standardize and num_prompts > 1 and not fitted:
            raise ValueError(
                f"input_ids: expected texts in {self.statistics.num_prompts} prompts, as the model is calibrated for; "
                f"got {num_prompts}."
            )
        if self.training:
            keep_captures(self.model)
        capture = run_batch(self, batch, wanted_of(self))
        hidden, routing = capture.hidden_and_routing(self.config.hidden_source, self.config.router_activation)
        vectors = embeddings_of(self, hidden, routing, mix, prompt)  # [P * B, N]
        embeddings = finish(self, torch.unflatten(vectors, 0, (num_prompts, -1)), mix)
        check_finite(self, embeddings)
        if num_prompts > 1:
            hidden, routing = (part.unflatten(0, (num_prompts, -1)).transpose(0, 1) for part in (hidden, routing))
        return MoEEModelOutput(
            embeddings=embeddings,  # [B, N]
            pooled_hidden_state=hidden,  # [B, D]
            router_weights=routing,  # [B, L, E]
        )

    def encode(
        self,
        texts: str | Iterable[str],
        prompt_name: str | Sequence[str] | None = None,
        prompt: str | Sequence[str] | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        normalize_embeddings: bool = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        combination: str | None = None,
        alpha: float | None = None,
        standardize: bool | None = None,
        precision: str = "float32",
        devices: Sequence[str | torch.device] | str | None = None,
    ) -> np.ndarray | torch.Tensor | list[torch.Tensor]:
        """Embed texts; a text's embedding depends on that text alone, not on the others or the batch size.

        Args:
            texts: One text, or several.
            prompt_name: Name of a prompt of the configuration, or several names: the embedding is then the mean of the
                unit vectors that the text gives in each. None: its `default_prompt_name`.
            prompt: A template with `{text}` once, or several, in place of prompts by name. For example, with
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
            precision: `"float32"`; `"int8"` or `"uint8"`, a byte a dimension of the unit vector; `"binary"` or
                `"ubinary"`, the signs alone, packed eight to a byte. Smaller ones take a calibrated model.
            devices: Where to embed, in a process for each: names, such as `["cuda:0", "cuda:1"]`, or `"all"` for all
                accelerators. Each call starts them anew, from a model on the CPU. None: where the model is.

        Returns:
            Of shape `(embedding_size,)` for one text, `(n, embedding_size)` for n in the order given; float32, or as
            sentence-transformers quantizes to `precision`.

        Raises:
            TypeError: If a text is not a string, texts come as a table, or what is true or false is something else.
            ValueError: If a text has no token, nor its prompt, the prompt is unknown or leaves no room for text, an
                embedding is not finite, the model was not fitted to the precision, or a device is not there.
            RuntimeError: If the process of one of the `devices` ends or fails, as for want of memory.
        """
        check_flag("convert_to_numpy", convert_to_numpy)
        check_flag("convert_to_tensor", convert_to_tensor)
        one, texts = isinstance(texts, str), check_texts(texts)
        mix = self.config.mix(combination, alpha, standardize, normalize_embeddings)
        options = (normalize_embeddings, combination, alpha, standardize, precision, devices)
        size, end = mix.dimensions or self.config.embedding_size_for(mix.combination), 0
        result = quantize(np.empty((0, size), np.float32), precision)
        for part in self.encode_stream(texts, prompt_name, prompt, batch_size, show_progress_bar, *options):
            result = result if end else np.empty((len(texts), part.shape[1]), part.dtype)
            result[end : (end := end + len(part))] = part
        result = result[0] if one else result
        if convert_to_tensor:
            return torch.from_numpy(result).to(input_device(self))
        if convert_to_numpy:
            return result
        return torch.from_numpy(result) if one else list(torch.from_numpy(result))

    def encode_stream(
        self,
        texts: Iterable[str],
        prompt_name: str | Sequence[str] | None = None,
        prompt: str | Sequence[str] | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        normalize_embeddings: bool = False,
        combination: str | None = None,
        alpha: float | None = None,
        standardize: bool | None = None,
        precision: str = "float32",
        devices: Sequence[str | torch.device] | str | None = None,
    ) -> Iterator[np.ndarray]:
        """Embed any number of texts as they come, in flat memory; arguments and errors are those of `encode`.

        Returns:
            An iterator over arrays of shape `(n, embedding_size)`, each of the next n texts: a thousand or so; up to
            16,384 on a GPU, which reads as many twice more ahead.
        """
        templates = self.config.resolve_prompts(prompt_name, prompt)
        mix = self.config.mix(combination, alpha, standardize, normalize_embeddings)
        if precision != "float32":
            check_precision(self.config, mix, precision)
            mix = replace(mix, normalize=True)
        arguments = (self, texts, templates, mix, batch_size, show_progress_bar)
        parts = embed_stream(*arguments) if devices is None else embed_on_devices(*arguments, devices)
        return (quantize(part, precision, self.statistics.largest) for part in parts)

    def tokenize(
        self,
        texts: str | Iterable[str],
        prompt_name: str | Sequence[str] | None = None,
        prompt: str | Sequence[str] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Tokenise texts inside a prompt, as one batch for `forward`; arguments and errors are those of `encode`.

        Returns:
            `input_ids` and `attention_mask` of shape `(n, sequence_length)`, or `(n, num_prompts, sequence_length)` of
            several prompts, on the CPU; `prompt_indices` where the model is calibrated for several.
        """
        texts, templates = check_texts(texts), self.config.resolve_prompts(prompt_name, prompt)
        ids = [token_ids(self, texts, template) for template in templates]
        batch = pad([row for rows in zip(*ids, strict=True) for row in rows])
        if len(templates) > 1:
            batch = {name: torch.unflatten(values, 0, (-1, len(templates))) for name, values in batch.items()}
        if self.statistics.num_prompts > 1:
            batch["prompt_indices"] = torch.tensor([find_prompt_indices(self.config, templates)] * len(texts))
        return batch

    @property
    def max_length(self) -> int:
        """The most tokens of a text with its prompt: the configuration's, or what tokenizer and backbone allow."""
        return find_max_length(self.config, self.tokenizer.model_max_length)

    similarity = staticmethod(similarity)
    similarity_pairwise = staticmethod(similarity_pairwise)

    def calibrate(
        self,
        texts: Iterable[str],
        prompt_name: str | Sequence[str] | None = None,
        prompt: str | Sequence[str] | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        keep_routing: bool = False,
        dimensions: int | None = None,
    ) -> dict[float, float]:
        """Fit the statistics of a corpus, store them, and make better embeddings with them from now on.

        HS is standardized, and RW as `config.router_standardization` says. Unless `keep_routing`, RW become centred
        log-ratios (`router_activation` is `"clr"`), MoE layers count as far as their routing agrees with HS on which
        texts are similar (`router_layer_weights`), and `alpha` as far as the sum keeps the order of HS. The texts are
        read once, as they come; HS and RW of a random sample of 4,096 are kept meanwhile. The statistics hold for
        embeddings of the same prompt, source of HS, `pooling` and `router_activation`, and for any choice of
        `router_layers`, `combination` and `alpha`; `dimensions` for the present one of these.

        Args:
            texts: General text of the kind to be embedded, some thousands; never the texts of a test.
            prompt_name: As in `encode`, here and below.
            prompt: In place of prompts by name.
            batch_size: The statistics do not depend on it beyond the rounding of float32.
            show_progress_bar: None: on a terminal, once the work has taken some seconds.
            keep_routing: Whether RW and `alpha` stay what the configuration says.
            dimensions: Project embeddings on this many principal components of the corpus. None: leave them whole.

        Returns:
            What `alpha` was chosen by: `agreement_moee.agreement_by_alpha`. Empty with `keep_routing`.

        Raises:
            TypeError: If a text is not a string.
            ValueError: If there are too few texts, or one cannot be embedded; the model stays as it was then.
        """
        check_flag("keep_routing", keep_routing)
        check_count("dimensions", dimensions, "dimensions")
        templates = self.config.resolve_prompts(prompt_name, prompt)
        model = self.with_config(dimensions=None, **{} if keep_routing else BETTER_ROUTING)
        fits = fit_corpus(model, texts, templates, batch_size, show_progress_bar)
        by_alpha = apply_fits(model, fits, templates, weigh=not keep_routing, dimensions=dimensions)
        take_fits(self, model)
        return by_alpha

    def compress(self, texts: Iterable[str], dimensions: int | None = None) -> None:
        """Fit principal components, and the range of int8, anew: after `alpha` or another choice was changed.

        Args:
            texts: Some thousands of those that the model was calibrated on, in memory.
            dimensions: As in `calibrate`.

        Raises:
            ValueError: If the model is not calibrated, or there are fewer texts than `dimensions`.
        """
        check_count("dimensions", dimensions, "dimensions")
        model = self.with_config(dimensions=None)
        prompt = calibrated_prompts(self.config) or None
        fit_compression(model, torch.as_tensor(model.encode(texts, prompt=prompt, standardize=True)), dimensions)
        take_fits(self, model)

    def set_statistics(self, **statistics: torch.Tensor) -> None:
        """Store the statistics that `config.standardize` uses; they are saved and loaded with the model.

        Args:
            statistics: `hidden_mean` and `hidden_std`, of shape `(hidden_size,)`; `routing_mean` and `routing_std`, of
                shape `config.router_shape`: of all routers, whichever `config.router_layers` reads. For several
                prompts, each has one more dimension in front.

        Raises:
            ValueError: If one is missing, unknown, of another shape or not finite, or a standard deviation is not
                positive.
        """
        self.statistics.store(self.config.hidden_size, self.config.router_shape, **statistics)
        self.config.calibrated = True
        self.config.calibration = self.config.router_agreement = self.config.compression = None

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
