"""The pairs of texts of a task, and how similar HS and RW find them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mteb.abstasks import AbsTask, AbsTaskPairClassification, AbsTaskSTS

from ..functional_moee import similarity_pairwise
from .encoder import MoEEEncoder


def has_pairs(task: AbsTask) -> bool:
    """Whether a task is made of pairs of texts."""
    return isinstance(task, AbsTaskSTS | AbsTaskPairClassification)


def split_of(task: Any) -> Any:
    """Return the data of the split that a task evaluates, fetched if they are not there yet."""
    if not task.data_loaded:
        task.load_data()
    return task.dataset.get("default", task.dataset)[task.eval_splits[0]]


def pairs_of(task: Any) -> tuple[list[str], list[str]]:
    """Return the first and the second texts of the pairs of a task."""
    columns = task.column_names if isinstance(task, AbsTaskSTS) else (task.input1_column_name, task.input2_column_name)
    data = split_of(task)
    first, second = (list(data[column]) for column in columns)
    return first, second


def similarities(encoder: MoEEEncoder, first: Sequence[str], second: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the cosine similarity of each pair of texts, by HS and by RW: `{"hs": [n], "rw": [n]}`."""
    parts = {combination: encoder.variant(combination=combination) for combination in ("hs", "rw")}
    return {name: similarity_pairwise(part.embed(first), part.embed(second)).numpy() for name, part in parts.items()}
