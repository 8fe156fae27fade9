"""What a model says of the texts that a visitor types; what it cannot say is an error of one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..model.backbone_moee import experts_per_token
from ..model.inference_moee import tokens_and_parts
from ..routing.explain import Explanation, explain
from ..routing.tokens import ChosenExperts, chosen_experts

if TYPE_CHECKING:
    from ..model.modeling_moee import MoEEModel

# characters of a text; a longer one is not even tokenized
MOST_CHARACTERS = 20_000


@dataclass(frozen=True)
class Routing:
    """Which experts the tokens of a text choose. Letters: t tokens, L MoE layers, E experts.

    Args:
        text: The text.
        layers: The MoE layers that are in RW, counted from 0.
        chosen: What each token chooses, in these layers.
        shares: The share of the tokens that choose each expert, of shape `(L, E)`.
    """

    text: str
    layers: list[int]
    chosen: ChosenExperts
    shares: np.ndarray


class Answers:
    """A model, and how it is asked.

    Args:
        model: The model.
        prompt: A name, several with `+` between them, or a template with `{text}`. None: the model's.

    Raises:
        ValueError: If there is no such prompt.
    """

    def __init__(self, model: MoEEModel, prompt: str | None = None):
        self.model, self.templates = model, model.config.find_prompts(prompt)

    def compare(self, first: str, second: str) -> Explanation:
        """Return why two texts are alike.

        Raises:
            ValueError: If a text is empty or too long.
        """
        for name, text in (("Text 1", first), ("Text 2", second)):
            self._check(name, text)
        has_tokens = len(self.templates) == 1 and self.model.config.mix().reads_routing
        # of some backbones and tokenizers, that is not known
        has_tokens &= self.model.tokenizer.is_fast and experts_per_token(self.model.model) is not None
        return explain(self.model, first, second, prompt=self.templates, tokens=has_tokens)

    def route(self, text: str) -> Routing:
        """Return which experts a text visits.

        Raises:
            ValueError: If the text is empty or too long, or the model has several prompts.
        """
        self._check("Text", text)
        if len(self.templates) > 1:
            raise ValueError(
                f"Routing is shown for one prompt, as tokens choose experts anew in each; this model has "
                f"{len(self.templates)}. Start the demo with one, by --prompt."
            )
        (chosen,) = chosen_experts(self.model, [text], self.templates[0])
        num_experts = self.model.config.router_shape[1]
        counts = (chosen.experts[..., None] == np.arange(num_experts)).sum(axis=(0, 2))
        return Routing(text, list(self.model.config.router_indices), chosen, counts / max(1, len(chosen.spans)))

    def check_query(self, query: str, templates: Sequence[str]) -> None:
        """Raise `ValueError` if a query is empty, or too long for these prompts."""
        self._check("Query", query, templates)

    def _check(self, name: str, text: str, templates: Sequence[str] | None = None) -> None:
        if not text.strip():
            raise ValueError(f"{name} is empty. Write some words.")
        if len(text) > MOST_CHARACTERS:
            raise ValueError(f"{name} has {len(text):,} characters, where {MOST_CHARACTERS:,} can be. Shorten it.")
        for template in templates or self.templates:
            if len(tokens_and_parts(self.model, [text], template)[1][0]) < len(text):
                most = f"{self.model.max_length:,} tokens"
                raise ValueError(f"{name} is too long: this model reads {most} with the prompt. Shorten it.")
