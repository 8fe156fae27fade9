"""A MoEE model as mteb's evaluations take one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mteb.models.model_meta import ModelMeta, ScoringFunction

from ..model.functional_moee import combine, similarity, similarity_pairwise
from ..model.modeling_moee import MoEEModel
from ..model.prompts_moee import TEXT
from .features import Corpus, Features, random_weights

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.types import BatchedInput, PromptType
    from torch.utils.data import DataLoader


class MoEEEncoder:
    """A MoEE model as an encoder of mteb, for `mteb.evaluate`.

    A prompt is a name or a template, and alpha the weight of RW beside HS in `"sum"`:

        MoEEEncoder(model, prompt="prompteol")
        MoEEEncoder(model, prompt='The topic of "{text}" in one word:"', combination="sum", alpha=0.5)

    Variants of an encoder share its features, so that a text is read once, whatever is made of it:

        encoder = MoEEEncoder(model, prompt="prompteol")
        for combination in ("hs", "rw", "concat", "sum"):
            mteb.evaluate(encoder.variant(combination=combination), tasks)

    An empty text, which some of mteb's sets hold, is read as a space.

    Args:
        model: The model, or the features of one.
        combination: In place of the configuration's, here and below.
        alpha: Weight of RW in `"sum"`.
        standardize: Whether to standardize HS and RW; with a corpus, yes.
        corpus: Texts whose statistics they are standardized with, in place of the model's own.
        kwargs: Those of `Features`, such as `prompt`; of a model only.

    Raises:
        ValueError: If an option takes no such value.
        TypeError: If features are given, and what they are made with.
    """

    def __init__(
        self,
        model: MoEEModel | Features,
        *,
        combination: str | None = None,
        alpha: float | None = None,
        standardize: bool | None = None,
        corpus: Corpus | None = None,
        **kwargs: Any,
    ):
        if isinstance(model, Features) and kwargs:
            raise TypeError(
                f"MoEEEncoder: expected {', '.join(kwargs)} with a model; got features, which have their own."
            )
        self.features = model if isinstance(model, Features) else Features(model, **kwargs)
        self._options = {"combination": combination, "alpha": alpha, "standardize": standardize, "corpus": corpus}
        if corpus is not None and standardize is None:
            standardize = True
        mix = self.features.model.config.mix(combination, alpha, standardize)
        self.combination, self.alpha, self.standardize = mix.combination, mix.alpha, mix.standardize
        self.corpus = corpus

    def variant(self, **options: Any) -> MoEEEncoder:
        """Return an encoder of the same features with another `combination`, `alpha`, `standardize` or `corpus`."""
        return type(self)(self.features, **self._options | options)

    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the embeddings of texts, of shape `(n, embedding_size)`."""
        hidden, routing = self.features([text or " " for text in texts])
        if self.standardize:
            hidden, routing = self.features.standardized(hidden, routing, self.corpus)
        return combine(hidden, routing, self.combination, self.alpha)

    def encode(
        self,
        inputs: DataLoader[BatchedInput],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Embed what mteb asks for, queries and documents alike."""
        return self.embed([text for batch in inputs for text in batch["text"]]).numpy()

    similarity = staticmethod(similarity)
    similarity_pairwise = staticmethod(similarity_pairwise)

    @property
    def experiment(self) -> dict[str, Any]:
        """Every choice that an embedding depends on besides the weights, by which mteb keeps results apart."""
        choices = {"combination": self.combination} | self.features.choices
        if self.combination == "sum":
            choices["alpha"] = float(self.alpha)
        if self.standardize:
            choices["statistics"] = self.features.statistics_digest(self.corpus)
            choices["router_standardization"] = self.features.model.config.router_standardization
        return choices

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """What mteb keeps with the results: the backbone, its commit, its size, and every choice made here."""
        features, info = self.features, self.features.info
        name, revision = features.identity
        return ModelMeta(
            loader=None,
            name=name,
            revision=revision,
            release_date=None,
            languages=None,
            n_parameters=info.parameters,
            n_active_parameters_override=info.active_parameters,
            n_embedding_parameters=features.model.get_input_embeddings().weight.numel(),
            memory_usage_mb=round(info.memory(features.model.dtype) / 2**20),
            max_tokens=features.model.max_length,
            embed_dim=info.embedding_sizes[self.combination],
            license=None,
            open_weights=True,
            public_training_code=None,
            public_training_data=None,
            framework=["Transformers", "PyTorch", "safetensors"],
            similarity_fn_name=ScoringFunction.from_str("cosine"),
            use_instructions=features.template != TEXT,
            # none as an embedding model; what the language model has read is another matter
            training_datasets=set(),
            adapted_from=features.model.config.base_model_name_or_path,
            experiment_kwargs=self.experiment,
        )


def encoders(
    model: MoEEModel,
    prompts: Sequence[str | None] = (None,),
    poolings: Sequence[str | None] = (None,),
    hidden_layers: Sequence[int | None] = (None,),
    combinations: Sequence[str | None] = (None,),
    alphas: Sequence[float | None] = (None,),
    corpus: Corpus | None = None,
    control: bool = False,
    batch_size: int | None = None,
    store: Path | None = None,
) -> Iterator[list[MoEEEncoder]]:
    """Yield encoders of every combination of these choices, those together that share their features.

    Args:
        model: The model.
        prompts: Names or templates. None, here and below: the model's.
        poolings: Of HS and RW.
        hidden_layers: Of HS.
        combinations: What embeddings are made of.
        alphas: Weights of RW in `"sum"`.
        corpus: Texts to calibrate on, for each prompt and pooling anew: raw embeddings and calibrated ones are both
            made. None: embeddings as the model makes them.
        control: Whether to yield encoders of the same architecture with random weights too.
        batch_size: The most texts per forward pass. None: as many as the device is fast with.
        store: A folder to keep HS and RW in, and to take them from in a later run.

    Raises:
        ValueError: If a choice is none that the model takes, or a control is asked for of the model's own statistics.
    """
    if control and corpus is None and model.config.standardize:
        raise ValueError(
            "control: expected texts to calibrate on beside it, a corpus; got a model with statistics of its own, "
            "which are not those of random weights."
        )
    standards: list[dict[str, Any]] = [{}] if corpus is None else [{"standardize": False}, {"corpus": corpus}]
    networks = [model, random_weights(model)] if control else [model]
    groups: dict[str, list[MoEEEncoder]] = {}  # by what they do, so that what is asked for twice is there once
    for prompt, pooling, layer in itertools.product(prompts, poolings, hidden_layers):
        for network in networks:
            features = Features(
                network, prompt, batch_size, store, network is not model, pooling=pooling, hidden_layer=layer
            )
            variants: dict[str, MoEEEncoder] = {}  # alpha makes variants of "sum" alone
            for standard, combination, alpha in itertools.product(standards, combinations, alphas):
                variant = MoEEEncoder(features, combination=combination, alpha=alpha, **standard)
                variants[str(variant.experiment)] = variant
            groups[str(features.choices)] = list(variants.values())
    yield from groups.values()  # a choice that the model does not take is found before the first text is read
