"""The folder that embeddings are written to: what is there, and by which recipe it was made."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Mapping
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
        self.location = location.rstrip("/") or "/"
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
        system, root = self._system()
        with tempfile.TemporaryDirectory() as folder:
            yield (local := str(Path(folder, Path(name).name)))
            place = f"{root}/{name}"
            aside = f"{place}.{secrets.token_hex(4)}.partial"
            with remote_errors(
                f"{self.location}/{name}"
            ):  # where a rename is not, a whole file is put in place at once
                system.makedirs(place.rpartition("/")[0], exist_ok=True)
                system.put_file(local, aside)
                system.mv(aside, place)

    def schema(self, outputs: Iterable[str]) -> pyarrow.Schema | None:
        """Return the columns that are kept in the files of embeddings that are there; None if there are none."""
        pa = import_pyarrow()
        for name in outputs:
            if self.is_remote:
                system, path = self._system()
                with remote_errors(f"{self.location}/{name}"), system.open(f"{path}/{name}", "rb") as file:
                    schema = pa.parquet.read_schema(file)
            else:
                schema = pa.parquet.read_schema(os.path.join(self.location, name))
            kept = [field for field in schema.remove_metadata() if field.name not in ("text", "embedding")]
            return pa.schema(kept)
        return None

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
    """What a folder says of itself: the recipe, with which versions it was begun, and the files with texts.

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
        self._head: dict[str, Any] = {"recipe": dict(recipe), "versions": dict(versions)}
        self._inputs: dict[str, Any] = {}
        present = folder.files()
        if present and MANIFEST not in present:
            raise ValueError(
                f"{folder.location}: expected a new folder, or one that `moee embed` wrote; it has no {MANIFEST}, but "
                f"{min(present)}. Name another."
            )
        # of a run that ended before its first file nothing is to be kept
        self._is_new = not any(name.endswith(".parquet") for name in present)
        if not self._is_new:
            self._read()

    def _read(self) -> None:
        where = f"{self._folder.location}/{MANIFEST}"
        try:
            stored = json.loads(self._folder.read(MANIFEST))
            recipe, self._inputs = dict(stored["recipe"]), dict(stored["inputs"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{where}: expected a manifest of `moee embed`; got another file ({error}).") from error
        mine = self._head["recipe"]
        for name in sorted(mine.keys() | recipe.keys()):
            if mine.get(name) != recipe.get(name):
                raise ValueError(
                    f"{where}: expected the recipe that the folder was made by, with {name} {recipe.get(name)!r}; got "
                    f"{mine.get(name)!r}. Name another folder, or embed as before."
                )
        self._head = {"recipe": recipe, "versions": stored.get("versions")}

    def known(self, files: Iterable[Found]) -> dict[str, Input]:
        """Return those of these files that were looked at before, by name.

        Raises:
            ValueError: If one has another size now.
        """
        inputs = {}
        for file in files:
            if (entry := self._inputs.get(file.name)) is None:
                continue
            if entry["bytes"] != file.size:
                raise ValueError(
                    f"{file.location}: expected {entry['bytes']:,} bytes, as when the folder {self._folder.location} "
                    f"was begun; got {file.size:,}. Embed the changed file into another folder, or under another name."
                )
            rows = entry["rows"]
            inputs[file.name] = Input(file, None if rows is None else Extent(rows, tuple(entry["begins"])))
        return inputs

    def add(self, inputs: Iterable[Input]) -> None:
        """Store files that were looked at; those that are stored stay."""
        added = {
            input_.file.name: {
                "bytes": input_.file.size,
                "rows": None if input_.extent is None else input_.extent.rows,
                "begins": [] if input_.extent is None else list(input_.extent.begins),
            }
            for input_ in inputs
            if input_.file.name not in self._inputs
        }
        if added or self._is_new:
            self._inputs |= added
            self._folder.write(MANIFEST, json.dumps(self._head | {"inputs": self._inputs}, indent=1) + "\n")
            self._is_new = False
