"""Evaluation tasks: mteb's own, with the data that mteb fetches or with local files."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mteb
from datasets import Dataset, DatasetDict
from mteb.abstasks import (
    AbsTask,
    AbsTaskClassification,
    AbsTaskClusteringLegacy,
    AbsTaskPairClassification,
    AbsTaskRetrieval,
    AbsTaskSTS,
    AbsTaskSummarization,
)
from mteb.abstasks.task_metadata import TaskMetadata

from ..files.folders import sha256
from ..files.texts import read_fields

Columns = dict[str, list[Any]]

# what the rule for names does not find; the first version of SummEval averages correlations with their p-values
_ALIASES = {"stsb": "STSBenchmark", "summeval": "SummEvalSummarization.v2"}


def get_tasks(names: Sequence[str] | None, data: str | None = None, split: str | None = None) -> list[AbsTask]:
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
        raise ValueError("--tasks: expected names of mteb's tasks, such as STS12; got none. Or name a folder: --data.")
    return [_mteb_task(name, split) for name in dict.fromkeys(names)]


def _mteb_task(name: str, split: str | None) -> AbsTask:
    with warnings.catch_warnings():  # that a newer version of a task exists; the paper's are the older ones
        warnings.simplefilter("ignore")
        try:
            task = mteb.get_task(name)
        except (KeyError, ValueError) as error:
            raise ValueError(f"--tasks: expected the name of a task of mteb {mteb.__version__}; {error}") from error
    if split is None:
        return task
    if split not in task.metadata.eval_splits:
        there = ", ".join(task.metadata.eval_splits)
        raise ValueError(f"--split: expected one that {name} evaluates ({there}); got {split!r}.")
    return task.filter_eval_splits([split])


def local_tasks(folder: str, names: Sequence[str] | None = None, split: str | None = None) -> list[AbsTask]:
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
    found = _files(folder)
    chosen: list[tuple[str, str | None]] = [(key, None) for key in found]
    if names is not None:
        chosen = [_find(name, found, folder) for name in names]
    tasks: dict[str, AbsTask] = {}
    for key, name in dict.fromkeys(chosen):
        kind, stem = key.split("/")
        task = _load(_task(kind, stem, name), kind, found[key], split)
        if tasks.setdefault(task.metadata.name, task) is not task and name is None:
            raise ValueError(f"{folder}: expected one file for {task.metadata.name}; got two. Rename one.")
    return list(tasks.values())


def available_tasks(folder: str, names: Iterable[str]) -> list[str]:
    """Return those of mteb's tasks of these names that `local_tasks` finds files for.

    Raises:
        ValueError: If there is no file of a task in the folder.
        OSError: If the folder cannot be read.
    """
    found = _files(folder)
    return [name for name in names if any(_is_named(key, name) for key in found)]


def _files(folder: str) -> dict[str, dict[str, Path]]:
    """The files of a folder, by `KIND/NAME` and by split."""
    root = Path(folder)
    if not root.is_dir():
        raise NotADirectoryError(f"{folder}: expected a folder with {', '.join(_KINDS)} in it; there is none.")
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(root.glob("*/*.jsonl*")):
        if path.parent.name in _KINDS and path.name.endswith((".jsonl", ".jsonl.gz")):
            stem, _, part = path.name.removesuffix(".gz").removesuffix(".jsonl").rpartition(".")
            stem, part = (stem, part) if stem else (part, "test")
            files = found.setdefault(f"{path.parent.name}/{stem}", {})
            if not stem or files.setdefault(part, path) != path:
                raise ValueError(f"{path}: expected NAME.SPLIT.jsonl, one of each; there is another, or no name.")
    if not found:
        raise ValueError(f"{folder}: expected files such as sts/NAME.test.jsonl.gz; got none.")
    return found


def _find(name: str, found: Iterable[str], folder: str) -> tuple[str, str | None]:
    """The file that a name stands for, and the task of mteb if it names one."""
    own = [key for key in found if name in (key, key.split("/")[1])]
    if len(own) == 1:
        return own[0], None
    if own:
        raise ValueError(f"--tasks: expected one of {', '.join(own)}; got {name!r}, which may be each.")
    for key in found:
        if _is_named(key, name):
            return key, name
    raise ValueError(f"--tasks: expected tasks with a file in {folder} ({', '.join(found)}); got {name!r}.")


def _is_named(key: str, name: str) -> bool:
    """Whether a task of mteb's, in either version, has the name of a file."""
    kind, stem = key.split("/")
    return _normalized(name) in _names_in_mteb(kind, stem, ("", "v2"))


