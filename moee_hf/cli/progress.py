"""How far the work is: a bar on a terminal, and elsewhere, as in a log, a line each half minute."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

SECONDS = 30.0


class Counted:
    """Texts that come one by one, and how many they are, which says how much is left.

    Args:
        texts: The texts.
        count: Their number.
    """

    def __init__(self, texts: Iterable[str], count: int):
        self._texts, self._count = texts, count

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return self._count


@contextlib.contextmanager
def progress_lines() -> Iterator[None]:
    """Let what is embedded inside the context say in lines how far it is, unless a terminal shows a bar."""
    from transformers.utils import logging

    def lines(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _Lines(kwargs["total"]) if kwargs.get("unit") == "text" else factory(*args, **kwargs)

    if sys.stderr.isatty():
        yield
        return
    before = logging.set_tqdm_hook(lines)
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)


class _Lines:
    """What takes the place of a bar; texts count once for each prompt, as they do there."""

    def __init__(self, total: int | None):
        self._total, self._done = total, 0
        self._start = self._last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, number: int) -> None:
        self._done += number
        now = time.monotonic()
        if number and now - self._last >= SECONDS:
            self._last = now
            print(self._line(now - self._start), file=sys.stderr, flush=True)

    def _line(self, seconds: float) -> str:
        rate = self._done / seconds if seconds else 0.0
        parts = [f"{self._done:,} texts", f"{rate:,.0f} texts/s" if rate >= 10 else f"{rate:.2g} texts/s"]
        if self._total is not None:
            parts[0] = f"{self._done:,} of {self._total:,} texts"
            minutes, left = divmod(round((self._total - self._done) / rate) if rate else 0, 60)
            parts.append(f"{minutes // 60}:{minutes % 60:02}:{left:02} left")
        return ", ".join(parts)
