"""HS and RW of many texts, each read once, for all the embeddings that can be made of them."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Hashable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..info import ModelInfo, dtype_name, model_info
from ..model.modeling_moee import MoEEModel
from ..model.prompts_moee import PROMPTS
from ..model.quantization_moee import stored_method
from ..model.statistics_moee import StatisticsFit
from .identity import identity_of
from .reading import Reading
from .store import folder_in_store


class Corpus:
    """Texts to calibrate on, known by their digest.

    Args:
        texts: The texts.
    """

    def __init__(self, texts: Sequence[str]):
        self.texts = texts
        self.digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:8]


class Features:
    """HS and RW of texts in one prompt or several, not standardized, each distinct text read once a prompt.

    Args:
        model: The model; its configuration is copied.
        prompt: Name of a prompt of the model, several names with `+` between them, or a template with `{text}` once.
            None: the model's default.
        batch_size: The most texts per forward pass. None: as many as the device is fast with.
        store: A folder to keep HS and RW of what is read in, as safetensors, and to take them from in a later run.
        random: Whether the weights are random, as those of `random_weights`; only for the record.
        readings: What was read so far, by template: to share with other features of the same model and fields. None:
            they share nothing.
        fields: Choices of `MoEEConfig`, such as `pooling`. None: the model's.

    Raises:
        ValueError: If the model knows no such prompt, or a field takes no such value.
    """

    def __init__(
        self,
        model: MoEEModel,
        prompt: str | None = None,
        batch_size: int | None = None,
        store: Path | None = None,
        random: bool = False,
        readings: dict[str, Reading] | None = None,
        **fields: Any,
    ):
        self.model = model.with_config(**{name: value for name, value in fields.items() if value is not None})
        self.templates = self.model.config.find_prompts(prompt)
        self.has_default_prompt, self.random = prompt is None, random
        self._batch_size, self._store = batch_size, store
        self._readings = {} if readings is None else readings
        self._fits: dict[tuple[str, ...], list[StatisticsFit]] = {}
        self.calibrated: dict[Hashable, MoEEModel] = {}  # by what they are calibrated with, see `fitting`

    def want(self, source: str, activation: str) -> None:
        """Read HS of this source and RW of this activation from now on, with what is wanted already."""
        for template in self.templates:
            self._reading(template).want(source, activation)

    def __call__(
        self, texts: Sequence[str], source: str, activation: str, templates: Sequence[str] | None = None
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return HS and RW of texts in each prompt.

        Args:
            texts: The texts.
            source: Where HS is read, as in `MoEEConfig.hidden_source`.
            activation: What RW are, as in `MoEEConfig.router_activation`.
            templates: Other prompts than those of the features.

        Returns:
            For each prompt, HS of shape `(n, hidden_size)` and RW of all routers, of shape `(n, num_routers,
            num_experts)`, on the CPU.

        Raises:
            ValueError: If a text cannot be embedded.
        """
        return [self._reading(template)(texts, source, activation) for template in templates or self.templates]

    def _reading(self, template: str) -> Reading:
        if template not in self._readings:
            choices = choices_of(self.model, [template], self.random)
            folder = self._store and folder_in_store(self._store, self.identity, template, choices, self.random)
            self._readings[template] = Reading(self.model, template, self._batch_size, folder, choices)
        return self._readings[template]

    def fits(self, corpus: Corpus, source: str, activation: str) -> list[StatisticsFit]:
        """Return the statistics of a corpus in each prompt, fitted at first use; arguments are as above."""
        key = (corpus.digest, source, activation)
        if key not in self._fits:
            fits = []
            for hidden, routing in self(corpus.texts, source, activation):
                fits.append(StatisticsFit())
                fits[-1].update(hidden, routing)
            self._fits[key] = fits
        return self._fits[key]

    def clear(self) -> None:
        """Forget the texts and their features; the memory is free again."""
        for reading in self._readings.values():
            reading.clear()
        self._fits.clear()

    @cached_property
    def choices(self) -> dict[str, Any]:
        """Every choice that HS and RW depend on besides the model's weights."""
        choices = choices_of(self.model, self.templates, self.random)
        prompts = self.model.config.prompts or {}
        if self.has_default_prompt and (own := {name: prompts[name] for name in prompts if name not in PROMPTS}):
            # queries may have one of these
            choices["prompts_digest"] = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:8]
        return choices

    @cached_property
    def info(self) -> ModelInfo:
        """What the model gives and takes."""
        return model_info(self.model.config)

    @cached_property
    def identity(self) -> tuple[str, str | None]:
        """Name and revision of the model, see `identity_of`."""
        return identity_of(self.model, self.random)


def choices_of(model: MoEEModel, templates: Sequence[str], random: bool) -> dict[str, Any]:
    """Return every choice that HS and RW of texts in these prompts depend on besides the model's weights.

    Which source of HS and which activation they are of is not among them: they are read together.
    """
    config = model.config
    names = {template: name for name, template in config.known_prompts.items()}
    prompts = [names.get(template, template) for template in templates]
    choices: dict[str, Any] = {"prompt": "+".join(prompts), "dtype": dtype_name(model.dtype)}
    if [PROMPTS.get(prompt) for prompt in prompts] != list(templates):
        # mteb names a folder after these, without the characters that a path must not have
        choices["prompt_digest"] = hashlib.sha256("\0".join(templates).encode()).hexdigest()[:8]
    for field in ("pooling", "hidden_layer", "attention_layers", "max_length"):
        if (value := getattr(config, field)) is not None:
            choices[field] = value
    backbone = config.backbone_config.to_diff_dict() | {"transformers_version": None}
    text = json.dumps(backbone, sort_keys=True, default=str)
    choices["backbone"] = hashlib.sha256(text.encode()).hexdigest()[:8]
    if not random and (method := stored_method(config.backbone_config)) is not None:
        choices["quantization"] = method  # how exactly is a part of the digest; random weights are whole
    if (tokenizer := model.tokenizer.name_or_path) != model.name_or_path:
        choices["tokenizer"] = tokenizer
    if random:
        choices["weights"] = "random"
    return choices


def random_weights(model: MoEEModel) -> MoEEModel:
    """Return a model of the same architecture with random weights, the same ones each time, and the same tokenizer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        other = MoEEModel(copy.deepcopy(model.config)).to(model.device, model.dtype).eval()
    other.tokenizer, other.origin = model.tokenizer, model.origin
    return other
