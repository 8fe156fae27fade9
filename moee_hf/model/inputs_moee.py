"""What a call of `forward` is given: tensors, arrays or lists, checked, and brought into the form of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers.utils import logging

from .functional_moee import pad_right

if TYPE_CHECKING:
    from .modeling_moee import MoEEModel

logger = logging.get_logger(__name__)


def forward_batch(
    model: MoEEModel, input_ids: Any, attention_mask: Any, inputs_embeds: Any, prompt_indices: Any
) -> tuple[dict[str, torch.Tensor], int, Any]:
    """Return the batch of a call of `MoEEModel.forward`, whose arguments these are.

    Texts inside several prompts, `[B, P, T]`, become rows `[P * B, T]`, those of a prompt together. Padding goes to
    the right, and what it holds is dropped.

    Returns:
        `input_ids` or `inputs_embeds`, and `attention_mask`, on the device where the model wants them; the number of
        prompts; and the prompt of each row as `embeddings_of` takes it.

    Raises:
        TypeError: If something is no tensor, array or list of numbers of its kind.
        ValueError: If there are neither ids nor embeddings, or both, shapes do not fit, a text has no token, an id is
            not in the vocabulary, or a number is not finite.
    """
    if (input_ids is None) == (inputs_embeds is None):
        got = "neither" if input_ids is None else "both"
        raise ValueError(f"MoEEModel: expected either input_ids or inputs_embeds; got {got}.")
    device, num_prompts = input_device(model), 1
    if inputs_embeds is None:
        name, values = "input_ids", _integers("input_ids", input_ids, device)
        if values.ndim == 3:
            num_prompts = values.shape[1]
        _check_shape(name, values, values.ndim in (2, 3), "(batch_size, sequence_length)")
    else:
        name, values = "inputs_embeds", _embeddings(model, inputs_embeds, device)
    sequences = values.shape[: 3 if name == "input_ids" and values.ndim == 3 else 2]
    mask = _mask(attention_mask, name, sequences, device)
    prompt = _prompt(model, prompt_indices, sequences[0], num_prompts)
    if len(sequences) == 3:
        values, mask = (tensor.transpose(0, 1).flatten(0, 1) for tensor in (values, mask))
    if len(without := (mask.sum(dim=1) == 0).nonzero()):
        raise ValueError(
            f"attention_mask: expected at least one token in every text; got none in text "
            f"{without[0].item() % sequences[0]}."
        )
    values, mask = pad_right(mask, values, mask)
    values = values.masked_fill((mask == 0).reshape(*mask.shape, *[1] * (values.ndim - 2)), 0)
    _check_values(model, name, values)
    if name == "input_ids":
        _warn_of_end(model, values, mask)
    return {name: values, "attention_mask": mask}, num_prompts, prompt


def input_device(model: MoEEModel) -> torch.device:
    """Return where a model wants its tokens: where accelerate runs an embedding that it offloads, or it lies."""
    embedding = model.get_input_embeddings()
    device = getattr(getattr(embedding, "_hf_hook", None), "execution_device", None)
    return embedding.weight.device if device is None else torch.device(device)


def _tensor(name: str, value: Any, device: torch.device) -> torch.Tensor:
    if isinstance(value, str | bytes | Mapping):
        hint = "Pass a batch as model(**batch)." if isinstance(value, Mapping) else "Tokenise texts, or call encode."
        raise TypeError(f"{name}: expected a tensor; got {type(value).__name__}. {hint}")
    try:
        tensor = torch.as_tensor(np.array(value) if isinstance(value, list | tuple) else value).to(device)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise TypeError(
            f"{name}: expected a tensor, an array, or lists of numbers of equal length; got a {type(value).__name__} "
            f"that is none ({error}). A tokenizer pads with padding=True and return_tensors='pt'."
        ) from error
    if tensor.is_nested or tensor.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense tensor; got one of layout {tensor.layout}.")
    return tensor


def _integers(name: str, value: Any, device: torch.device) -> torch.Tensor:
    values = _tensor(name, value, device)
    if values.dtype == torch.bool or values.is_floating_point() or values.is_complex():
        if values.numel() == 0:  # of an empty list, nobody says what it would hold
            return values.long()
        raise TypeError(f"{name}: expected integers; got {values.dtype}.")
    return values.long()


def _check_shape(name: str, values: torch.Tensor, fits: bool, expected: str) -> None:
    if not fits or not all(values.shape):
        raise ValueError(f"{name}: expected the shape {expected}, none of it 0; got {tuple(values.shape)}.")


def _embeddings(model: MoEEModel, value: Any, device: torch.device) -> torch.Tensor:
    name, weight = "inputs_embeds", model.get_input_embeddings().weight
    values = _tensor(name, value, device)
    size = weight.shape[-1]
    _check_shape(name, values, values.ndim == 3 and values.shape[-1] == size, f"(batch_size, sequence_length, {size})")
    if not values.is_floating_point():
        raise TypeError(f"{name}: expected numbers with a fraction; got {values.dtype}.")
    return values.to(weight.dtype if weight.is_floating_point() else model.dtype)


def _mask(value: Any, name: str, shape: torch.Size, device: torch.device) -> torch.Tensor:
    if value is None:
        return torch.ones(shape, dtype=torch.long, device=device)
    mask = _tensor("attention_mask", value, device)
    if mask.shape != shape:
        raise ValueError(f"attention_mask: expected the shape {tuple(shape)} of {name}; got {tuple(mask.shape)}.")
    if len(bad := mask[(mask != 0) & (mask != 1)]):
        raise ValueError(f"attention_mask: expected 1 for a token and 0 for padding; got {bad[0].item()}.")
    return mask.long()


def _prompt(model: MoEEModel, value: Any, batch_size: int, num_prompts: int) -> Any:
    """Return which of the prompts that the model is calibrated for each row stands in."""
    if value is None:
        return torch.arange(num_prompts).repeat_interleave(batch_size) if num_prompts > 1 else 0
    indices, expected = _integers("prompt_indices", value, torch.device("cpu")), (batch_size, num_prompts)
    _check_shape("prompt_indices", indices, indices.shape == expected, str(expected))
    if len(bad := indices[(indices < 0) | (indices >= model.statistics.num_prompts)]):
        raise ValueError(
            f"prompt_indices: expected numbers below {model.statistics.num_prompts}, the prompts that the model is "
            f"calibrated for; got {bad[0].item()}."
        )
    return indices.T.flatten()


def _check_values(model: MoEEModel, name: str, values: torch.Tensor) -> None:
    """Raise `ValueError` unless the model can read these; padding is 0."""
    if name == "inputs_embeds":
        if not values.isfinite().all():
            raise ValueError(f"{name}: expected finite numbers; got nan or infinity.")
        return
    vocabulary = len(model.get_input_embeddings().weight)
    if len(bad := values[(values < 0) | (values >= vocabulary)]):
        raise ValueError(
            f"{name}: expected token ids from 0 to {vocabulary - 1}, the rows of the model's embedding; got "
            f"{bad[0].item()}. Use the tokenizer that the backbone was trained with."
        )


def _warn_of_end(model: MoEEModel, ids: torch.Tensor, mask: torch.Tensor) -> None:
    """Warn once if the token that is pooled ends a text: it stands behind all of them, and they look alike there."""
    if model.config.pooling != "lasttoken" or not model.is_causal:
        return
    end, last = model.config.get_text_config().eos_token_id, mask.sum(dim=1) - 1
    end = torch.as_tensor([] if end is None else end, device=ids.device)
    if (torch.isin(ids.gather(1, last[:, None])[:, 0], end) & (last > 0)).any():
        logger.warning_once(
            "input_ids: expected texts that end with a prompt, as MoEEModel.tokenize makes them; got some that end "
            "with the end-of-text token, whose hidden state says little of a text. Use encode or tokenize, or let the "
            "tokenizer add no such token."
        )
