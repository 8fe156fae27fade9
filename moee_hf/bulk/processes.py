"""A process for each device of this machine, which does one part after another."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Self

from .inputs import Part
from .work import Result, Work

# new ones, which share no lock or thread with this one
_context = multiprocessing.get_context("spawn")


class Processes:
    """A context with a process for each device, each with a model of its own.

    Args:
        work: The work.
        devices: Names of devices; one may be there several times.

    Raises:
        RuntimeError: If a model cannot be loaded.
    """

    def __init__(self, work: Work, devices: Sequence[str]):
        self._work, self._devices = work, devices
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        try:
            for device in self._devices:
                self._workers.append(_Worker(self._work, device, len(self._devices)))
            for worker in self._workers:
                worker.wait_until_loaded()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.end()

    def run(self, parts: list[Part], progress: Callable[[int], None]) -> Iterator[Result]:
        """Yield what became of each part, as they are done; `progress` is told how many more texts were embedded.

        Raises:
            RuntimeError: If the model cannot be loaded again, where a process ended.
        """
        waiting, idle = deque(parts), list(range(len(self._workers)))
        busy: dict[Connection, tuple[int, Part]] = {}
        while waiting or busy:
            while waiting and idle:
                number, part = idle.pop(), waiting.popleft()
                with contextlib.suppress(OSError):  # it has ended, which is found when it should answer
                    self._workers[number].connection.send(part)
                busy[self._workers[number].connection] = (number, part)
            ready: list[Any] = wait(list(busy))
            for connection in ready:
                number, part = busy.pop(connection)
                try:
                    result = connection.recv()
                except (EOFError, OSError):
                    result = Result(part.output, error=self._restart(number), passes=True)
                idle.append(number)
                progress(result.texts)
                yield result

    def _restart(self, number: int) -> str:
        """Start a process anew that has ended, and return why it did."""
        cause = self._workers[number].cause()
        self._workers[number].end()
        self._workers[number] = _Worker(self._work, self._devices[number], len(self._devices))
        self._workers[number].wait_until_loaded()
        return f"devices: expected {self._devices[number]} to embed the file; its process {cause}."


class _Worker:
    """A process.

    Args:
        work: The work.
        device: Where to load the model.
        count: How many processes share the processor.
    """

    def __init__(self, work: Work, device: str, count: int):
        self._device = device
        self.connection, other = _context.Pipe()
        self._process = _context.Process(target=_serve, args=(other, work, device, count), daemon=True)
        self._process.start()
        other.close()  # so that the end of the process is the end of the connection

    def wait_until_loaded(self) -> None:
        try:
            problem = self.connection.recv()
        except (EOFError, OSError):
            problem = f"its process {self.cause()}."
        if problem is not None:
            raise RuntimeError(f"devices: expected a model on {self._device}; {problem}")

    def cause(self) -> str:
        """Say how the process ended that nobody told to."""
        self._process.join()
        code = self._process.exitcode or 0
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.join()
        self.connection.close()


def _serve(connection: Connection, work: Work, device: str, count: int) -> None:
    """Run in the process: say that the model is loaded, or why not; then do what comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller, who ends this process
    parts: queue.SimpleQueue[Part] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(connection, parts), daemon=True).start()
    try:
        import torch

        torch.set_num_threads(max(1, torch.get_num_threads() // count))
        model = work.load(device)
    except Exception as error:
        connection.send(" ".join(str(error).split()) or type(error).__name__)
        return
    connection.send(None)
    while True:
        connection.send(work.embed(model, parts.get()))


def _read(connection: Connection, parts: queue.SimpleQueue[Part]) -> None:
    """Pass on what comes; when the caller's process is gone, end this one, whatever it does."""
    try:
        while True:
            parts.put(connection.recv())
    finally:
        os._exit(1)
