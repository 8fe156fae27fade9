"""The devices of this machine, and texts that are shared out among several of them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .batching_moee import distinct, windows
from .functional_moee import Mix
from .inference_moee import bytes_per_text, wanted_of
from .prompts_moee import TextError, stream_texts
from .stream_moee import delayed, embed_stream, progress_bar
from .workers_moee import Worker, running

if TYPE_CHECKING:
    from .modeling_moee import MoEEModel


def accelerators() -> list[str]:
    """Return the names of this machine's accelerators, such as `["cuda:0", "cuda:1"]`; torch calls ROCm's cuda too."""
    if hasattr(torch, "accelerator"):
        here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        kinds = [] if here is None else [here.type]
    else:  # before torch 2.6
        kinds = ["cuda", "xpu", "mps"]
    return [f"{kind}:{index}" for kind in kinds for index in range(_count(kind))]


def find_device(where: str, name: object, others: Sequence[str] = ()) -> torch.device:
    """Return a device of this machine.

    Args:
        where: What the errors begin with.
        name: Its name, such as `"cuda:1"`.
        others: What else could stand there, for the errors.

    Raises:
        TypeError: If this is no name.
        ValueError: If there is no such device here.
    """
    if not isinstance(name, str | torch.device):
        raise TypeError(f"{where}: expected a name, such as 'cuda:0'; got {name!r} of type {type(name).__name__}.")
    device = None
    with contextlib.suppress(RuntimeError, ValueError):  # of a name that torch does not know
        device = torch.device(name)
    if device is None or (device.index or 0) >= _count(device.type):
        here = ", ".join([*others, "cpu", *accelerators()])
        raise ValueError(f"{where}: expected one that is here ({here}); got {str(name)!r}.")
    return device


def _count(kind: str) -> int:
    """Return how many devices of a kind torch finds here; for every kind it has a module of that name."""
    count = getattr(getattr(torch, kind, None), "device_count", None)
    return 0 if count is None else count()


def find_devices(devices: object) -> list[torch.device]:
    """Return the devices that an argument `devices` stands for: a list of names, or `"all"` accelerators.

    Raises:
        TypeError: If it is something else.
        ValueError: If a device is not here, or there is none.
    """
    if isinstance(devices, str) and devices == "all":
        if not (devices := accelerators()):
            raise ValueError(
                "devices: expected an accelerator for 'all'; got none, as torch finds only the cpu here. Leave it "
                "out, or install a torch that is built for your accelerator."
            )
    elif isinstance(devices, str | torch.device):
        raise ValueError(f"devices: expected several in a list, or 'all'; got {str(devices)!r}. Put it in a list.")
    if not isinstance(devices, list | tuple):
        raise TypeError(
            f"devices: expected a list of names, such as ['cuda:0', 'cuda:1'], or 'all'; got {devices!r} of type "
            f"{type(devices).__name__}."
        )
    if not devices:
        raise ValueError("devices: expected one or more; got an empty list. Leave it out to embed where the model is.")
    return [find_device("devices", device) for device in devices]


def embed_on_devices(
    model: MoEEModel,
    texts: str | Iterable[str],
    templates: Sequence[str],
    mix: Mix,
    batch_size: int | None,
    show_progress_bar: bool | None,
    devices: object,
) -> Iterator[np.ndarray]:
    """Embed texts as they come, as `embed_stream` does, on several devices at once; bad arguments are refused at once.

    Args:
        model: The model, on the CPU.
        texts: As in `embed_stream`, here and below.
        templates: The prompts.
        mix: How HS and RW become one vector.
        batch_size: The most texts per forward pass, on each device.
        show_progress_bar: As in `embed_stream`.
        devices: As `find_devices` takes them. One that is named twice has two processes.

    Returns:
        An iterator over float32 arrays of shape `(n, size)`, each of the next n texts: a window for each device.

    Raises:
        TypeError: If an argument is of another type.
        TextError: If a text cannot be embedded, or an embedding is not finite.
        ValueError: If an argument has no such value, or the model is not whole and on the CPU.
        RuntimeError: If a process ends, or cannot compute on its device.
    """
    found = find_devices(devices)
    _check_model(model)
    embed_stream(model, (), templates, mix, batch_size, show_progress_bar)  # refuses bad arguments, as everywhere
    stream, num_templates = stream_texts(texts), len(templates)
    size = num_templates * bytes_per_text(model, wanted_of(model, mix))

    def parts() -> Iterator[np.ndarray]:
        groups = _join(windows(stream, found[0], size), len(found))
        if (group := next(groups, None)) is None:  # no process is started for nothing
            return
        with (
            progress_bar(show_progress_bar, texts, num_templates) as progress,
            running(model, found) as workers,
        ):

            def jobs() -> Iterator[_Job]:
                first = 0
                for texts in itertools.chain([group], groups):
                    yield _Job.start(texts, first, workers, (templates, mix, batch_size))
                    first += len(texts)

            for job in delayed(jobs(), 1):  # the devices work on one group while another is read and gathered
                yield job.result(progress, num_templates)

    return parts()


def _check_model(model: MoEEModel) -> None:
    """Raise `ValueError` unless a model is whole, on the CPU, and of weights that can go elsewhere."""
    tensors = [*model.parameters(), *model.buffers()]
    expected = "devices: expected a model on the CPU, which each process takes to its device; got one"
    advice = "Load it without device_map"
    if any(tensor.is_meta for tensor in tensors):
        raise ValueError(f"{expected} that is offloaded. {advice}.")
    if elsewhere := [tensor.device for tensor in tensors if tensor.device.type != "cpu"]:
        raise ValueError(f"{expected} on {elsewhere[0]}. {advice}, or move it there: model.to('cpu').")
    if getattr(model.model, "hf_quantizer", None) is not None:
        raise ValueError(f"{expected} that is quantized, for one device. {advice} and quantization_config.")


def _join(parts: Iterator[list[str]], number: int) -> Iterator[list[str]]:
    """Join lists of texts, so many at a time; those before an error come before it."""
    joined: list[str] = []
    try:
        for count, part in enumerate(parts, 1):
            joined += part
            if count % number == 0:
                yield joined
                joined = []
    except Exception:
        if joined:
            yield joined
        raise
    if joined:
        yield joined


@dataclass(frozen=True)
class _Job:
    """A group of texts that the devices are working on.

    Args:
        first: The number of its first text.
        inverse: For each text, which of the different ones it is.
        shares: For each share of the different texts, which they are.
    """

    first: int
    inverse: list[int]
    shares: dict[Future[np.ndarray], list[int]]

    @classmethod
    def start(cls, texts: list[str], first: int, workers: list[Worker], options: tuple[Any, ...]) -> _Job:
        """Share texts out: equal ones once, and to each worker the same mix of long and short ones."""
        unique, inverse = distinct(texts)
        order = sorted(range(len(unique)), key=lambda index: len(unique[index]), reverse=True)
        shares = {}
        for number, worker in enumerate(workers):
            if indices := order[number :: len(workers)]:
                shares[worker.ask([unique[index] for index in indices], *options)] = indices
        return cls(first, inverse, shares)

    def result(self, progress: Any, num_templates: int) -> np.ndarray:
        """Return the embeddings, of shape `(n, size)`, once all are there; `progress` counts texts in each prompt.

        Raises:
            TextError: Of the first text that cannot be embedded, with its number among all texts.
            RuntimeError: As soon as a worker fails.
        """
        embeddings, errors, num_unique = np.empty((0, 0), np.float32), [], max(self.inverse) + 1
        for future in as_completed(self.shares):
            indices = self.shares[future]
            try:
                part = future.result()
            except TextError as error:
                errors.append(error.renumbered(indices[error.index]))
                continue
            if not len(embeddings):
                embeddings = np.empty((num_unique, part.shape[1]), np.float32)
            embeddings[indices] = part
            progress.update(len(indices) * num_templates)
        if errors:
            earliest = min(errors, key=lambda error: error.index)
            raise earliest.renumbered(self.first + self.inverse.index(earliest.index))
        progress.update((len(self.inverse) - num_unique) * num_templates)
        return embeddings[self.inverse]
