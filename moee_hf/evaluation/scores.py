"""Scores of a model on mteb's tasks, resumed by themselves."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import mteb
import numpy as np
from mteb.abstasks import AbsTask
from mteb.cache import ResultCache
from mteb.results import TaskResult

from .encoder import MoEEEncoder
from .results import WholeResults
from .tables import Table

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Score:
    """The main score of a task, times 100, and the choices that it was reached with: `MoEEEncoder.choices`."""

    task: str
    value: float
    choices: dict[str, Any]


def evaluate(
    groups: Iterable[Sequence[MoEEEncoder]],
    tasks: Sequence[AbsTask],
    output: Path,
    begins: Callable[[str], None] = lambda task: None,
) -> Iterator[Score]:
    """Evaluate encoders, and yield each score as soon as it is computed.

    Results are written to `output`, in the files and folders of `mteb.ResultCache`. What is there already is not
    computed again, unless the data of the task were changed or the file is damaged.

    Args:
        groups: Encoders that share their features, together; these are forgotten after each group.
        tasks: Tasks of mteb.
        output: Folder for the results.
        begins: Is told the name of each task before it is evaluated with the encoders of a group.

    Raises:
        ValueError: If a text cannot be embedded.
        OSError: If the data of a task cannot be had, or a result cannot be written.
    """
    cache = WholeResults(output)
    for encoders in groups:
        for task in tasks:
            begins(task.metadata.name)
            for encoder in encoders:
                yield Score(task.metadata.name, score(encoder, task, cache), encoder.choices)
        for encoder in encoders:
            encoder.features.clear()


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

    The best of each task is marked. Of several tasks, averages stand below, where every task has a score.

    Raises:
        ValueError: If two scores have the same place.
    """
    # of several; the cautious one is another in each row
    with_alpha = len({score.choices.get("alpha") for score in scores} - {None, "cautious"}) > 1
    placed = [(score, _labels(score.choices), _column(score.choices, with_alpha)) for score in scores]
    shown = _labels_to_show([labels for _, labels, _ in placed])
    columns = sorted(dict.fromkeys(column for *_, column in placed), key=lambda name: name.startswith("random "))
    rows: dict[tuple[str, ...], dict[str, float]] = {}
    for score, labels, column in placed:
        row = rows.setdefault((score.task, *(labels.get(name, "") for name in shown)), {})
        if column in row:
            raise ValueError(f"table: expected one score of {score.task} for {score.choices}; got two.")
        row[column] = score.value
    tasks = list(dict.fromkeys(score.task for score in scores))
    ordered = sorted(rows.items(), key=lambda row: tasks.index(row[0][0]))
    ways = dict.fromkeys(labels[1:] for labels, _ in ordered) if len(tasks) > 1 else {}
    averages = [["average", *way, *(_average(rows, tasks, way, name) for name in columns)] for way in ways]
    compared = [[i for i, (labels, _) in enumerate(ordered) if labels[0] == task] for task in tasks]
    return Table(
        ["task", *shown, *columns],
        [[*labels, *map(row.get, columns)] for labels, row in ordered],
        averages,
        [*compared, range(len(ordered), len(ordered) + len(averages))],
        range(1 + len(shown), 1 + len(shown) + len(columns)),
    )


def _average(
    rows: dict[tuple[str, ...], dict[str, float]], tasks: Sequence[str], way: tuple[str, ...], column: str
) -> float | None:
    """The mean over tasks of one way of reading and one embedding; None if a task has no such score."""
    values = [rows.get((task, *way), {}).get(column) for task in tasks]
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


def _column(choices: dict[str, Any], with_alpha: bool) -> str:
    """The column of a score: what the embedding is made of, of trained or random weights."""
    name = choices["combination"]
    if with_alpha and name == "sum" and choices["alpha"] != "cautious":
        name += f" {choices['alpha']:.12g}"
    for choice in ("dimensions", "precision"):
        if choice in choices:
            name += f" {choices[choice]}"
    return f"random {name}" if "weights" in choices else name


def _labels(choices: dict[str, Any]) -> dict[str, str]:
    """What says in which row a score stands: the choices that are not said by its column."""
    in_columns = ("combination", "alpha", "dimensions", "precision", "weights", "prompt_digest")
    labels = {"prompt": "", "statistics": "raw"} | {name: str(value) for name, value in choices.items()}
    if "statistics" in choices:
        labels["statistics"] = "calibrated"  # in place of their digest
    return {name: label for name, label in labels.items() if name not in in_columns}


def _labels_to_show(labelled: Sequence[dict[str, str]]) -> list[str]:
    """The labels that differ between scores; the prompt is always shown, and so is a calibration."""
    values: dict[str, set[str]] = {}
    for labels in labelled:
        for name, label in labels.items():
            values.setdefault(name, set()).add(label)
    return [name for name, found in values.items() if len(found) > 1 or name == "prompt" or "calibrated" in found]
