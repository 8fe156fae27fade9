"""Why texts are alike: their similarity, split exactly into HS and each expert of each MoE layer.

A cosine is a sum over the dimensions of two unit vectors, and every dimension of an embedding belongs to HS or to one
expert of one layer. So the parts add up to the similarity whatever the combination, alpha, statistics, weights of
layers and prompts are. Of embeddings that are projected, the vectors that the projection leaves are split; their
cosines are those of the embeddings, as the components are orthonormal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..model.prompts_moee import TextError, check_texts
from .tokens import ChosenExperts, chosen_experts

if TYPE_CHECKING:
    from ..model.modeling_moee import MoEEModel

# how many experts are named that make two texts alike, and that make them differ
STRONGEST = 5


class ExpertPart(NamedTuple):
    """What one expert gives to a similarity: its MoE layer and its number, counted from 0, and the amount."""

    layer: int
    expert: int
    amount: float


@dataclass(frozen=True)
class Explanation:
    """Texts, and the parts of which their similarities are the sums. Letters: n texts, D hidden size, L MoE layers.

    Args:
        texts: The texts.
        layers: The MoE layers that are in RW, counted from 0; none where the embedding has no RW.
        hidden: HS in the unit vector of each text, float64 of shape `(n, D)`; `(n, 0)` where it has no HS.
        routing: RW in it, float64 of shape `(n, L, E)`.
        tokens: Which experts the tokens of each text choose. None: that was not asked for.
    """

    texts: list[str]
    layers: list[int]
    hidden: np.ndarray
    routing: np.ndarray
    tokens: list[ChosenExperts] | None = None

    @cached_property
    def similarity(self) -> np.ndarray:
        """The cosine similarity of every text with every other, of shape `(n, n)`."""
        return self.of_hidden + self.of_routing

    @cached_property
    def of_hidden(self) -> np.ndarray:
        """What HS give to it, of shape `(n, n)`."""
        return self.hidden @ self.hidden.T

    @cached_property
    def of_routing(self) -> np.ndarray:
        """What RW give to it, of shape `(n, n)`."""
        return self.of_layers.sum(axis=-1)

    @cached_property
    def of_layers(self) -> np.ndarray:
        """What the routing in each layer gives to it, of shape `(n, n, L)`."""
        return np.einsum("ile,jle->ijl", self.routing, self.routing)

    @cached_property
    def weights(self) -> tuple[np.ndarray, np.ndarray]:
        """How much the cosine of HS, and that of RW, counts in each similarity, of shape `(n, n)` both.

        In `"sum"` in one prompt these are 1 / (1 + alpha) and alpha / (1 + alpha) for any texts; in `"concat"` they
        depend on how long HS and RW of the texts are.
        """
        lengths = (np.linalg.norm(part.reshape(len(self.texts), -1), axis=1) for part in (self.hidden, self.routing))
        of_hidden, of_routing = (np.outer(length, length) for length in lengths)
        return of_hidden, of_routing

    @cached_property
    def cosines(self) -> tuple[np.ndarray, np.ndarray]:
        """The cosine of HS, and that of RW, of shape `(n, n)` both; 0 where there is none.

        The similarity is the sum of both, each times its weight.
        """
        parts = zip((self.of_hidden, self.of_routing), self.weights, strict=True)
        of_hidden, of_routing = (
            np.divide(part, weight, out=np.zeros_like(part), where=weight > 0) for part, weight in parts
        )
        return of_hidden, of_routing

    def of_experts(self, first: int, second: int) -> np.ndarray:
        """Return what each expert gives to the similarity of two texts, given by their numbers, of shape `(L, E)`."""
        return self.routing[first] * self.routing[second]

    def strongest(self, first: int, second: int, most: int = STRONGEST) -> tuple[list[ExpertPart], list[ExpertPart]]:
        """Return the experts that make two texts most alike, and those that make them differ most, the first of all.

        Args:
            first: The number of one text.
            second: That of the other.
            most: How many of each; there are fewer where fewer have a part above 0, or below.
        """
        amounts = self.of_experts(first, second)
        order = np.argsort(-amounts, axis=None, kind="stable")
        ends = order[:most], order[::-1][:most]
        found = [
            [ExpertPart(self.layers[layer], int(expert), float(amounts[layer, expert])) for layer, expert in places]
            for places in (zip(*np.unravel_index(end, amounts.shape), strict=True) for end in ends)
        ]
        return [part for part in found[0] if part.amount > 0], [part for part in found[1] if part.amount < 0]

    def nearest(self) -> tuple[int, int]:
        """Return the numbers of the two texts that are most alike."""
        return max(combinations(range(len(self.texts)), 2), key=lambda pair: self.similarity[pair])

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON has it; `moee_hf/routing/README.md` says what the keys are."""
        names = ("hidden_weight", "routing_weight", "hidden_cosine", "routing_cosine")
        result = {
            "texts": self.texts,
            "layers": self.layers,
            "num_experts": self.routing.shape[-1],
            "similarity": self.similarity.tolist(),
            "hidden": self.of_hidden.tolist(),
            "routing": self.of_routing.tolist(),
            **{name: part.tolist() for name, part in zip(names, (*self.weights, *self.cosines), strict=True)},
            "experts": self.routing.tolist(),
            "pairs": [
                {"first": first, "second": second, "layers": self.of_layers[first, second].tolist()}
                | {
                    side: [part._asdict() for part in parts]
                    for side, parts in zip(("for", "against"), self.strongest(first, second), strict=True)
                }
                for first, second in combinations(range(len(self.texts)), 2)
            ],
        }
        if self.tokens is not None:
            result["tokens"] = [text.to_list() for text in self.tokens]
        return result


