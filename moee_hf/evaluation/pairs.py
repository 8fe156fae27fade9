"""The pairs of texts of a task, and how similar HS and RW find them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mteb.abstasks import AbsTask, AbsTaskPairClassification, AbsTaskSTS

from ..model.functional_moee import similarity_pairwise
from .encoder import MoEEEncoder


def has_pairs(task: AbsTask) -> bool:
    """Whether a task is made of pairs of texts."""
    return isinstance(task, AbsTaskSTS | AbsTaskPairClassification)


def split_of(task: Any) -> Any:
    """Return the columns of the split that a task evaluates, fetched if they are not there yet.

    Raises:
        ValueError: If the task has several splits or languages.
    """
    if list(task.hf_subsets) != ["default"] or len(task.eval_splits) != 1:
        raise ValueError(
            f"tasks: expected tasks of one language and one split; got {task.metadata.name!r} with "
            f"{', '.join(task.hf_subsets)} and {', '.join(task.eval_splits)}."
        )
    if not task.data_loaded:
        task.load_data()
    data = task.dataset.get("default", task.dataset)[task.eval_splits[0]]
    # pairs were kept in one row of lists once
    return data[0] if has_pairs(task) and len(data) == 1 and isinstance(data[0][_columns(task)[0]], list) else data


def pairs_of(task: Any) -> tuple[list[str], list[str]]:
    """Return the first and the second texts of the pairs of a task."""
    data = split_of(task)
    first, second = (list(data[column]) for column in _columns(task))
    return first, second


def _columns(task: Any) -> Any:
    return task.column_names if isinstance(task, AbsTaskSTS) else (task.input1_column_name, task.input2_column_name)


def hidden_and_routing(encoder: MoEEEncoder) -> dict[str, MoEEEncoder]:
    """Return the variants of an encoder that give HS and RW alone, whole."""
    return {part: encoder.variant(combination=part, dimensions=0, precision=None) for part in ("hs", "rw")}


def similarities(encoder: MoEEEncoder, first: Sequence[str], second: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the cosine similarity of each pair of texts, by HS and by RW: `{"hs": [n], "rw": [n]}`."""
    return {
        name: similarity_pairwise(part.embed(first), part.embed(second)).numpy()
        for name, part in hidden_and_routing(encoder).items()
    }
