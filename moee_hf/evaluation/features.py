"""HS and RW of many texts, each read once, for all the embeddings that can be made of them."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import uuid
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..files.folders import sha256
from ..info import ModelInfo, dtype_name, model_info
from ..model.backbone_moee import layer_to_read
from ..model.hub_moee import alias_of
from ..model.modeling_moee import MoEEModel
from ..model.pretrained_moee import CHOICE_FIELDS
from ..model.prompts_moee import PROMPTS, TEXT
from ..model.statistics_moee import Moments, Statistics, fitted

logger = logging.getLogger(__name__)


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
        self.model = _reconfigured(model, {name: value for name, value in fields.items() if value is not None})
        by_name = prompt is None or TEXT not in prompt
        self.template = self.model._template(prompt if by_name else None, None if by_name else prompt)
        names = {template: name for name, template in (PROMPTS | (self.model.config.prompts or {})).items()}
        self.prompt = names.get(self.template, self.template)
        self.random = random
        self._batch_size, self._store = batch_size, store
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
                missing, prompt=self.template, batch_size=self._batch_size, combination="concat", standardize=False
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
            statistics.store(**fitted(h, r))
            self._statistics[corpus.digest] = statistics
        return self._statistics[corpus.digest](hidden, routing, list(range(len(rows))))

    def statistics_digest(self, corpus: Corpus | None) -> str:
        """Return what the statistics are known by: the corpus, or their own numbers."""
        return _digest(self.model.statistics)[:8] if corpus is None else corpus.digest

    def clear(self) -> None:
        """Forget the texts and their features; the memory is free again."""
        self._rows = None

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
    def identity(self) -> tuple[str, str]:
        """Name and revision of the model: its id and commit on the Hub; or its folder and a digest of the files there.

        Of a model that was made or changed in memory, a digest of its weights.
        """
        model, source = self.model, str(self.model.name_or_path)
        path = Path(source)
        if not self.random and (not source or model.weights_changed):
            return f"memory/{path.name or self.info.model_type}", _digest(model.model)
        if not path.is_dir():
            return source, model._hub_kwargs["revision"]
        files = [file for file in sorted(path.iterdir()) if file.is_file() and file.suffix != ".md"]
        name = f"moee_hf/{alias}" if (alias := alias_of(source)) else f"local/{path.resolve().name}"
        return name, _digest_of_files(tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))

    @cached_property
    def _folder(self) -> Path | None:
        if self._store is None:
            return None
        name, revision = self.identity
        digest = hashlib.sha256(json.dumps([name, revision, self.template, self.choices]).encode()).hexdigest()[:8]
        return self._store / f"{name.replace('/', '--')}-{'random' if self.random else 'trained'}-{digest}"


class Corpus:
    """Texts to fit statistics on, known by their digest.

    Args:
        texts: The texts.
    """

    def __init__(self, texts: Sequence[str]):
        self.texts = texts
        self.digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:8]


def random_weights(model: MoEEModel) -> MoEEModel:
    """Return a model of the same architecture with random weights, the same ones each time, and the same tokenizer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        other = MoEEModel(copy.deepcopy(model.config)).to(model.device, model.dtype).eval()
    other.tokenizer, other._hub_kwargs = model.tokenizer, model._hub_kwargs
    return other


def _reconfigured(model: MoEEModel, fields: dict[str, Any]) -> MoEEModel:
    """A model that shares the weights of this one, with a configuration and statistics of its own."""
    if unknown := sorted(fields.keys() - CHOICE_FIELDS):
        known = ", ".join(sorted(CHOICE_FIELDS))
        raise ValueError(f"Features: expected choices of MoEEConfig ({known}); got {unknown[0]!r}.")
    other = copy.copy(model)
    other._modules = dict(model._modules)
    other.config, other.statistics = copy.deepcopy(model.config), copy.deepcopy(model.statistics)
    for name, value in fields.items():
        setattr(other.config, name, value)
    layer_to_read(other.config.hidden_layer, other.num_layers)
    _ = other.config.router_rows
    return other


def _digest(module: torch.nn.Module) -> str:
    """A digest of the tensors of a module; those that are offloaded count by name."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        if not tensor.is_meta:
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:40]


@lru_cache(maxsize=16)
def _digest_of_files(files: tuple[tuple[Path, int, int], ...]) -> str:
    """A digest of files, which are read again if their size or time changes."""
    return hashlib.sha256(json.dumps([(path.name, sha256(path)) for path, _, _ in files]).encode()).hexdigest()[:40]


def _read_store(folder: Path) -> dict[str, np.ndarray]:
    rows: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as file:
                parts = [file.get_tensor(name) for name in ("hidden_state", "router_weights")]
                rows.update(zip(json.loads(file.metadata()["texts"]), np.concatenate(parts, axis=1), strict=True))
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            logger.warning("%s: expected kept vectors; it cannot be read as such (%s). Left out.", path, error)
    return rows


def _write_store(folder: Path, texts: list[str], rows: np.ndarray, hidden_size: int, choices: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    hidden, routing = (np.ascontiguousarray(part) for part in np.split(rows, [hidden_size], axis=1))
    path = folder / f"{uuid.uuid4().hex[:16]}.safetensors"  # never over another
    partial = path.with_suffix(".partial")
    metadata = {"texts": json.dumps(texts), "choices": json.dumps(choices)}
    save_file({"hidden_state": hidden, "router_weights": routing}, partial, metadata=metadata)
    partial.replace(path)  # complete, or not there
