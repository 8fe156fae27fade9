"""Any number of texts to embeddings, window by window, in flat memory."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from transformers.utils import logging

from .batching_moee import Batches, distinct, windows
from .capture_moee import Capture, Wanted
from .fitted_moee import check_calibration, find_prompt_indices
from .functional_moee import Mix, check_count, check_flag
from .inference_moee import (
    batches_for,
    bytes_per_text,
    check_finite,
    embeddings_of,
    finish,
    raw_of,
    run_texts,
    token_ids,
    wanted_of,
)
from .prompts_moee import TextError, stream_texts
from .transfer_moee import Rows, is_asynchronous

if TYPE_CHECKING:
    from .modeling_moee import MoEEModel

Item = TypeVar("Item")


def embed_stream(
    model: MoEEModel,
    texts: str | Iterable[str],
    templates: Sequence[str],
    mix: Mix,
    batch_size: int | None = None,
    show_progress_bar: bool | None = None,
) -> Iterator[np.ndarray]:
    """Embed texts as they come; bad arguments are refused at once.

    Args:
        model: The model.
        texts: One text, or any number.
        templates: The prompts, each with `{text}` once; the embedding is the mean of what the text gives in each.
        mix: How HS and RW become one vector.
        batch_size: The most texts per forward pass. None: as many as the device is fast with.
        show_progress_bar: None: on a terminal, once the work has taken some seconds.

    Returns:
        An iterator over float32 arrays of shape `(n, size)`, each of the next n texts: one of `windows`.

    Raises:
        TypeError: If a text is not a string.
        TextError: If a text cannot be embedded, or an embedding is not finite.
        ValueError: If an argument has no such value, or a prompt leaves no room for text.
    """
    if mix.standardize:
        check_calibration(model.config, templates)
    numbers = find_prompt_indices(model.config, templates)
    source, activation = model.config.hidden_source, model.config.router_activation

    def vectors_of(capture: Capture, prompt: int) -> torch.Tensor:
        return embeddings_of(model, *capture.hidden_and_routing(source, activation), mix, numbers[prompt])

    parts = _stream(model, texts, templates, wanted_of(model, mix), vectors_of, batch_size, show_progress_bar)
    return (finish(model, torch.from_numpy(part), mix).numpy() for part in parts)


def read_stream(
    model: MoEEModel,
    texts: str | Iterable[str],
    templates: Sequence[str],
    wanted: Wanted,
    batch_size: int | None = None,
    show_progress_bar: bool | None = None,
) -> Iterator[np.ndarray]:
    """Read texts as they come, and give what is wanted of each as it is: `split_raw` takes the vectors apart.

    Arguments and errors are those of `embed_stream`.

    Returns:
        An iterator over float32 arrays of shape `(num_prompts, n, size)`.
    """
    return _stream(
        model, texts, templates, wanted, lambda capture, prompt: raw_of(capture), batch_size, show_progress_bar
    )


def _stream(
    model: MoEEModel,
    texts: str | Iterable[str],
    templates: Sequence[str],
    wanted: Wanted,
    vectors_of: Callable[..., torch.Tensor],
    batch_size: int | None,
    show_progress_bar: bool | None,
) -> Iterator[np.ndarray]:
    check_count("batch_size", batch_size, "texts")
    if show_progress_bar is not None:
        check_flag("show_progress_bar", show_progress_bar)
    stream, batches = stream_texts(texts), batches_for(model, batch_size)
    size = len(templates) * bytes_per_text(model, wanted)
    # while a device works through one window, the next is tokenised, and started before the first is waited for
    ahead = int(is_asynchronous(batches.device))

    def parts() -> Iterator[np.ndarray]:
        with progress_bar(show_progress_bar, texts, len(templates)) as progress, _tokenizing() as tokenizing:

            def tokenized() -> Iterator[_Window]:
                first = 0
                for window in windows(stream, batches.device, size):
                    unique, inverse = distinct(window)  # equal texts are run once
                    ids = [tokenizing.submit(token_ids, model, unique, template) for template in templates]
                    yield _Window(first, inverse, ids)
                    first += len(window)

            def started(window: _Window) -> _Window:
                for prompt, ids in enumerate(window.ids):
                    vectors = partial(vectors_of, prompt=prompt)
                    window.rows.append(_start(model, window.tokens(ids), wanted, vectors, batches, progress))
                return window

            for window in delayed(map(started, delayed(tokenized(), ahead)), ahead):
                progress.update((len(window.inverse) - window.num_unique) * len(templates))
                yield window.result(model)

    return parts()


@contextlib.contextmanager
def _tokenizing() -> Iterator[ThreadPoolExecutor]:
    """A thread for the tokenizer; what still waits for it when the work ends early is left undone."""
    thread = ThreadPoolExecutor(1)
    try:
        yield thread
    finally:
        thread.shutdown(wait=False, cancel_futures=True)


@dataclass
class _Window:
    """Texts that are read together: tokenised, then started on the device, then waited for.

    Args:
        first: The number of its first text in the stream.
        inverse: For each text, which of the different ones it is.
        ids: The tokens of the different texts in each prompt.
        rows: What the device makes of them in each prompt, once it was started.
    """

    first: int
    inverse: list[int]
    ids: list[Future[list[list[int]]]]
    rows: list[Rows] = field(default_factory=list)

    def tokens(self, ids: Future[list[list[int]]]) -> list[list[int]]:
        try:
            return ids.result()
        except TextError as error:
            raise error.renumbered(self.first + self.inverse.index(error.index)) from None

    @property
    def num_unique(self) -> int:
        """The number of different texts."""
        return max(self.inverse) + 1

    def result(self, model: MoEEModel) -> np.ndarray:
        """Wait, and return the vectors of all texts in each prompt, of shape `(num_prompts, n, size)`, once."""
        result = np.stack([rows.take(self.inverse) for rows in self.rows])
        self.rows.clear()
        for vectors in result:
            check_finite(model, torch.from_numpy(vectors), range(self.first, self.first + len(vectors)))
        return result


@torch.inference_mode()
def _start(
    model: MoEEModel,
    ids: list[list[int]],
    wanted: Wanted,
    vectors_of: Callable[[Capture], torch.Tensor],
    batches: Batches,
    progress: Any,
) -> Rows:
    """Start all batches of texts in one prompt."""
    rows = Rows(len(ids), batches.device)
    for indices, capture in run_texts(model, ids, wanted, batches):
        rows.put(indices, vectors_of(capture))
        progress.update(len(indices))
    return rows


def delayed(items: Iterable[Item], count: int) -> Iterator[Item]:
    """Hand on each item once `count` more have come. If an error ends them, the items that are there come first."""
    waiting: deque[Item] = deque()
    failure: Exception | None = None
    iterator = iter(items)
    while True:
        try:
            waiting.append(next(iterator))
        except StopIteration:
            break
        except Exception as error:
            failure = error
            break
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting
    try:
        if failure is not None:
            raise failure
    finally:
        del failure  # which holds this frame, and all that failed


def progress_bar(show: bool | None, texts: Iterable[str], num_prompts: int) -> Any:
    """Return a bar that counts texts, once for each prompt. None: on a terminal, once the work has taken seconds."""
    total = 1 if isinstance(texts, str) else len(texts) if isinstance(texts, Sized) else None
    disable, delay = (None, 5) if show is None else (not show, 0)
    return logging.tqdm(
        total=None if total is None else total * num_prompts,
        desc="Embedding",
        unit="text",
        disable=disable,
        delay=delay,
    )
