"""From texts to what a model reads of them: tokens, batches, and one forward pass for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.utils import logging

from .batching_moee import Batches, token_budget
from .capture_moee import Capture
from .prefix_moee import PrefixCache, common_prefix
from .prompts_moee import tokenize
from .routing_moee import layer_to_read, text_model

logger = logging.get_logger(__name__)


def read_batches(
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
    cache, prefix = None, common_prefix(ids) if PrefixCache.suits(model.model) else []

    def read(rows_of_ids: list[list[int]]) -> Capture:
        return read_batch(model, pad(rows_of_ids, device), rows, read_hidden, lean=True, cache=cache)

    if prefix:
        cache = PrefixCache(model.model)
        cache.captured = read([prefix])
    rest = [row[len(prefix) :] for row in ids]
    # every layer holds keys and values of the prefix for each text, an eighth of what it holds of other tokens
    lengths = [len(row) + len(prefix) // 8 for row in rest]
    yield from batches.run(lambda places: read([rest[place] for place in places]), lengths)


def batches_of(model: Any, num_texts: int | None) -> Batches:
    """Return how large the batches of a model may be now, and have no more texts than this."""
    # a MoE layer holds some tens of vectors of a token at a time
    size = 64 * model.config.hidden_size * model.dtype.itemsize
    return Batches(token_budget(input_device(model), size), num_texts)


def read_batch(
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
        cache: Tokens that come before those of every text; an empty one is filled with these.

    Returns:
        HS and RW of each text, pooled.

    Raises:
        ValueError: If the backbone cannot give what the configuration asks for.
    """
    config, layer = model.config, layer_to_read(model.config.hidden_layer, model.num_layers)
    before = None if cache is None else cache.captured
    mask = batch["attention_mask"]
    captured = Capture(mask, config.pooling, config.router_activation, rows, layer, read_hidden, lean, before)
    if before is not None:
        mask = torch.cat([before.attention_mask.expand(len(mask), -1), mask], dim=1)
    options: dict[str, Any] = {"use_cache": False} if cache is None else {"use_cache": True, "past_key_values": cache}
    with captured:
        output = text_model(model.model)(**batch | {"attention_mask": mask}, **options)
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


def pad(ids: Sequence[list[int]], device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    """Return `input_ids` and `attention_mask` of shape `(n, sequence_length)`; any id will do for what is masked."""
    rows = [torch.tensor(row) for row in ids]
    masks = [torch.ones_like(row) for row in rows]
    return {
        "input_ids": pad_sequence(rows, batch_first=True).to(device),
        "attention_mask": pad_sequence(masks, batch_first=True).to(device),
    }


def input_device(model: Any) -> torch.device:
    """Return where a model wants its tokens: where accelerate runs an embedding that it offloads, or it lies."""
    embedding = model.get_input_embeddings()
    device = getattr(getattr(embedding, "_hf_hook", None), "execution_device", None)
    return embedding.weight.device if device is None else torch.device(device)
