"""The routing weights of every token of a text, not of the last one alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..model.backbone_moee import experts_per_token
from ..model.capture_moee import Capture
from ..model.inference_moee import batches_for, run_texts, tokens_and_parts, wanted_of
from ..model.layout_moee import Packed
from ..model.prompts_moee import TEXT

if TYPE_CHECKING:
    from ..model.modeling_moee import MoEEModel


class TokenCapture(Capture):
    """What one forward pass gives, and besides it the routing weights of every token that it reads.

    Attributes:
        activation: How router logits become routing weights of tokens, as in `MoEEConfig.router_activation`.
    """

    activation = "softmax"

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.of_tokens: dict[int, torch.Tensor] = {}  # of each router, [tokens and padding, E]

    @property
    def only_last_tokens(self) -> bool:
        return False

    def set_routing(self, router: int, values: torch.Tensor, activate: Callable[[torch.Tensor, str], Any]) -> None:
        self.of_tokens[router] = activate(values, self.activation).flatten(0, -2)
        super().set_routing(router, values, activate)

    def token_weights(self) -> torch.Tensor:
        """Return the routing weights of all tokens, of shape `(num_rows, len(routers), num_experts)`."""
        return torch.stack([self.of_tokens[router] for router in self.wanted.routers], dim=1)

    def first_rows(self) -> list[int]:
        """Return the row of `token_weights` where each text's first token is, or would be, if it was not shared."""
        layout = self.layout
        if isinstance(layout, Packed):
            return [0, *(layout.last[:-1] + 1).tolist()]
        length = layout.attention_mask.shape[1]
        shared = 0 if self.prefix is None else self.prefix.num_tokens
        return [length * text - shared for text in range(layout.num_texts)]


@dataclass(frozen=True)
class TextTokens:
    """A text inside a prompt, as tokens.

    Args:
        ids: All tokens, those of the prompt too.
        spans: Of each token that has characters of the text, where in `ids` it is, and which characters of the text.
    """

    ids: list[int]
    spans: list[tuple[int, int, int]]


def tokens_of_texts(model: MoEEModel, texts: Sequence[str], template: str) -> list[TextTokens]:
    """Return the tokens of texts inside a prompt, and which characters each of them stands for.

    Raises:
        TextError: If a text has no tokens, or unknown ones.
        ValueError: If the prompt leaves no room for text, or the tokenizer cannot say where its tokens stand.
    """
    ids, parts = tokens_and_parts(model, texts, template)
    if not model.tokenizer.is_fast:
        raise ValueError(
            "tokenizer: expected one that says where its tokens stand in a text; got "
            f"{type(model.tokenizer).__name__}, which does not. Load the fast tokenizer of the model."
        )
    head, tail = template.split(TEXT)
    filled = [head + part + tail for part in parts]
    offsets = model.tokenizer(filled, verbose=False, return_offsets_mapping=True)["offset_mapping"] if filled else []
    return [
        TextTokens(row, _spans(places[: len(row)], len(head), len(part)))
        for row, places, part in zip(ids, offsets, parts, strict=True)
    ]


def longest_head(texts: Sequence[TextTokens]) -> int:
    """Return how many tokens `run_texts` may compute once for all texts, so that none of a text is among them."""
    return min((text.spans[0][0] for text in texts if text.spans), default=0)


def _spans(offsets: Sequence[tuple[int, int]], start: int, length: int) -> list[tuple[int, int, int]]:
    """Return the tokens that have characters from `start` on, `length` of them, counted from there."""
    spans = []
    for position, (first, last) in enumerate(offsets):
        if (begin := max(first - start, 0)) < (end := min(last - start, length)):
            spans.append((position, begin, end))
    return spans


@dataclass(frozen=True)
class ChosenExperts:
    """Which experts the tokens of a text choose. Letters: t tokens, L MoE layers in RW, k experts for each token.

    Args:
        spans: Which characters of the text each token stands for: the first, and the one behind the last. Tokens that
            are parts of one character, as those of an emoji may be, have the same.
        experts: Numbers of the experts with the largest routing weights, the largest first, of shape `(t, L, k)`.
    """

    spans: list[tuple[int, int]]
    experts: np.ndarray

    def chosen_by(self, layer: int, expert: int) -> list[tuple[int, int]]:
        """Return the characters whose tokens choose an expert, given by the place of its layer in RW."""
        chosen = (self.experts[:, layer] == expert).any(axis=-1)
        return list(dict.fromkeys(span for span, is_chosen in zip(self.spans, chosen, strict=True) if is_chosen))

    def to_list(self) -> list[dict[str, Any]]:
        """Return the tokens as JSON has them: `begin` and `end` of their characters, and `experts`, `[L][k]`."""
        return [
            {"begin": begin, "end": end, "experts": experts}
            for (begin, end), experts in zip(self.spans, self.experts.tolist(), strict=True)
        ]


def chosen_experts(model: MoEEModel, texts: Sequence[str], template: str) -> list[ChosenExperts]:
    """Return which experts the tokens of texts inside a prompt choose, in the layers of RW.

    They are those with the largest router logits. Where an architecture adds a bias that evens out the load, or
    chooses among groups of experts first, as DeepSeek-V3 does, a token may visit others.

    Raises:
        TextError: If a text has no tokens, or unknown ones.
        ValueError: If the backbone does not say how many experts a token visits, the prompt leaves no room for text,
            or the tokenizer cannot say where its tokens stand.
    """
    if (number := experts_per_token(model.model)) is None:
        raise ValueError(
            "tokens: expected a backbone that says how many experts a token visits; got "
            f"{model.model.config.model_type}, which does not. Leave tokens out."
        )
    tokens = tokens_of_texts(model, texts, template)
    experts: dict[int, np.ndarray] = {}
    ids = [text.ids for text in tokens]
    with torch.inference_mode():
        for indices, capture in run_texts(
            model, ids, wanted_of(model), batches_for(model, None), TokenCapture, longest_head(tokens)
        ):
            weights = capture.token_weights()
            for index, first in zip(indices, capture.first_rows(), strict=True):
                rows = [first + position for position, _, _ in tokens[index].spans]
                experts[index] = weights[rows].topk(number, dim=-1).indices.cpu().numpy()
    return [
        ChosenExperts([(begin, end) for _, begin, end in text.spans], experts[index])
        for index, text in enumerate(tokens)
    ]
