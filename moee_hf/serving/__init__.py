"""A model behind HTTP, in the form of OpenAI's embeddings.

From the bottom up: `limits` (who is let in), `metrics` (what is counted), `requests` (bodies into texts and options),
`worker` (the queue, and the one thread that owns the model), `answers` (vectors into JSON), `endpoint` (what happens
to every request), `application` (the routes). The command `moee serve` puts uvicorn under it. The package is imported
without torch: the command reads its defaults before it knows whether it runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .application import create_app

__all__ = ["create_app"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .application import create_app

    return create_app
