"""What a file of a task holds, by kind: its fields, what must be true of them, and how mteb takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

from ..files.texts import read_fields

Columns = dict[str, list[Any]]  # values by field


@dataclass(frozen=True)
class Kind:
    """A kind of tasks.

    Args:
        task_type: What mteb calls it.
        base: Class of its tasks.
        main_score: The score that counts.
        fields: The type of each field of a row, as `read_fields` takes them.
        dataset: Turns the columns of each split into what mteb calls the data set of a task.
        gold: The field with what is to be found out, which must differ between rows. None: it is there in every row.
        check: Raises `ValueError` for columns that mteb would score although that is meaningless. None: none are.
    """

    task_type: Any  # one of mteb's literals
    base: type[AbsTask]
    main_score: str
    fields: Mapping[str, Any]
    dataset: Callable[[dict[str, Columns]], Any]
    gold: str | None = None
    check: Callable[[Path, Columns], None] | None = None

    def read(self, path: Path) -> Columns:
        """Read the columns of a file.

        Raises:
            ValueError: If mteb could not score them, or would score them although that is meaningless.
            OSError: If the file cannot be read.
        """
        columns = read_fields(str(path), self.fields)
        for field, kind in self.fields.items():
            if kind == [str]:
                _check_not_empty(path, field, columns[field])
        if self.check is not None:
            self.check(path, columns)
        if self.gold is not None:
            _check_differs(path, self.gold, columns[self.gold])
        return columns


def _check_not_empty(path: Path, field: str, lists: list[list[str]]) -> None:
    for line, texts in enumerate(lists, 1):
        if not texts:
            raise ValueError(f"{path}, line {line}: expected texts in {field!r}; got none. Leave the row out.")


def _check_scores_of_summaries(path: Path, columns: Columns) -> None:
    for line, (texts, scores) in enumerate(zip(columns["machine_summaries"], columns["relevance"], strict=True), 1):
        if len(texts) != len(scores):
            raise ValueError(
                f"{path}, line {line}: expected a score in 'relevance' for each of {len(texts)} summaries; got "
                f"{len(scores)}."
            )


def _check_binary(path: Path, columns: Columns) -> None:
    if other := [label for label in columns["label"] if label not in (0, 1)]:
        raise ValueError(f"{path}: expected 'label' to be 0 or 1; got {other[0]!r}.")


def _check_differs(path: Path, field: str, values: list[Any]) -> None:
    if len(set(map(str, values))) < 2:
        raise ValueError(f"{path}: expected rows that differ in {field!r}; got {values[0]!r} alone.")


class _ColumnsDataset(Dataset):
    """Data whose columns are lists: mteb reads them item by item, which otherwise takes most of the time."""

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str) and self._indices is None:
            return self.data.column(key).to_pylist()
        return super().__getitem__(key)


def _as_they_are(splits: dict[str, Columns]) -> DatasetDict:
    return DatasetDict({split: _ColumnsDataset.from_dict(columns) for split, columns in splits.items()})


def _labelled_pairs(splits: dict[str, Columns]) -> DatasetDict:
    return _as_they_are(
        {
            split: {"labels" if field == "label" else field: values for field, values in columns.items()}
            for split, columns in splits.items()
        }
    )


def _labelled_texts(splits: dict[str, Columns]) -> DatasetDict:
    # as numbers, those of the evaluated texts first: scikit-learn's scores of two classes ask for 0 and 1
    evaluated = {str(label) for split, columns in splits.items() if split != "train" for label in columns["label"]}
    labels = {str(label) for columns in splits.values() for label in columns["label"]}
    ordered = sorted(labels, key=lambda label: (label not in evaluated, label))
    numbers = {label: number for number, label in enumerate(ordered)}
    return _as_they_are(
        {
            split: {"text": columns["text"], "label": [numbers[str(label)] for label in columns["label"]]}
            for split, columns in splits.items()
        }
    )


def _one_set_of_texts(splits: dict[str, Columns]) -> DatasetDict:
    return _as_they_are(
        {
            split: {"sentences": [columns["text"]], "labels": [[str(label) for label in columns["label"]]]}
            for split, columns in splits.items()
        }
    )


def _queries_and_candidates(splits: dict[str, Columns]) -> dict[str, Any]:
    ((split, columns),) = splits.items()
    corpus: list[dict[str, str]] = []
    queries: list[dict[str, str]] = []
    relevant: dict[str, dict[str, int]] = {}
    ranked: dict[str, list[str]] = {}
    rows = zip(columns["query"], columns["positive"], columns["negative"], strict=True)
    for number, (query, positive, negative) in enumerate(rows):
        key = f"q{number}"
        texts = {
            f"{key}-{relevance}-{n}": text
            for relevance, candidates in ((1, positive), (0, negative))
            for n, text in enumerate(candidates)
        }
        relevant[key] = {name: int(name.split("-")[1]) for name in texts}
        queries.append({"id": key, "text": query})
        corpus += [{"id": name, "title": "", "text": text} for name, text in texts.items()]
        ranked[key] = list(texts)
    data = {
        "corpus": Dataset.from_list(corpus),
        "queries": Dataset.from_list(queries),
        "relevant_docs": relevant,
        "top_ranked": ranked,
    }
    return {"default": {split: data}}


_PAIR = {"sentence1": str, "sentence2": str}
_LABELLED = {"text": str, "label": (str, int)}
_CANDIDATES = {"query": str, "positive": [str], "negative": [str]}
_SUMMARIES = {"text": str, "machine_summaries": [str], "human_summaries": [str], "relevance": [(int, float)]}

# by the name of their folder
KINDS = {
    "sts": Kind("STS", AbsTaskSTS, "cosine_spearman", _PAIR | {"score": (int, float)}, _as_they_are, "score"),
    "pair_classification": Kind(
        "PairClassification",
        AbsTaskPairClassification,
        "max_ap",
        _PAIR | {"label": int},
        _labelled_pairs,
        "label",
        _check_binary,
    ),
    "classification": Kind("Classification", AbsTaskClassification, "accuracy", _LABELLED, _labelled_texts, "label"),
    "clustering": Kind("Clustering", AbsTaskClusteringLegacy, "v_measure", _LABELLED, _one_set_of_texts, "label"),
    "reranking": Kind("Reranking", AbsTaskRetrieval, "map_at_1000", _CANDIDATES, _queries_and_candidates),
    "summarization": Kind(
        "Summarization",
        AbsTaskSummarization,
        "cosine_spearman",
        _SUMMARIES,
        _as_they_are,
        check=_check_scores_of_summaries,
    ),
}
