"""What a command does when it is told to end: it cleans up, as after an error."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

# that of `kill`, and that of a terminal which is closed; Windows has no such
_NAMES = ("SIGTERM", "SIGHUP")


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let signals that end the process raise `SystemExit` inside the context, with 128 and their number.

    One that is ignored, as under `nohup`, stays ignored.
    """
    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    # only the main thread may say what a signal does
    mine = [number for number in numbers if before[number] == signal.SIG_DFL]
    mine = mine if threading.current_thread() is threading.main_thread() else []
    for number in mine:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, before[number])


def _end(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one does not end the cleaning up
    print(f"moee: ended by {signal.Signals(number).name}", file=sys.stderr)
    raise SystemExit(128 + number)
