"""The MoEE model: a pretrained mixture-of-experts language model, read as a text embedding model without training.

*Your Mixture-of-Experts LLM Is Secretly an Embedding Model For Free* (arXiv 2410.10814).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.utils import ModelOutput, can_return_tuple, logging

from .backbone_moee import backbone_class, is_causal, layer_to_read
from .batching_moee import windows
from .capture_moee import install_hooks
from .configuration_moee import MoEEConfig
from .functional_moee import check_alpha, combine, pad_right, similarity, similarity_pairwise
from .inference_moee import batches_for, input_device, pad, run_batch, run_texts, token_ids
from .pretrained_moee import MoEEPreTrainedModel
from .prompts_moee import check_template, check_texts, stream_texts
from .statistics_moee import Moments, Statistics, fitted

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

    The backbone is `model.model`, whole and unchanged, for anything but embeddings.

    Args:
        config: A `MoEEConfig`.
        backbone: The backbone itself, with its weights and configuration. None: one with random weights, after
            `config.backbone_config`.

    Raises:
        UnsupportedBackboneError: If the backbone has no routers that MoEE can read.
        ValueError: If the configuration names a layer that the backbone does not have.
    """

    def __init__(self, config: MoEEConfig, backbone: PreTrainedModel | None = None):
        super().__init__(config)
        if backbone is None:
            self.without_weights(config)  # what MoEE refuses is refused before memory is spent on it
            backbone = backbone_class(config.backbone_config)._from_config(config.backbone_config)
        self.model = backbone
        config.backbone_config = backbone.config
        config.router_shape, self.num_layers = install_hooks(backbone)
        self.is_causal = is_causal(backbone)
        # layers that the backbone does not have are refused here, not at the first text
        layer_to_read(config.hidden_layer, self.num_layers)
        _ = config.router_rows
        self.statistics = Statistics(config.hidden_size, config.router_shape)
        self._hub_kwargs = {}
        self._origin = None
        self._versions = {}
        self._tokenizer = None
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
        batch = self._right_padded(input_ids, attention_mask, inputs_embeds)
        captured = run_batch(self, batch, self.config.router_rows)
        hidden, routing = captured.hidden, captured.routing_weights()
        embeddings = self._combine(hidden, routing, combination, alpha, standardize)  # [B, N]
        return MoEEModelOutput(embeddings=embeddings, pooled_hidden_state=hidden, router_weights=routing)

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
            prompt: A template with `{text}` once, in place of a prompt by name.
            batch_size: The most texts per forward pass. None: as many as the device is fast with.
            show_progress_bar: None: on a terminal, once the work has taken some seconds.
            normalize_embeddings: Whether embeddings have length 1.
            convert_to_numpy: Whether to return an array. False: a list of tensors.
            convert_to_tensor: Whether to return one tensor, on the model's device, instead.
            combination: In place of the configuration's, here and below.
            alpha: Weight of RW in `"sum"`.
            standardize: Whether to standardize HS and RW with the model's statistics.

        Returns:
            Float32 of shape `(embedding_size,)` for one text, `(n, embedding_size)` for n in the order given.

        Raises:
            TypeError: If a text is not a string.
            ValueError: If a text is empty, the prompt is unknown or leaves no room for text, or an embedding is not
                finite.
        """
        one, texts = isinstance(texts, str), check_texts(texts)
        size = self.config.embedding_size_for(self.config.combination if combination is None else combination)
        embeddings, end = np.empty((len(texts), size), np.float32), 0
        for part in self.encode_stream(
            texts,
            prompt_name=prompt_name,
            prompt=prompt,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            normalize_embeddings=normalize_embeddings,
            combination=combination,
            alpha=alpha,
            standardize=standardize,
        ):
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
        config = self.config
        _check_batch_size(batch_size)
        combination = config.combination if combination is None else combination
        size, read_hidden = config.embedding_size_for(combination), combination != "rw"
        rows = [] if combination == "hs" else config.router_rows
        check_alpha("alpha", config.alpha if alpha is None else alpha)
        template = self._template(prompt_name, prompt)
        if config.standardize if standardize is None else standardize:
            self.check_calibration(template)

        total = 1 if isinstance(texts, str) else len(texts) if isinstance(texts, Sized) else None
        stream, batches = stream_texts(texts), batches_for(self, batch_size)

        def embed(window: list[str], first: int, progress: Any) -> np.ndarray:
            numbers: dict[str, int] = {}  # equal texts are read once
            for number, text in enumerate(window, first):
                numbers.setdefault(text, number)
            places = {text: place for place, text in enumerate(numbers)}
            embeddings = np.empty((len(places), size), np.float32)
            for batch, captured in run_texts(
                self, list(numbers), list(numbers.values()), template, batches, rows, read_hidden
            ):
                hidden, routing = captured.hidden, captured.routing_weights()
                vectors = self._combine(hidden, routing, combination, alpha, standardize)
                vectors = F.normalize(vectors, dim=-1) if normalize_embeddings else vectors
                if len(bad := (~vectors.isfinite().all(dim=1)).nonzero()):
                    number = list(numbers.values())[batch[int(bad[0])]]
                    raise ValueError(
                        f"texts[{number}]: expected finite numbers; got nan or infinity. The weights or the "
                        f"statistics hold some, or {self.dtype} overflows: load with dtype=torch.float32 or "
                        "torch.bfloat16."
                    )
                embeddings[batch] = vectors.cpu()
                progress.update(len(batch))
            progress.update(len(window) - len(places))
            return embeddings[[places[text] for text in window]]

        def parts() -> Iterator[np.ndarray]:
            first = 0
            with _progress(show_progress_bar, "Embedding", total) as progress:
                for window in windows(stream):
                    with torch.inference_mode():
                        embeddings = embed(window, first, progress)
                    yield embeddings
                    first += len(window)

        return parts()

    def tokenize(
        self, texts: str | Iterable[str], prompt_name: str | None = None, prompt: str | None = None
    ) -> dict[str, torch.Tensor]:
        """Tokenise texts inside a prompt, as one batch for `forward`; arguments and errors are those of `encode`.

        Returns:
            `input_ids` and `attention_mask` of shape `(n, sequence_length)`, on the CPU.
        """
        return pad(token_ids(self, check_texts(texts), self._template(prompt_name, prompt)))

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

        The texts are read once, as they come, and not kept. The statistics hold for embeddings of the same prompt,
        `pooling`, `hidden_layer` and `router_activation`, and for any choice of `router_layers`, `combination` and
        `alpha`.

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
        _check_batch_size(batch_size)
        template = self._template(prompt_name, prompt)
        rows = list(range(self.config.router_shape[0]))
        hidden_moments, routing_moments, first = Moments(), Moments(), 0
        batches = batches_for(self, batch_size)
        with _progress(show_progress_bar, "Calibrating", None) as progress:
            for window in windows(stream_texts(texts)):
                numbers = range(first, first := first + len(window))
                with torch.inference_mode():
                    for batch, captured in run_texts(self, window, numbers, template, batches, rows):
                        hidden_moments.update(captured.hidden)
                        routing_moments.update(captured.routing_weights())
                        progress.update(len(batch))
        self.set_statistics(**fitted(hidden_moments, routing_moments))
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

    def _combine(
        self, hidden: Any, routing: Any, combination: str | None, alpha: float | None, standardize: bool | None
    ) -> torch.Tensor:
        config = self.config
        if config.standardize if standardize is None else standardize:
            hidden, routing = self.statistics(hidden, routing, config.router_rows)
        combination = config.combination if combination is None else combination
        return combine(hidden, routing, combination, config.alpha if alpha is None else alpha)

    def _right_padded(
        self, input_ids: torch.Tensor | None, attention_mask: torch.Tensor | None, inputs_embeds: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        values = input_ids if inputs_embeds is None else inputs_embeds
        if values is None or (input_ids is not None and inputs_embeds is not None):
            raise ValueError("MoEEModel: expected either input_ids or inputs_embeds; got both or neither.")
        name, ndim = ("input_ids", 2) if inputs_embeds is None else ("inputs_embeds", 3)
        if values.ndim != ndim:
            raise ValueError(f"{name}: expected {ndim} dimensions; got the shape {tuple(values.shape)}.")
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
        return {name: values, "attention_mask": mask}

    def _template(self, prompt_name: str | None, prompt: str | None) -> str:
        if prompt is None:
            prompt = self.config.prompt_template(
                self.config.default_prompt_name if prompt_name is None else prompt_name
            )
        check_template("prompt", prompt)
        return prompt


def _check_batch_size(batch_size: object) -> None:
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ValueError(f"batch_size: expected a number of texts >= 1; got {batch_size!r}.")


def _progress(show: bool | None, what: str, total: int | None) -> Any:
    return logging.tqdm(
        total=total, desc=what, unit="text", disable=None if show is None else not show, delay=5 if show is None else 0
    )
