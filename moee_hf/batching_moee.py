"""Batches of tokens: texts of similar length together, as many as the device takes."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from transformers.utils import logging

logger = logging.get_logger(__name__)

Result = TypeVar("Result")

# of a stream, this much is sorted by length at a time
WINDOW_TEXTS, WINDOW_CHARACTERS = 2048, 4_000_000
# tokens of a batch: on a processor, enough for each expert to be worth reading its matrices, and few enough to stay
# near the caches; on an accelerator, what saturates it
CPU_TOKENS, MIN_TOKENS, MAX_TOKENS = 4096, 1024, 32_768


def windows(texts: Iterable[str]) -> Iterator[list[str]]:
    """Split a stream of texts into lists, of bounded size however long the texts."""
    window: list[str] = []
    characters = 0
    for text in texts:
        window.append(text)
        characters += len(text)
        if len(window) == WINDOW_TEXTS or characters >= WINDOW_CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window


def token_budget(device: torch.device, bytes_per_token: int) -> int:
    """Return the number of tokens, padding included, that a batch may have on a device."""
    if device.type != "cuda":
        return CPU_TOKENS
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(max(free // (2 * bytes_per_token), MIN_TOKENS), MAX_TOKENS)


def run_batches(
    run: Callable[[list[int]], Result], lengths: Sequence[int], budget: int, batch_size: int | None
) -> Iterator[tuple[list[int], Result]]:
    """Run a function on batches of texts of similar length, the longest first; halve those that memory does not hold.

    Args:
        run: The function, of the places of a batch's texts.
        lengths: Number of tokens of each text.
        budget: The most tokens of a batch, padding included; a text that is longer is a batch of its own.
        batch_size: The most texts of a batch. None: as many as the budget allows.

    Returns:
        The places of each batch, and what `run` made of it.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    while order:
        size = max(1, budget // lengths[order[0]])
        places = order[: size if batch_size is None else min(size, batch_size)]
        try:
            result = run(places)
        except RuntimeError as error:
            if len(places) == 1 or not _is_out_of_memory(error):
                raise
        else:
            yield places, result
            order = order[len(places) :]
            continue
        # outside of the handler, whose traceback holds on to the tensors of the pass
        budget = len(places) // 2 * lengths[places[0]]
        logger.warning(
            f"A batch of {len(places)} texts does not fit into memory; going on with at most {budget} tokens."
        )
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
