"""From texts to HS and RW: tokens, batches, and one lean forward pass for each batch.

How a lean pass runs, in order:

1. `token_ids` tokenises the texts inside a prompt. `run_texts` computes the tokens with which all of them begin once
   (`run_prefix`), and forms batches of similar length, padded or, where attention can keep texts apart, packed.
2. `run_batch` makes a `Capture`: what is wanted of the pass, and where the tokens of each text lie. For as long as the
   pass runs, it is the active capture of this thread or task. The backbone runs as transformers wrote it; hooks that
   were installed when the model was built look for the active capture, and do nothing without one.
3. Before each layer, a hook pools its input, where that is the hidden state that is wanted. After each attention
   block, where HS is read there, a hook pools what it adds. After each router, another hook pools its routing weights.
   All go on from the means over the prefix, if there is one.
4. The experts skip padding (`unpadded_rows`). In the last layer, the output projection of attention and the MoE block
   compute only each text's last token (`keep_last_token`), where only that is pooled and texts are not packed.
5. When all that is wanted has been read, the capture raises `_CompleteError`: no later layer runs. The error ends the
   `with` block and goes no further.

A pass that is not lean, as `forward` makes it, computes everything: steps 1, 4 and 5 are skipped.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import DynamicCache
from transformers.utils import logging

from .backbone_moee import can_run_side_by_side, layer_to_read, longrope_length, quirk_of, text_model_of
from .batching_moee import Batches, keeps_kernels, padded_length, token_budget
from .capture_moee import Capture, Wanted, pooling_of
from .compression_moee import project
from .experts_moee import bytes_per_token
from .functional_moee import Mix, combine, token_weights, weigh_layers
from .inputs_moee import input_device
from .layout_moee import can_pack, layout_of
from .prefix_moee import Prefix, PrefixCache, cache_argument, can_cache_prefix, common_prefix, empty_cache
from .products_moee import arithmetic
from .prompts_moee import TextError, tokenize
from .threads_moee import MOST_AT_ONCE
from .transfer_moee import is_asynchronous, send
from .validation_moee import layer_indices

if TYPE_CHECKING:
    from .modeling_moee import MoEEModel

logger = logging.get_logger(__name__)

# texts over 16 prefixes long skip the cache: unmasked causal attention costs half of masked attention over a prefix
MAX_TIMES_LONGER = 16


def wanted_of(model: MoEEModel, mix: Mix | None = None) -> Wanted:
    """Return what is read of a forward pass for embeddings of this mix. None: HS and RW.

    Raises:
        ValueError: If the configuration names a layer or a source of HS that the backbone does not have.
    """
    config, readable = model.config, model.readable
    config.check_hidden_source()
    attention_layers = layer_indices(
        "MoEEConfig.attention_layers", config.attention_layers, readable.num_attention_layers, "attention blocks"
    )
    return Wanted(
        routers=tuple(config.router_indices) if mix is None or mix.reads_routing else (),
        sources=(config.hidden_source,) if mix is None or mix.reads_hidden else (),
        layer=layer_to_read(config.hidden_layer, readable.num_layers),
        attention_layers=tuple(attention_layers),
        pooling=config.pooling,
        activations=(config.router_activation,),
    )


def embeddings_of(model: MoEEModel, hidden: Any, routing: Any, mix: Mix, prompt: Any = 0) -> torch.Tensor:
    """Return what texts give in one prompt: HS and RW, combined. `finish` makes embeddings of it.

    Args:
        model: The model.
        hidden: HS, of shape `(batch_size, hidden_size)`. None: the mix does not read it.
        routing: RW of `config.router_indices`, of shape `(batch_size, num_moe_layers, num_experts)`. None: as above.
        mix: How they become one vector.
        prompt: Which of the prompts that the model was calibrated for each text stands in: a number, or a tensor of
            shape `(batch_size,)`.

    Returns:
        Tensor of shape `(batch_size, size)`.
    """
    config = model.config
    if mix.standardize:
        routers, way = config.router_indices, config.router_standardization
        hidden, routing = model.statistics(hidden, routing, routers, way, prompt)
    if routing is not None and (weights := config.router_weights) is not None:
        routing = weigh_layers(routing, weights)
    return combine(hidden, routing, mix.combination, mix.alpha)


def finish(model: MoEEModel, vectors: Any, mix: Mix) -> torch.Tensor:
    """Return embeddings from what texts give in each prompt.

    Args:
        model: The model.
        vectors: Of shape `(num_prompts, n, size)`; if there are several prompts, the mean of their unit vectors is
            taken.
        mix: What is done with it.

    Returns:
        Tensor of shape `(n, embedding_size)`.
    """
    vectors = vectors[0] if len(vectors) == 1 else F.normalize(vectors, dim=-1).mean(dim=0)
    if mix.dimensions is not None:
        vectors = project(vectors, model.statistics.components[: mix.dimensions])
    return F.normalize(vectors, dim=-1) if mix.normalize else vectors


def check_finite(model: MoEEModel, vectors: torch.Tensor, indices: Sequence[int] | None = None) -> None:
    """Raise `ValueError` unless every vector is finite.

    Args:
        model: The model.
        vectors: Of shape `(n, size)`.
        indices: Which text of the list at hand each belongs to: the error is a `TextError` then. None: not known.
    """
    if len(bad := (~vectors.isfinite().all(dim=1)).nonzero()):
        problem = (
            "expected finite numbers; got nan or infinity. The weights or the statistics hold some, or "
            f"{model.dtype} overflows: load with dtype=torch.float32 or torch.bfloat16."
        )
        raise ValueError(f"embeddings: {problem}") if indices is None else TextError(indices[int(bad[0])], problem)


def raw_of(capture: Capture) -> torch.Tensor:
    """Return all that a forward pass gave side by side, of shape `(batch_size, size)`; `split_raw` takes it apart."""
    wanted = capture.wanted
    parts = [capture.hidden[source] for source in wanted.sources]
    if wanted.routers:
        parts += [capture.routing_weights(activation).flatten(1) for activation in wanted.activations]
    return torch.cat(parts, dim=-1)


def split_raw(model: MoEEModel, wanted: Wanted, vectors: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what `raw_of` put side by side, by the names of sources and activations.

    HS of a source has the shape `(n, hidden_size)`, RW of an activation `(n, len(routers), num_experts)`.
    """
    shapes = _shapes(model, wanted)
    parts = torch.split(vectors, [math.prod(shape) for shape in shapes.values()], dim=1)
    return {name: part.reshape(-1, *shape) for part, (name, shape) in zip(parts, shapes.items(), strict=True)}


