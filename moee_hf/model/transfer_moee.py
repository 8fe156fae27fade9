"""Tensors to a device and back, without waiting for it where it works on its own."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


def is_asynchronous(device: torch.device) -> bool:
    """Whether a device works through a queue while this process goes on: CUDA, ROCm, XPU, but neither CPU nor MPS."""
    return device.type != "cpu" and hasattr(torch.get_device_module(device), "Stream")


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor of the host on a device; the copy waits in the device's queue, from memory that is pinned."""
    if tensor.device.type == "cpu" and is_asynchronous(device):
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Rows:
    """Vectors that come from a device batch by batch, in any order; the host waits for them in `take`.

    Args:
        num_rows: How many they are in all.
        device: Where they come from.
    """

    def __init__(self, num_rows: int, device: torch.device):
        self._num_rows, self._device = num_rows, device
        self._buffer: Any = None
        self._order: list[int] = []
        self._done: Any = None

    def put(self, indices: Sequence[int], vectors: torch.Tensor) -> None:
        """Take the vectors of these rows, of shape `(n, size)`."""
        if self._buffer is None:
            self._buffer = _host_memory((self._num_rows, vectors.shape[1]), self._device)
        start = len(self._order)
        self._buffer[start : start + len(indices)].copy_(vectors, non_blocking=True)
        self._order += indices
        if len(self._order) == self._num_rows and is_asynchronous(self._device):
            module = torch.get_device_module(self._device)
            self._done = module.Event()
            self._done.record(module.current_stream(self._device))

    def take(self, rows: Sequence[int]) -> np.ndarray:
        """Wait, and return the vectors of these rows, float32 of shape `(len(rows), size)`."""
        if self._done is not None:
            self._done.synchronize()
        places = np.empty(self._num_rows, np.int64)
        places[self._order] = np.arange(self._num_rows)
        return self._buffer.numpy()[places[rows]]


def _host_memory(shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Return room for what comes from a device, pinned where that lets copies wait in its queue."""
    if is_asynchronous(device):
        with contextlib.suppress(RuntimeError):  # the system pins no more; copies are waited for
            return torch.empty(shape, pin_memory=True)
    return torch.empty(shape)
