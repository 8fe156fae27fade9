"""A folder that keeps HS and RW of texts from one run to the next."""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

logger = logging.getLogger(__name__)


def folder_in_store(
    store: Path, identity: tuple[str, str | None], template: str, choices: dict[str, Any], random: bool
) -> Path:
    """Return the folder that keeps what depends on exactly these choices; the arguments are those of `Features`."""
    name, revision = identity
    digest = hashlib.sha256(json.dumps([name, revision, template, choices]).encode()).hexdigest()[:8]
    return store / f"{name.replace('/', '--')}-{'random' if random else 'trained'}-{digest}"


def read_vectors(folder: Path) -> dict[str, np.ndarray]:
    """Return what a folder keeps: HS and RW of each text in one vector, as `"concat"` has them.

    A file that cannot be read is reported and left out.
    """
    vectors: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as file:
                parts = [file.get_tensor(name) for name in ("hidden_state", "router_weights")]
                texts = json.loads(file.metadata()["texts"])
                vectors.update(zip(texts, np.concatenate(parts, axis=1), strict=True))
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            logger.warning("%s: expected kept vectors; it cannot be read as such (%s). Left out.", path, error)
    return vectors


def write_vectors(
    folder: Path, texts: Sequence[str], vectors: np.ndarray, hidden_size: int, choices: dict[str, Any]
) -> None:
    """Add the vectors of texts to a folder, in a file of their own.

    Args:
        folder: The folder; made if it is not there.
        texts: The texts.
        vectors: HS and RW of each, of shape `(n, hidden_size + routing_size)`.
        hidden_size: Width of HS.
        choices: What they depend on besides the weights, for whoever reads the file.

    Raises:
        OSError: If the file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    hidden, routing = (np.ascontiguousarray(part) for part in np.split(vectors, [hidden_size], axis=1))
    path = folder / f"{uuid.uuid4().hex[:16]}.safetensors"  # never over another
    partial = path.with_suffix(".partial")
    metadata = {"texts": json.dumps(texts), "choices": json.dumps(choices)}
    save_file({"hidden_state": hidden, "router_weights": routing}, partial, metadata=metadata)
    partial.replace(path)  # complete, or not there
