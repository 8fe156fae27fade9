"""Clients that neither send nor read take no room from others; how each request ended is counted as it was."""

import asyncio
import base64
import contextlib
import json
import socket
import time
import tracemalloc
from urllib.parse import urlsplit

import numpy as np
import pytest
from support.serving import Exchange, metrics, wait_for

from moee_hf.serving import application, create_app, endpoint, limits
from moee_hf.serving.limits import Limits

ROUTE = "/v1/embeddings"


def endings(app):
    """How many requests for embeddings ended with each status."""
    gate = next(route.app.gate for route in app.routes if route.path == ROUTE)
    assert (gate.admission.texts, gate.admission.bytes) == (0, 0)
    return {status: count for (route, status), count in gate.metrics.requests.items() if route == ROUTE}


def test_a_body_that_does_not_come_is_refused(model, monkeypatch):
    monkeypatch.setattr(endpoint, "CLIENT_SECONDS", 0.1)
    app = create_app(model)

    async def run():
        exchange = Exchange(ROUTE, [b'{"input": '], ends=False)
        await exchange.run(app)
        return exchange

    exchange = asyncio.run(run())
    assert exchange.status == 408
    message = json.loads(exchange.content)["error"]["message"]
    assert message == "body: expected all of it within 0.1 s; got 10 bytes. Send less at once."
    assert endings(app) == {408: 1}


def test_what_is_refused_is_not_kept_while_its_rest_is_awaited(model):
    app = create_app(model, limits=Limits(max_bytes=2**22))

    async def run():
        exchange = Exchange(ROUTE, (b" " * 2**20 for _ in range(5)), ends=False)
        before, _ = tracemalloc.get_traced_memory()
        task = asyncio.create_task(exchange.run(app))
        await exchange.waits.wait()
        after, peak = tracemalloc.get_traced_memory()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return peak - before, after - before

    tracemalloc.start()
    try:
        peak, kept = asyncio.run(run())
    finally:
        tracemalloc.stop()
    assert kept < 2**20 < 2**22 < peak


def test_memory_that_is_taken_by_bodies_is_said(model, monkeypatch):
    monkeypatch.setattr(limits, "BODIES", 1)
    app = create_app(model, limits=Limits(max_bytes=100))

    async def run():
        stalled, late = Exchange(ROUTE, [b" " * 60], ends=False), Exchange("/embed", [b" " * 60])
        task = asyncio.create_task(stalled.run(app))
        await stalled.waits.wait()
        await late.run(app)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return late

    late = asyncio.run(run())
    assert (late.status, late.headers[b"retry-after"]) == (429, b"1")
    assert json.loads(late.content)["error"].startswith(
        "server: expected fewer bytes of requests; the memory for them"
    )


def test_bodies_are_read_one_at_a_time(model, monkeypatch):
    app, original, readers = create_app(model), application.read_openai, []

    def read(body, served):
        readers.append(1)
        time.sleep(0.02)  # others would begin
        assert sum(readers) == 1
        wanted = original(body, served)
        readers.append(-1)
        return wanted

    monkeypatch.setattr(application, "read_openai", read)

    async def run():
        await asyncio.gather(*(Exchange(ROUTE, [b'{"input": "x"}']).run(app) for _ in range(4)))

    asyncio.run(run())
    assert endings(app) == {200: 4}


def test_a_request_is_counted_until_its_answer_is_read(serving, model, monkeypatch):
    vectors = np.random.default_rng(0).standard_normal((50, 80_000), dtype=np.float32)  # more than sockets hold
    monkeypatch.setattr(model, "encode", lambda texts, **options: vectors[[int(text) for text in texts]])
    url = serving()
    content = json.dumps({"input": [str(index) for index in range(50)], "encoding_format": "base64"}).encode()
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        connection.sendall(
            b"POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
            % (ROUTE.encode(), len(content), content)
        )
        answer = bytearray(connection.recv(1000))
        assert metrics(url)["moee_admitted_texts"] == 50
        while part := connection.recv(2**20):
            answer += part
    head, _, content = bytes(answer).partition(b"\r\n\r\n")
    assert b"content-length: %d\r\n" % len(content) in head + b"\r\n"
    got = [base64.b64decode(item["embedding"]) for item in json.loads(content)["data"]]
    assert b"".join(got) == vectors.tobytes()
    wait_for(url, moee_admitted_texts=0)


def test_who_does_not_read_the_answer_left(model, monkeypatch):
    monkeypatch.setattr(endpoint, "CLIENT_SECONDS", 0.5)
    app = create_app(model)

    async def run():
        exchange = Exchange(ROUTE, [b'{"input": "x"}'], reads=False)
        await exchange.run(app)
        assert exchange.waits.is_set()

    asyncio.run(run())
    assert endings(app) == {499: 1}


@pytest.mark.parametrize(("error", "status"), [(BrokenPipeError, 499), (ZeroDivisionError, 500)])
def test_an_answer_that_cannot_be_sent_is_counted_by_the_reason(model, error, status):
    app = create_app(model)

    async def run():
        exchange = Exchange(ROUTE, [b'{"input": "x"}'])

        async def fail(message):
            raise error

        exchange._send = fail
        await exchange.run(app)

    with contextlib.nullcontext() if status == 499 else pytest.raises(error):
        asyncio.run(run())
    assert endings(app) == {status: 1}


def test_who_ends_a_request_ends_it_all_and_its_client_is_told(model, held):
    app = create_app(model)

    async def run():
        exchange = Exchange(ROUTE, [b'{"input": "x"}'])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await exchange.run(app)
        held.go.set()
        return exchange

    exchange = asyncio.run(run())
    assert held.is_held.is_set()
    assert exchange.status == 503
    assert json.loads(exchange.content)["error"]["code"] == "ended"
    assert endings(app) == {503: 1}


def test_an_application_starts_again(model):
    app = create_app(model)

    async def run():
        for _ in range(2):
            async with app.router.lifespan_context(app):
                exchange = Exchange(ROUTE, [b'{"input": "x"}'])
                await exchange.run(app)
                assert exchange.status == 200

    for _ in range(2):  # in another event loop too
        asyncio.run(run())
    assert endings(app) == {200: 4}
