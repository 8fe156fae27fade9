"""Calibrating a model on a corpus: its statistics, which MoE layers count how much, and smaller embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from .agreement_moee import agreement_by_alpha, cautious_alpha, random_cosines, weights_by_agreement
from .compression_moee import principal_components, project
from .configuration_moee import STATISTICS_FIELDS, MoEEConfig
from .fitted_moee import calibration_key, compression_key
from .functional_moee import Mix
from .inference_moee import embeddings_of, finish, split_raw, wanted_of
from .statistics_moee import StatisticsFit
from .stream_moee import read_stream

if TYPE_CHECKING:
    from .modeling_moee import MoEEModel

# what `calibrate` makes of RW before it weighs their layers
BETTER_ROUTING = {"router_activation": "clr", "router_standardization": "center", "router_layer_weights": None}
_FITTED_CHOICES = (*BETTER_ROUTING, "alpha", "standardize", "dimensions", *STATISTICS_FIELDS)


def fit_corpus(
    model: MoEEModel,
    texts: str | Iterable[str],
    templates: Sequence[str],
    batch_size: int | None = None,
    show_progress_bar: bool | None = None,
) -> list[StatisticsFit]:
    """Read a corpus once, as it comes, and return its statistics in each prompt; of all routers.

    Arguments and errors are those of `embed_stream`.
    """
    wanted = replace(wanted_of(model), routers=tuple(range(model.config.router_shape[0])))
    fits = [StatisticsFit() for _ in templates]
    for part in read_stream(model, texts, templates, wanted, batch_size, show_progress_bar):
        for fit, vectors in zip(fits, torch.from_numpy(part), strict=True):
            read = split_raw(model, wanted, vectors)
            fit.update(read[model.config.hidden_source], read[model.config.router_activation])
    return fits


def apply_fits(
    model: MoEEModel,
    fits: Sequence[StatisticsFit],
    templates: Sequence[str],
    weigh: bool,
    dimensions: int | None = None,
) -> dict[float, float]:
    """Give a model the statistics of a corpus.

    Args:
        model: The model.
        fits: The corpus in each prompt, of at least two texts.
        templates: The prompts.
        weigh: Whether MoE layers, and RW beside HS, count by their agreement with HS, in place of the configuration's
            weights.
        dimensions: The principal components of the corpus that embeddings are projected on. None: they are not.

    Returns:
        Where `weigh`, how far sums agree with HS: `agreement_by_alpha`.

    Raises:
        ValueError: If there are fewer than two texts, or not enough for the dimensions.
    """
    by_alpha: dict[float, float] = {}
    config, results = model.config, [fit.result() for fit in fits]
    statistics = {name: torch.stack([result[name] for result in results]) for name in results[0]}
    model.set_statistics(**{name: values[0] if len(fits) == 1 else values for name, values in statistics.items()})
    agreement = torch.stack([fit.agreement() for fit in fits]).mean(dim=0)
    config.standardize, config.calibration = True, calibration_key(config, templates)
    config.router_agreement = [round(value, 4) for value in agreement.tolist()]
    if weigh:
        config.router_layer_weights = None
        config.router_layer_weights = weights_by_agreement(agreement[config.router_indices])
        parts = [embeddings_of_sample(model, fits, Mix(part, standardize=True)) for part in ("hs", "rw")]
        by_alpha = agreement_by_alpha(*map(random_cosines, parts))
        config.alpha = cautious_alpha(by_alpha)
    fit_compression(model, embeddings_of_sample(model, fits, _whole(config)), dimensions)
    return by_alpha


def embeddings_of_sample(model: MoEEModel, fits: Sequence[StatisticsFit], mix: Mix) -> torch.Tensor:
    """Return the embeddings of the sample of a corpus, read in each prompt, of shape `(n, size)`."""
    parts = []
    for prompt, fit in enumerate(fits):
        hidden, routing = fit.sample()
        parts.append(embeddings_of(model, hidden, routing[:, model.config.router_indices], mix, prompt))
    return finish(model, torch.stack(parts), mix)


def take_fits(model: MoEEModel, fitted: MoEEModel) -> None:
    """Give a model all that a copy of it was fitted to."""
    model.statistics = fitted.statistics
    for field in _FITTED_CHOICES:
        setattr(model.config, field, getattr(fitted.config, field))


def fit_compression(model: MoEEModel, embeddings: torch.Tensor, dimensions: int | None) -> None:
    """Fit what makes embeddings smaller: principal components, and the range of int8.

    Args:
        model: The model, which keeps both.
        embeddings: Whole embeddings of a corpus, of shape `(n, embedding_size)`.
        dimensions: How many principal components. None: none; embeddings stay whole.

    Raises:
        ValueError: If there are not enough embeddings for the dimensions.
    """
    embeddings, components = F.normalize(embeddings, dim=-1), None
    if dimensions is not None:
        components = principal_components(embeddings, dimensions).float()
        embeddings = F.normalize(project(embeddings, components), dim=-1)
    model.statistics.components, model.statistics.largest = components, embeddings.abs().max()
    model.config.dimensions = dimensions
    model.config.compression = compression_key(model.config, _whole(model.config)) | {"dimensions": dimensions}


def _whole(config: MoEEConfig) -> Mix:
    """The configuration's own mix, before it is projected."""
    return Mix(config.combination, config.alpha, config.standardize)
