"""Deprecations that transformers logs are errors: users read them, and what is deprecated is removed one day."""

import logging
import re

# whose inside this package lives on. Their messages are no warnings, so `filterwarnings` does not see them
LIBRARIES = ("transformers", "sentence_transformers", "huggingface_hub")
DEPRECATION = re.compile(r"deprecat|will be removed", re.IGNORECASE)


class LoggedDeprecationError(Exception):
    """A library has logged that something this package does will not work one day."""


class DeprecationErrors(logging.Handler):
    """Raise where the message is logged: `warning_once` would not say it again for the next test."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING and DEPRECATION.search(message := record.getMessage()):
            raise LoggedDeprecationError(f"{record.name}: {message}")


def raise_logged_deprecations() -> None:
    """Raise for what is logged from here on in this process."""
    for library in LIBRARIES:
        logging.getLogger(library).addHandler(DeprecationErrors())
