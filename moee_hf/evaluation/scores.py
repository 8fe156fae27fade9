"""Scores of a model on mteb's tasks: every combination of choices from one reading of the texts, resumed by itself."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mteb
from mteb.abstasks import AbsTask
from mteb.cache import ResultCache
from mteb.results import TaskResult

from .encoder import MoEEEncoder
from .tables import Table

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Score:
    """The main score of a task, times 100, and the choices that it was reached with."""

    task: str
    value: float
    choices: dict[str, Any]


def evaluate(groups: Iterable[Sequence[MoEEEncoder]], tasks: Sequence[AbsTask], output: Path) -> Iterator[Score]:
    """Evaluate encoders, and yield each score as it is there.

    Results go to `output` in the files and folders of `mteb.ResultCache`; what is there already is not computed again,
    unless the data of the task were changed or the file is damaged.

    Args:
        groups: Encoders that share their features, together; these are forgotten after each group.
        tasks: Tasks of mteb.
        output: Folder for the results.

    Raises:
        ValueError: If a text cannot be embedded.
        OSError: If the data of a task cannot be had.
    """
    cache = ResultCache(output)
    for encoders in groups:
        for task in tasks:
            for encoder in encoders:
                yield Score(task.metadata.name, score(encoder, task, cache), encoder.experiment)
        encoders[0].features.clear()


def score(encoder: MoEEEncoder, task: AbsTask, cache: ResultCache) -> float:
    """Return the main score of a task, times 100, from the cache if it is there."""
    result = _known_result(encoder, task, cache)
    if result is None or result.get_missing_evaluations(task):
        if not task.data_loaded:
            task.load_data()  # for all encoders; mteb would load and unload them for each
        options: Any = {"batch_size": 1024}  # of the texts that mteb hands over
        result = mteb.evaluate(
            encoder,
            task,
            cache=cache,
            overwrite_strategy="always" if result is None else "only-missing",
            encode_kwargs=options,
            show_progress_bar=False,
            co2_tracker=False,
        ).task_results[0]
    # to the digits that a result has on disk, so that a resumed run prints the same
    return round(100 * float(result.get_score(splits=list(task.eval_splits))), 4)


def _known_result(encoder: MoEEEncoder, task: AbsTask, cache: ResultCache) -> TaskResult | None:
    """The result in the cache, if there is one, and it can be read, and it is of the data as they are now."""
    meta, name = encoder.mteb_model_meta, task.metadata.name
    path = cache.get_task_result_path(name, meta)
    try:
        result = cache.load_task_result(name, meta)
        if result is None:
            return None
        result.get_score()  # there is one
        if result.dataset_revision == task.metadata.revision:
            return result
        logger.warning("%s: the data of %s were changed since. Computed again.", path, name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s: expected a result of mteb; it cannot be read as one (%s). Computed again.", path, error)
    return None


def table(scores: Sequence[Score]) -> Table:
    """Arrange scores: a row for each task and way of reading it, a column for each embedding, the control's beside."""

    def column(score: Score) -> str:
        choices = score.choices
        alphas = {s.choices["alpha"] for s in scores if "alpha" in s.choices}
        name = choices["combination"] + (f" {choices['alpha']:g}" if "alpha" in choices and len(alphas) > 1 else "")
        return f"random {name}" if "weights" in choices else name

    reading = ("prompt", "pooling", "hidden_layer", "statistics")
    shown = [name for name in reading if len({s.choices.get(name) for s in scores}) > 1 or name == "prompt"]
    columns = list(dict.fromkeys(map(column, scores)))
    columns.sort(key=lambda name: name.startswith("random"))
    rows: dict[tuple[str, ...], dict[str, float]] = {}
    for one in scores:
        labels = {**one.choices, "statistics": "calibrated" if "statistics" in one.choices else "raw"}
        rows.setdefault((one.task, *(str(labels[name]) for name in shown)), {})[column(one)] = one.value
    tasks = list(dict.fromkeys(one.task for one in scores))
    ordered = sorted(rows.items(), key=lambda row: tasks.index(row[0][0]))
    return Table(["task", *shown, *columns], [[*labels, *map(values.get, columns)] for labels, values in ordered])
