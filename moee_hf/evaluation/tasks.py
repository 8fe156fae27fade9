"""Evaluation tasks by name: mteb's own, with the data that mteb fetches or with local files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mteb.abstasks import AbsTask

from .mteb_tasks import mteb_task
from .task_files import local_tasks


def get_tasks(names: Sequence[str] | None, data: str | Path | None = None, split: str | None = None) -> list[AbsTask]:
    """Return evaluation tasks by name.

    Args:
        names: Names of mteb's tasks, or with `data`, of files there (`stsb` for `sts/stsb.test.jsonl.gz`). None: all
            files.
        data: A folder with tasks as files (see `local_tasks`). None: mteb fetches the data.
        split: The split to evaluate in place of the task's own.

    Raises:
        ValueError: If no task has such a name, or no tasks are named and there is no folder.
        OSError: If the folder cannot be read.
    """
    if data is not None:
        return local_tasks(data, names, split)
    if not names:
        raise ValueError(
            "tasks: expected names of mteb's tasks, such as STS12; got none. Name some, or give a folder of files as "
            "data."
        )
    return [mteb_task(name, split) for name in dict.fromkeys(names)]
