"""The queue, and the one thread that owns the model: texts that wait with the same options are one `encode`.

There is no timer: a batch is what came while the model was busy with the one before. A batch is about half a second of
work at most, as measured on those before it, or `SMALLEST_BATCH` tokens where that is more: a pass takes its time
however little it reads, so that small batches would seem slow, and stay small. Requests take turns within a batch, so
that a small request waits for about one batch, not for all of a large one before it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ..model.inference_moee import token_ids
from ..model.modeling_moee import MoEEModel
from ..model.prompts_moee import TextError
from .limits import refusal
from .metrics import Metrics
from .requests import Options, split_error

logger = logging.getLogger(__name__)

# of a batch; as long as a request may wait behind another
SECONDS = 0.5
# what one request may take of a batch in its turn
SHARE = 1 / 8
# the most tokens of a batch: on a slow machine, and on a fast one
SMALLEST_BATCH, LARGEST_BATCH = 2048, 2**18
# how much the last batch counts in what is known of the speed
RECENT = 0.3
# texts that are tokenised at a time, so that those of a large request do not hold up others
TOKENIZED_AT_A_TIME = 64


@dataclass(eq=False)
class Job:
    """The texts of one request.

    Args:
        texts: The texts.
        names: What each is called in the request.
        tokens: How many tokens are read for each.
        options: How they are embedded.
        result: Gets the vectors of all, of shape `(n, embedding_size)`.
        taken: How many of them have been taken into batches.
        parts: The vectors of those that are done.
    """

    texts: Sequence[str]
    names: Sequence[str]
    tokens: list[int]
    options: Options
    result: asyncio.Future[np.ndarray]
    taken: int = 0
    parts: list[np.ndarray] = field(default_factory=list)


@dataclass(frozen=True)
class Part:
    """Texts of one job that are in a batch: those from `start` to `end`."""

    job: Job
    start: int
    end: int


class Worker:
    """Embeds what is asked for, request by request or many at once; all methods are for one event loop.

    Args:
        model: The model; nobody else uses it meanwhile.
        metrics: Gets what is done.
    """

    def __init__(self, model: MoEEModel, metrics: Metrics):
        self.model, self.metrics = model, metrics
        self.queue: list[Job] = []
        self.waiting_tokens = 0  # that are in no batch yet
        self.tokens_per_second = SMALLEST_BATCH / SECONDS
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="moee-model")
        self._running: asyncio.Task[None] | None = None

    async def embed(self, texts: Sequence[str], names: Sequence[str], options: Options) -> tuple[np.ndarray, int]:
        """Embed texts; when the caller is cancelled, those that still wait are not computed.

        Args:
            texts: The texts.
            names: What each is called in the request, for errors.
            options: How they are embedded.

        Returns:
            Array of shape `(n, embedding_size)`, and the number of tokens read.

        Raises:
            RequestError: If a text cannot be embedded.
            Exception: What `encode` raises of a fault that is not the request's.
        """
        tokens = await self._count_tokens(texts, names, options)
        job = Job(texts, names, tokens, options, asyncio.get_running_loop().create_future())
        num_tokens = sum(tokens)
        self.queue.append(job)
        self.waiting_tokens += num_tokens
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        try:
            return await job.result, num_tokens
        finally:
            self.waiting_tokens -= sum(tokens[job.taken :])
            if job in self.queue:
                self.queue.remove(job)

    def retry_after(self) -> int:
        """Return after how many seconds there should be room again."""
        return min(60, max(1, math.ceil(self.waiting_tokens / self.tokens_per_second)))

    @property
    def queued(self) -> int:
        """The number of texts that are in no batch yet."""
        return sum(len(job.texts) - job.taken for job in self.queue)

    async def _count_tokens(self, texts: Sequence[str], names: Sequence[str], options: Options) -> list[int]:
        """Return how many tokens are read for each text; refuse what has none here, where it is no others' batch."""
        counts: list[int] = []
        for start in range(0, len(texts), TOKENIZED_AT_A_TIME):
            some = texts[start : start + TOKENIZED_AT_A_TIME]
            try:
                counts += await asyncio.to_thread(self._num_tokens, some, options.templates)
            except TextError as error:
                raise refusal(names[start + error.index], error.problem) from None
            except ValueError as error:  # the prompt leaves no room
                raise refusal("prompt", split_error(error)[1]) from None
        return counts

    def _num_tokens(self, texts: Sequence[str], templates: Sequence[str]) -> list[int]:
        rows = [list(map(len, token_ids(self.model, texts, template))) for template in templates]
        return [sum(counts) for counts in zip(*rows, strict=True)]

    async def _run(self) -> None:
        try:
            while self.queue:
                await self._embed(self._take())
        finally:
            self._running = None

    def _take(self) -> list[Part]:
        """Take a batch out of the queue: texts with the options of the request that has waited longest."""
        options = self.queue[0].options
        left = size = min(LARGEST_BATCH, max(SMALLEST_BATCH, self.tokens_per_second * SECONDS))
        starts: dict[Job, int] = {}
        turns = deque(job for job in self.queue if job.options == options)
        while turns and left > 0:
            job = turns.popleft()
            starts.setdefault(job, job.taken)
            share = min(left, size * SHARE)
            while job.taken < len(job.texts) and share > 0:  # one at least, however long
                share -= job.tokens[job.taken]
                left -= job.tokens[job.taken]
                self.waiting_tokens -= job.tokens[job.taken]
                job.taken += 1
            if job.taken < len(job.texts):
                turns.append(job)
        waiting = [job for job in self.queue if job.taken < len(job.texts)]
        self.queue = sorted(waiting, key=starts.__contains__)  # who had a turn is behind who had none
        return [Part(job, start, job.taken) for job, start in starts.items()]

    async def _embed(self, batch: list[Part]) -> None:
        while batch := [part for part in batch if not part.job.result.done()]:
            texts = [text for part in batch for text in part.job.texts[part.start : part.end]]
            started = time.perf_counter()
            try:
                encode = partial(self._encode, texts, batch[0].job.options)
                vectors = await asyncio.get_running_loop().run_in_executor(self._thread, encode)
                seconds = time.perf_counter() - started
                _hand_out(batch, vectors)
            except Exception as error:
                # a text that the model has no finite vector for is the end of its request alone
                if not (isinstance(error, TextError) and self._refuse(batch, error)):
                    logger.exception("a batch of %d texts failed", len(texts))
                    for part in batch:
                        self._fail(part.job, error)
            else:
                tokens = sum(sum(part.job.tokens[part.start : part.end]) for part in batch)
                self.tokens_per_second += RECENT * (tokens / max(seconds, 1e-6) - self.tokens_per_second)
                self.metrics.add_batch(len(texts), tokens)
                return

    def _encode(self, texts: list[str], options: Options) -> np.ndarray:
        vectors = self.model.encode(
            texts,
            prompt=list(options.templates),
            combination=options.combination,
            alpha=options.alpha,
            normalize_embeddings=options.normalize,
            show_progress_bar=False,
        )
        return np.asarray(vectors)

    def _refuse(self, batch: list[Part], error: TextError) -> bool:
        """Refuse the request whose text cannot be embedded. False: there is none."""
        index = error.index
        for part in batch:
            if 0 <= index < part.end - part.start:
                self._fail(part.job, refusal(part.job.names[part.start + index], error.problem))
                return True
            index -= part.end - part.start
        return False

    def _fail(self, job: Job, error: Exception) -> None:
        if not job.result.done():
            job.result.set_exception(error)
        if job in self.queue:
            self.queue.remove(job)


def _hand_out(batch: list[Part], vectors: np.ndarray) -> None:
    """Give each job its vectors, and those that are done all of theirs."""
    start = 0
    for part in batch:
        end = start + part.end - part.start
        # a copy, so that no request keeps the vectors of others in memory
        part.job.parts.append(vectors[start:end].copy())
        start = end
        if part.end == len(part.job.texts) and not part.job.result.done():
            part.job.result.set_result(np.concatenate(part.job.parts))
