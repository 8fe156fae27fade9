"""How far the work is: a bar on a terminal, and elsewhere, as in a log, a line each half minute."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

SECONDS = 30.0


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


class JobProgress:
    """A context that says how far a job of many files is: a bar on a terminal, and elsewhere lines.

    Args:
        files: The number of files to do.
        texts: The number of their texts, or a little more. None: not known.
    """

    def __init__(self, files: int, texts: int | None):
        self._files, self._done = files, 0
        self._lines = None if sys.stderr.isatty() else _Lines(texts)
        self._total = texts

    def __enter__(self) -> Self:
        from tqdm import tqdm

        self._bar = self._lines or tqdm(total=self._total, desc="Embedding", unit="text", unit_scale=True)
        self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.__exit__(*error)

    def texts(self, number: int) -> None:
        """So many more texts are embedded."""
        self._bar.update(number)

    def file(self) -> None:
        """One more file is done."""
        self._done += 1
        self._bar.set_postfix_str(f"{self._done:,} of {self._files:,} files")


class _Lines:
    """What takes the place of a bar; texts count once for each prompt, as they do there."""

    def __init__(self, total: int | None):
        self._total, self._done, self._more = total, 0, ""
        self._start = self._last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def set_postfix_str(self, more: str) -> None:
        self._more = f", {more}"

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
        return ", ".join(parts) + self._more
