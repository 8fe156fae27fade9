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

from ..configuration_moee import EMBEDDED, resolve_source
from ..files import digests
from ..info import ModelInfo, model_info
from ..modeling_moee import MoEEModel
from ..prompts_moee import TEXT
from ..statistics_moee import Statistics


class Features:
    """HS and RW of texts in one prompt, not standardized; the model reads each distinct text once, and they are kept.

    Args:
        model: The model; its configuration is copied.
        prompt: Name of a prompt of the model, or a template with `{text}` once. None: the model's default.
        batch_size: Texts per forward pass.
        show_progress_bar: None: on a terminal, once the work has taken some seconds.
        fields: Choices of `MoEEConfig` in place of the model's, such as `pooling`.

    Raises:
        ValueError: If the model knows no such prompt, or a field takes no such value.
    """

    def __init__(
        self,
        model: MoEEModel,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        **fields: Any,
    ):
        self.model = _reconfigured(model, **fields)
        self.prompt = model.config.default_prompt_name or "none" if prompt is None else prompt
        self.template = prompt if prompt is not None and TEXT in prompt else model.config.template(self.prompt)
        self.random = False
        self._options: dict[str, Any] = {"batch_size": batch_size, "show_progress_bar": show_progress_bar}
        self._rows: dict[str, np.ndarray] = {}
        self._statistics: dict[Corpus, Statistics] = {}

    def __call__(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return HS of shape `(n, hidden_size)` and RW of shape `(n, num_moe_layers, num_experts)`, on the CPU.

        Raises:
            ValueError: If a text cannot be embedded.
        """
        if missing := [text for text in dict.fromkeys(texts) if text not in self._rows]:
            rows: Any = self.model.encode(
                missing, prompt=self.template, combination="concat", standardize=False, **self._options
            )
            self._rows.update(zip(missing, rows, strict=True))
        config = self.model.config
        hidden, routing = np.split(np.stack([self._rows[text] for text in texts]), [config.hidden_size], axis=1)
        shape = (len(texts), len(config.router_rows), config.router_shape[1])
        return torch.from_numpy(hidden), torch.from_numpy(routing).reshape(shape)

    def standardized(
        self, hidden: torch.Tensor, routing: torch.Tensor, corpus: Corpus | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Standardize HS and RW with the statistics of a corpus, fitted at first use. None: with the model's own."""
        statistics = self.model.statistics
        if corpus is None:
            self.model.check_calibration(self.template)
        else:
            if corpus not in self._statistics:
                model = _reconfigured(self.model)
                model.calibrate(corpus.texts, prompt=self.template, **self._options)
                self._statistics[corpus] = model.statistics
            statistics = self._statistics[corpus]
        return statistics(hidden, routing, self.model.config.router_rows)

    def control(self) -> Features:
        """Return the features of the same architecture with random weights, which knows no more than its tokenizer."""
        other = copy.copy(self)
        model = self.model
        with torch.random.fork_rng():
            torch.manual_seed(0)
            other.model = MoEEModel(copy.deepcopy(model.config)).to(model.device, model.dtype).eval()
        other.model.tokenizer, other.model._hub_kwargs = model.tokenizer, model._hub_kwargs
        other.random = True
        other.identity = self.identity
        other._rows, other._statistics = {}, {}
        return other

    def clear(self) -> None:
        """Forget the texts and their features; the memory is free again."""
        self._rows.clear()

    def statistics_digest(self, corpus: Corpus | None) -> str:
        """Return what the statistics are known by: the corpus, or their own numbers."""
        return _digest(self.model.statistics)[:8] if corpus is None else corpus.digest

    @cached_property
    def info(self) -> ModelInfo:
        """What the model gives and takes."""
        return model_info(self.model.config)

    @cached_property
    def identity(self) -> tuple[str, str]:
        """Name and revision of the model: its id and commit on the Hub; or its folder and a digest of the files there.

        Of a model that was made or changed in memory, a digest of its weights.
        """
        model, source = self.model, str(self.model.name_or_path)
        path = Path(source)
        if not source or model.weights_changed:
            return f"memory/{path.name or self.info.model_type}", _digest(model.model)
        if not path.is_dir():
            return source, model._hub_kwargs["revision"]
        files = {name: digest for name, digest in digests(path).items() if name != "README.md"}
        name = f"moee_hf/{EMBEDDED}" if source == resolve_source(EMBEDDED) else f"local/{path.resolve().name}"
        return name, hashlib.sha256(json.dumps(files).encode()).hexdigest()[:40]


class Corpus:
    """Texts to fit statistics on, known by their digest.

    Args:
        texts: The texts.
    """

    def __init__(self, texts: Sequence[str]):
        self.texts = texts
        self.digest = hashlib.sha256("\0".join(texts).encode(errors="surrogatepass")).hexdigest()[:8]

    def __hash__(self) -> int:
        return hash(self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Corpus) and self.digest == other.digest


def _digest(module: torch.nn.Module) -> str:
    """A digest of the tensors of a module; those that are offloaded count by name."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        if not tensor.is_meta:
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:40]


def _reconfigured(model: MoEEModel, **fields: Any) -> MoEEModel:
    """A model that shares the weights of this one, with a configuration and statistics of its own."""
    other = copy.copy(model)
    other._modules = dict(model._modules)
    other.config, other.statistics = copy.deepcopy(model.config), copy.deepcopy(model.statistics)
    for name, value in fields.items():
        setattr(other.config, name, value)
    return other
