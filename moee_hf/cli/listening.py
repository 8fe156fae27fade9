"""Servers of the command line: an address that is free, and a server that signals end."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any


def add_address_flags(group: argparse._ArgumentGroup, port: int) -> None:
    """Add the address to listen at, with this port if no other is given."""
    group.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, this machine)")
    group.add_argument("--port", type=_port_number, default=port, help=f"(default: {port}; 0: one that is free)")


def _port_number(value: str) -> int:
    if not 0 <= (number := int(value)) <= 65535:  # some systems would take the remainder
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 65535; got {value}")
    return number


def listening(host: str, port: int) -> contextlib.closing[socket.socket]:
    """Return a socket that listens at an address.

    Raises:
        ValueError: If the address is taken, or there is none such.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        # IPv4 first: a client that knows 127.0.0.1 alone is more common than one that knows ::1 alone
        family, kind, protocol, _, address = min(addresses, key=lambda entry: entry[0] != socket.AF_INET)
        listener = socket.socket(family, kind, protocol)
        try:
            if os.name != "nt":  # where it would let two servers share a port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()  # several sockets may be bound to a port, where none listens
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(
            f"port: expected an address that is free; got {host}:{port} ({reason}). Choose another --port or --host."
        ) from error
    return contextlib.closing(listener)


def url_of(listener: socket.socket) -> str:
    """Return the address of a server at a socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run_server(app: Any, listener: socket.socket, begin: Callable[[], object] | None = None, **settings: Any) -> None:
    """Serve an application at a socket until a signal ends it; a second one ends it at once.

    Args:
        app: Of ASGI.
        listener: The socket.
        begin: What is called once it answers.
        settings: Of `uvicorn.Config`.
    """
    import uvicorn

    class Server(uvicorn.Server):
        """One that a second signal of any kind ends at once, and whose end by a signal is no failure."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if begin is not None and self.started:
                begin()

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            self.force_exit = self.should_exit
            self.should_exit = True

    async def answered(scope: Any, receive: Any, send: Any) -> None:
        # requests that an end at once cancels have their answer; uvicorn would print a traceback for each
        with contextlib.suppress(asyncio.CancelledError):
            await app(scope, receive, send)

    Server(uvicorn.Config(answered, **{"log_level": "warning", **settings})).run(sockets=[listener])
