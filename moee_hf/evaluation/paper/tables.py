"""The paper's tables (arXiv 2410.10814, tables 3, 4 and 8 to 12), ours beside the published numbers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

import yaml

from ...files.folders import shipped
from ..scores import Score
from ..tables import Cell, Table

# the set that other papers' average of STS leaves out
_NOT_IN_STS7 = "BIOSSES"
_Key = tuple[str, str, str]  # task, prompt, combination
PROMPTS = ("none", "prompteol")
NOTE = (
    "Main scores times 100; the average of all is the mean of the six types, as in tables 3 and 4. The paper's 'none' "
    "is a text in quotes. Its sum, in classification and clustering, averages the numbers of classes and clusters, "
    "which depends on how they happen to be numbered; ours is computed on the vectors."
)


@dataclass(frozen=True)
class Paper:
    """What the paper published of one backbone.

    Args:
        key: What `read_paper` knows it by.
        name: The backbone, as the paper calls it.
        model: Its id on the Hub.
        types: Type of each task, in the order of the tables.
        published: Main score times 100 by task, prompt (`"none"`, `"prompteol"`) and combination.
    """

    key: str
    name: str
    model: str
    types: Mapping[str, str]
    published: Mapping[_Key, float]


def papers() -> list[str]:
    """Return the names of the backbones that there are numbers of."""
    return sorted(path.stem for path in shipped("paper").glob("*.yaml"))


def read_paper(name: str) -> Paper:
    """Read what the paper published of a backbone.

    Args:
        name: One of `papers()`.

    Raises:
        ValueError: If it is none.
    """
    path = shipped(f"paper/{name}.yaml")
    if name not in papers():
        raise ValueError(f"paper: expected one of {', '.join(papers())}; got {name!r}.")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    published = {
        (task, prompt, combination): value
        for task, row in content["published"].items()
        for prompt in PROMPTS
        for combination, value in zip(content["combinations"], row[prompt], strict=True)
    }
    types = {task: row["type"] for task, row in content["published"].items()}
    return Paper(name, content["name"], content["model"], types, published)


def paper_table(paper: Paper, scores: Sequence[Score]) -> Table:
    """Put ours beside the published numbers: every data set, and the averages; what was not evaluated stays blank.

    Args:
        paper: The published numbers.
        scores: Ours, of any of the tasks.
    """
    columns, lines = _columns(paper, scores), _lines(paper)
    rows: list[list[Cell]] = []
    for prompt, (label, kind, groups) in itertools.product(PROMPTS, lines):
        values = [_mean_of_means(groups, prompt, combination, found) for _, combination, found in columns]
        rows.append([label, kind, prompt, *values])
    return Table(["task", "type", "prompt", *(name for name, _, _ in columns)], rows)


def _columns(paper: Paper, scores: Sequence[Score]) -> list[tuple[str, str, Mapping[_Key, float]]]:
    """Name, combination and numbers of each column: of a combination the paper's, then ours in every variant."""
    ours: dict[str, dict[str, dict[_Key, float]]] = {}
    for score in scores:
        choices, combination = score.choices, score.choices["combination"]
        variant = " standardized" if choices.get("standardize") else ""
        variant += f" alpha {choices['alpha']:.12g}" if choices.get("alpha", 1) != 1 else ""
        values = ours.setdefault(combination, {}).setdefault(variant, {})
        values[score.task, choices["prompt"], combination] = score.value
    columns: list[tuple[str, str, Mapping[_Key, float]]] = []
    for combination in dict.fromkeys(combination for _, _, combination in paper.published):
        columns.append((f"paper {combination}", combination, paper.published))
        variants = ours.get(combination, {"": {}})
        columns += [(f"ours {combination}{variant}", combination, values) for variant, values in variants.items()]
    return columns


def _lines(paper: Paper) -> list[tuple[str, str, list[list[str]]]]:
    """Label and type of each line, and the groups of tasks that it is the mean of the means of."""
    by_type: dict[str, list[str]] = {}
    for task, kind in paper.types.items():
        by_type.setdefault(kind, []).append(task)
    sts7 = [task for task in by_type["STS"] if task != _NOT_IN_STS7]
    return [
        *((task, kind, [[task]]) for task, kind in paper.types.items()),
        ("average of 8", "STS", [by_type["STS"]]),
        (f"average of 7, without {_NOT_IN_STS7}", "STS", [sts7]),
        *(("average", kind, [tasks]) for kind, tasks in by_type.items() if kind != "STS" and len(tasks) > 1),
        ("average", "all", list(by_type.values())),
    ]


def _mean_of_means(
    groups: list[list[str]], prompt: str, combination: str, values: Mapping[_Key, float]
) -> float | None:
    """The mean over groups of the mean over their tasks; None if a task has no value."""
    keys = [[(task, prompt, combination) for task in tasks] for tasks in groups]
    if not all(key in values for group in keys for key in group):
        return None
    return mean(mean(values[key] for key in group) for group in keys)
