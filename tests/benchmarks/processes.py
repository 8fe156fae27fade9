"""Memory of the operating system's processes (Linux)."""

import multiprocessing
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def in_new_process(function: Callable, *args: Any) -> Any:
    """Call a function where nothing was allocated before."""
    with multiprocessing.get_context("spawn").Pool(1, torch.set_num_threads, [2]) as pool:
        return pool.apply(function, args)


class PeakMemory:
    """Peak of this process's memory inside `with`, and its growth over what was held before, in MiB."""

    def __enter__(self) -> "PeakMemory":
        self._before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
        return self

    def __exit__(self, *error: object) -> None:
        self.peak = _status("VmHWM")
        self.growth = self.peak - self._before


def _status(field: str) -> int:
    return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024