def _names_in_mteb(kind: str, stem: str, versions: Sequence[str] = ("",)) -> list[str]:
    stems = (_normalized(_ALIASES.get(_normalized(stem), stem)), _normalized(stem))
    return [f"{plain}{of}{v}" for plain in stems for of in ("", _KINDS[kind].name.lower()) for v in versions]


def _task(kind: str, stem: str, name: str | None) -> AbsTask:
    """Mteb's task of this name, or that of the file's, or else a task of its kind."""
    of_kind = _KINDS[kind]
    if name is not None and _has_columns(task := _mteb_task(name, None), of_kind.base):
        return task
    known = mteb.get_tasks(task_types=[of_kind.name], exclude_superseded=False)
    by_name = {_normalized(task.metadata.name): task for task in known if _has_columns(task, of_kind.base)}
    for plain in _names_in_mteb(kind, stem):
        if plain in by_name:
            return by_name[plain]
    metadata = TaskMetadata(
        name=stem,
        description=f"{of_kind.name} on local data.",
        type=of_kind.name,
        category="t2t",
        dataset={"path": stem, "revision": ""},
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=of_kind.main_score,
    )
    return type(stem, (of_kind.base,), {"metadata": metadata, "min_score": 0, "max_score": 5})()


def _has_columns(task: AbsTask, base: type[AbsTask]) -> bool:
    """Whether a task is of this class, and its data have the class's own columns."""
    fields = {n: v for n, v in vars(base).items() if not callable(v) and ("column" in n or n == "train_split")}
    return isinstance(task, base) and all(getattr(task, name) == value for name, value in fields.items())


def _normalized(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def _load(task: AbsTask, kind: str, files: dict[str, Path], split: str | None) -> AbsTask:
    evaluated = [split] if split else ["test"] if "test" in files else sorted(files.keys() - {"train"})
    if len(evaluated) != 1 or evaluated[0] not in files:
        raise ValueError(
            f"{next(iter(files.values())).parent}: expected {task.metadata.name} with the split {split or 'test'!r}; "
            f"got {', '.join(map(repr, files))}."
        )
    parts = evaluated
    if kind == "classification":
        if "train" not in files or split == "train":
            raise ValueError(
                f"{files[evaluated[0]]}: expected a file of the split 'train' beside that of another; got "
                f"{', '.join(map(repr, files))}."
            )
        parts = ["train", *evaluated]
    digests = json.dumps({part: sha256(path) for part, path in files.items()})
    dataset = {"path": files[evaluated[0]].name, "revision": hashlib.sha256(digests.encode()).hexdigest()}
    task.metadata = task.metadata.model_copy(update={"dataset": dataset, "eval_splits": evaluated})
    task.hf_subsets = ["default"]
    columns = {part: read_fields(str(files[part]), _KINDS[kind].fields) for part in parts}
    for part in parts:
        _check(str(files[part]), kind, columns[part])
    task.dataset = _KINDS[kind].dataset(columns)
    task.data_loaded = True
    return task


def _check(source: str, kind: str, columns: Columns) -> None:
    """What mteb cannot score, or scores as if it could."""
    for field in ("positive", "negative", "machine_summaries", "human_summaries"):
        for line, values in enumerate(columns.get(field, []), 1):
            if not values:
                raise ValueError(f"{source}, line {line}: expected texts in {field!r}; got none. Leave the row out.")
    if kind == "summarization":
        lists = zip(columns["machine_summaries"], columns["relevance"], strict=True)
        for line, (texts, scores) in enumerate(lists, 1):
            if len(texts) != len(scores):
                raise ValueError(
                    f"{source}, line {line}: expected a score in 'relevance' for each of {len(texts)} summaries; got "
                    f"{len(scores)}."
                )
    if kind in ("sts", "pair_classification", "classification", "clustering"):
        field = "score" if kind == "sts" else "label"
        values = columns[field]
        if kind == "pair_classification" and (other := [value for value in values if value not in (0, 1)]):
            raise ValueError(f"{source}: expected 'label' to be 0 or 1; got {other[0]!r}.")
        if len(set(map(str, values))) < 2:
            raise ValueError(f"{source}: expected rows that differ in {field!r}; got {values[0]!r} alone.")


class _Columns(Dataset):
    """Data whose columns are lists: mteb reads them item by item, which otherwise takes most of the time."""

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str) and self._indices is None:
            return self.data.column(key).to_pylist()
        return super().__getitem__(key)


