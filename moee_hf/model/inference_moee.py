"""From texts to what a model reads of them: tokens, batches, and one forward pass for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers.utils import logging

from .backbone_moee import layer_to_read, longrope_length, text_model
from .batching_moee import Batches, keeps_kernels, rounded_up, token_budget
from .capture_moee import Capture
from .prefix_moee import PrefixCache, common_prefix
from .prompts_moee import tokenize

logger = logging.get_logger(__name__)

# texts longer than so many times the tokens with which all begin read those again: attention from first to last costs
# half of one that starts later, behind a mask
MAX_TIMES_LONGER = 16


def run_texts(
    model: Any,
    texts: Sequence[str],
    numbers: Sequence[int],
    template: str,
    batches: Batches,
    rows: list[int],
    read_hidden: bool = True,
) -> Iterator[tuple[list[int], Capture]]:
    """Read texts inside a prompt, batch by batch, the longest first, and compute no more than that takes.

    Args:
        model: The `MoEEModel`.
        texts: The texts.
        numbers: Their numbers, for errors.
        template: The prompt, with `{text}` once.
        batches: How large they may be.
        rows: The routers to read, counted from 0.
        read_hidden: Whether to read HS.

    Yields:
        The places of the texts of a batch, and what was read of them.

    Raises:
        ValueError: If a text cannot be tokenised.
    """
    model.eval()
    ids = token_ids(model, texts, template, numbers)
    device = input_device(model)
    prefix = common_prefix(ids)
    cache = run_prefix(model, prefix, rows, read_hidden) if prefix and PrefixCache.suits(model.model) else None
    if cache is None:
        prefix = []
    lengths = [len(row) - len(prefix) for row in ids]
    if keeps_kernels(device, model.dtype) and len(ids) > 1:
        bounds = (model.max_length - len(prefix), batches.border or 0)
        lengths = [min(rounded_up(length), *(bound for bound in bounds if bound >= length)) for length in lengths]

    def read(places: list[int]) -> Capture:
        longest = len(prefix) + lengths[places[0]]
        start = len(prefix) if longest <= MAX_TIMES_LONGER * len(prefix) else 0
        batch = pad([ids[place][start:] for place in places], device, longest - start)
        return run_batch(model, batch, rows, read_hidden, lean=True, cache=cache if start else None)

    # every layer holds keys and values of the prefix for each text, an eighth of what it holds of other tokens
    yield from batches.run(read, [length + len(prefix) // 8 for length in lengths])


def run_prefix(model: Any, prefix: list[int], rows: list[int], read_hidden: bool = True) -> PrefixCache:
    """Read tokens with which several texts begin; arguments are those of `run_batch`, for which the result is."""
    cache = PrefixCache(model.model)
    batch = pad([prefix], input_device(model))
    cache.captured = run_batch(model, batch, rows, read_hidden, lean=True, cache=cache)
    return cache


def batches_for(model: Any, num_texts: int | None) -> Batches:
    """Return how large the batches of a model may be now, with no more texts than this."""
    # a MoE layer holds some tens of vectors of a token at a time
    size = 64 * model.config.hidden_size * model.dtype.itemsize
    return Batches(token_budget(input_device(model), size), num_texts, longrope_length(model.model))


def run_batch(
    model: Any,
    batch: dict[str, torch.Tensor],
    rows: list[int],
    read_hidden: bool = True,
    lean: bool = False,
    cache: PrefixCache | None = None,
) -> Capture:
    """Read a batch of tokens in one forward pass.

    Args:
        model: The `MoEEModel`.
        batch: `input_ids` or `inputs_embeds`, and `attention_mask` of shape `(batch_size, sequence_length)`: 1 for a
            token, 0 for padding, which is on the right.
        rows: The routers to read, counted from 0.
        read_hidden: Whether to read HS.
        lean: Whether to compute only what is read.
        cache: What `run_prefix` read of tokens that come before those of every text; an empty one is filled.

    Returns:
        HS and RW of each text, pooled.

    Raises:
        ValueError: If the backbone cannot give what the configuration asks for.
    """
    config, layer = model.config, layer_to_read(model.config.hidden_layer, model.num_layers)
    before = None if cache is None else cache.captured
    mask = batch["attention_mask"]
    captured = Capture(mask, config.pooling, config.router_activation, rows, layer, read_hidden, lean, before)
    # a model that reads from first to last needs no mask for what comes after, and attention without one is faster
    options: dict[str, Any] = {"attention_mask": None if model.is_causal else mask, "use_cache": cache is not None}
    if cache is not None:
        options["past_key_values"] = cache
    with captured:
        output = text_model(model.model)(**batch | options)
        if read_hidden and layer is None:
            captured.set_hidden(output.last_hidden_state)
    return captured


def token_ids(
    model: Any, texts: Sequence[str], template: str, numbers: Sequence[int] | None = None
) -> list[list[int]]:
    """Return the tokens of texts inside a prompt.

    Args:
        model: The `MoEEModel`.
        texts: The texts.
        template: The prompt, with `{text}` once.
        numbers: Numbers of the texts, for errors. None: 0, 1, 2, ...

    Raises:
        ValueError: If a text has no tokens or unknown ones, or the prompt leaves no room for any.
    """
    numbers, max_length = numbers or range(len(texts)), model.max_length
    ids, num_cut = tokenize(model.tokenizer, texts, template, max_length, numbers)
    vocabulary = len(model.get_input_embeddings().weight)
    if unknown := [i for i, row in enumerate(ids) if max(row) >= vocabulary]:
        raise ValueError(
            f"texts[{numbers[unknown[0]]}]: expected token ids below {vocabulary}, the rows of the model's embedding; "
            f"got {max(ids[unknown[0]])}. Use the tokenizer that the backbone was trained with."
        )
    if num_cut:
        logger.warning(f"{num_cut} of {len(texts)} texts were cut at their end to fit max_length={max_length} tokens.")
    return ids


def pad(ids: Sequence[list[int]], device: torch.device | str = "cpu", length: int = 0) -> dict[str, torch.Tensor]:
    """Return `input_ids` and `attention_mask` of shape `(n, sequence_length)`; any id will do for what is masked.

    The sequence is as long as the longest text, or as `length`, if that is more.
    """
    length = max(length, *map(len, ids))
    input_ids = [row + [0] * (length - len(row)) for row in ids]
    mask = [[1] * len(row) + [0] * (length - len(row)) for row in ids]
    return {
        "input_ids": torch.tensor(input_ids, device=device),
        "attention_mask": torch.tensor(mask, device=device),
    }


def input_device(model: Any) -> torch.device:
    """Return where a model wants its tokens: where accelerate runs an embedding that it offloads, or it lies."""
    embedding = model.get_input_embeddings()
    device = getattr(getattr(embedding, "_hf_hook", None), "execution_device", None)
    return embedding.weight.device if device is None else torch.device(device)
