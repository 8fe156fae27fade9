"""Where files are: on this machine, or wherever fsspec reaches, such as `hf://` and `s3://`."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple, cast


class Found(NamedTuple):
    """A file: where it is, its name in the folder that it was found in, and its size in bytes."""

    location: str
    name: str
    size: int


def is_inside(location: str, folder: str) -> bool:
    """Return whether a file lies in a folder, or deeper."""
    if is_remote(location) != is_remote(folder):
        return False
    if is_remote(location):  # one place may have several addresses
        (system, path), (other, inside) = file_system(folder), file_system(location)
        return system == other and inside.startswith(f"{path.rstrip('/')}/")
    return os.path.realpath(location).startswith(os.path.join(os.path.realpath(folder), ""))


def is_remote(location: str) -> bool:
    """Return whether a file is named by an address, such as `s3://bucket/file.jsonl`."""
    return "://" in location


def open_bytes(location: str) -> BinaryIO:
    """Open a file for reading, at any position.

    Raises:
        OSError: If it cannot be read.
        ValueError: If nothing is known of such addresses.
        ImportError: If the package for them is not installed.
    """
    if not is_remote(location):
        return open(location, "rb")
    system, path = file_system(location)
    with remote_errors(location):
        return cast(BinaryIO, system.open(path, "rb"))


def file_system(location: str) -> tuple[Any, str]:
    """Return the file system of fsspec that an address leads to, and what the file or folder is called there."""
    import fsspec

    with remote_errors(location):
        return cast(tuple[Any, str], fsspec.core.url_to_fs(location))


def find_files(location: str) -> list[Found]:
    """Return a file, the files of a folder and of those inside, or those that fit a pattern, in order.

    What is hidden, with a name that begins with a point, is left out.

    Args:
        location: The file or folder, or a pattern with `*`, `?`, `[...]` or `**`; on this machine, or an address.

    Raises:
        OSError: If there is none, or it cannot be read.
        ValueError: As `open_bytes`.
        ImportError: As `open_bytes`.
    """
    sizes, base = _remote_sizes(location) if is_remote(location) else _sizes(location)
    found = [Found(path, _name(path, base), size) for path, size in sizes.items()]
    # one that is named itself is meant
    seen = sorted(file for file in found if location.endswith(file.name) or not f"/{file.name}".count("/."))
    if not seen:
        raise FileNotFoundError(f"{location}: expected a file, or a folder or pattern with some; there is none.")
    return seen


def _sizes(location: str) -> tuple[dict[str, int], str]:
    """The sizes of files by their paths, and the folder that their names begin behind."""
    if os.path.isdir(location):
        paths = [os.path.join(folder, name) for folder, _, names in os.walk(location) for name in names]
        base = location
    elif glob.has_magic(location) and not os.path.exists(location):
        paths, base = glob.glob(location, recursive=True), _before_pattern(location)
    else:
        paths, base = [location], os.path.dirname(location)
    return {path: os.path.getsize(path) for path in paths if os.path.isfile(path)}, base


def _remote_sizes(location: str) -> tuple[dict[str, int], str]:
    system, path = file_system(location)
    with remote_errors(location):
        # of http, a question mark asks for something else
        if glob.has_magic(path) and not location.startswith("http") and not system.exists(path):
            entries, base = system.glob(path, detail=True), _before_pattern(path)
        elif system.isdir(path):
            entries, base = system.find(path, detail=True), path
        else:
            entries, base = {path: system.info(path)}, path.rpartition("/")[0]
        files = {name: entry for name, entry in entries.items() if entry["type"] == "file"}
        address = system.unstrip_protocol
        return {address(name): int(entry["size"] or 0) for name, entry in files.items()}, address(base)


def _before_pattern(location: str) -> str:
    """The folder that stands before the first sign of a pattern."""
    before = location[: min(location.find(sign) for sign in "*?[" if sign in location)]
    return before[: max(before.rfind("/"), before.rfind(os.sep)) + 1]


def _name(path: str, base: str) -> str:
    if is_remote(path):
        return path.removeprefix(base).lstrip("/")
    return os.path.relpath(path, base or os.curdir).replace(os.sep, "/")


@contextlib.contextmanager
def remote_errors(location: str) -> Iterator[None]:
    """Say in one sentence why an address cannot be used; errors are those of `open_bytes`, or of this machine."""
    try:
        yield
    except Exception as error:
        if not is_remote(location):
            raise
        raise _in_one_sentence(location, error) from error


def _in_one_sentence(location: str, error: Exception) -> Exception:
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"{location}: expected a file or folder; there is none. Check the address.")
    if isinstance(error, ImportError):
        return ImportError(f"{location}: expected the package for such addresses; it is not here ({reason}).")
    if isinstance(error, ValueError):
        return ValueError(
            f"{location}: expected an address that fsspec knows, such as hf://datasets/user/name or "
            f"s3://bucket/folder; got another ({reason})."
        )
    # every system has errors of its own
    return OSError(f"{location}: expected an address that can be used; got: {reason}.")
