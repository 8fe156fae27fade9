"""Texts for an atlas: what one forward pass of each gives, window by window, in flat memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..model.batching_moee import Batches, distinct, windows
from ..model.capture_moee import Wanted
from ..model.fitted_moee import check_calibration, find_prompt_indices
from ..model.functional_moee import Mix
from ..model.inference_moee import (
    batches_for,
    bytes_per_text,
    check_finite,
    embeddings_of,
    finish,
    run_texts,
    wanted_of,
)
from ..model.prompts_moee import TextError, stream_texts
from ..model.stream_moee import progress_bar
from .tokens import TextTokens, TokenCapture, longest_head, tokens_of_texts

if TYPE_CHECKING:
    from ..model.modeling_moee import MoEEModel


# batch by batch, nothing is kept of them, so that more than elsewhere are sorted by length at a time
WINDOW_TEXTS = 8192


class LogRatioCapture(TokenCapture):
    """What one forward pass gives, and besides it the centred log-ratios of every token that it reads."""

    activation = "clr"


@dataclass(frozen=True)
class Reading:
    """What was read of different texts. Letters: n texts, t tokens of them, L MoE layers in RW, E experts.

    Args:
        texts: The texts.
        times: How often each of them came, of shape `(n,)`.
        embeddings: Of unit length, float32 of shape `(n, size)`.
        last: Centred log-ratios of routing weights at the last token, the prompt's, float32 of shape `(n, L, E)`.
        owners: Which of the texts each token is of, of shape `(t,)`.
        ids: Entries of the vocabulary that the tokens are, of shape `(t,)`; those of the prompt are left out.
        tokens: Centred log-ratios at each token, of shape `(t, L, E)`.
    """

    texts: list[str]
    times: torch.Tensor
    embeddings: torch.Tensor
    last: torch.Tensor
    owners: torch.Tensor
    ids: torch.Tensor
    tokens: torch.Tensor


def read_texts(
    model: MoEEModel,
    texts: str | Iterable[str],
    template: str,
    mix: Mix,
    batch_size: int | None = None,
    show_progress_bar: bool | None = None,
) -> Iterator[Reading]:
    """Read texts as they come, a forward pass each; equal ones of a window are one.

    Args:
        model: The model.
        texts: Any number.
        template: The prompt.
        mix: How HS and RW become the embedding.
        batch_size: The most texts per forward pass.
        show_progress_bar: As in `MoEEModel.encode`.

    Raises:
        TypeError: If a text is not a string.
        TextError: If a text cannot be embedded, or its embedding is not finite.
        ValueError: If the prompt leaves no room for text, or the tokenizer cannot say where its tokens stand.
    """
    if mix.standardize:
        check_calibration(model.config, [template])
    wanted, batches, first = wanted_of(model), batches_for(model, batch_size), 0
    with progress_bar(show_progress_bar, texts, 1) as progress:
        stream = stream_texts(texts)
        for window in windows(stream, batches.device, bytes_per_text(model, wanted), WINDOW_TEXTS):
            unique, inverse = distinct(window)
            numbers = [first + inverse.index(index) for index in range(len(unique))]
            times = torch.bincount(torch.tensor(inverse))
            try:
                tokens = tokens_of_texts(model, unique, template)
            except TextError as error:
                raise error.renumbered(numbers[error.index]) from None
            for indices, reading in _read(model, unique, times, tokens, wanted, batches, mix, template):
                check_finite(model, reading.embeddings, [numbers[index] for index in indices])
                yield reading
                progress.update(int(reading.times.sum()))
            first += len(window)


@torch.inference_mode()  # which ends where this yields
def _read(
    model: MoEEModel,
    texts: list[str],
    times: torch.Tensor,
    tokens: list[TextTokens],
    wanted: Wanted,
    batches: Batches,
    mix: Mix,
    template: str,
) -> Iterator[tuple[list[int], Reading]]:
    """Read a window of different texts batch by batch; which of them, and what was read."""
    ids = [text.ids for text in tokens]
    for indices, capture in run_texts(model, ids, wanted, batches, LogRatioCapture, longest_head(tokens)):
        vectors = _embeddings(model, capture, mix, template)
        ratios = _ratios(capture, [tokens[index] for index in indices])
        yield indices, Reading([texts[index] for index in indices], times[indices], vectors, *ratios)


def _embeddings(model: MoEEModel, capture: LogRatioCapture, mix: Mix, template: str) -> torch.Tensor:
    """The embeddings of a batch, of unit length, on the host."""
    (prompt,) = find_prompt_indices(model.config, [template])
    hidden, routing = capture.hidden_and_routing(model.config.hidden_source, model.config.router_activation)
    vectors = finish(model, embeddings_of(model, hidden, routing, mix, prompt)[None], mix)
    return torch.nn.functional.normalize(vectors.float(), dim=-1).cpu()


def _ratios(capture: LogRatioCapture, texts: list[TextTokens]) -> tuple[torch.Tensor, ...]:
    """The log-ratios of a batch: `last`, `owners`, `ids` and `tokens` of a `Reading`."""
    ratios, firsts = capture.token_weights(), capture.first_rows()
    last = [first + len(text.ids) - 1 for first, text in zip(firsts, texts, strict=True)]
    places = [
        (owner, text.ids[position], first + position)
        for owner, (first, text) in enumerate(zip(firsts, texts, strict=True))
        for position, _, _ in text.spans
    ]
    owners, ids, rows = torch.tensor(places, dtype=torch.long).reshape(-1, 3).T
    return ratios[last].cpu(), owners, ids, ratios[rows.to(ratios.device)].cpu()
