import contextlib
import threading

import pytest
from support.serving import serving as served


class Held:
    """`encode` of a model that waits at the first call until it may go on, and tells what it was called with."""

    def __init__(self, encode):
        self.encode, self.calls = encode, []
        self.is_held, self.go = threading.Event(), threading.Event()
        self.fail = lambda texts: None

    def __call__(self, texts, **options):
        self.calls.append((list(texts), options))
        self.is_held.set()
        assert self.go.wait(60)
        self.fail(texts)
        return self.encode(texts, **options)


@pytest.fixture
def held(model, monkeypatch):
    """The model's `encode`, held; when the test ends, it goes on."""
    held = Held(model.encode)
    monkeypatch.setattr(model, "encode", held)
    yield held
    held.go.set()


@pytest.fixture
def serving(model):
    """A function that serves the small model while the test lasts, and returns the address."""
    with contextlib.ExitStack() as stack:
        yield lambda **arguments: stack.enter_context(served(model, **arguments))
