"""The record of a build: a file in the folder that says what it was made from, and by which its files are known."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from ..files.folders import sha256

RECORD_NAME = "moee_build.json"
CARD_NAME = "README.md"


@dataclass(frozen=True)
class BuildRecord:
    """What a folder was built for and from.

    Args:
        repo_id: Repository that it was built for.
        base_model: Repository of the backbone's weights on the Hub; None if they come from elsewhere.
        base_model_revision: Its commit.
        versions: Versions of what it was built with, by package.
        sha256: Digests of its files, see `digests`.
        repo_type: `"model"`, or `"space"`.
    """

    repo_id: str
    base_model: str | None
    base_model_revision: str | None
    versions: dict[str, str]
    sha256: dict[str, str]
    repo_type: str = "model"

    def write(self, folder: Path) -> None:
        """Put the record into its folder."""
        content = json.dumps(dataclasses.asdict(self), indent=2)
        (folder / RECORD_NAME).write_text(content + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> BuildRecord:
        """Read the record of a folder or repository from its file.

        Raises:
            ValueError: If it is damaged.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            # that of an earlier version says no type
            content.setdefault("repo_type", "model")
            record = cls(**{field.name: content[field.name] for field in dataclasses.fields(cls)})
            if isinstance(record.sha256, dict) and record.repo_type in ("model", "space"):
                return record
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        raise ValueError(f"{path}: expected the record of a build; it cannot be read as one. Build the folder anew.")


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a folder by its name.

    Left out are the record and the card, which may change, and what Python compiles where a program of it runs.
    """
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent.name != "__pycache__"]
    files = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: sha256(path) for name, path in files.items() if name not in (CARD_NAME, RECORD_NAME)}
