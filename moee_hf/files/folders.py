"""Folders, what comes with the package, and digests of files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def check_new_folder(folder: str | os.PathLike[str]) -> Path:
    """Return the path of a folder to write, which is empty or not there yet.

    Raises:
        ValueError: If there is something.
    """
    path = Path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path}: expected a new or empty folder; there is something. Name another.")
    return path


def shipped(name: str) -> Path:
    """Return the path of a file or folder of `configs/`: inside the installed package, beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "configs"
    return (installed if installed.is_dir() else package.with_name("configs")) / name


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
