"""A process for each device, which embeds there what the caller's process sends it.

The two talk over the pipes of standard input and output. The weights lie once in memory for all processes.
multiprocessing would run the caller's script again in each of them, and fail where that has no
`if __name__ == "__main__":`, or comes from standard input.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers.utils import logging

from .functional_moee import Mix
from .prompts_moee import TextError
from .stream_moee import embed_stream

if TYPE_CHECKING:
    from .modeling_moee import MoEEModel

# run with `-P`: the working directory hides no module of the standard library until the caller's own path is there
PROGRAM = """
import importlib, pickle, sys
sys.path[:], module = pickle.load(sys.stdin.buffer)
importlib.import_module(module).serve()
"""


@contextlib.contextmanager
def running(model: MoEEModel, devices: Sequence[torch.device]) -> Iterator[list[Worker]]:
    """Let a model run on each of these devices inside the context.

    Raises:
        ValueError: If the model cannot be pickled.
        RuntimeError: If it does not fit on a device.
    """
    _ = model.tokenizer  # is loaded once here, not in every process
    num_threads = max(1, torch.get_num_threads() // len(devices))
    workers: list[Worker] = []
    try:
        for device in devices:
            workers.append(Worker(device))
        with _file_of(model) as path:  # which is gone when all have taken it to their devices
            options = (num_threads, torch.get_float32_matmul_precision(), logging.get_verbosity())
            for future in as_completed([worker.ask(path, worker.device, *options) for worker in workers]):
                future.result()
        yield workers
    finally:
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.close()


class Worker:
    """A process for one device, which answers one question after another.

    Args:
        device: The device.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self._thread = ThreadPoolExecutor(max_workers=1)
        with _without_interrupts():  # Ctrl-C is for the caller, who ends this process
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        self._questions: Any = self._process.stdin
        self._answers: Any = self._process.stdout
        self._thread.submit(self._send, (sys.path, __name__))

    def kill(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()

    def close(self) -> None:
        """Wait for its end, after `kill`."""
        self._thread.shutdown(cancel_futures=True)  # its pipes have come to an end
        for pipe in (self._questions, self._answers):
            with contextlib.suppress(OSError):
                pipe.close()
        self._process.wait()

    def ask(self, *question: Any) -> Future[Any]:
        """Send a question once those before it are answered; errors are those of `embed_on_devices`."""
        return self._thread.submit(self._answer, question)

    def _send(self, value: Any) -> None:
        pickle.dump(value, self._questions, protocol=pickle.HIGHEST_PROTOCOL)
        self._questions.flush()

    def _answer(self, question: tuple[Any, ...]) -> Any:
        try:
            self._send(question)
            answer = pickle.load(self._answers)
        except (OSError, EOFError, pickle.UnpicklingError):  # its end of the pipes is closed
            raise self._error(f"its process {_cause(self._process.wait())}") from None
        if isinstance(answer, _Failure):
            raise self._error(answer.problem)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _error(self, problem: str) -> RuntimeError:
        return RuntimeError(
            f"devices: expected {self.device} to embed its share of the texts; {problem} Lower batch_size, leave the "
            f"device out, or try it alone: model.to('{self.device}')."
        )


def _cause(code: int) -> str:
    """Say how a process ended that nobody told to."""
    if code >= 0:
        return f"ended with exit code {code}, and has printed why if it could."
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    hint = (
        " The machine's memory may be short: it must hold the weights twice while devices load them."
        if name == "SIGKILL"
        else ""
    )
    return f"was ended by {name}.{hint}"


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let processes that start inside the context never see an interruption by the keyboard."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _file_of(model: MoEEModel) -> Iterator[str]:
    """Write a model to a file that other processes map: in memory where there are such files, else on disk.

    /dev/shm, where torch shares tensors, is small in containers, and takes an open file for every weight.
    """
    with contextlib.ExitStack() as stack:
        if hasattr(os, "memfd_create"):
            stack.callback(os.close, descriptor := os.memfd_create("moee"))
            path, where = f"/proc/{os.getpid()}/fd/{descriptor}", "in memory"
        else:
            where = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            path = os.path.join(where, "model.pt")
        try:
            torch.save(model, path)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ValueError(
                f"devices: expected a model that other processes can have; got one that does not pickle ({error}). "
                "Remove hooks and functions that are defined inside others."
            ) from error
        except RuntimeError as error:
            raise RuntimeError(
                f"devices: expected room {where} for a copy of the model, which all processes read; got an error "
                f"({' '.join(str(error).split())}). Free some, or load the model in bfloat16."
            ) from error
        yield path


# what runs in the process of a device


@dataclass(frozen=True)
class _Failure:
    """An error of any class, not all of which can be pickled."""

    problem: str


def serve() -> None:
    """Answer the questions that come on standard input, until its end: the first is how to load the model."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    questions: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(questions,), daemon=True).start()
    model: MoEEModel | None = None
    while True:
        question = questions.get()
        answer: Any = None
        try:
            if model is None:
                model = _loaded(*question)
            else:
                answer = _embed(model, *question)
        except ValueError as error:
            answer = error if isinstance(error, TextError) else ValueError(str(error))
        except Exception as error:
            answer = _Failure(f"got {type(error).__name__}: {' '.join(str(error).split())[:300].rstrip('.')}.")
        pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()


def _read(questions: queue.SimpleQueue[tuple[Any, ...]]) -> None:
    """Pass questions on; when the caller's process is gone, end this one, whatever it does."""
    try:
        while True:
            questions.put(pickle.load(sys.stdin.buffer))
    finally:
        os._exit(1)


def _loaded(path: str, device: torch.device, num_threads: int, matmul_precision: str, verbosity: int) -> MoEEModel:
    logging.set_verbosity(verbosity)
    torch.set_num_threads(num_threads)
    torch.set_float32_matmul_precision(matmul_precision)
    try:
        # the caller's process has just written it; its pages are the same ones for all processes
        model = torch.load(path, map_location="cpu", mmap=True, weights_only=False)
    except (AttributeError, ImportError) as error:
        raise ValueError(
            f"devices: expected a model whose classes other processes can import; got one of others ({error}). Move "
            "what a script defines to a module beside it."
        ) from error
    if device.index is not None and hasattr(module := torch.get_device_module(device), "set_device"):
        module.set_device(device)  # where kernels run that ask for no tensor's device
    return model.to(device)


def _embed(
    model: MoEEModel, texts: list[str], templates: Sequence[str], mix: Mix, batch_size: int | None
) -> np.ndarray:
    return np.concatenate(list(embed_stream(model, texts, templates, mix, batch_size, show_progress_bar=False)))
