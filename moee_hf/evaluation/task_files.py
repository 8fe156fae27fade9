"""Evaluation tasks of local files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from mteb.abstasks import AbsTask, AbsTaskClassification
from mteb.abstasks.task_metadata import TaskMetadata

from ..files.folders import sha256
from .mteb_tasks import may_be_in_file, nearest, task_for_file
from .task_data import KINDS, Kind

# files by `KIND/NAME` and by split
_Files = dict[str, dict[str, Path]]


def local_tasks(folder: str | Path, names: Sequence[str] | None = None, split: str | None = None) -> list[AbsTask]:
    """Make tasks of files, each of mteb's class of its kind, so that mteb computes every metric.

    A file is `KIND/NAME.SPLIT.jsonl.gz` or `KIND/NAME.jsonl.gz` (`.jsonl` too), a JSON object a line:

    - `sts`: `sentence1`, `sentence2`, `score` (0 to 5)
    - `pair_classification`: `sentence1`, `sentence2`, `label` (0 or 1)
    - `classification`: `text`, `label`, in the splits `train` and another
    - `clustering`: `text`, `label`
    - `reranking`: `query`, `positive` [..], `negative` [..]
    - `summarization`: `text`, `machine_summaries` [..], `human_summaries` [..], `relevance` [..] (0 to 5)

    Where mteb has a task of the same name (`sts12` is STS12, `emotion` is EmotionClassification, `stsb` is
    STSBenchmark), it is that task with the data of the file. `dataset_revision` is the digest of the files.

    Args:
        folder: Where the folders of the kinds are.
        names: Names of files or of mteb's tasks. None: all.
        split: The split to evaluate. None: `test`, or if there is none, the only one besides `train`.

    Raises:
        ValueError: If a file is not as above, or a name stands for no file.
        OSError: If the folder cannot be read.
    """
    found = _find_files(folder)
    chosen: list[tuple[str, str | None]] = [(key, None) for key in found]
    if names is not None:
        chosen = [_find_named(name, found, folder) for name in names]
    tasks: dict[str, AbsTask] = {}
    for key, name in dict.fromkeys(chosen):
        task = _make_task(key, name, found[key], split)
        if tasks.setdefault(task.metadata.name, task) is not task and name is None:
            raise ValueError(f"{folder}: expected one file for {task.metadata.name}; got two. Rename one.")
    return list(tasks.values())


def available_tasks(folder: str | Path, names: Iterable[str]) -> list[str]:
    """Return those of mteb's tasks of these names that `local_tasks` finds files for.

    Raises:
        ValueError: If there is no file of a task in the folder.
        OSError: If the folder cannot be read.
    """
    found = _find_files(folder)
    return [name for name in names if any(_holds(key, name) for key in found)]


def _find_files(folder: str | Path) -> _Files:
    root = Path(folder)
    if not root.is_dir():
        raise NotADirectoryError(f"{folder}: expected a folder with {', '.join(KINDS)} in it; there is none.")
    found: _Files = {}
    for path in sorted(root.glob("*/*.jsonl*")):
        if path.parent.name in KINDS and path.name.endswith((".jsonl", ".jsonl.gz")):
            stem, _, split = path.name.removesuffix(".gz").removesuffix(".jsonl").rpartition(".")
            stem, split = (stem, split) if stem else (split, "test")
            files = found.setdefault(f"{path.parent.name}/{stem}", {})
            if not stem or files.setdefault(split, path) != path:
                raise ValueError(f"{path}: expected NAME.SPLIT.jsonl, one of each; there is another, or no name.")
    if not found:
        raise ValueError(f"{folder}: expected files such as sts/NAME.test.jsonl.gz; got none.")
    return found


def _find_named(name: str, found: Iterable[str], folder: str | Path) -> tuple[str, str | None]:
    """The file that a name stands for, and the task of mteb if it names one."""
    own = [key for key in found if name in (key, key.split("/")[1])]
    if len(own) == 1:
        return own[0], None
    if own:
        raise ValueError(f"tasks: expected one of {', '.join(own)}; got {name!r}, which may be each.")
    for key in found:
        if _holds(key, name):
            return key, name
    stems = [key.split("/")[1] for key in found]
    raise ValueError(
        f"tasks: expected tasks with a file in {folder} ({', '.join(found)}); got {name!r}.{nearest(name, stems)}"
    )


def _holds(key: str, name: str) -> bool:
    """Whether a file may hold the data of a task of mteb's."""
    kind, stem = key.split("/")
    return may_be_in_file(name, stem, KINDS[kind].task_type)


def _make_task(key: str, name: str | None, files: dict[str, Path], split: str | None) -> AbsTask:
    """The task of a file, with its data; mteb's of this name if it has one, else a new one of its kind."""
    kind, stem = KINDS[key.split("/")[0]], key.split("/")[1]
    task = task_for_file(stem, kind.base, kind.task_type, name) or _new_task(stem, kind)
    splits = _splits_to_read(task, files, split)
    digests = json.dumps({part: sha256(path) for part, path in files.items()})
    dataset = {"path": files[splits[-1]].name, "revision": hashlib.sha256(digests.encode()).hexdigest()}
    task.metadata = task.metadata.model_copy(update={"dataset": dataset, "eval_splits": splits[-1:]})
    task.hf_subsets = ["default"]
    task.dataset = kind.dataset({part: kind.read(files[part]) for part in splits})
    task.data_loaded = True
    return task


def _new_task(stem: str, kind: Kind) -> AbsTask:
    metadata = TaskMetadata(
        name=stem,
        description=f"{kind.task_type} on local data.",
        type=kind.task_type,
        category="t2t",
        dataset={"path": stem, "revision": ""},
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=kind.main_score,
    )
    return type(stem, (kind.base,), {"metadata": metadata, "min_score": 0, "max_score": 5})()


def _splits_to_read(task: AbsTask, files: dict[str, Path], split: str | None) -> list[str]:
    """The splits that a task needs; the one that is evaluated comes last."""
    evaluated = [split] if split else ["test"] if "test" in files else sorted(files.keys() - {"train"})
    got = ", ".join(map(repr, files))
    if len(evaluated) != 1 or evaluated[0] not in files:
        folder = next(iter(files.values())).parent
        raise ValueError(f"{folder}: expected {task.metadata.name} with the split {split or 'test'!r}; got {got}.")
    if not isinstance(task, AbsTaskClassification):
        return evaluated
    if "train" not in files or split == "train":
        path = files[evaluated[0]]
        raise ValueError(f"{path}: expected a file of the split 'train' beside that of another; got {got}.")
    return ["train", *evaluated]
