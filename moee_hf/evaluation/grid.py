"""Every combination of choices: a grid of encoders, in groups that read texts together."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..model.modeling_moee import MoEEModel
from .encoder import MoEEEncoder
from .features import Corpus, Features, random_weights
from .reading import Reading

# beside embeddings that are calibrated on a corpus: none of what takes one
_RAW: dict[str, Any] = {"standardize": False, "layer_weights": "equal", "dimensions": 0, "precision": "float32"}


def encoders(
    model: MoEEModel,
    prompts: Sequence[str | None] = (None,),
    poolings: Sequence[str | None] = (None,),
    hidden_layers: Sequence[int | None] = (None,),
    combinations: Sequence[str | None] = (None,),
    alphas: Sequence[float | None] = (None,),
    hidden_sources: Sequence[str | None] = (None,),
    router_activations: Sequence[str | None] = (None,),
    layer_weights: Sequence[str | None] = (None,),
    dimensions: Sequence[int | None] = (None,),
    precisions: Sequence[str | None] = (None,),
    corpus: Corpus | None = None,
    control: bool = False,
    batch_size: int | None = None,
    store: Path | None = None,
) -> Iterator[list[MoEEEncoder]]:
    """Yield encoders of every combination of these choices, those together that share their features.

    Args:
        model: The model.
        prompts: Names, several with `+` between them, or templates. None, here and below: the model's.
        poolings: Of HS and RW.
        hidden_layers: Of HS.
        combinations: What embeddings are made of.
        alphas: Weights of RW in `"sum"`. None with a corpus: the cautious one.
        hidden_sources: Where HS is read.
        router_activations: What RW are. None with a corpus: `"clr"` where embeddings are calibrated.
        layer_weights: How much MoE layers count, `"equal"` or `"agreement"`; equally in raw embeddings beside a
            corpus. None with a corpus: `"agreement"`.
        dimensions: Principal components of the corpus that calibrated embeddings are projected on; 0: whole.
        precisions: Of calibrated embeddings: `"float32"`, `"int8"`, `"binary"`.
        corpus: Texts to calibrate on, in each way of reading anew: raw embeddings and calibrated ones are both made.
            None: embeddings as the model makes them.
        control: Whether to yield encoders of the same architecture with random weights too.
        batch_size: The most texts per forward pass. None: as many as the device is fast with.
        store: A folder to keep HS and RW in, and to take them from in a later run.

    Raises:
        ValueError: If a choice is none that the model takes, or a control is asked for of the model's own statistics.
    """
    if control and corpus is None and model.config.standardize:
        raise ValueError(
            "control: expected texts to calibrate on beside it, a corpus; got a model with statistics of its own, "
            "which are not those of random weights."
        )
    networks = [model, random_weights(model)] if control else [model]
    options = {
        "combination": combinations,
        "alpha": alphas,
        "hidden_source": hidden_sources,
        "router_activation": router_activations,
        "layer_weights": layer_weights,
        "dimensions": dimensions,
        "precision": precisions,
    }
    groups: list[list[MoEEEncoder]] = []
    made: set[str] = set()  # what is asked for twice, or comes out alike in two rows, is there once
    for together in _sharing(model, prompts):
        for pooling, layer, network in itertools.product(poolings, hidden_layers, networks):
            readings: dict[str, Reading] = {}
            groups.append([])
            for prompt in together:
                is_random = network is not model
                features = Features(
                    network, prompt, batch_size, store, is_random, readings, pooling=pooling, hidden_layer=layer
                )
                for encoder in _encoders_of(features, options, corpus):
                    if (experiment := str(encoder.experiment)) not in made:
                        groups[-1].append(encoder)
                        made.add(experiment)
    yield from filter(None, groups)  # a choice that the model does not take is found before the first text is read


def _encoders_of(
    features: Features, options: dict[str, Sequence[Any]], corpus: Corpus | None
) -> Iterator[MoEEEncoder]:
    """Every combination of options of an encoder; with a corpus, raw embeddings first."""
    standards: list[dict[str, Any]] = [{}] if corpus is None else [_RAW, {"corpus": corpus}]
    for standard, values in itertools.product(standards, itertools.product(*options.values())):
        yield MoEEEncoder(features, **dict(zip(options, values, strict=True)) | standard)


def _sharing(model: MoEEModel, prompts: Sequence[str | None]) -> list[list[str | None]]:
    """Prompts in groups: those together that have a template in common, which is read for all of them."""
    groups: list[tuple[set[str], list[str | None]]] = []
    for prompt in dict.fromkeys(prompts):
        templates, members = set(model.config.find_prompts(prompt)), [prompt]
        for group in [group for group in groups if group[0] & templates]:
            groups.remove(group)
            templates, members = group[0] | templates, group[1] + members
        groups.append((templates, members))
    return [members for _, members in groups]