def _pairs(columns: dict[str, Columns]) -> DatasetDict:
    return DatasetDict({part: _Columns.from_dict(fields) for part, fields in columns.items()})


def _labelled_pairs(columns: dict[str, Columns]) -> DatasetDict:
    return _pairs({part: {"labels" if f == "label" else f: v for f, v in c.items()} for part, c in columns.items()})


def _labelled_texts(columns: dict[str, Columns]) -> DatasetDict:
    # as numbers, those of the evaluated texts first: scikit-learn's scores of two classes ask for 0 and 1
    evaluated = {str(label) for part, fields in columns.items() if part != "train" for label in fields["label"]}
    names = {str(label) for fields in columns.values() for label in fields["label"]}
    numbers = {
        name: number for number, name in enumerate(sorted(names, key=lambda name: (name not in evaluated, name)))
    }
    return _pairs({p: {"text": f["text"], "label": [numbers[str(x)] for x in f["label"]]} for p, f in columns.items()})


def _one_set(columns: dict[str, Columns]) -> DatasetDict:
    return _pairs({p: {"sentences": [f["text"]], "labels": [list(map(str, f["label"]))]} for p, f in columns.items()})


def _candidates(columns: dict[str, Columns]) -> dict[str, Any]:
    ((split, rows),) = columns.items()
    corpus: list[dict[str, str]] = []
    queries: list[dict[str, str]] = []
    relevant: dict[str, dict[str, int]] = {}
    ranked: dict[str, list[str]] = {}
    for number, (query, *lists) in enumerate(zip(rows["query"], rows["positive"], rows["negative"], strict=True)):
        queries.append({"id": f"q{number}", "text": query})
        documents = {
            f"q{number}-{relevance}-{n}": text
            for relevance, texts in zip((1, 0), lists, strict=True)
            for n, text in enumerate(texts)
        }
        corpus += [{"id": name, "title": "", "text": text} for name, text in documents.items()]
        ranked[f"q{number}"] = list(documents)
        relevant[f"q{number}"] = {name: int(name.split("-")[1]) for name in documents}
    data = {
        "corpus": Dataset.from_list(corpus),
        "queries": Dataset.from_list(queries),
        "relevant_docs": relevant,
        "top_ranked": ranked,
    }
    return {"default": {split: data}}


@dataclass(frozen=True)
class _Kind:
    name: Any  # one of mteb's literals
    base: type[AbsTask]
    main_score: str
    fields: dict[str, Any]
    dataset: Callable[[dict[str, Columns]], Any]


_SENTENCES = {"sentence1": str, "sentence2": str}
_LABELLED = {"text": str, "label": (str, int)}
_CANDIDATES = {"query": str, "positive": [str], "negative": [str]}
_SUMMARIES = {"text": str, "machine_summaries": [str], "human_summaries": [str], "relevance": [(int, float)]}
_KINDS = {
    "sts": _Kind("STS", AbsTaskSTS, "cosine_spearman", _SENTENCES | {"score": (int, float)}, _pairs),
    "pair_classification": _Kind(
        "PairClassification", AbsTaskPairClassification, "max_ap", _SENTENCES | {"label": int}, _labelled_pairs
    ),
    "classification": _Kind("Classification", AbsTaskClassification, "accuracy", _LABELLED, _labelled_texts),
    "clustering": _Kind("Clustering", AbsTaskClusteringLegacy, "v_measure", _LABELLED, _one_set),
    "reranking": _Kind("Reranking", AbsTaskRetrieval, "map_at_1000", _CANDIDATES, _candidates),
    "summarization": _Kind("Summarization", AbsTaskSummarization, "cosine_spearman", _SUMMARIES, _pairs),
}