def bytes_per_text(model: MoEEModel, wanted: Wanted) -> int:
    """Return the size of what is read of a text, in float32."""
    return 4 * sum(map(math.prod, _shapes(model, wanted).values()))


def _shapes(model: MoEEModel, wanted: Wanted) -> dict[str, tuple[int, ...]]:
    routing = (len(wanted.routers), model.config.router_shape[1])
    shapes: dict[str, tuple[int, ...]] = {source: (model.readable.hidden_sizes[source],) for source in wanted.sources}
    return shapes | {activation: routing for activation in wanted.activations if wanted.routers}


def run_texts(
    model: MoEEModel,
    ids: Sequence[list[int]],
    wanted: Wanted,
    batches: Batches,
    kind: type[Capture] = Capture,
    longest_head: int | None = None,
) -> Iterator[tuple[list[int], Any]]:
    """Run tokenised texts batch by batch, the longest first, and compute no more than what is wanted.

    Args:
        model: The model.
        ids: The tokens of each text, as `token_ids` gives them.
        wanted: What is read of each text.
        batches: How large the batches may be.
        kind: What reads it, see `run_batch`.
        longest_head: The most tokens that are computed once for all texts. None: all with which they begin.

    Yields:
        The indices of the texts of a batch, and what was read of them.
    """
    model.eval()
    device = input_device(model)
    head = common_prefix(ids)[:longest_head]
    can_cache = can_cache_prefix(model.model)
    prefix = run_prefix(model, head, wanted) if head and can_cache else None
    packed = prefix is None and can_pack(model.model)
    # beside a cache, if only an empty one, transformers does not ask the device whether texts are packed
    empty = PrefixCache(empty_cache(model.model)) if can_cache and is_asynchronous(device) else None
    num_shared = 0 if prefix is None else prefix.num_tokens
    lengths = [len(row) - num_shared for row in ids]
    if keeps_kernels(device, model.dtype) and len(ids) > 1 and not packed:
        bounds = (model.max_length - num_shared, batches.split_length or 0)
        lengths = [min(padded_length(length), *(bound for bound in bounds if bound >= length)) for length in lengths]

    read = functools.partial(run_batch, model, wanted=wanted, lean=True, cache=empty, kind=kind)

    def run(indices: list[int]) -> Capture:
        if packed:
            return read(pack([ids[index] for index in indices]))
        longest = num_shared + lengths[indices[0]]
        start = num_shared if longest <= MAX_TIMES_LONGER * num_shared else 0
        batch = pad([ids[index][start:] for index in indices], longest - start)
        return read(batch, prefix=prefix if start else None)

    # every layer holds keys and values of the prefix for each text, an eighth of what it holds of other tokens
    yield from batches.run(run, [length + num_shared // 8 for length in lengths], packed)


def run_prefix(model: MoEEModel, ids: list[int], wanted: Wanted) -> Prefix:
    """Run tokens with which several texts begin, once for all of them; arguments are those of `run_batch`."""
    cache, batch = empty_cache(model.model), pad([ids])
    capture = run_batch(model, batch, wanted, lean=True, cache=cache)
    # of the last token alone there is no mean; of values there is one all the same
    weight = token_weights(batch["attention_mask"], pooling_of("values", wanted.pooling)).sum()
    return Prefix(len(ids), PrefixCache(cache), capture.hidden, capture.routing, weight)


def run_batch(
    model: MoEEModel,
    batch: dict[str, torch.Tensor],
    wanted: Wanted,
    lean: bool = False,
    prefix: Prefix | None = None,
    cache: DynamicCache | None = None,
    kind: type[Capture] = Capture,
) -> Capture:
    """Run a batch of tokens in one forward pass.

    Args:
        model: The model.
        batch: `input_ids` or `inputs_embeds`, and `attention_mask` of shape `(batch_size, sequence_length)`: 1 for a
            token, 0 for padding, which is on the right. Or what `pack` returns. From the host, it is sent to the
            device without waiting for it.
        wanted: What is read.
        lean: Whether to compute no more than that takes.
        prefix: Tokens that come before those of every text, which are not packed then.
        cache: For keys and values, if there is no prefix. None: the backbone gets none.
        kind: What reads it: a `Capture`, or one that keeps more.

    Returns:
        HS and RW of each text, pooled.

    Raises:
        ValueError: If the backbone cannot give what is wanted.
    """
    text_model, device = text_model_of(model.model), input_device(model)
    cache = cache if prefix is None else prefix.cache
    # where layers repeat, a lean pass would end with the first run of one
    lean = lean and not quirk_of(text_model).repeats_layers
    layout = layout_of(batch, device)
    inputs = {name: send(values, device) for name, values in batch.items() if name.startswith("input")}
    options: dict[str, Any] = {"use_cache": cache is not None, "return_dict": True}
    if cache is not None:
        options[cache_argument(text_model)] = cache
    with arithmetic(model.model), (capture := kind(wanted, layout, lean, prefix)):
        output = text_model(**inputs, **layout.arguments(model.is_causal), **options)
        if "state" in wanted.sources and wanted.layer is None:
            capture.set_hidden(output.last_hidden_state)
    return capture


def batches_for(model: MoEEModel, num_texts: int | None) -> Batches:
    """Return how large the batches of a model may be now, with no more texts than this."""
    device = input_device(model)
    devices, size = {device}, 1
    if device.type != "cpu":  # whose budget counts no bytes
        devices |= {weight.device for weight in model.parameters() if weight.device.type == device.type}
        size = bytes_per_token(model.model)
    num_tokens = min(token_budget(device, size) for device in devices)
    at_once = min(torch.get_num_threads(), MOST_AT_ONCE) if device.type == "cpu" else 1
    if at_once > 1 and not can_run_side_by_side(model.model):
        at_once = 1
    return Batches(num_tokens // at_once, num_texts, longrope_length(model.model), device, at_once)


def token_ids(model: MoEEModel, texts: Sequence[str], template: str) -> list[list[int]]:
    """Return the tokens of texts inside a prompt; arguments and errors are those of `tokens_and_parts`."""
    return tokens_and_parts(model, texts, template)[0]


def tokens_and_parts(model: MoEEModel, texts: Sequence[str], template: str) -> tuple[list[list[int]], list[str]]:
    """Return the tokens of texts inside a prompt, and of each text what they are of: its beginning, if it was cut.

    Where the last token is pooled, special tokens that the tokenizer puts behind the prompt are left out; for a mean
    they stay.

    Args:
        model: The model.
        texts: The texts.
        template: The prompt, with `{text}` once.

    Raises:
        TextError: If a text has no tokens, or unknown ones.
        ValueError: If the prompt leaves no room for text.
    """
    # the paper's last token is that of the template, whatever the tokenizer puts behind it; and where no token sees
    # those that follow, leaving them out changes no other
    without_end = model.is_causal and model.config.pooling == "lasttoken"
    ids, parts = tokenize(model.tokenizer, texts, template, model.max_length, without_end)
    vocabulary = len(model.get_input_embeddings().weight)
    if unknown := [index for index, row in enumerate(ids) if max(row) >= vocabulary]:
        raise TextError(
            unknown[0],
            f"expected token ids below {vocabulary}, the rows of the model's embedding; got {max(ids[unknown[0]])}. "
            "Use the tokenizer that the backbone was trained with.",
        )
    if num_cut := sum(len(part) < len(text) for part, text in zip(parts, texts, strict=True)):
        logger.warning(
            f"{num_cut} of {len(texts)} texts were cut at their end to fit max_length={model.max_length} tokens."
        )
    return ids, parts


def pad(ids: Sequence[list[int]], length: int = 0) -> dict[str, torch.Tensor]:
    """Return `input_ids` and `attention_mask` of shape `(n, sequence_length)`; any id will do for what is masked.

    The sequence is as long as the longest text, or as `length`, if that is more.
    """
    length = max([length, *map(len, ids)])
    input_ids, mask = np.zeros((2, len(ids), length), np.int64)
    for row, tokens in enumerate(ids):
        input_ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(mask)}


def pack(ids: Sequence[list[int]]) -> dict[str, torch.Tensor]:
    """Return `input_ids` of shape `(1, num_tokens)`, one text after the other, and their `lengths`, `(n,)`."""
    return {
        "input_ids": torch.tensor([list(itertools.chain(*ids))]),
        "lengths": torch.tensor([len(row) for row in ids]),
    }
