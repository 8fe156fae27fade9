"""Time, floating-point operations and memory, on any device that torch knows; memory of processes under Linux."""

import multiprocessing
import re
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


def in_new_process(function: Callable, *args: Any) -> Any:
    """Call a function where nothing was allocated before."""
    with multiprocessing.get_context("spawn").Pool(1, torch.set_num_threads, [2]) as pool:
        return pool.apply(function, args)


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Seconds that something takes, until the device has done all of it."""
    synchronize = torch.get_device_module(device).synchronize
    synchronize()
    start = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - start


def median_seconds(run: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    return statistics.median(seconds(run, device) for _ in range(repeats))


def matmul_peak(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Floating-point operations per second of a product of two square matrices."""
    a, b = torch.randn(2, size, size, dtype=dtype, device=device)
    products = 1 if device.type == "cpu" else 10  # a launch takes time as well, while none is under way

    def multiply() -> None:
        for _ in range(products):
            a @ b

    return products * 2 * size**3 / median_seconds(multiply, device)


class PeakMemory:
    """Peak of a memory inside `with`, and its growth over what was held before, in MiB.

    Of a device it is what torch allocates there; where torch does not count, it is this process's memory.
    """

    def __init__(self, device: torch.device | str = "cpu"):
        module = torch.get_device_module(device)
        self._module = module if hasattr(module, "max_memory_allocated") else None

    def __enter__(self) -> "PeakMemory":
        # the peak is counted from here
        if self._module:
            self._module.empty_cache()
            self._module.reset_peak_memory_stats()
            self._before = self._module.memory_allocated() >> 20
        else:
            self._before = _status("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")
        return self

    def __exit__(self, *error: object) -> None:
        self.peak = self._module.max_memory_allocated() >> 20 if self._module else _status("VmHWM")
        self.growth = self.peak - self._before


def _status(field: str) -> int:
    return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024


class Failures(list[str]):
    """What could not be measured: an error is printed, and the measurement goes on."""

    @contextmanager
    def reported(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            print(f"error: {what}: {type(error).__name__}: {error}", flush=True)
            traceback.print_exc(file=sys.stderr)
            self.append(what)