def explain(
    model: MoEEModel,
    *texts: str,
    prompt_name: str | Sequence[str] | None = None,
    prompt: str | Sequence[str] | None = None,
    combination: str | None = None,
    alpha: float | None = None,
    standardize: bool | None = None,
    tokens: bool = False,
) -> Explanation:
    """Split the similarities of texts into what HS, each layer and each expert give to them.

    Args:
        model: The model.
        texts: Two or more.
        prompt_name: As in `MoEEModel.encode`, here and below.
        prompt: In place of prompts by name.
        combination: In place of the configuration's, here and below.
        alpha: Weight of RW in `"sum"`.
        standardize: Whether to standardize HS and RW with the model's statistics.
        tokens: Whether to find which experts the tokens choose, too. That takes a second forward pass of each text.

    Raises:
        TypeError: If a text is not a string.
        ValueError: If there are fewer than two, one is empty, there is no one routing of tokens, or as
            `MoEEModel.encode`.
    """
    checked = check_comparable(texts)
    config = model.config
    mix = config.mix(combination, alpha, standardize)
    templates = config.resolve_prompts(prompt_name, prompt)
    if tokens and len(templates) > 1:
        raise ValueError(
            f"tokens: expected one prompt, as tokens choose experts anew in each; got {len(templates)}. Name one."
        )
    if tokens and not mix.reads_routing:
        raise ValueError(
            f"tokens: expected an embedding with RW; got the combination {mix.combination!r}. Leave tokens out, or "
            "choose another combination."
        )
    choices: Any = {"combination": combination, "alpha": alpha, "standardize": standardize}
    vectors = np.asarray(model.encode(checked, prompt=templates, **choices), np.float64)
    if mix.dimensions is not None:
        vectors = vectors @ model.statistics.components[: mix.dimensions].double().cpu().numpy()
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    layers = list(config.router_indices) if mix.reads_routing else []
    num_experts = config.router_shape[1]
    hidden, routing = np.split(vectors, [vectors.shape[1] - len(layers) * num_experts], axis=1)
    chosen = chosen_experts(model, checked, templates[0]) if tokens else None
    return Explanation(checked, layers, hidden, routing.reshape(len(checked), len(layers), num_experts), chosen)


def check_comparable(texts: Sequence[str]) -> list[str]:
    """Return the texts, if they can be compared; errors are those of `explain`."""
    checked = check_texts(texts)
    if len(checked) < 2:
        raise ValueError(f"texts: expected two or more, to compare; got {len(checked)}. Add another.")
    if empty := [index for index, text in enumerate(checked) if not text.strip()]:
        raise TextError(empty[0], f"expected some words; got {checked[empty[0]]!r}. Write a text.")
    return checked
