"""A folder that keeps HS and RW of texts from one run to the next.

A file holds some texts, read in one prompt with the same choices. Its tensors are named after the sources of HS
(`state`, `attention`, `values`), of shape `(n, hidden_size)`, and the router activations (`softmax`, `clr`,
`logits`), of shape `(n, num_routers, num_experts)`; those that were read. Its metadata are `texts`, a list, and
`choices`, a mapping, both as JSON.
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..files.partial import named_errors, written_aside

logger = logging.getLogger(__name__)


def folder_in_store(
    store: Path, identity: tuple[str, str | None], template: str, choices: dict[str, Any], random: bool
) -> Path:
    """Return the folder that keeps what depends on exactly these choices, those of `choices_of`."""
    name, revision = identity
    digest = hashlib.sha256(json.dumps([name, revision, template, choices]).encode()).hexdigest()[:8]
    return store / f"{name.replace('/', '--')}-{'random' if random else 'trained'}-{digest}"


def read_vectors(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Return what a folder keeps: of each text, HS and RW by the names of the tensors.

    A file that cannot be read is reported and left out.
    """
    vectors: dict[str, dict[str, np.ndarray]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as file:
                parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                texts = json.loads(file.metadata()["texts"])
            if any(len(part) != len(texts) for part in parts.values()):
                raise ValueError("a tensor has not one row for each text")
            for number, text in enumerate(texts):
                vectors.setdefault(text, {}).update({name: part[number] for name, part in parts.items()})
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            logger.warning("%s: expected kept vectors; it cannot be read as such (%s). Left out.", path, error)
    return vectors


def write_vectors(
    folder: Path, texts: Sequence[str], parts: Mapping[str, np.ndarray], choices: dict[str, Any]
) -> None:
    """Add the vectors of texts to a folder, in a file of their own.

    Args:
        folder: The folder; made if it is not there.
        texts: The texts.
        parts: HS and RW of all of them, by the names of the tensors.
        choices: What they depend on besides the weights, for whoever reads the file.

    Raises:
        OSError: If the file cannot be written; it names the file.
    """
    with named_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{uuid.uuid4().hex[:16]}.safetensors"  # never over another
    metadata = {"texts": json.dumps(texts), "choices": json.dumps(choices)}
    with written_aside(path) as partial:
        try:
            save_file({name: np.ascontiguousarray(part) for name, part in parts.items()}, partial, metadata=metadata)
        except SafetensorError as error:  # of a full disk
            raise OSError(str(error)) from error
