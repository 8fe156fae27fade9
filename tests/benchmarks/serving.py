"""Measure `moee serve` on loopback: many clients beside a thread per request, and ten times more than it can do.

    python tests/benchmarks/serving.py [--clients 64] [--seconds 60] [--rounds 2] [--model embedded]
    python tests/benchmarks/serving.py --overload

Each server is a process of its own, and so are the clients, each of which sends a short text, waits for the vector,
and sends the next. The servers take turns, round by round. Let nothing else run beside.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import multiprocessing
import random
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import uvicorn
from growth import WORDS
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from moee_hf import MoEEModel
from moee_hf.cli.serve import IDLE_SECONDS
from moee_hf.serving import create_app
from moee_hf.serving.limits import Limits

ROUTE = "/v1/embeddings"
# how many times more requests than there can be answers, and the texts that may wait then
OVERLOAD, MAX_WAITING = 10, 128
BACKLOG = 4096


def thread_per_request(model: MoEEModel, num_threads: int) -> Starlette:
    """What a server is without a queue: each request is an `encode` of its own, in a thread of its own."""
    threads = ThreadPoolExecutor(num_threads)

    def answer(body: bytes) -> dict[str, Any]:
        vectors = model.encode(json.loads(body)["input"], show_progress_bar=False)
        rows = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
        return {"data": [{"index": index, "embedding": row} for index, row in enumerate(rows)]}

    async def embeddings(request: Request) -> Response:
        loop = asyncio.get_running_loop()
        return JSONResponse(await loop.run_in_executor(threads, answer, await request.body()))

    return Starlette(routes=[Route(ROUTE, embeddings, methods=["POST"])])


def run_server(kind: str, source: str, num_threads: int, clients: int, started: Any) -> None:
    """Serve until the process is ended."""
    torch.set_num_threads(num_threads)
    transformers.logging.disable_progress_bar()
    model = MoEEModel.from_pretrained(source)
    model.encode("warm up", show_progress_bar=False)
    apps = {
        "moee serve": lambda: create_app(model),
        "a thread per request": lambda: thread_per_request(model, clients),
        "overload": lambda: create_app(model, limits=Limits(max_texts=MAX_WAITING, max_waiting=MAX_WAITING)),
    }
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(BACKLOG)  # who comes before the server runs waits
        started.put(listener.getsockname()[1])
        config = uvicorn.Config(apps[kind](), log_level="error", backlog=BACKLOG, timeout_keep_alive=IDLE_SECONDS)
        uvicorn.Server(config).run([listener])


@contextlib.contextmanager
def server(kind: str, arguments: argparse.Namespace) -> Iterator[tuple[int, int]]:
    """Run a server in a process of its own, and give its port and the process's number."""
    context = multiprocessing.get_context("spawn")
    started = context.Queue()
    given = (kind, arguments.model, arguments.threads, arguments.clients, started)
    process = context.Process(target=run_server, args=given, daemon=True)
    process.start()
    try:
        yield started.get(timeout=300), process.pid
    finally:
        process.terminate()
        process.join()


@dataclass
class Load:
    """What clients saw.

    Args:
        seconds: How long they sent.
        statuses: How many answers of each status; 0: none, the connection broke.
        latencies: Seconds of each answer with 200.
    """

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)

    def row(self) -> str:
        """Answers a second, latencies and errors, as cells of a table."""
        p50, p99 = 1000 * np.quantile(self.latencies or [np.nan], [0.5, 0.99])
        failed = {status: count for status, count in sorted(self.statuses.items()) if status != 200}
        errors = ", ".join(f"{count} x {status}" for status, count in failed.items()) or "none"
        return f"{self.statuses[200] / self.seconds:.1f} | {p50:.0f} | {p99:.0f} | {errors}"


async def send_requests(port: int, clients: int, seconds: float, pause: float = 0.0) -> Load:
    """Let clients send texts, one at a time each, and wait for their answers.

    Args:
        port: Of the server.
        clients: How many there are; each has a connection of its own.
        seconds: For how long they send.
        pause: Seconds that each client waits between two requests.
    """
    load, started = Load(), time.perf_counter()
    end = started + seconds
    await asyncio.gather(*(_client(port, random.Random(number), end, pause, load) for number in range(clients)))
    load.seconds = time.perf_counter() - started
    return load


async def _client(port: int, draw: random.Random, end: float, pause: float, load: Load) -> None:
    writer, words = None, WORDS.split()
    await asyncio.sleep(pause * draw.random())
    while time.perf_counter() < end:
        text = " ".join(draw.choices(words, k=draw.randint(4, 14)))
        body = json.dumps({"input": [text], "encoding_format": "base64"}).encode()
        started = time.perf_counter()
        try:
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(
                b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (ROUTE.encode(), len(body)) + body
            )
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(re.search(rb"content-length: (\d+)", head.lower())[1]))
            status = int(head.split(b" ", 2)[1])
        except (OSError, asyncio.IncompleteReadError):
            status, writer = 0, None
        load.statuses[status] += 1
        if status == 200:
            load.latencies.append(time.perf_counter() - started)
        await asyncio.sleep(pause)
    if writer is not None:
        writer.close()


def compare(arguments: argparse.Namespace) -> None:
    """Print a row for each server, of all rounds."""
    kinds = ("moee serve", "a thread per request")
    loads = {kind: Load() for kind in kinds}
    with contextlib.ExitStack() as stack:
        ports = {kind: stack.enter_context(server(kind, arguments))[0] for kind in kinds}
        for kind in arguments.rounds * kinds:
            load = asyncio.run(send_requests(ports[kind], arguments.clients, arguments.seconds / arguments.rounds))
            loads[kind].seconds += load.seconds
            loads[kind].statuses += load.statuses
            loads[kind].latencies += load.latencies
    print("| server | clients | answers/s | p50, ms | p99, ms | errors |\n| --- | --- | --- | --- | --- | --- |")
    for kind, load in loads.items():
        print(f"| {kind} | {arguments.clients} | {load.row()} |")


def overload(arguments: argparse.Namespace) -> None:
    """Print a row before, during and after an overload, with the memory of the server."""
    print(f"| requests | answers/s | p50, ms | p99, ms | errors | memory, MiB |\n{'| --- ' * 6}|")
    with server("overload", arguments) as (port, process):

        def row(name: str, clients: int, pause: float = 0.0) -> Load:
            load = asyncio.run(send_requests(port, clients, arguments.seconds, pause))
            offered = sum(load.statuses.values()) / load.seconds
            print(f"| {name}: {offered:.0f}/s | {load.row()} | {_resident(process)} |", flush=True)
            return load

        before = row("as many as can be answered", arguments.clients)
        rate = before.statuses[200] / before.seconds
        clients = OVERLOAD * arguments.clients
        row("ten times as many", clients, clients / (OVERLOAD * rate))
        row("as many as before", arguments.clients)
        peak = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
        print(f"peak memory: {int(peak[1]) // 1024} MiB")


def _resident(process: int) -> int:
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[1]) // 1024


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60, help="of each server, or of each part of an overload")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="of torch, in each server")
    parser.add_argument("--overload", action="store_true")
    arguments = parser.parse_args(argv)
    (overload if arguments.overload else compare)(arguments)


if __name__ == "__main__":
    main()
