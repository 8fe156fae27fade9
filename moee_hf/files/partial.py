"""Files that are complete, or not there: written beside their place, under a name of their own, and moved there."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

# a process has its number on its own machine alone
_MACHINE = platform.node()[:40]
# the end of a name: which process writes the file
_WRITER = rf"\.{re.escape(_MACHINE)}-(\d+)-[0-9a-f]+\.partial"

# those of this process that are being written
_open: set[Path] = set()


class Partial:
    """A file that is being written, beside its place.

    Of several processes that write the same file, each writes one of its own, and the last to finish leaves its file.
    What a killed process leaves, `remove_leftovers` removes.

    Args:
        path: The place. If it is a link, the file that it leads to.

    Attributes:
        path: Where to write until the file is complete.
    """

    def __init__(self, path: Path):
        self._place = path.resolve()
        # the name says whose it is
        name = f"{_start(self._place)}.{_MACHINE}-{os.getpid()}-{secrets.token_hex(4)}.partial"
        self.path = self._place.with_name(name)
        _open.add(self.path)

    def check(self) -> None:
        """Raise unless a file can be written beside the place.

        Raises:
            OSError: If not; names the place.
        """
        with named_errors(self._place):
            self.path.touch()
        self.remove()

    def put_in_place(self) -> None:
        """Move the file, which is complete, to its place; what was there is whole until then, even if the power fails.

        Raises:
            OSError: If that cannot be.
        """
        with named_errors(self._place):
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
            self.path.replace(self._place)

    def remove(self) -> None:
        """Remove what was written and not moved."""
        self.path.unlink(missing_ok=True)
        _open.discard(self.path)


def check_place(output: str, source: str | None = None) -> None:
    """Raise unless a file can be written to this place: asked before the work, not after.

    Args:
        output: The file.
        source: The file that is read, which must be another.

    Raises:
        ValueError: If they are the same.
        OSError: If the folder is not there or not writable, or there is something of this name that is no file.
    """
    path = Path(output)
    if path.exists() and source is not None and os.path.exists(source) and path.samefile(source):
        raise ValueError(f"{output}: expected another file than the one with the texts; got the same. Name another.")
    if path.is_dir():
        raise IsADirectoryError(f"{output}: expected a file to write; there is a folder of this name.")
    if path.exists() and not path.is_file():
        raise OSError(f"{output}: expected a file to write; there is a device or a pipe of this name.")
    if not path.resolve().parent.is_dir():
        raise OSError(f"{output}: expected a folder to write to; {str(path.parent)!r} is none, or not there.")
    Partial(path).check()


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield where to write a file; at the end it takes its place, and after an error it is removed.

    Raises:
        OSError: If it cannot be written; names the file.
    """
    partial = Partial(path)
    try:
        with named_errors(path):
            yield partial.path
        partial.put_in_place()
    finally:
        partial.remove()


@contextlib.contextmanager
def named_errors(path: str | Path) -> Iterator[None]:
    """Let an error of the operating system inside the context, such as a full disk, name the file that is written."""
    try:
        yield
    except BrokenPipeError:
        raise  # whoever reads has seen enough
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            f"{path}: expected a place that takes the file; got: {reason}. Free some space, or write elsewhere."
        ) from error


def remove_leftovers(path: Path) -> list[Path]:
    """Remove what processes that were killed have left of a file, or of any file in a folder; return what that was."""
    path = path.resolve()
    of_all = path.is_dir()
    name = re.compile((r"\..+" if of_all else re.escape(_start(path))) + _WRITER, re.DOTALL)
    removed = []
    for partial in (path if of_all else path.parent).glob(".*.partial"):
        writer = name.fullmatch(partial.name)
        if writer is not None and partial not in _open and not _runs(int(writer[1])):
            with contextlib.suppress(FileNotFoundError):  # another process removes the same
                partial.unlink()
                removed.append(partial)
    return removed


def _start(path: Path) -> str:
    return f".{path.name[:50]}"  # a name has 255 bytes at most


def _runs(process: int) -> bool:
    if os.name != "posix":
        return True  # there is no way to ask that does no harm
    if process == os.getpid():
        return False  # of an earlier process that had the same number, as in a container
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
