"""Files that are complete, or not there: written beside their place, under a name of their own, and moved there."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

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
        name = f"{_start(self._place)}{os.getpid()}-{secrets.token_hex(4)}.partial"
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
        """Move the file, which is complete, to its place.

        Raises:
            OSError: If that cannot be.
        """
        with named_errors(self._place):
            self.path.replace(self._place)

    def remove(self) -> None:
        """Remove what was written and not moved."""
        self.path.unlink(missing_ok=True)
        _open.discard(self.path)


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
    """Remove what processes that were killed have left of a file, and return what that was."""
    path = path.resolve()
    start, removed = _start(path), []
    for partial in path.parent.glob(f"{_escaped(start)}*.partial"):
        process = re.fullmatch(r"(\d+)-[0-9a-f]+\.partial", partial.name.removeprefix(start))
        if process is not None and partial not in _open and not _runs(int(process[1])):
            with contextlib.suppress(FileNotFoundError):  # another process removes the same
                partial.unlink()
                removed.append(partial)
    return removed


def _start(path: Path) -> str:
    # a process has its number on its own machine alone; a name has 255 bytes at most
    return f".{path.name[:50]}.{platform.node()[:40]}-"


def _escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


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
