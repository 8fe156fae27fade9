"""How far the work is: a bar on a terminal, and elsewhere, as in a log, a line each half minute."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any, Self

# between lines; until there is a bar, as short work needs none
SECONDS, DELAY = 30.0, 1.0


class Progress:
    """A context in which work says how far it is; what the library embeds inside it counts itself.

        with Progress() as progress:
            progress.say("task 1 of 3, STSBenchmark")
            model.encode(texts)

    A bar is gone when the context ends; what came of the work is for the caller to say.
    """

    def __enter__(self) -> Self:
        from transformers.utils import logging

        self._before = logging.set_tqdm_hook(self._counted)
        self._bar = _bar() if sys.stderr.isatty() else None
        self._task = None if self._bar is None else self._bar.add_task("", total=None, line="")
        self._first = time.monotonic()
        self._said = ""
        self.begin(None)
        return self

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging

        logging.set_tqdm_hook(self._before)
        if self._bar is not None:
            self._bar.stop()

    def _counted(self, factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What takes the place of a bar of transformers; texts count once for each prompt, as they do there."""
        if kwargs.get("unit") != "text" or kwargs.get("disable"):
            return factory(*args, **kwargs)
        self.begin(kwargs["total"])
        return contextlib.nullcontext(self)

    def begin(self, total: int | None) -> None:
        """So many texts come now. None: it is not known how many."""
        self._total, self._done = total, 0
        self._start = self._last = time.monotonic()
        self._show()

    def update(self, number: int) -> None:
        """So many more texts are embedded."""
        self._done += number
        now = time.monotonic()
        if self._bar is not None:
            self._show()
        elif number and now - self._last >= SECONDS:
            self._last = now
            print(self._line(now - self._start), file=sys.stderr, flush=True)

    def say(self, words: str) -> None:
        """Say so beside the numbers from now on, such as which task it is."""
        self._said = words
        self._show()

    def _show(self) -> None:
        if self._bar is None or time.monotonic() - self._first < DELAY:
            return
        self._bar.start()  # the first time
        line = self._line(time.monotonic() - self._start) if self._done else self._said
        self._bar.update(self._task, completed=self._done, total=self._total, line=line)

    def _line(self, seconds: float) -> str:
        rate = self._done / seconds if seconds else 0.0
        parts = [f"{self._done:,} texts", f"{rate:,.0f} texts/s" if rate >= 10 else f"{rate:.2g} texts/s"]
        if self._total is not None:
            parts[0] = f"{self._done:,} of {self._total:,} texts"
            minutes, left = divmod(round((self._total - self._done) / rate) if rate else 0, 60)
            parts.append(f"{minutes // 60}:{minutes % 60:02}:{left:02} left")
        return ", ".join([*parts, self._said] if self._said else parts)


def _bar() -> Any:
    """A bar on standard error, not shown yet, with a line behind it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (BarColumn(bar_width=24), TextColumn("{task.fields[line]}", markup=False))
    return Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=4)
