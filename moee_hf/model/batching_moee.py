"""Batches of tokens: texts of similar length together, as many as the device takes."""

from __future__ import annotations

import contextlib
import gc
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate, count, takewhile
from typing import TypeVar

import torch
from transformers.utils import logging

from .products_moee import HALF
from .threads_moee import Threads

logger = logging.get_logger(__name__)

Result = TypeVar("Result")

# of a stream, this much is sorted by length at a time: on a processor, and on an accelerator, whose batches are larger
WINDOW_TEXTS, WINDOW_CHARACTERS = 1024, 4_000_000
ACCELERATOR_TEXTS, ACCELERATOR_CHARACTERS = 16 * WINDOW_TEXTS, 4 * WINDOW_CHARACTERS
# and no more texts than those whose vectors have so many bytes
ACCELERATOR_BYTES = 2**28
# tokens of the batches that run at once: on a processor, enough for each expert to be worth reading its matrices, and
# few enough to stay near the caches; on an accelerator, what saturates it, within so many bytes
CPU_TOKENS, MIN_TOKENS, MAX_TOKENS, MAX_BYTES = 4096, 1024, 32_768, 15 * 2**28
# side by side, the last batches are smaller, down to this
MIN_SHARE = 256
# a batch ends where its padding would cost as much as another batch does: so many tokens, or on an accelerator, whose
# batches have many, this share of them
MAX_PADDING, PADDING_SHARE = 512, 1 / 8
# sizes are multiples of the one where they are small, of the other where they are large, so few shapes occur
SMALL_MULTIPLE, LARGE_MULTIPLE = 8, 32


