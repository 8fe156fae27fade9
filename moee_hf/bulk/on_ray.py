"""Actors of Ray Data, on this machine or on many, which do one part after another."""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Self

from .inputs import Part
from .work import Result, Work

# the address of a cluster that is started here, for this run alone
LOCAL = "local"
# how long a cluster may take to answer
ANSWER_SECONDS = 10
# how often a file is begun anew whose actor was lost, as with its machine
RETRIES = 3
# rows of Ray Data's that are planned one by one; of more parts, several are handed out together
BLOCKS = 10_000


class OnRay:
    """A context with actors, each with a model of its own; one that is lost with its machine is started elsewhere.

    Args:
        work: The work.
        address: Of a running cluster, as `ray.init` takes it. None: that of `RAY_ADDRESS`, or `"local"`.
        actors: How many at most. None: as many as there are GPUs now; or without any, as processors allow.
        cpus: How many processors an actor has.
        device: Where each loads its model. None: on a GPU of its own, if there are any.

    Raises:
        ImportError: If Ray is not installed.
        ConnectionError: If there is no cluster at the address.
        ValueError: If this machine has no room for the actors; a cluster may grow.
    """

    def __init__(self, work: Work, address: str | None, actors: int | None, cpus: int, device: str | None):
        self._ray = import_ray()
        self._work, self._cpus = work, cpus
        # without a name, Ray would join whatever cluster someone has started here
        self._address = address or os.environ.get("RAY_ADDRESS") or LOCAL
        self._actors, self._device = actors, device

    def __enter__(self) -> Self:
        ray = self._ray
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            _check_answer(self._address)
            ray.init(self._address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise ConnectionError(
                f"ray: expected a cluster to connect to; got: {reason}. Check the address, and the token, if it asks "
                "for one (RAY_AUTH_MODE, RAY_AUTH_TOKEN)."
            ) from error
        resources = ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
        if self._device is None:
            self._device = "cuda" if gpus else "cpu"
        room = cpus // self._cpus if self._device == "cpu" else min(gpus, cpus // self._cpus)
        self._actors = self._actors or max(1, room)
        self._room = max(1, min(self._actors, room))
        if self._actors > room and self._address == LOCAL:  # a cluster of others may add machines
            ray.shutdown()
            raise ValueError(
                f"actors: expected {room} at most, as the cluster has {cpus} processors and {gpus} GPUs, of which "
                f"each takes {self._cpus} and {0 if self._device == 'cpu' else 1}; got {self._actors}. Lower it."
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()

    def run(self, parts: list[Part], progress: Callable[[int], None]) -> Iterator[Result]:
        """Yield what became of each part, as they are done; `progress` is told how many more texts were embedded.

        Raises:
            RuntimeError: If the model cannot be loaded.
        """
        data, attempts = self._ray.data, self._ray.remote(_Attempts).options(num_cpus=0).remote()
        rows = [{"part": pickle.dumps(part)} for part in parts]
        results = data.from_items(rows, override_num_blocks=min(len(rows), BLOCKS)).map(
            _Actor,
            fn_constructor_args=(self._work, self._device, self._cpus, attempts),
            compute=data.ActorPoolStrategy(min_size=self._room, max_size=self._actors),
            num_cpus=self._cpus,
            num_gpus=0 if self._device == "cpu" else 1,
        )
        for result in self._results(results):
            if isinstance(result, str):
                raise RuntimeError(f"ray: expected a model on {self._device} in every actor; got: {result}")
            progress(result.texts)
            yield result

    def _results(self, rows: Any) -> Iterator[Any]:
        try:
            for row in rows.iter_rows():
                yield pickle.loads(row["result"])
        except self._ray.exceptions.RayError as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise RuntimeError(
                f"ray: expected a cluster with room for an actor; got: {reason.strip().rstrip('.')}. See its log, "
                "lower --actors, or embed on this machine: --ray local."
            ) from error


def _check_answer(address: str) -> None:
    """Raise `OSError` if nothing listens at an address, which Ray would wait for, for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()


class _Actor:
    """A process with a model.

    Args:
        work: The work.
        device: Where to load the model.
        cpus: How many processors it has.
        attempts: The actor that counts how often a part was begun.
    """

    def __init__(self, work: Work, device: str, cpus: int, attempts: Any):
        import torch

        torch.set_num_threads(cpus)
        self._work, self._attempts, self._problem = work, attempts, ""
        try:
            self._model = work.load(device)
        except Exception as error:  # Ray would start actors again and again
            self._problem = " ".join(str(error).split()) or type(error).__name__

    def __call__(self, row: dict[str, Any]) -> dict[str, bytes]:
        return {"result": pickle.dumps(self._problem or self._embed(pickle.loads(row["part"])))}

    def _embed(self, part: Part) -> Result:
        before = import_ray().get(self._attempts.begin.remote(part.output))
        if before > RETRIES:  # Ray would begin it anew for ever
            problem = f"ray: expected an actor that lives until the file is done; {before} ended before."
            return Result(part.output, error=problem)
        return self._work.embed(self._model, part)


class _Attempts:
    """Counts how often parts were begun, where the end of an actor is no end of the count."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def begin(self, output: str) -> int:
        """Return how often a part was begun before."""
        self._counts[output] += 1
        return self._counts[output] - 1


def import_ray() -> Any:
    """Return the package.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError('ray: expected Ray Data; it is not installed. pip install "moee_hf[ray]"') from error
    return ray
