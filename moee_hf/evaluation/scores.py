"""Scores of a model on mteb's tasks, resumed by themselves."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mteb
import numpy as np
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
        if not task.data_loaded and not task.is_aggregate:
            task.load_data()  # for all encoders; mteb would load and unload them for each
        # every encoder gets the same samples of tasks that draw some, whichever came before
        task.rng_state, task.np_rng = random.Random(task.seed), np.random.default_rng(task.seed)
        options: Any = {"batch_size": 1024}  # of the texts that mteb hands over
        mteb.evaluate(
            encoder,
            task,
            cache=cache,
            overwrite_strategy="always" if result is None else "only-missing",
            encode_kwargs=options,
            show_progress_bar=False,
            co2_tracker=False,
        )
        # as it was written, to six digits, so that a run that finds it there prints the same
        result = cache.load_task_result(task.metadata.name, encoder.mteb_model_meta, raise_if_not_found=True)
        assert result is not None
    return 100 * float(result.validate_and_filter_scores(task).get_score())


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
    """Arrange scores: a row for each task and way of reading it, a column for each embedding, the control's beside.

    Raises:
        ValueError: If two scores have the same place.
    """
    several_alphas = len({score.choices["alpha"] for score in scores if "alpha" in score.choices}) > 1

    def column(score: Score) -> str:
        name = score.choices["combination"]
        name += f" {score.choices['alpha']:.12g}" if several_alphas and name == "sum" else ""
        return f"random {name}" if "weights" in score.choices else name

    def readings(choices: dict[str, Any]) -> dict[str, str]:
        labels = {"prompt": "", "statistics": "raw"} | {name: str(value) for name, value in choices.items()}
        labels["statistics"] = "calibrated" if "statistics" in choices else "raw"
        in_columns = ("combination", "alpha", "weights", "prompt_digest")
        return {name: label for name, label in labels.items() if name not in in_columns}

    labelled = [(score, readings(score.choices)) for score in scores]
    values: dict[str, set[str]] = {}
    for _, labels in labelled:
        for name, label in labels.items():
            values.setdefault(name, set()).add(label)
    shown = [name for name, found in values.items() if len(found) > 1 or name == "prompt" or "calibrated" in found]
    columns = sorted(dict.fromkeys(map(column, scores)), key=lambda name: name.startswith("random "))
    rows: dict[tuple[str, ...], dict[str, float]] = {}
    for score, labels in labelled:
        row = rows.setdefault((score.task, *(labels.get(name, "") for name in shown)), {})
        if column(score) in row:
            raise ValueError(f"table: expected one score of {score.task} for {score.choices}; got two.")
        row[column(score)] = score.value
    tasks = list(dict.fromkeys(score.task for score in scores))
    ordered = sorted(rows.items(), key=lambda row: tasks.index(row[0][0]))
    return Table(["task", *shown, *columns], [[*labels, *map(row.get, columns)] for labels, row in ordered])
