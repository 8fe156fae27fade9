"""Why something could not be had from the Hub, in one sentence."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from transformers.utils import logging

logger = logging.get_logger(__name__)

HUB_KWARGS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
REVISION_KWARGS = ("cache_dir", "local_files_only", "revision", "token")


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
    except (OSError, HfHubHTTPError, RevisionResolutionError) as error:
        if reason := _reason(error, repo_id, revision):
            raise OSError(f"{what}{reason}") from error
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
            f"the Hub refuses the token sent for {repo_id!r}; log in anew with `hf auth login` or pass another token=."
        )
    if status == 403:
        return f"the token sent for {repo_id!r} has no right to this on the Hub; log in with one that has."
    if among(LocalEntryNotFoundError, OfflineModeIsEnabled, RevisionResolutionError):
        return (
            f"the Hub cannot be reached (no network, or offline mode) and the cache does not hold {repo_id!r} at "
            f"revision {revision or 'main'!r}; load it once with a network."
        )
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def resolve_commit(
    source: str,
    what: str | None = None,
    *,
    revision: str | None = None,
    token: bool | str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> str | None:
    """Return the commit of a branch or tag, so that all files come from that one; None for a folder.

    Args:
        source: Folder or Hub id.
        what: Beginning of the message of an error.
        revision: Branch, tag or commit. None: the newest.
        token: As in `from_pretrained`, here and below.
        cache_dir: Where to look if the Hub cannot be asked.
        local_files_only: Whether not to ask the Hub.

    Raises:
        OSError: If there is no such folder or repository, or the Hub cannot say.
    """
    if os.path.exists(source):
        return None
    if not is_repo_id(source):
        raise OSError(
            f"{source!r}: expected a folder with a config.json, or the id of a repository on the Hub, such as "
            "'allenai/OLMoE-1B-7B-0924'; there is no such folder."
        )
    with hub_errors(what or f"{source!r}: there is no such folder here, and ", source, revision):
        return (
            HfApi()
            .resolve_revision(
                source, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
            )
            .resolved
        )


def warn_if_moved(repo_id: str, token: bool | str | None = None) -> None:
    """Log one warning if the Hub knows the repository by another name now; say nothing if it cannot be asked."""
    try:
        name = HfApi().model_info(repo_id, token=token, expand=["sha"]).id
    except Exception:  # whatever it is, loading the weights will report it, or find them in the cache
        return
    if name != repo_id:
        logger.warning(f"The backbone {repo_id!r} is called {name!r} on the Hub now; the old name may stop working.")
