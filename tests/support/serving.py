"""A server of embeddings on loopback, and requests as any client sends them."""

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from moee_hf import MoEEModel
from moee_hf.serving import create_app
from support.hub import serve


@contextlib.contextmanager
def serving(model: MoEEModel, **arguments: Any) -> Iterator[str]:
    """Serve a model as `small` while the context lasts, and give the address; arguments are those of `create_app`."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    with serve(create_app(model, "small", **arguments), listener) as url:
        yield url


def ask(url: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any, bytes]:
    """Send a body, as JSON if it is no bytes; without one, GET. Return status, headers and content of the answer."""
    parts = urlsplit(url)
    with contextlib.closing(http.client.HTTPConnection(parts.netloc, timeout=300)) as connection:
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("GET" if body is None else "POST", parts.path or "/", content, headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
