"""Any number of texts to embeddings, window by window, in flat memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers.utils import logging

from .batching_moee import Batches, distinct, windows
from .capture_moee import Wanted
from .functional_moee import Mix
from .inference_moee import batches_for, embeddings_of, run_texts, wanted_of
from .prompts_moee import TextError, stream_texts

if TYPE_CHECKING:
    from .modeling_moee import MoEEModel


def embed_stream(
    model: MoEEModel,
    texts: str | Iterable[str],
    template: str,
    mix: Mix,
    batch_size: int | None = None,
    show_progress_bar: bool | None = None,
    wanted: Wanted | None = None,
) -> Iterator[np.ndarray]:
    """Embed texts as they come; bad arguments are refused at once.

    Args:
        model: The model.
        texts: One text, or any number.
        template: The prompt, with `{text}` once.
        mix: How HS and RW become one vector.
        batch_size: The most texts per forward pass. None: as many as the device is fast with.
        show_progress_bar: None: on a terminal, once the work has taken some seconds.
        wanted: What is read of each text. None: what the combination takes.

    Returns:
        An iterator over float32 arrays of shape `(n, size)`, each of the next n texts, a thousand or so.

    Raises:
        TypeError: If a text is not a string.
        TextError: If a text cannot be embedded, or an embedding is not finite.
        ValueError: If an argument has no such value, or the prompt leaves no room for text.
    """
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ValueError(f"batch_size: expected a number of texts >= 1; got {batch_size!r}.")
    if mix.standardize:
        model.check_calibration(template)
    wanted = wanted_of(model, mix) if wanted is None else wanted
    total = 1 if isinstance(texts, str) else len(texts) if isinstance(texts, Sized) else None
    stream, batches = stream_texts(texts), batches_for(model, batch_size)

    def parts() -> Iterator[np.ndarray]:
        first = 0  # the number of the window's first text
        with _progress(show_progress_bar, total) as progress:
            for window in windows(stream):
                unique, inverse = distinct(window)  # equal texts are run once
                try:
                    embeddings = _embed(model, unique, template, mix, wanted, batches, progress)
                except TextError as error:
                    raise error.renumbered(first + inverse.index(error.index)) from None
                progress.update(len(window) - len(unique))
                yield embeddings[inverse]
                first += len(window)

    return parts()


@torch.inference_mode()
def _embed(
    model: MoEEModel, texts: list[str], template: str, mix: Mix, wanted: Wanted, batches: Batches, progress: Any
) -> np.ndarray:
    size = wanted.hidden * model.config.hidden_size + len(wanted.routers) * model.config.router_shape[1]
    embeddings = np.empty((len(texts), size), np.float32)
    for indices, capture in run_texts(model, texts, template, wanted, batches):
        vectors = embeddings_of(model, capture, mix)  # [B, N]
        if len(bad := (~vectors.isfinite().all(dim=1)).nonzero()):
            raise TextError(
                indices[int(bad[0])],
                "expected finite numbers; got nan or infinity. The weights or the statistics hold some, or "
                f"{model.dtype} overflows: load with dtype=torch.float32 or torch.bfloat16.",
            )
        embeddings[indices] = vectors.cpu()
        progress.update(len(indices))
    return embeddings


def _progress(show: bool | None, total: int | None) -> Any:
    disable, delay = (None, 5) if show is None else (not show, 0)
    return logging.tqdm(total=total, desc="Embedding", unit="text", disable=disable, delay=delay)
