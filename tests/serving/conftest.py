import contextlib

import pytest
from support.serving import serving as served


@pytest.fixture
def serving(model):
    """A function that serves the small model while the test lasts, and returns the address."""
    with contextlib.ExitStack() as stack:
        yield lambda **arguments: stack.enter_context(served(model, **arguments))
