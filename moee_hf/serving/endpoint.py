"""A route as an ASGI application: what happens to each request, whatever it is for."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from .limits import Admission, Limits, RequestError, Visit
from .metrics import Metrics

logger = logging.getLogger(__name__)

# how much of a body that is too large is read, and forgotten, so that its sender comes to read the answer
DISCARDED = 4
# how long a client may take to send a body, and to read a piece of the answer
CLIENT_SECONDS = 60
# of an answer, in bytes
PIECE = 2**18


class ClientLeftError(Exception):
    """The connection was closed before there was an answer."""


class Gate:
    """What all routes share on the way in and out: the key, the limits, the counts.

    Args:
        limits: What is taken in.
        api_key: What requests must carry. None: nothing.
    """

    def __init__(self, limits: Limits, api_key: str | None):
        self.admission, self.api_key, self.metrics = Admission(limits), api_key, Metrics()

    def check_key(self, request: Request) -> None:
        """Raise `RequestError` unless a request carries the key, if there is one."""
        if self.api_key is None:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        # in the same time, however much of it is right; bytes of a header come as characters of latin-1
        if not hmac.compare_digest(key.strip().encode("latin-1"), self.api_key.encode()) or scheme.lower() != "bearer":
            message = "authorization: expected 'Bearer' and the key of this server; got another, or none."
            raise RequestError(401, message, code="invalid_api_key")


class Body:
    """The body of a request, which is read once, and the end of its connection.

    Args:
        receive: As ASGI has it.
    """

    def __init__(self, receive: Receive):
        self._receive = receive
        self._more = True
        self._end = asyncio.get_running_loop().time() + CLIENT_SECONDS

    async def read(self, most: int, visit: Visit) -> bytes | None:
        """Return the whole body, of no more than so many bytes. None: there is no room for it.

        Raises:
            RequestError: If it is larger, or takes too long to come.
            ClientLeftError: If it does not come.
        """
        content = bytearray()
        try:
            async with asyncio.timeout_at(self._end):
                while self._more:
                    part = await self._next()
                    if len(content) + len(part) > most:
                        message = f"body: expected at most {most} bytes; got more. Send several requests."
                        raise RequestError(413, message, code="body_too_large")
                    if not visit.add_bytes(len(part)):
                        return None
                    content += part
        except TimeoutError:
            message = (
                f"body: expected all of it within {CLIENT_SECONDS} s; got {len(content)} bytes. Send less at once."
            )
            raise RequestError(408, message, code="body_too_slow") from None
        return bytes(content)

    async def discard(self, most: int) -> None:
        """Read the rest and forget it, so that a client that is still sending comes to read why it was refused."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._end):
                while self._more and most > 0:
                    most -= len(await self._next())

    async def wait_for_end(self) -> None:
        """Return when the client has closed the connection; the body has been read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        self._more = message.get("more_body", False)
        return message.get("body", b"")


# answers a request; puts a refusal in the form that the clients of a route read
Answer: TypeAlias = Callable[[Request, Body, Visit], Awaitable[Response]]
Error: TypeAlias = Callable[[RequestError], dict[str, Any]]


class Endpoint:
    """A route as an ASGI application: checks the key, answers, says why not, counts, and makes room again.

    Args:
        gate: What it shares with the others.
        route: Its path.
        answer: Answers a request.
        error: Puts a refusal in the form that its clients read.
    """

    def __init__(self, gate: Gate, route: str, answer: Answer, error: Error):
        self.gate, self.route, self.answer, self.error = gate, route, answer, error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        started, visit, body = time.perf_counter(), Visit(self.gate.admission), Body(receive)
        status, response = 500, None
        try:
            response = await self._answer(Request(scope), body, visit)
            await _send(response, send)
            status = response.status_code
        except asyncio.CancelledError:  # told to end at once, or it takes too long to end
            status = 503
            if response is None:
                ending = "server: expected to have the time for an answer; it was ended before. Ask another."
                with contextlib.suppress(OSError):
                    await _send(self._refused(RequestError(503, ending, code="ended")), send)
            raise
        except (ClientLeftError, OSError):  # while the answer is sent; TimeoutError is one too
            status = 499
        finally:
            visit.leave()
            self.gate.metrics.add_request(self.route, status, time.perf_counter() - started)

    async def _answer(self, request: Request, body: Body, visit: Visit) -> Response:
        try:
            self.gate.check_key(request)
            return await self.answer(request, body, visit)
        except ClientLeftError:
            raise
        except RequestError as error:  # which keeps the body in memory, and is not kept itself
            response = self._refused(error)
        except Exception:
            logger.exception("%s failed", self.route)
            problem = "server: expected to embed the texts; it failed, and goes on."
            response = self._refused(RequestError(500, problem, code="failed"))
        visit.leave()
        await body.discard(DISCARDED * self.gate.admission.limits.max_bytes)
        return response

    def _refused(self, error: RequestError) -> Response:
        headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
        if error.status == 401:
            headers["www-authenticate"] = "Bearer"
        return JSONResponse(self.error(error), error.status, headers)


async def _send(response: Response, send: Send) -> None:
    """Send an answer in pieces, each of which waits until the client has read nearly all before it.

    Raises:
        TimeoutError: If it does not read.
    """
    content = bytes(response.body)
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    # the last one is empty: it waits for those before it
    for start in range(0, len(content) + PIECE, PIECE):
        piece = content[start : start + PIECE]
        async with asyncio.timeout(CLIENT_SECONDS):
            await send({"type": "http.response.body", "body": piece, "more_body": bool(piece)})
