"""Files and commits from the Hub, with one-sentence errors."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.file_download import _CACHED_NO_EXIST
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from transformers.utils import logging

from .choices_moee import nearest_name

logger = logging.get_logger(__name__)


# names that stand for folders, registered by whoever brings the folder
_ALIASES: dict[str, str] = {}


def register_alias(name: str, folder: str | os.PathLike[str]) -> None:
    """Let a name stand for a folder, wherever a folder or Hub id is expected."""
    _ALIASES[name] = os.fspath(folder)


def resolve_source(source: str | os.PathLike[str]) -> str:
    """Return the folder that a registered name stands for, and any other folder or Hub id as it is."""
    source = os.path.expanduser(source)
    if source in _ALIASES and os.path.isdir(source):
        logger.warning_once(
            f"{source!r} is the name of a model that a package brings, and of a folder here. The package's is meant; "
            f"the folder is {os.path.join(os.curdir, source)!r}."
        )
    return _ALIASES.get(source, source)


def alias_of(source: str) -> str | None:
    """Return the registered name of a folder; None if it has none."""
    return next((name for name, folder in _ALIASES.items() if folder == source), None)


def is_repo_id(value: str) -> bool:
    """Whether this can be the id of a repository on the Hub."""
    try:
        validate_repo_id(value)
    except HFValidationError:
        return False
    return True


@contextlib.contextmanager
def hub_errors(what: str, repo_id: str, revision: str | None = None) -> Iterator[None]:
    """Turn the errors of Hub access inside the context into one `OSError` of one sentence.

    Args:
        what: The beginning of the sentence.
        repo_id: The repository.
        revision: Its branch, tag or commit. None: the newest.
    """
    try:
        yield
    except Exception as error:  # the client's own, and those of whatever HTTP library it uses
        if reason := _reason(error, repo_id, revision):
            raise OSError(f"{what}{reason}{nearest_name(repo_id, _ALIASES)}") from error
        raise


def _reason(error: BaseException, repo_id: str, revision: str | None) -> str | None:
    causes = list(_causes(error))

    def among(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    status = next((cause.response.status_code for cause in causes if isinstance(cause, HfHubHTTPError)), None)
    if among(GatedRepoError):
        return (
            f"{repo_id!r} on the Hub is open only to those its authors have let in; ask for access on its page, then "
            "log in with `hf auth login` or pass token=."
        )
    if among(RepositoryNotFoundError):
        return (
            f"the Hub has no repository {repo_id!r} that you may see; check the id, and if it is private, log in with "
            "`hf auth login` or pass token=."
        )
    if among(RevisionNotFoundError):
        return f"{repo_id!r} on the Hub has no revision {revision!r}; see its list of commits for one that it has."
    if status == 401:
        return (
            f"the Hub refuses the token sent for {repo_id!r}, or wants one; `hf auth login`, or pass another token=."
        )
    if status == 403:
        return f"the token sent for {repo_id!r} has no right to this on the Hub; log in with one that has."
    no_answer = any(type(cause).__module__.startswith("httpx") for cause in causes) and status is None
    if no_answer or among(LocalEntryNotFoundError, OfflineModeIsEnabled, RevisionResolutionError):
        return (
            f"the Hub cannot be reached (no network, or offline mode) and the cache does not hold {repo_id!r} at "
            f"revision {revision or 'main'!r}; try again with a network."
        )
    if status is not None and (status >= 500 or status in (408, 412, 429)):  # trouble, or someone else's commit
        return f"the Hub answers with status {status} for {repo_id!r}; try again."
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def resolve_commit(
    source: str,
    what: str | None = None,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    token: bool | str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    **_: Any,
) -> str | None:
    """Return the commit of a branch or tag, so that all files come from that one; None for a folder.

    Args:
        source: Folder or Hub id.
        what: Beginning of the message of an error.
        revision: Branch, tag or commit. None: the newest.
        subfolder: Where the files are in it.
        token: As in `from_pretrained`, here and below.
        cache_dir: Where to look if the Hub cannot be asked.
        local_files_only: Whether not to ask the Hub. Other arguments for the Hub are not read.

    Raises:
        OSError: If there is no such folder or repository, or the Hub cannot say.
        TypeError: If a revision or subfolder is not a string.
    """
    for name, value in (("revision", revision), ("subfolder", subfolder)):
        if value is not None and not isinstance(value, str):
            raise TypeError(f"{name}: expected a string; got {value!r}.")
    if os.path.exists(source):
        return None
    if not is_repo_id(source):
        raise OSError(
            f"{source!r}: expected a folder with a config.json, or the id of a repository on the Hub, such as "
            "'allenai/OLMoE-1B-7B-0924'; there is no such folder."
        )
    with hub_errors(what or f"{source!r}: there is no such folder here, and ", source, revision):
        resolved = HfApi().resolve_revision(
            source, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )
    return resolved.resolved


def optional_file(
    source: str,
    name: str,
    *,
    revision: str | None = None,
    subfolder: str = "",
    token: bool | str | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    **_: Any,
) -> Path | None:
    """Return the path of a file of a folder or repository; None if it is certain that there is none.

    Raises:
        OSError: If the file cannot be had, or it cannot be known whether there is one.
    """
    if os.path.isdir(source):
        path = Path(source, subfolder, name)
        return path if path.is_file() else None
    name = f"{subfolder}/{name}" if subfolder else name
    known = try_to_load_from_cache(source, name, revision=revision, cache_dir=cache_dir)
    if known is _CACHED_NO_EXIST and not force_download:
        return None
    with hub_errors(f"{source!r}: ", source, revision):
        try:
            downloaded = hf_hub_download(
                source,
                name,
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
            )
            return Path(downloaded)
        except LocalEntryNotFoundError:  # which says nothing about the repository
            raise
        except EntryNotFoundError:
            return None


def warn_if_moved(repo_id: str, *, token: bool | str | None = None, local_files_only: bool = False, **_: Any) -> None:
    """Log one warning if the Hub knows the repository by another name now; say nothing if it cannot be asked."""
    if local_files_only:
        return
    try:
        name = HfApi().model_info(repo_id, token=token, timeout=10).id
    except Exception:  # whatever it is, loading the weights will report it, or find them in the cache
        return
    if name != repo_id:
        logger.warning(f"The backbone {repo_id!r} is called {name!r} on the Hub now; the old name may stop working.")
