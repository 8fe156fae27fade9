"""HS and RW of texts in one prompt, each text read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..model.inference_moee import split_raw, token_ids, wanted_of
from ..model.modeling_moee import MoEEModel
from ..model.prompts_moee import TextError
from ..model.stream_moee import read_stream
from .store import read_vectors, write_vectors


class Reading:
    """What a model gives of texts in one prompt: HS of each source and RW of each activation that are wanted.

    Raw vectors, of all routers. They are read in one forward pass of each distinct text, and kept.

    Args:
        model: The model.
        template: The prompt, with `{text}` once.
        batch_size: The most texts per forward pass. None: as many as the device is fast with.
        folder: A folder to keep what is read in, and to take it from in a later run. None: only memory.
        choices: What the vectors depend on besides the weights, for whoever reads the folder.
    """

    def __init__(
        self, model: MoEEModel, template: str, batch_size: int | None, folder: Path | None, choices: dict[str, Any]
    ):
        self._model, self._template, self._batch_size = model, template, batch_size
        self._folder, self._choices = folder, choices
        self._sources: list[str] = []
        self._activations: list[str] = []
        self._vectors: dict[str, dict[str, np.ndarray]] | None = None  # of each text, by source and activation

    def want(self, source: str, activation: str) -> None:
        """Read HS of this source and RW of this activation from now on, with what is wanted already.

        What is wanted before the first text is read comes from one pass; later wishes take another.
        """
        for wanted, name in ((self._sources, source), (self._activations, activation)):
            if name not in wanted:
                wanted.append(name)

    def __call__(self, texts: Sequence[str], source: str, activation: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return HS and RW of texts.

        Returns:
            HS of shape `(n, hidden_size)` and RW of shape `(n, num_routers, num_experts)`, on the CPU.

        Raises:
            ValueError: If a text cannot be embedded.
        """
        self.want(source, activation)
        texts = [text or self._empty for text in texts]
        if self._vectors is None:
            self._vectors = {} if self._folder is None else read_vectors(self._folder)
        known, names = self._vectors, (source, activation)
        unread = [text for text in dict.fromkeys(texts) if any(name not in known.get(text, {}) for name in names)]
        self._read(unread, known)
        if not texts:
            hidden_size, router_shape = self._model.readable.hidden_sizes[source], self._model.config.router_shape
            return torch.empty(0, hidden_size), torch.empty(0, *router_shape)
        hidden, routing = (torch.from_numpy(np.stack([known[text][name] for text in texts])) for name in names)
        return hidden, routing

    @cached_property
    def _empty(self) -> str:
        """What is read in place of an empty text, which some of mteb's sets hold: a space where it has no token."""
        try:
            token_ids(self._model, [""], self._template)
        except TextError:
            return " "
        return ""

    def clear(self) -> None:
        """Forget the texts and their vectors; the memory is free again."""
        self._vectors = None

    def _read(self, texts: list[str], known: dict[str, dict[str, np.ndarray]]) -> None:
        """Let the model read texts, and keep what it gives."""
        wanted = replace(
            wanted_of(self._model),
            routers=tuple(range(self._model.config.router_shape[0])),
            sources=tuple(self._sources),
            activations=tuple(self._activations),
        )
        end = 0
        for (vectors,) in read_stream(self._model, texts, [self._template], wanted, self._batch_size):
            window = texts[end : (end := end + len(vectors))]
            split = split_raw(self._model, wanted, torch.from_numpy(vectors))
            parts = {name: part.numpy() for name, part in split.items()}
            for number, text in enumerate(window):
                known.setdefault(text, {}).update({name: part[number] for name, part in parts.items()})
            if self._folder is not None:
                write_vectors(self._folder, window, parts, self._choices)
