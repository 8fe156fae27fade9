"""The folder that embeddings are written to: what is there, and by which recipe it was made."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.locations import Found, file_system, is_remote, remote_errors
from ..files.parquet import import_pyarrow
from ..files.partial import remove_leftovers, written_aside
from ..files.readers import Extent
from .inputs import Input

if TYPE_CHECKING:
    import pyarrow

MANIFEST = "manifest.json"
CARD = "README.md"


class Folder:
    """A folder with files of embeddings, each complete, or not there.

    Args:
        location: The folder, which may not be there yet: on this machine, or an address such as `s3://bucket/folder`.

    Raises:
        ValueError: If it is an address of the Hub, where each file would be a commit.
        OSError: If there is something else, or it cannot be reached.
    """

    def __init__(self, location: str):
        if location.startswith("hf://"):
            raise ValueError(
                f"output: expected a folder that files are written to one by one; got {location!r}, where each would "
                "be a commit. Write to a folder of this machine, and push it as a data set: --push-to-hub."
            )
        self.location = location if location.endswith("://") else location.rstrip("/") or "/"
        self.is_remote = is_remote(location)
        if not self.is_remote and os.path.exists(self.location) and not os.path.isdir(self.location):
            raise NotADirectoryError(f"{location}: expected a folder to write to; there is a file of this name.")

    def files(self) -> set[str]:
        """Return the names of the files in it, but for hidden ones."""
        if self.is_remote:
            system, path = self._system()
            with remote_errors(self.location):
                found = system.find(path) if system.isdir(path) else []
            names = {name.removeprefix(path).lstrip("/") for name in found}
        else:
            paths = (Path(folder, name) for folder, _, names in os.walk(self.location) for name in names)
            names = {path.relative_to(self.location).as_posix() for path in paths}
        return {name for name in names if not f"/{name}".count("/.")}

    def read(self, name: str) -> str:
        """Return the content of a text file."""
        if not self.is_remote:
            return Path(self.location, name).read_text(encoding="utf-8")
        system, path = self._system()
        with remote_errors(f"{self.location}/{name}"):
            return bytes(system.cat_file(f"{path}/{name}")).decode()

    def write(self, name: str, content: str) -> None:
        """Write a text file, all at once."""
        with self.writing(name) as path, written_aside(Path(path)) as aside:
            aside.write_text(content, encoding="utf-8")

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[str]:
        """Yield the path of this machine where a file is to be put; at the end it is in the folder.

        Raises:
            OSError: If it cannot be written there.
        """
        if not self.is_remote:
            path = Path(self.location, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            yield str(path)
            return
        from fsspec import AbstractFileSystem

        system, root = self._system()
        folder, _, last = f"{root}/{name}".rpartition("/")
        with tempfile.TemporaryDirectory() as temporary:
            yield (local := str(Path(temporary, last)))
            with remote_errors(f"{self.location}/{name}"):
                system.makedirs(folder, exist_ok=True)
                if type(system).mv is AbstractFileSystem.mv:  # of objects, which are there whole, or not at all
                    system.put_file(local, f"{folder}/{last}")
                else:
                    aside = f"{folder}/.{last}.{secrets.token_hex(4)}.partial"
                    system.put_file(local, aside)
                    system.mv(aside, f"{folder}/{last}")

    def remove_leftovers(self) -> list[Path]:
        """Remove what processes of this machine that were killed have left, and return what that was."""
        if self.is_remote or not os.path.isdir(self.location):
            return []
        return [path for folder, _, _ in os.walk(self.location) for path in remove_leftovers(Path(folder))]

    def _system(self) -> tuple[Any, str]:
        system, path = file_system(self.location)
        system.invalidate_cache()  # others write to the same folder
        return system, path.rstrip("/")


class Manifest:
    """What a folder says of itself: the recipe, with which versions it was begun, the files with texts, and columns.

    Args:
        folder: The folder.
        recipe: All that decides which embeddings are written, by name; values are those of JSON.
        versions: The versions of packages, which do not.

    Raises:
        ValueError: If the folder has files of another recipe, or of something else.
        OSError: If it cannot be read.
    """

    def __init__(self, folder: Folder, recipe: Mapping[str, Any], versions: Mapping[str, str]):
        self._folder = folder
        self._content: dict[str, Any] = {
            "recipe": dict(recipe),
            "versions": dict(versions),
            "schema": None,
            "inputs": {},
        }
        self._is_new = not self._read()

    def _read(self) -> bool:
        """Read what is stored, if there is something, and compare."""
        present = self._folder.files()
        if MANIFEST not in present:
            if present:
                raise ValueError(
                    f"{self._folder.location}: expected a new folder, or one that `moee embed` wrote; it has no "
                    f"{MANIFEST}, but {min(present)}. Name another."
                )
            return False
        where = f"{self._folder.location}/{MANIFEST}"
        try:
            stored = json.loads(self._folder.read(MANIFEST))
            recipe = dict(stored["recipe"])
            stored = stored | {"inputs": dict(stored["inputs"]), "schema": stored["schema"]}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{where}: expected a manifest of `moee embed`; got another file ({error}).") from error
        mine = self._content["recipe"]
        for name in sorted(mine.keys() | recipe.keys()):
            if mine.get(name) != recipe.get(name):
                raise ValueError(
                    f"{where}: expected the recipe that the folder was made by, with {name} {recipe.get(name)!r}; got "
                    f"{mine.get(name)!r}. Name another folder, empty this one, or embed as before."
                )
        self._content = stored
        return True

    @property
    def schema(self) -> pyarrow.Schema | None:
        """The columns that are kept. None: none, or they are not known yet."""
        stored = self._content["schema"]
        if stored is None:
            return None
        pa = import_pyarrow()
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(stored)))

    def inputs(self) -> dict[str, Input]:
        """Return the files that were looked at, by name; where they are is not stored."""
        return {
            name: Input(
                Found(name, name, entry["bytes"]),
                None if entry["rows"] is None else Extent(entry["rows"], tuple(entry["begins"])),
            )
            for name, entry in self._content["inputs"].items()
        }

    def known(self, files: Iterable[Found]) -> dict[str, Input]:
        """Return those of these files that were looked at before, by name.

        Raises:
            ValueError: If one has another size now.
        """
        stored = self.inputs()
        for file in files:
            if file.name in stored and (size := stored[file.name].file.size) != file.size:
                raise ValueError(
                    f"{file.location}: expected {size:,} bytes, as when the folder {self._folder.location} was begun; "
                    f"got {file.size:,}. Embed the changed file into another folder, or under another name."
                )
        return {file.name: replace(stored[file.name], file=file) for file in files if file.name in stored}

    def add(self, inputs: Iterable[Input], schema: pyarrow.Schema | None) -> bool:
        """Store files that were looked at, and the columns; return whether the folder is new.

        Raises:
            ValueError: If another run has begun the folder meanwhile, by another recipe.
        """
        added = {
            input_.file.name: {
                "bytes": input_.file.size,
                "rows": None if input_.extent is None else input_.extent.rows,
                "begins": [] if input_.extent is None else list(input_.extent.begins),
            }
            for input_ in inputs
        }
        is_new, columns = self._is_new, None if schema is None else base64.b64encode(schema.serialize()).decode()
        if is_new or added.keys() - self._content["inputs"].keys() or columns != self._content["schema"]:
            self._read()  # what others have added stays
            self._content["inputs"] |= added
            self._content["schema"] = columns
            self._folder.write(MANIFEST, json.dumps(self._content, indent=1) + "\n")
            self._is_new = not self._read()  # and of two that begin at once, one is refused
        return is_new
