"""What a server has done, in the text format of Prometheus (0.0.4)."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterator, Sequence

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Histogram:
    """How many values lie at or below each bound.

    Args:
        bounds: In ascending order.
    """

    def __init__(self, bounds: Sequence[float]):
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str, label: str = "") -> Iterator[str]:
        """Yield the lines of the format; `label` is put before that of the bound."""
        total = 0
        for bound, count in zip([*self.bounds, "+Inf"], self.counts, strict=True):
            total += count
            yield f'{name}_bucket{{{label}{"," if label else ""}le="{bound}"}} {total}'
        braces = f"{{{label}}}" if label else ""
        yield f"{name}_sum{braces} {self.sum:.9g}"
        yield f"{name}_count{braces} {total}"


class Metrics:
    """The counts; written by the event loop alone."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()  # by route and status
        self.seconds: dict[str, Histogram] = {}  # by route, of those that were answered with 200
        self.texts = 0
        self.tokens = 0
        self.batches = Histogram(_BATCH_SIZES)

    def add_request(self, route: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self.requests[route, status] += 1
        if status == 200:
            self.seconds.setdefault(route, Histogram(_SECONDS)).observe(seconds)

    def add_batch(self, num_texts: int, num_tokens: int) -> None:
        """Count texts that were embedded together."""
        self.texts += num_texts
        self.tokens += num_tokens
        self.batches.observe(num_texts)

    def text(self, admitted: int, queued: int) -> str:
        """Return all as text.

        Args:
            admitted: The texts that are taken in now, and not answered yet; one in several prompts counts for each.
            queued: Those of them that the model has not begun.
        """
        return "\n".join(self._lines(admitted, queued)) + "\n"

    def _lines(self, admitted: int, queued: int) -> Iterator[str]:
        meaning = "Requests by route and status; 499: the client left, or did not read the answer."
        yield from _head("moee_requests_total", "counter", meaning)
        for (route, status), count in sorted(self.requests.items()):
            yield f'moee_requests_total{{route="{route}",code="{status}"}} {count}'
        yield from _head("moee_request_seconds", "histogram", "Time from a request to its answer, of those with 200.")
        for route, histogram in sorted(self.seconds.items()):
            yield from histogram.lines("moee_request_seconds", f'route="{route}"')
        yield from _head("moee_texts_total", "counter", "Texts embedded.")
        yield f"moee_texts_total {self.texts}"
        yield from _head("moee_tokens_total", "counter", "Tokens read, those of prompts among them.")
        yield f"moee_tokens_total {self.tokens}"
        yield from _head("moee_batch_texts", "histogram", "Texts that were embedded together.")
        yield from self.batches.lines("moee_batch_texts")
        yield from _head("moee_admitted_texts", "gauge", "Texts taken in and not answered yet.")
        yield f"moee_admitted_texts {admitted}"
        yield from _head("moee_queued_texts", "gauge", "Those of them that the model has not begun.")
        yield f"moee_queued_texts {queued}"


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
