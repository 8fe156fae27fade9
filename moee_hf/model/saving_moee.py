"""Folders that a model is saved into: written aside first, so that each holds the model of one save, whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from .configuration_moee import MoEEConfig
from .digests_moee import CONFIG_NAME, STAGING_PREFIX

# files of a save that its embeddings depend on, by their names; for saves that noted no digests, and on the Hub
FILES_OF_A_SAVE = re.compile(r"(model(-\d{5}-of-\d{5})?|statistics)\.safetensors|model\.safetensors\.index\.json")
_LOCK_NAME = "lock"
_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO}


@contextlib.contextmanager
def written_aside(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a hidden folder inside a folder, whose files take the place of an earlier save's at the end.

    The configuration goes first and comes last: whatever kills the process, the folder holds the earlier model, the
    new one, or none. Files that are neither's stay.

    Args:
        folder: The folder; made if it is not there.

    Raises:
        OSError: If the folder cannot be written.
    """
    target = Path(folder)
    with _one_sentence(target):
        target.mkdir(parents=True, exist_ok=True)
        with _only_here(target):  # or another process takes the folder for abandoned, before it is locked
            _remove_abandoned(target)
            staging = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=target))
            in_use = FileLock(staging / _LOCK_NAME)
            in_use.acquire()
        try:
            yield staging
            with _only_here(target):
                _move(staging, target)
        finally:
            in_use.release()
            shutil.rmtree(staging, ignore_errors=True)


def files_in(folder: str | os.PathLike[str]) -> list[str]:
    """Return the names of the files of a folder that a model was written into, those of folders in it too."""
    files = (path.relative_to(folder) for path in Path(folder).rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in files if path != Path(_LOCK_NAME))


def _move(staging: Path, target: Path) -> None:
    new = set(map(Path, files_in(staging)))
    earlier = _earlier_files(target)
    (target / CONFIG_NAME).unlink(missing_ok=True)
    for name in sorted(new - {Path(CONFIG_NAME)}):
        (target / name).parent.mkdir(exist_ok=True)
        (staging / name).replace(target / name)
    for name in earlier - new:
        (target / name).unlink(missing_ok=True)
    (staging / CONFIG_NAME).replace(target / CONFIG_NAME)


def _only_here(target: Path) -> FileLock:
    """Return a lock that one process of a user holds at a time, outside of the folder, which may be uploaded."""
    user = getattr(os, "getuid", int)()  # no user may open another's
    name = hashlib.sha256(os.fsencode(target.resolve()) + b"%d" % user).hexdigest()
    return FileLock(Path(tempfile.gettempdir(), f"{STAGING_PREFIX}{name}.lock"))


def _earlier_files(target: Path) -> set[Path]:
    """Return the files of an earlier save that its embeddings depend on."""
    names = {Path(name) for name in os.listdir(target) if FILES_OF_A_SAVE.fullmatch(name)}
    with contextlib.suppress(OSError, ValueError):  # there was none, or nobody can say what it held
        digests = MoEEConfig.get_config_dict(target)[0].get("digests") or {}
        names |= {Path(name) for name in digests if not Path(name).is_absolute() and ".." not in Path(name).parts}
    return names


def _remove_abandoned(target: Path) -> None:
    """Remove what saves that were killed have left."""
    for staging in target.glob(f"{STAGING_PREFIX}*"):
        with contextlib.suppress(Timeout, OSError), FileLock(staging / _LOCK_NAME, timeout=0):
            shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def _one_sentence(folder: Path) -> Iterator[None]:
    """Turn what a folder that cannot be written raises into an `OSError` of one sentence."""
    try:
        yield
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        # tokenizers raise a plain Exception
        if number in _CANNOT_WRITE or isinstance(error, SafetensorError) or type(error) is Exception:
            raise OSError(f"{folder}: expected a folder with room, and the right to write; got: {error}.") from error
        if isinstance(error, FileExistsError | NotADirectoryError):
            raise OSError(f"{folder}: expected a folder, or the name of a new one; got a file.") from error
        raise
