"""Why something could not be had from the Hub, in one sentence."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

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


def warn_if_moved(repo_id: str, token: bool | str | None = None) -> None:
    """Log one warning if the Hub knows the repository by another name now; say nothing if it cannot be asked."""
    try:
        name = HfApi().model_info(repo_id, token=token, expand=["sha"]).id
    except Exception:  # whatever it is, loading the weights will report it, or find them in the cache
        return
    if name != repo_id:
        logger.warning(f"The backbone {repo_id!r} is called {name!r} on the Hub now; the old name may stop working.")