def keeps_kernels(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN caches a kernel (~1 MB) per matmul shape: on the CPU, in 16 bits."""
    return device.type == "cpu" and dtype in HALF


def round_up(number: int, multiple: int) -> int:
    """Return the least multiple that is not less than a number."""
    return -(-number // multiple) * multiple


def padded_length(length: int) -> int:
    """Return this length or a larger one, by an eighth at most; there are eight of them up to twice as long.

    Padded to these, texts of all lengths make batches of few shapes.
    """
    return round_up(length, 1 << max(0, length.bit_length() - 4))


def windows(
    texts: Iterable[str], device: torch.device, bytes_per_text: int, num_texts: int | None = None
) -> Iterator[list[str]]:
    """Split a stream of texts into lists for a device, of bounded size however long the texts.

    Args:
        texts: The texts.
        device: Where they are read.
        bytes_per_text: Size of what is read of each text.
        num_texts: How many a list has at most on a processor: the more, the less padding. None: `WINDOW_TEXTS`.
    """
    most = (num_texts or WINDOW_TEXTS, WINDOW_CHARACTERS)
    if device.type != "cpu":
        held = min(ACCELERATOR_TEXTS, ACCELERATOR_BYTES // bytes_per_text)
        most = (max(held, most[0]), ACCELERATOR_CHARACTERS)
    window: list[str] = []
    characters = 0
    for text in texts:
        window.append(text)
        characters += len(text)
        if len(window) == most[0] or characters >= most[1]:
            yield window
            window, characters = [], 0
    if window:
        yield window


def distinct(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return the different texts, in the order of their first appearance, and for each text which of them it is."""
    indices: dict[str, int] = {}
    inverse = [indices.setdefault(text, len(indices)) for text in texts]
    return list(indices), inverse


def token_budget(device: torch.device, bytes_per_token: int) -> int:
    """Return the number of tokens, padding included, that batches which run at once may have on a device."""
    if device.type == "cpu":
        return CPU_TOKENS
    free = free_memory(device)
    most = MAX_BYTES if free is None else min(free // 2, MAX_BYTES)
    return min(max(most // bytes_per_token, MIN_TOKENS), MAX_TOKENS)


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that an accelerator has left for tensors; None if it does not say."""
    module = torch.get_device_module(device)
    with contextlib.suppress(RuntimeError):  # of a driver that does not say
        if hasattr(module, "mem_get_info"):
            free, _ = module.mem_get_info(device)
            return free + module.memory_reserved(device) - module.memory_allocated(device)
    if hasattr(module, "recommended_max_memory"):  # MPS
        return module.recommended_max_memory() - module.current_allocated_memory()
    return None


class Batches:
    """Batches of texts of similar length, the longest first.

    Where batches run out of memory side by side, the others run one by one; one that does so alone is halved, and so
    are later ones.

    Args:
        num_tokens: The most tokens of a batch, padding included; a text that is longer is a batch of its own.
        num_texts: The most texts of a batch. None: as many as the tokens allow.
        split_length: Texts of more tokens share no batch with shorter ones. None: any may.
        device: Where they run. None: on the processor.
        at_once: How many run side by side, each in a thread; a single one has all of torch's.
    """

    def __init__(
        self,
        num_tokens: int,
        num_texts: int | None = None,
        split_length: int | None = None,
        device: torch.device | None = None,
        at_once: int = 1,
    ):
        self.num_tokens, self.num_texts, self.split_length = num_tokens, num_texts, split_length
        self.device = torch.device("cpu") if device is None else device
        self.at_once = at_once
        self._padding_share = 0.0 if self.device.type == "cpu" else PADDING_SHARE

    def run(
        self, function: Callable[[list[int]], Result], lengths: Sequence[int], packed: bool = False
    ) -> Iterator[tuple[list[int], Result]]:
        """Run a function on batches.

        Args:
            function: Takes the indices of a batch's texts.
            lengths: Number of tokens of each text.
            packed: Whether the function reads no padding.

        Yields:
            The indices of each batch's texts, and what the function made of them.

        Raises:
            RuntimeError: What the function raises, unless memory was short and the batch can be halved.
        """
        order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
        running: deque[tuple[list[int], bool, Callable[[], Result]]] = deque()
        with Threads(self.at_once) as threads:
            while order or running:
                # one waits, so that no thread does
                while order and len(running) < (self.at_once + 1 if self.at_once > 1 else 1):
                    indices, order = self._next(order, lengths, packed)
                    is_alone = self.at_once == 1 or not (order or running)
                    start = partial if is_alone else threads.start
                    running.append((indices, is_alone, start(function, indices)))
                indices, is_alone, result_of = running.popleft()
                try:
                    result = result_of()
                except RuntimeError as error:
                    if (is_alone and len(indices) == 1) or not _is_out_of_memory(error):
                        raise
                else:
                    yield indices, result
                    del result  # which this frame would hold beside the next one
                    continue
                # outside of the handler, whose traceback holds on to the tensors of the pass
                order = sorted(indices + order, key=lengths.__getitem__, reverse=True)
                self._make_room([lengths[index] for index in indices], is_alone, packed)

    def _make_room(self, lengths: list[int], is_alone: bool, packed: bool) -> None:
        """Take less memory than a batch of texts of these lengths, which it does not hold."""
        if is_alone:
            self.num_tokens = (sum(lengths) if packed else len(lengths) * lengths[0]) // 2
            logger.warning(
                f"A batch of {len(lengths)} texts does not fit into memory; going on with {self.num_tokens} tokens."
            )
        elif self.at_once > 1:
            logger.warning(f"{self.at_once} batches do not fit into memory side by side; going on one by one.")
            self.at_once = 1
        gc.collect()
        if self.device.type != "cpu":
            torch.get_device_module(self.device).empty_cache()

    def _next(self, order: list[int], lengths: Sequence[int], packed: bool) -> tuple[list[int], list[int]]:
        """Return the next batch of texts, and those that are left; all in the order of their lengths, descending."""
        num_tokens = self.num_tokens
        if self.at_once > 1:  # all threads are to end together
            share = sum(lengths[index] for index in order) // self.at_once
            num_tokens = min(num_tokens, max(share, MIN_SHARE))
        if packed:
            totals = accumulate(lengths[index] for index in order)
            most = sum(1 for _ in takewhile(lambda total: total <= num_tokens, totals))
        else:
            most = num_tokens // lengths[order[0]]
        most = max(1, most)
        if self.num_texts is not None:
            most = min(most, self.num_texts)
        indices = order[:most]
        if self.split_length is not None:
            indices = [index for index in indices if lengths[index] > self.split_length] or indices
        if not packed:
            indices = indices[: self._batch_size([lengths[index] for index in indices])]
        return indices, order[len(indices) :]

    def _batch_size(self, lengths: list[int]) -> int:
        """Bound the padding; on a processor, round down to a multiple of 8 (small) or 32 (large): few shapes occur."""
        padding = accumulate(lengths[0] - length for length in lengths)
        most = (max(MAX_PADDING, self._padding_share * size * lengths[0]) for size in count(1))
        size = sum(1 for _ in takewhile(lambda pair: pair[0] <= pair[1], zip(padding, most, strict=False)))
        if self.device.type != "cpu":
            return size
        multiple = SMALL_MULTIPLE if size < 2 * LARGE_MULTIPLE else LARGE_MULTIPLE
        return size // multiple * multiple or size


def _is_out_of_memory(error: RuntimeError) -> bool:
    signs = ("out of memory", "DefaultCPUAllocator", "ALLOC_FAILED")  # of CUDA and MPS, of the processor, of cuBLAS
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in signs)
