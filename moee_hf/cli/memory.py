"""How the allocator of the system serves a command that runs a model on a processor."""

from __future__ import annotations

import contextlib
import ctypes

_M_ARENA_MAX = -8  # of mallopt(3)


def share_one_heap() -> None:
    """Let the threads of this process allocate from one heap, where the C library is glibc; else do nothing.

    Each thread would get a heap of its own, which gives memory back to the system between two layers and asks for it
    again, page by page. With one heap, the atlas of the embedded backbone takes about 2 % less time (two threads,
    1,200 texts). That is for programs of our own: a library does not choose for the process it is in.
    """
    with contextlib.suppress(AttributeError, TypeError):  # another C library, another system
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
