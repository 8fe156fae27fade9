"""Why texts are alike: their similarity, split exactly into HS and each expert of each MoE layer.

A cosine is a sum over the dimensions of two unit vectors, and every dimension of an embedding belongs to HS or to one
expert of one layer. So the parts add up to the similarity whatever the combination, alpha, statistics, weights of
layers and prompts are. Of embeddings that are projected, the vectors that the projection leaves are split; their
cosines are those of the embeddings, as the components are orthonormal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..model.prompts_moee import check_texts

if TYPE_CHECKING:
    from ..model.modeling_moee import MoEEModel


@dataclass(frozen=True)
class Explanation:
    """Texts, and the parts of which their similarities are the sums. Letters: n texts, D hidden size, L MoE layers.

    Args:
        texts: The texts.
        layers: The MoE layers that are in RW, counted from 0; none where the embedding has no RW.
        hidden: HS in the unit vector of each text, float64 of shape `(n, D)`; `(n, 0)` where it has no HS.
        routing: RW in it, float64 of shape `(n, L, E)`.
    """

    texts: list[str]
    layers: list[int]
    hidden: np.ndarray
    routing: np.ndarray

    @property
    def similarity(self) -> np.ndarray:
        """The cosine similarity of every text with every other, of shape `(n, n)`."""
        return self.of_hidden + self.of_layers.sum(axis=-1)

    @property
    def of_hidden(self) -> np.ndarray:
        """What HS give to it, of shape `(n, n)`."""
        return self.hidden @ self.hidden.T

    @property
    def of_layers(self) -> np.ndarray:
        """What the routing in each layer gives to it, of shape `(n, n, L)`."""
        return np.einsum("ile,jle->ijl", self.routing, self.routing)

    def of_experts(self, first: int, second: int) -> np.ndarray:
        """Return what each expert gives to the similarity of two texts, given by their numbers, of shape `(L, E)`."""
        return self.routing[first] * self.routing[second]


def explain(
    model: MoEEModel,
    *texts: str,
    prompt_name: str | Sequence[str] | None = None,
    prompt: str | Sequence[str] | None = None,
    combination: str | None = None,
    alpha: float | None = None,
    standardize: bool | None = None,
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

    Raises:
        TypeError: If a text is not a string.
        ValueError: If there are fewer than two, or as `MoEEModel.encode`.
    """
    checked = check_texts(texts)
    if len(checked) < 2:
        raise ValueError(f"texts: expected two or more, to compare; got {len(checked)}.")
    config = model.config
    mix = config.mix(combination, alpha, standardize)
    choices: Any = {"combination": combination, "alpha": alpha, "standardize": standardize}
    vectors = np.asarray(model.encode(checked, prompt_name, prompt, **choices), np.float64)
    if mix.dimensions is not None:
        vectors = vectors @ model.statistics.components[: mix.dimensions].double().cpu().numpy()
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    layers = list(config.router_indices) if mix.reads_routing else []
    size = len(layers) * config.router_shape[1]
    hidden, routing = np.split(vectors, [vectors.shape[1] - size], axis=1)
    return Explanation(checked, layers, hidden, routing.reshape(len(checked), len(layers), -1 if layers else 0))
