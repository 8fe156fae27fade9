"""Batches of tokens: texts of similar length together, as many as the device takes."""

from __future__ import annotations

import bisect
import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TypeVar

import torch
from transformers.utils import logging

logger = logging.get_logger(__name__)

Result = TypeVar("Result")

# of a stream, this much is sorted by length at a time
WINDOW_TEXTS, WINDOW_CHARACTERS = 1024, 4_000_000
# tokens of a batch: on a processor, enough for each expert to be worth reading its matrices, and few enough to stay
# near the caches; on an accelerator, what saturates it
CPU_TOKENS, MIN_TOKENS, MAX_TOKENS = 4096, 1024, 32_768
# a batch ends where its padding would cost as much as another batch does
MAX_PADDING = 512
# the number of texts is a multiple of the one in small batches, of the other in large ones, for few shapes, too
SMALL_MULTIPLE, LARGE_MULTIPLE = 8, 32


def keeps_kernels(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether each shape of a product costs memory: oneDNN makes a kernel for it, and keeps it, nearly 1 MB."""
    return device.type == "cpu" and dtype in (torch.bfloat16, torch.float16)


def rounded_up(length: int) -> int:
    """Return this length or a larger one, by an eighth at most; there are eight of them up to twice as long.

    Padded to these, texts of all lengths make batches of few shapes.
    """
    step = 1 << max(0, length.bit_length() - 4)
    return -(-length // step) * step


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


class Batches:
    """Batches of texts of similar length, the longest first; those that memory does not hold are halved, and the rest.

    Args:
        num_tokens: The most tokens of a batch, padding included; a text that is longer is a batch of its own.
        num_texts: The most texts of a batch. None: as many as the tokens allow.
        border: Texts of more tokens share no batch with shorter ones. None: any may.
    """

    def __init__(self, num_tokens: int, num_texts: int | None = None, border: int | None = None):
        self.num_tokens, self.num_texts, self.border = num_tokens, num_texts, border

    def run(
        self, function: Callable[[list[int]], Result], lengths: Sequence[int]
    ) -> Iterator[tuple[list[int], Result]]:
        """Run a function on batches.

        Args:
            function: Takes the places of a batch's texts.
            lengths: Number of tokens of each text.

        Yields:
            The places of each batch, and what the function made of it.

        Raises:
            RuntimeError: What the function raises, unless memory was short and the batch can be halved.
        """
        order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
        while order:
            most = max(1, self.num_tokens // lengths[order[0]])
            if self.num_texts is not None:
                most = min(most, self.num_texts)
            places = order[:most]
            if self.border is not None:
                places = [place for place in places if lengths[place] > self.border] or places
            places = places[: _batch_size([lengths[place] for place in places])]
            try:
                result = function(places)
            except RuntimeError as error:
                if len(places) == 1 or not _is_out_of_memory(error):
                    raise
            else:
                yield places, result
                order = order[len(places) :]
                continue
            # outside of the handler, whose traceback holds on to the tensors of the pass
            self.num_tokens = len(places) // 2 * lengths[places[0]]
            logger.warning(
                f"A batch of {len(places)} texts does not fit into memory; going on with {self.num_tokens} tokens."
            )
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _batch_size(lengths: list[int]) -> int:
    """Return how many of these texts, the longest first, make a batch."""
    padding = accumulate(lengths[0] - length for length in lengths)
    size = bisect.bisect_right(list(padding), MAX_PADDING)
    multiple = SMALL_MULTIPLE if size < 2 * LARGE_MULTIPLE else LARGE_MULTIPLE
    return size // multiple * multiple or size


def _is_out_of_memory(error: RuntimeError) -> bool:
    signs = ("out of memory", "DefaultCPUAllocator", "ALLOC_FAILED")  # of CUDA and MPS, of the processor, of cuBLAS
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in signs)
