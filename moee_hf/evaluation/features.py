"""HS and RW of many texts, each read once, for all the embeddings that can be made of them."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..info import ModelInfo, dtype_name, model_info
from ..model.functional_moee import split_concat
from ..model.modeling_moee import MoEEModel
from ..model.prompts_moee import PROMPTS
from ..model.statistics_moee import Statistics, StatisticsFit
from .identity import digest_of_tensors, identity_of
from .store import folder_in_store, read_vectors, write_vectors


class Corpus:
    """Texts to fit statistics on, known by their digest.

    Args:
        texts: The texts.
    """

    def __init__(self, texts: Sequence[str]):
        self.texts = texts
        self.digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:8]


class Features:
    """HS and RW of texts in one prompt, not standardized; the model reads each distinct text once, and they are kept.

    Args:
        model: The model; its configuration is copied.
        prompt: Name of a prompt of the model, or a template with `{text}` once. None: the model's default.
        batch_size: The most texts per forward pass. None: as many as the device is fast with.
        store: A folder to keep HS and RW of what is read in, as safetensors, and to take them from in a later run.
        random: Whether the weights are random, as those of `random_weights`; only for the record.
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
        **fields: Any,
    ):
        self.model = model.with_config(**{name: value for name, value in fields.items() if value is not None})
        self.template = self.model.config.find_prompt(prompt)
        names = {template: name for name, template in self.model.config.known_prompts.items()}
        self.prompt = names.get(self.template, self.template)
        self.random = random
        self._batch_size, self._store = batch_size, store
        self._vectors: dict[str, np.ndarray] | None = None  # HS and RW by text, as "concat" has them
        self._statistics: dict[str, Statistics] = {}  # by the digest of a corpus

    def __call__(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return HS of shape `(n, hidden_size)` and RW of shape `(n, num_moe_layers, num_experts)`, on the CPU.

        Raises:
            ValueError: If a text cannot be embedded.
        """
        if self._vectors is None:
            self._vectors = {} if self._folder is None else read_vectors(self._folder)
        if missing := [text for text in dict.fromkeys(texts) if text not in self._vectors]:
            self._vectors.update(zip(missing, self._read(missing), strict=True))
        config = self.model.config
        vectors = torch.from_numpy(np.stack([self._vectors[text] for text in texts]))
        return split_concat(vectors, config.hidden_size, (len(config.router_indices), config.router_shape[1]))

    def standardized(
        self, hidden: torch.Tensor, routing: torch.Tensor, corpus: Corpus | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Standardize HS and RW with the statistics of a corpus, fitted at first use. None: with the model's own."""
        config = self.model.config
        if corpus is None:
            self.model.check_calibration(self.template)
            return self.model.statistics(hidden, routing, config.router_indices, config.router_standardization)
        if corpus.digest not in self._statistics:
            fit = StatisticsFit()
            fit.update(*self(corpus.texts))
            statistics = Statistics(hidden.shape[1], routing.shape[1:])
            statistics.store(**fit.result())
            self._statistics[corpus.digest] = statistics
        # these are of the routers that were read, and of no others
        of_these = range(routing.shape[1])
        return self._statistics[corpus.digest](hidden, routing, of_these, config.router_standardization)

    def statistics_digest(self, corpus: Corpus | None) -> str:
        """Return what the statistics are known by: the corpus, or their own numbers."""
        return digest_of_tensors(self.model.statistics)[:8] if corpus is None else corpus.digest

    def clear(self) -> None:
        """Forget the texts and their features; the memory is free again."""
        self._vectors = None

    @cached_property
    def choices(self) -> dict[str, Any]:
        """Every choice that HS and RW depend on besides the model's weights."""
        model, config = self.model, self.model.config
        choices: dict[str, Any] = {"prompt": self.prompt, "dtype": dtype_name(model.dtype)}
        if PROMPTS.get(self.prompt) != self.template:
            # mteb names a folder after these, without the characters that a path must not have
            choices["prompt_digest"] = hashlib.sha256(self.template.encode()).hexdigest()[:8]
        for field in ("pooling", "hidden_layer", "router_layers", "router_activation", "max_length"):
            if (value := getattr(config, field)) is not None:
                choices[field] = value
        backbone = config.backbone_config.to_diff_dict() | {"transformers_version": None}
        text = json.dumps(backbone, sort_keys=True, default=str)
        choices["backbone"] = hashlib.sha256(text.encode()).hexdigest()[:8]
        if (tokenizer := model.tokenizer.name_or_path) != model.name_or_path:
            choices["tokenizer"] = tokenizer
        if self.random:
            choices["weights"] = "random"
        return choices

    @cached_property
    def info(self) -> ModelInfo:
        """What the model gives and takes."""
        return model_info(self.model.config)

    @cached_property
    def identity(self) -> tuple[str, str | None]:
        """Name and revision of the model, see `identity_of`."""
        return identity_of(self.model, self.random)

    @cached_property
    def _folder(self) -> Path | None:
        if self._store is None:
            return None
        return folder_in_store(self._store, self.identity, self.template, self.choices, self.random)

    def _read(self, texts: list[str]) -> np.ndarray:
        """Let the model read texts, and keep what it makes of them in the store."""
        vectors: Any = self.model.encode(
            texts, prompt=self.template, batch_size=self._batch_size, combination="concat", standardize=False
        )
        if self._folder is not None:
            write_vectors(self._folder, texts, vectors, self.model.config.hidden_size, self.choices)
        return vectors


def random_weights(model: MoEEModel) -> MoEEModel:
    """Return a model of the same architecture with random weights, the same ones each time, and the same tokenizer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        other = MoEEModel(copy.deepcopy(model.config)).to(model.device, model.dtype).eval()
    other.tokenizer, other.origin = model.tokenizer, model.origin
    return other
