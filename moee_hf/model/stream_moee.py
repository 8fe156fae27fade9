"""Any number of texts to embeddings, window by window, in flat memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers.utils import logging

from .batching_moee import Batches, distinct, windows
from .capture_moee import Capture, Wanted
from .fitted_moee import check_calibration, find_prompt_indices
from .functional_moee import Mix, check_count, check_flag
from .inference_moee import batches_for, check_finite, embeddings_of, finish, raw_of, run_texts, wanted_of
from .prompts_moee import TextError, stream_texts

if TYPE_CHECKING:
    from .modeling_moee import MoEEModel


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
        An iterator over float32 arrays of shape `(n, size)`, each of the next n texts, a thousand or so.

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
    total = 1 if isinstance(texts, str) else len(texts) if isinstance(texts, Sized) else None

    def parts() -> Iterator[np.ndarray]:
        first = 0  # the number of the window's first text
        with _progress(show_progress_bar, None if total is None else total * len(templates)) as progress:
            for window in windows(stream):
                unique, inverse = distinct(window)  # equal texts are run once
                try:
                    part = [
                        _run(model, unique, template, wanted, partial(vectors_of, prompt=prompt), batches, progress)
                        for prompt, template in enumerate(templates)
                    ]
                except TextError as error:
                    raise error.renumbered(first + inverse.index(error.index)) from None
                progress.update((len(window) - len(unique)) * len(templates))
                yield np.stack(part)[:, inverse]
                first += len(window)

    return parts()


@torch.inference_mode()
def _run(
    model: MoEEModel,
    texts: list[str],
    template: str,
    wanted: Wanted,
    vectors_of: Callable[[Capture], torch.Tensor],
    batches: Batches,
    progress: Any,
) -> np.ndarray:
    """Return the vectors of texts in one prompt, of shape `(n, size)`."""
    result = np.empty((0, 0), np.float32)
    for indices, capture in run_texts(model, texts, template, wanted, batches):
        vectors = vectors_of(capture)  # [B, N]
        check_finite(model, vectors, indices)
        if not len(result):
            result = np.empty((len(texts), vectors.shape[1]), np.float32)
        result[indices] = vectors.cpu()
        progress.update(len(indices))
    return result


def _progress(show: bool | None, total: int | None) -> Any:
    disable, delay = (None, 5) if show is None else (not show, 0)
    return logging.tqdm(total=total, desc="Embedding", unit="text", disable=disable, delay=delay)
