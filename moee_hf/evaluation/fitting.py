"""The model that makes one embedding: its choices, and what is fitted for it on a corpus or was fitted before."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from ..model.agreement_moee import agreement_by_alpha, cautious_alpha, random_cosines, weights_by_agreement
from ..model.calibration_moee import apply_fits, embeddings_of_sample, fit_compression
from ..model.compression_moee import quantize
from ..model.configuration_moee import MoEEConfig
from ..model.functional_moee import Mix
from ..model.modeling_moee import MoEEModel
from .features import Corpus, Features

LAYER_WEIGHTS = ("equal", "agreement")
# uint8 and ubinary hold the same numbers as int8 and binary
PRECISIONS = ("float32", "int8", "binary")


def own_layer_weights(config: MoEEConfig, layer_weights: str) -> list[float] | None:
    """Return the weights of MoE layers that a choice stands for, of a model as it is.

    Args:
        config: The model's.
        layer_weights: `"equal"`, or `"agreement"`: as far as the layers agreed with HS on the model's own corpus.

    Raises:
        ValueError: If the model was not calibrated, so that nothing is known of their agreement.
    """
    if layer_weights == "equal":
        return None
    if config.router_agreement is None:
        raise ValueError(_needs_corpus("layer_weights", "agreement"))
    layers = list(range(config.router_shape[0])) if config.router_layers is None else config.router_layers
    return weights_by_agreement(torch.tensor([config.router_agreement[layer] for layer in layers]))


def check_is_fitted(config: MoEEConfig, dimensions: int | None, precision: str) -> None:
    """Raise `ValueError` if dimensions or int8 are asked for of a model that was fitted to no corpus."""
    asked = {"dimensions": dimensions, "precision": precision if precision == "int8" else None}
    for name, value in asked.items():
        if value is not None and config.compression is None:
            raise ValueError(_needs_corpus(name, value))


def calibrated(features: Features, corpus: Corpus, model: MoEEModel, layer_weights: str) -> MoEEModel:
    """Return a copy of a model as `MoEEModel.calibrate` leaves it; the same one each time.

    Args:
        features: What reads the corpus in its prompts.
        corpus: The texts.
        model: That of the features, with the choices of one embedding.
        layer_weights: How much MoE layers count: `"agreement"` or `"equal"`; in both cases `alpha` is the cautious
            one.

    Raises:
        ValueError: If the corpus has fewer than two texts, or one cannot be embedded.
    """
    config = model.config
    key = (corpus.digest, config.hidden_source, config.router_activation, config.router_standardization, layer_weights)
    if key not in features.calibrated:
        model = model.with_config()
        fits = features.fits(corpus, config.hidden_source, config.router_activation)
        apply_fits(model, fits, features.templates, weigh=layer_weights == "agreement")
        if layer_weights == "equal":
            parts = [embeddings_of_sample(model, fits, Mix(part, standardize=True)) for part in ("hs", "rw")]
            model.config.alpha = cautious_alpha(agreement_by_alpha(*map(random_cosines, parts)))
        features.calibrated[key] = model
    return features.calibrated[key]


def compress(features: Features, corpus: Corpus, model: MoEEModel, dimensions: int | None) -> None:
    """Fit a calibrated model to embeddings of fewer dimensions and to int8, with its choices as they are now."""
    config = model.config
    fits = features.fits(corpus, config.hidden_source, config.router_activation)
    whole = Mix(config.combination, config.alpha, config.standardize)
    fit_compression(model, embeddings_of_sample(model, fits, whole), dimensions)


def quantized(vectors: torch.Tensor, precision: str, largest: torch.Tensor | None) -> torch.Tensor:
    """Return vectors whose cosines order texts as an index does that keeps embeddings in a precision.

    Args:
        vectors: Embeddings of length 1, of shape `(n, embedding_size)`.
        precision: `"int8"`: the codes; `"binary"`: 1 for a bit that is set, else -1, so that the cosine falls with
            the number of bits that differ. Ones are put behind until the length is a power of 2: then float32 is
            exact, and texts that are equally near stay so.
        largest: As in `quantize`.

    Returns:
        Float32 of shape `(n, embedding_size)`, or `(n, size)` of bits.
    """
    codes = quantize(vectors.numpy(), precision, None if largest is None else float(largest))
    if precision == "int8":
        return torch.from_numpy(codes.astype(np.float32))
    num_bits = vectors.shape[1]
    bits = np.unpackbits((codes.astype(np.int16) + 128).astype(np.uint8), axis=1, count=num_bits)
    signs = torch.from_numpy(2 * bits.astype(np.float32) - 1)
    return F.pad(signs, (0, 4 ** math.ceil(math.log(num_bits, 4)) - num_bits), value=1.0)


def _needs_corpus(name: str, value: object) -> str:
    return (
        f"{name}: expected texts to calibrate on, a corpus, for {value!r}, or a model that was calibrated; got "
        "neither. Give a corpus (--calibrate)."
    )
