"""What the authors' released code does, where it differs from the paper; for comparison with its numbers alone.

https://github.com/tianyi-lab/MoE-Embedding, `moee.py` and its edited mteb. A text's vector depends on its neighbours
here: each batch, in the order of the data set as the installed mteb hands it over, is standardized by itself. Features
are checked against what that code's models computed (`tests/golden`), the arithmetic after them against its formulas.
Not reproduced: 4-bit weights (load the model quantized for that), the instruction that its command line puts before a
text unless `--no_instruction` is given, and the averaged cluster and class numbers that its "sum" has in clustering
and classification, which mean nothing: both are computed on the plain vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ...model.choices_moee import COMBINATIONS
from ...model.functional_moee import combine
from ...model.modeling_moee import MoEEModel
from ..encoder import MoEEEncoder
from ..features import Features

# "no prompt" is a text in quotes, so that the last token is a quote
PROMPTS = {"none": '"{text}"', "prompteol": 'This sentence : "{text}" means in one word:"'}
BATCH_SIZE = 128


def router_activation(model_type: str) -> str:
    """Return what the code takes for RW: the softmax from DeepSeekMoE, the raw logits from OLMoE and Qwen1.5-MoE.

    Raises:
        ValueError: If the code knows no such architecture.
    """
    activations = {"deepseek": "softmax", "olmoe": "logits", "qwen2_moe": "logits"}
    if model_type not in activations:
        raise ValueError(f"released_code: expected a model of {', '.join(activations)}; got {model_type!r}.")
    return activations[model_type]


def edit(text: str) -> str:
    """Return a text as the code edits it: ending in a mark, without double quotes and underscores."""
    if text and text[-1] not in ".?!\"'":
        text += "."
    return text.replace('"', "'").replace("_", " ")


def standardize_batch(values: torch.Tensor) -> torch.Tensor:
    """Standardize each dimension over a batch of shape `(n, size)`; a batch of one becomes zeros."""
    if len(values) == 1:  # its standard deviation, divided by n - 1, is no number, of which the code makes zero
        return torch.zeros_like(values)
    return (values - values.mean(dim=0)) / (values.std(dim=0) + 1e-8)


def embed_batch(
    hidden: torch.Tensor, routing: torch.Tensor, combination: str, alpha: float = 1.0, standardize: bool = True
) -> torch.Tensor:
    """Return the vectors that the code compares for one batch.

    Args:
        hidden: HS, of shape `(n, hidden_size)`.
        routing: RW with the code's router activation, of shape `(n, num_moe_layers, num_experts)`.
        combination: `"hs"`, which is never standardized; `"rw"` and `"concat"`, which always are; or `"sum"`, whose
            cosine is the code's `similarity_ensemble` up to a factor.
        alpha: Weight of RW in `"sum"`, `similarity_weights`.
        standardize: Whether `"sum"` is: yes with `emb_info='MoEE'`, no with `emb_info='HS'`; the paper does not say.

    Returns:
        Float32 of shape `(n, embedding_size)`.
    """
    if combination in ("rw", "concat") or (combination == "sum" and standardize):
        hidden, routing = standardize_batch(hidden), standardize_batch(routing)
    return combine(hidden, routing, combination, alpha)


class ReleasedCodeEncoder(MoEEEncoder):
    """The released code as an encoder of mteb; `standardize` is that of `embed_batch`, and alike for all but `"sum"`.

    Args:
        features: Those of `released_encoders`.
        kwargs: Those of `MoEEEncoder`.
    """

    def embed(self, texts: Sequence[str], templates: Sequence[str] | None = None) -> torch.Tensor:
        edited = [edit(text) or " " for text in texts]
        ((hidden, routing),) = self.features(edited, self.hidden_source, self.router_activation, templates)
        batches = [slice(start, start + BATCH_SIZE) for start in range(0, len(hidden), BATCH_SIZE)]
        options = (self.combination, self.alpha, self.standardize)
        return torch.cat([embed_batch(hidden[batch], routing[batch], *options) for batch in batches])

    @property
    def experiment(self) -> dict[str, Any]:
        prompt = next(name for name, template in PROMPTS.items() if [template] == self.features.templates)
        choices = {"combination": self.combination, **self.features.choices, "prompt": prompt}
        choices["router_activation"] = self.router_activation
        if self.combination == "sum":
            choices |= {"alpha": float(self.alpha), "standardize": self.standardize}
        return choices | {"released_code": f"batches of {BATCH_SIZE}"}


def released_encoders(
    model: MoEEModel,
    prompts: Sequence[str] = tuple(PROMPTS),
    combinations: Sequence[str] = COMBINATIONS,
    alphas: Sequence[float] = (1.0,),
    batch_size: int | None = None,
    store: Path | None = None,
) -> Iterator[list[ReleasedCodeEncoder]]:
    """Yield encoders that do what the code does, those together that share their features.

    Args:
        model: The model.
        prompts: `"none"` and `"prompteol"`, or one of them.
        combinations: What embeddings are made of; `"sum"` twice, standardized and not.
        alphas: Weights of RW in `"sum"`.
        batch_size: The most texts per forward pass, on which nothing depends.
        store: A folder to keep HS and RW in, and to take them from in a later run.
    """
    activation = router_activation(model.config.backbone_config.model_type)
    for prompt in prompts:
        features = Features(
            model,
            PROMPTS[prompt],
            batch_size,
            store,
            pooling="lasttoken",
            hidden_layer=-1,
            hidden_source="state",
            router_activation=activation,
            router_layers=list(range(model.config.router_shape[0])),
        )
        yield [
            ReleasedCodeEncoder(features, combination=combination, alpha=alpha, standardize=standardize)
            for combination in combinations
            for alpha in (alphas if combination == "sum" else alphas[:1])
            for standardize in ((True, False) if combination == "sum" else (combination != "hs",))
        ]
