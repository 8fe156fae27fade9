"""A MoEE model as mteb's evaluations take one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mteb.models.abs_encoder import get_prompt_name
from mteb.models.model_meta import ModelMeta, ScoringFunction

from ..files.folders import digest_of_tensors
from ..model.choices_moee import check_choice
from ..model.fitted_moee import calibrated_prompts, check_calibration, check_precision
from ..model.functional_moee import Mix, similarity, similarity_pairwise
from ..model.inference_moee import embeddings_of, finish
from ..model.modeling_moee import MoEEModel
from ..model.prompts_moee import TEXT, check_texts
from ..model.validation_moee import check_field
from .features import Corpus, Features
from .fitting import (
    LAYER_WEIGHTS,
    PRECISIONS,
    calibrated,
    check_is_fitted,
    compress,
    own_layer_weights,
    quantized,
)

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.types import BatchedInput, PromptType
    from torch.utils.data import DataLoader


class MoEEEncoder:
    """A MoEE model as an encoder of mteb, for `mteb.evaluate`.

    A prompt is a name, several names with `+` between them, or a template, and alpha the weight of RW beside HS in
    `"sum"`:

        MoEEEncoder(model, prompt="prompteol")
        MoEEEncoder(model, prompt='The topic of "{text}" in one word:"', combination="sum", alpha=0.5)

    Variants of an encoder share its features, so that a text is read once, whatever is made of it:

        encoder = MoEEEncoder(model, prompt="prompteol")
        for combination in ("hs", "rw", "concat", "sum"):
            mteb.evaluate(encoder.variant(combination=combination), tasks)

    What is None is as the model's configuration says; with a corpus, as `MoEEModel.calibrate` on it makes it. Without
    a prompt, queries, documents and tasks for which the model has a prompt by mteb's names (`query`, `STS`,
    `NFCorpus-query`, ...) are read in that one, as sentence-transformers does with the saved model.

    Args:
        model: The model, or the features of one.
        combination: What embeddings are made of.
        alpha: Weight of RW in `"sum"`. None with a corpus: the cautious one.
        standardize: Whether to standardize HS and RW. None with a corpus: yes.
        corpus: Texts to calibrate on, in place of the model's own calibration.
        hidden_source: Where HS is read, as in `MoEEConfig`.
        router_activation: What RW are, as in `MoEEConfig`. None with a corpus: `"clr"`.
        layer_weights: How much MoE layers count in RW: `"equal"`, or `"agreement"` with HS on the corpus. None with a
            corpus: `"agreement"`.
        dimensions: Principal components of the corpus that embeddings are projected on; 0: they stay whole. None with
            a corpus: 0.
        precision: `"float32"`; `"int8"` or `"binary"`: vectors whose cosines put texts in the order in which an index
            of such embeddings has them.
        kwargs: Those of `Features`, such as `prompt` and `pooling`; of a model only.

    Raises:
        ValueError: If an option takes no such value, or needs a corpus or a calibrated model.
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
        hidden_source: str | None = None,
        router_activation: str | None = None,
        layer_weights: str | None = None,
        dimensions: int | None = None,
        precision: str | None = None,
        **kwargs: Any,
    ):
        if isinstance(model, Features) and kwargs:
            raise TypeError(
                f"MoEEEncoder: expected {', '.join(kwargs)} with a model; got features, which have their own."
            )
        self.features = model if isinstance(model, Features) else Features(model, **kwargs)
        self._options: dict[str, Any] = {
            "combination": combination,
            "alpha": alpha,
            "standardize": standardize,
            "corpus": corpus,
            "hidden_source": hidden_source,
            "router_activation": router_activation,
            "layer_weights": layer_weights,
            "dimensions": dimensions,
            "precision": precision,
        }
        self.corpus, self.precision = corpus, precision or "float32"
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("layer_weights", layer_weights or "equal", LAYER_WEIGHTS)
        self._model = self._with_own_choices() if corpus is None else self._to_calibrate()
        config = self._model.config
        if corpus is not None and standardize is None:
            standardize = True
        mix = config.mix(combination, alpha, standardize)
        if corpus is None or self.precision == "binary":  # to the others it is fitted
            check_precision(config, mix, self.precision)
        self.combination, self.standardize = mix.combination, mix.standardize
        self.alpha: Any = mix.alpha if corpus is None else alpha  # None: the cautious one
        self.hidden_source, self.router_activation = config.hidden_source, config.router_activation
        self.features.want(self.hidden_source, self.router_activation)

    def _with_own_choices(self) -> MoEEModel:
        """The model with the options of an encoder that has no corpus."""
        options, config = self._options, self.features.model.config
        names = ("hidden_source", "router_activation")
        fields = {name: options[name] for name in names if options[name] is not None}
        if options["layer_weights"] is not None:
            fields["router_layer_weights"] = own_layer_weights(config, options["layer_weights"])
        if options["dimensions"] is not None:
            fields["dimensions"] = options["dimensions"] or None
        model = self.features.model.with_config(**fields)
        self.layer_weights = options["layer_weights"] or ("model" if model.config.router_layer_weights else "equal")
        self.dimensions: int | None = model.config.dimensions
        check_is_fitted(model.config, self.dimensions, self.precision)
        return model

    def _to_calibrate(self) -> MoEEModel:
        """The model with the choices that an encoder with a corpus is calibrated with."""
        options = self._options
        self.layer_weights, dimensions = options["layer_weights"] or "agreement", options["dimensions"] or None
        check_field("dimensions", dimensions)
        self.dimensions = None if dimensions is None else int(dimensions)  # numpy's numbers do not go into json
        return self.features.model.with_config(
            hidden_source=options["hidden_source"] or self.features.model.config.hidden_source,
            router_activation=options["router_activation"] or "clr",
            router_standardization="center",
            router_layer_weights=None,
            dimensions=None,
        )

    def variant(self, **options: Any) -> MoEEEncoder:
        """Return an encoder of the same features in which these options differ, such as `combination`."""
        return type(self)(self.features, **self._options | options)

    def embed(self, texts: Sequence[str], templates: Sequence[str] | None = None) -> torch.Tensor:
        """Return the embeddings of texts, of shape `(n, embedding_size)`.

        Args:
            texts: The texts.
            templates: The prompts, each with `{text}` once. None: those of the features.

        Raises:
            TypeError: If these are no texts, such as a table.
            ValueError: If a text cannot be embedded.
        """
        model, mix = self._fitted
        config, templates = model.config, templates or self.features.templates
        texts = check_texts(texts)
        if mix.standardize:
            check_calibration(config, templates)
        fitted = calibrated_prompts(config)
        parts = []
        read = self.features(texts, self.hidden_source, self.router_activation, templates)
        for template, (hidden, routing) in zip(templates, read, strict=True):
            prompt = fitted.index(template) if template in fitted else 0  # statistics of one prompt serve for any
            used = routing[:, config.router_indices] if mix.reads_routing else None
            parts.append(embeddings_of(model, hidden if mix.reads_hidden else None, used, mix, prompt))
        embeddings = finish(model, torch.stack(parts), mix)
        if self.precision == "float32":
            return embeddings
        return quantized(embeddings, self.precision, model.statistics.largest)

    @cached_property
    def _fitted(self) -> tuple[MoEEModel, Mix]:
        """The model as it embeds, calibrated on the corpus if there is one, and how it combines HS and RW."""
        model = self._model
        if self.corpus is not None:
            model = calibrated(self.features, self.corpus, model, self.layer_weights).with_config(
                combination=self.combination, standardize=self.standardize
            )
            model.config.alpha = model.config.alpha if self.alpha is None else self.alpha
            if self.dimensions is not None or self.precision == "int8":
                compress(self.features, self.corpus, model, self.dimensions)
        is_smaller = self.precision != "float32"
        return model, model.config.mix(self.combination, self.alpha, self.standardize, normalize=is_smaller)

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
        """Embed what mteb asks for."""
        templates = None
        if self.features.has_default_prompt:
            prompts = self._model.config.known_prompts
            name = get_prompt_name(prompts, task_metadata, prompt_type)
            templates = None if name is None else [prompts[name]]
        return self.embed([text for batch in inputs for text in batch["text"]], templates).numpy()

    similarity = staticmethod(similarity)
    similarity_pairwise = staticmethod(similarity_pairwise)

    @property
    def experiment(self) -> dict[str, Any]:
        """Every choice that an embedding depends on besides the weights, by which mteb keeps results apart."""
        config, choices = self._model.config, {"combination": self.combination} | self.features.choices
        reads_hidden, reads_routing = self.combination != "rw", self.combination != "hs"
        weighs = self.corpus is not None and reads_routing and self.layer_weights == "agreement"
        is_of_state = self.hidden_source == "state"
        if is_of_state or not (reads_hidden or weighs):
            choices.pop("attention_layers", None)
        if not (is_of_state and (reads_hidden or weighs)):
            del choices["hidden_layer"]
        if not is_of_state and (reads_hidden or weighs):
            choices["hidden_source"] = self.hidden_source
        if reads_routing:
            choices["router_activation"] = self.router_activation
            if config.router_layers is not None:
                choices["router_layers"] = config.router_layers
            if weighs:
                choices["layer_weights"] = self.layer_weights
            elif (weights := config.router_layer_weights) is not None:
                choices["layer_weights"] = hashlib.sha256(json.dumps(weights).encode()).hexdigest()[:8]
        if self.combination == "sum":
            choices["alpha"] = "cautious" if self.alpha is None else float(self.alpha)
        if self.standardize:
            own = self.features.model.statistics
            choices["statistics"] = digest_of_tensors(own)[:8] if self.corpus is None else self.corpus.digest
            if reads_routing:
                choices["router_standardization"] = config.router_standardization
        elif self.corpus is not None:
            choices["corpus"] = self.corpus.digest
        if self.dimensions is not None:
            choices["dimensions"] = self.dimensions
        if self.precision != "float32":
            choices["precision"] = self.precision
        return choices

    @property
    def choices(self) -> dict[str, Any]:
        """All choices that were made, whether or not an embedding depends on them; they are the place of a score."""
        made = ("hidden_source", "router_activation", "layer_weights")
        return self.features.choices | self.experiment | {name: getattr(self, name) for name in made}

    @property
    def embedding_size(self) -> int | None:
        """Width of an embedding. None: not known, as the layers that count are not found yet."""
        if self.dimensions is None and self.corpus and self.layer_weights == "agreement" and self.combination != "hs":
            return None
        return self.dimensions or self._model.config.embedding_size_for(self.combination)

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
            embed_dim=self.embedding_size,
            license=None,
            open_weights=True,
            public_training_code=None,
            public_training_data=None,
            framework=["Transformers", "PyTorch", "safetensors"],
            similarity_fn_name=ScoringFunction.from_str("cosine"),
            use_instructions=features.templates != [TEXT],
            # none as an embedding model; what the language model has read is another matter
            training_datasets=set(),
            adapted_from=features.model.config.base_model_name_or_path,
            experiment_kwargs=self.experiment,
        )
