"""Folders, what comes with the package, and digests of files and tensors."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def check_new_folder(folder: str | os.PathLike[str]) -> Path:
    """Return the path of a folder to write, which is empty or not there yet.

    Raises:
        ValueError: If there is something.
    """
    path = Path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path}: expected a new or empty folder; there is something. Name another.")
    return path


@contextlib.contextmanager
def filled_aside(target: Path) -> Iterator[Path]:
    """Yield a folder to fill, which takes its place at the end: all of it, or nothing.

    Args:
        target: The place, as `check_new_folder` returns it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{target.name}.") as temporary:
        folder = Path(temporary, target.name)
        folder.mkdir()
        yield folder
        os.replace(folder, target)


def shipped(name: str) -> Path:
    """Return the path of a file or folder of `configs/`: inside the installed package, beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "configs"
    return (installed if installed.is_dir() else package.with_name("configs")) / name


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_folder(folder: Path) -> str:
    """Return a digest of the names and the content of the files in a folder, but for documents."""
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and file.suffix != ".md"]
    return _digest_of_files(tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@lru_cache(maxsize=16)
def _digest_of_files(versions: tuple[tuple[Path, int, int], ...]) -> str:
    """A digest of files, which are read again if their size or time changes."""
    return hashlib.sha256(json.dumps([(path.name, sha256(path)) for path, _, _ in versions]).encode()).hexdigest()[:40]


def digest_of_tensors(module: torch.nn.Module) -> str:
    """Return a digest of the tensors of a module; those that are offloaded count by name."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        if not tensor.is_meta:
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:40]
