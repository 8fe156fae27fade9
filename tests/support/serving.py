"""A server of embeddings on loopback, and requests as any client sends them."""

import asyncio
import contextlib
import http.client
import json
import re
import socket
import time
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message

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


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def ask(url: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any, bytes]:
    """Send a body, as JSON if it is no bytes; without one, GET. Return status, headers and content of the answer."""
    parts = urlsplit(url)
    with contextlib.closing(http.client.HTTPConnection(parts.netloc, timeout=300)) as connection:
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("GET" if body is None else "POST", parts.path or "/", content, headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()


def metrics(url: str) -> dict[str, float]:
    """The numbers of /metrics by name and labels."""
    status, headers, content = ask(f"{url}/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = [line for line in content.decode().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r'[a-z_]+(\{([a-z]+="[^"]*",?)+\})? [\d.e+-]+', line) for line in lines), lines
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def wait_for(url: str, **expected: float) -> None:
    """Wait until metrics have these values."""
    end = time.monotonic() + 60
    while any(metrics(url).get(name) != value for name, value in expected.items()):
        assert time.monotonic() < end, metrics(url)
        time.sleep(0.01)


class Exchange:
    """A request to an application without a server between, of a client that may stop at any point.

    Args:
        path: Of the route.
        parts: Of the body.
        ends: Whether the body ends; else no more of it comes.
        reads: Whether the answer is read; else nothing after its head is.
    """

    def __init__(self, path: str, parts: Iterable[bytes] = (), ends: bool = True, reads: bool = True):
        self.path, self.parts, self.ends, self.reads = path, iter(parts), ends, reads
        self.waits = asyncio.Event()  # no more is sent, or read
        self.status, self.headers, self.content = 0, {}, b""

    async def run(self, app: ASGIApp) -> None:
        """Have it answered."""
        scope = {"type": "http", "method": "POST", "path": self.path, "headers": [], "query_string": b""}
        await app(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        for part in self.parts:
            return {"type": "http.request", "body": part, "more_body": True}
        if self.ends:
            self.ends = False
            return {"type": "http.request"}
        self.waits.set()
        return await asyncio.Future()

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
            return
        if not self.reads:
            self.waits.set()
            await asyncio.Future()
        self.content += message["body"]
