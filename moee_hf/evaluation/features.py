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
from safetensors import safe_open
from safetensors.numpy import save_file

from ..configuration_moee import EMBEDDED, resolve_source
from ..files import digests
from ..info import ModelInfo, dtype_name, model_info
from ..modeling_moee import MoEEModel
from ..prompts_moee import PROMPTS, TEXT
from ..statistics_moee import Moments, Statistics


class Features:
    """HS and RW of texts in one prompt, not standardized; the model reads each distinct text once, and they are kept.

    Args:
        model: The model; its configuration is copied.
        prompt: Name of a prompt of the model, or a template with `{text}` once. None: the model's default.
        batch_size: Texts per forward pass.
        show_progress_bar: None: on a terminal, once the work has taken some seconds.
        store: A folder to keep HS and RW in, as safetensors, and to take them from in a later run.
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
        store: Path | None = None,
        **fields: Any,
    ):
        self.model = _reconfigured(model, **fields)
        self.prompt = model.config.default_prompt_name or "none" if prompt is None else prompt
        self.template = prompt if prompt is not None and TEXT in prompt else model.config.template(self.prompt)
        self.random = False
        self._store = store
        self._options: dict[str, Any] = {"batch_size": batch_size, "show_progress_bar": show_progress_bar}
        self._rows: dict[str, np.ndarray] | None = None
        self._statistics: dict[str, Statistics] = {}

    def __call__(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return HS of shape `(n, hidden_size)` and RW of shape `(n, num_moe_layers, num_experts)`, on the CPU.

        Raises:
            ValueError: If a text cannot be embedded.
        """
        config = self.model.config
        if self._rows is None:
            self._rows = {} if self._folder is None else _read_store(self._folder)
        if missing := [text for text in dict.fromkeys(texts) if text not in self._rows]:
            rows: Any = self.model.encode(
                missing, prompt=self.template, combination="concat", standardize=False, **self._options
            )
            self._rows.update(zip(missing, rows, strict=True))
            if self._folder is not None:
                _write_store(self._folder, missing, rows, config.hidden_size, self.choices)
        hidden, routing = np.split(np.stack([self._rows[text] for text in texts]), [config.hidden_size], axis=1)
        shape = (len(texts), len(config.router_rows), config.router_shape[1])
        return torch.from_numpy(hidden), torch.from_numpy(routing).reshape(shape)

    def standardized(
        self, hidden: torch.Tensor, routing: torch.Tensor, corpus: Corpus | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Standardize HS and RW with the statistics of a corpus, fitted at first use. None: with the model's own."""
        rows = self.model.config.router_rows
        if corpus is None:
            self.model.check_calibration(self.template)
            return self.model.statistics(hidden, routing, rows)
        if corpus.digest not in self._statistics:
            h, r = Moments(), Moments()
            for moments, values in zip((h, r), self(corpus.texts), strict=True):
                moments.update(values)
            statistics = Statistics(hidden.shape[1], routing.shape[1:])
            statistics.store(hidden_mean=h.mean, hidden_std=h.std, routing_mean=r.mean, routing_std=r.std)
            self._statistics[corpus.digest] = statistics
        return self._statistics[corpus.digest](hidden, routing, list(range(len(rows))))

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
        other._rows, other._statistics = None, {}
        return other

    def clear(self) -> None:
        """Forget the texts and their features; the memory is free again."""
        self._rows = None

    @property
    def choices(self) -> dict[str, Any]:
        """Every choice that HS and RW depend on besides the model's weights."""
        config = self.model.config
        choices: dict[str, Any] = {"prompt": self.prompt, "dtype": dtype_name(self.model.dtype)}
        if PROMPTS.get(self.prompt) != self.template:
            # mteb names a folder after these, without the characters that a path must not have
            choices["prompt_digest"] = hashlib.sha256(self.template.encode()).hexdigest()[:8]
        for field in ("pooling", "hidden_layer", "router_layers", "router_activation", "max_length"):
            if (value := getattr(config, field)) is not None:
                choices[field] = value
        if self.random:
            choices["weights"] = "random"
        return choices

    @property
    def _folder(self) -> Path | None:
        if self._store is None:
            return None
        name, revision = self.identity
        digest = hashlib.sha256(json.dumps([name, revision, self.template, self.choices]).encode()).hexdigest()[:8]
        weights = "random" if self.random else "trained"
        return self._store / f"{name.replace('/', '--')}-{weights}-{digest}"

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
        self.digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:8]


def _read_store(folder: Path) -> dict[str, np.ndarray]:
    rows: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            parts = [file.get_tensor(name) for name in ("hidden_state", "router_weights")]
            rows.update(zip(json.loads(file.metadata()["texts"]), np.concatenate(parts, axis=1), strict=True))
    return rows


def _write_store(folder: Path, texts: list[str], rows: np.ndarray, hidden_size: int, choices: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    hidden, routing = (np.ascontiguousarray(part) for part in np.split(rows, [hidden_size], axis=1))
    path = folder / f"{len(list(folder.glob('*.safetensors'))):04}.safetensors"
    partial = path.with_suffix(".partial")
    metadata = {"texts": json.dumps(texts), "choices": json.dumps(choices)}
    save_file({"hidden_state": hidden, "router_weights": routing}, partial, metadata=metadata)
    partial.replace(path)  # complete, or not there


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
