"""What transformers announces to remove fails here first, whether it is warned of or logged."""

import warnings

import pytest
import transformers
from support.deprecations import LoggedDeprecationError

LOGGER = transformers.logging.get_logger("transformers.models.any")


@pytest.mark.parametrize("log", [LOGGER.warning, LOGGER.warning_once, LOGGER.error])
@pytest.mark.parametrize("message", ["`a` is deprecated, use `b`.", "`a` will be removed in version 6.", "Deprecated"])
def test_logged(log, message):
    for _ in range(2):
        with pytest.raises(LoggedDeprecationError, match=r"^transformers\.models\.any: "):
            log(message)


def test_other_messages_are_none():
    LOGGER.warning("The last layer is taken.")
    LOGGER.info("`a` is deprecated.")


def test_warned_of_in_the_frames_of_others():
    """`deprecate_kwarg` of transformers warns in the name of whoever called last, a decorator of its own as a rule."""
    code = compile(
        "warnings.warn('`a` is deprecated and will be removed in version 6.', FutureWarning)", "other", "exec"
    )
    with pytest.raises(FutureWarning, match="`a` is deprecated"):
        exec(code, {"__name__": "transformers.other", "warnings": warnings})
