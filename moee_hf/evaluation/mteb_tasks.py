"""Tasks of mteb by name: as mteb calls them, or as a file with their data may be called."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import cache

import mteb
import mteb.tasks
from mteb.abstasks import AbsTask

# what the rule for names does not find; the first version of SummEval averages correlations with their p-values
_ALIASES = {"stsb": "STSBenchmark", "summeval": "SummEvalSummarization.v2"}


def mteb_task(name: str, split: str | None = None) -> AbsTask:
    """Return a task of mteb.

    Args:
        name: Its name, such as `STS12`.
        split: The split to evaluate. None: those of the task.

    Raises:
        ValueError: If mteb has no such task, or the task no such split.
    """
    with warnings.catch_warnings():  # that a newer version of a task exists; the paper's are the older ones
        warnings.simplefilter("ignore")
        try:
            task = mteb.get_task(name)
        except (KeyError, ValueError) as error:
            known = [task.metadata.name for task in vars(mteb.tasks).values() if hasattr(task, "metadata")]
            raise ValueError(
                f"tasks: expected the name of a task of mteb {mteb.__version__}; got {name!r}.{nearest(name, known)}"
            ) from error
    if split is None:
        return task
    if split not in task.metadata.eval_splits:
        there = ", ".join(task.metadata.eval_splits)
        raise ValueError(f"split: expected one that {name} evaluates ({there}); got {split!r}.")
    return task.filter_eval_splits([split])


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a sentence with the known name that was probably meant; empty if none is similar."""
    by_letters = {_normalized(candidate): candidate for candidate in known}
    found = get_close_matches(_normalized(name), by_letters, n=1)
    return f" Did you mean {by_letters[found[0]]!r}?" if found else ""


def may_be_in_file(name: str, stem: str, task_type: str) -> bool:
    """Whether a task of mteb's of this name, in either version, may have its data in a file `stem`."""
    return _normalized(name) in _names_of(stem, task_type, ("", "v2"))


def task_for_file(stem: str, base: type[AbsTask], task_type: str, name: str | None = None) -> AbsTask | None:
    """Return the task of mteb whose data a file may hold, with the columns that files have. None: there is none.

    Args:
        stem: Name of the file: `sts12` is STS12, `emotion` is EmotionClassification, `stsb` is STSBenchmark.
        base: Class of the task.
        task_type: What mteb calls this class, such as `"STS"`.
        name: The task that was asked for by mteb's own name, and is preferred.

    Raises:
        ValueError: If mteb has no task `name`.
    """
    if name is not None and _has_usual_columns(task := mteb_task(name), base):
        return task
    known = _usual_tasks(base, task_type)
    found = next((known[name] for name in _names_of(stem, task_type) if name in known), None)
    return None if found is None else mteb_task(found)


@cache
def _usual_tasks(base: type[AbsTask], task_type: str) -> dict[str, str]:
    """The names of mteb's tasks of a class whose data have its usual columns, by what they are normalized."""
    known = mteb.get_tasks(task_types=[task_type], exclude_superseded=False)  # type: ignore[list-item]
    names = [task.metadata.name for task in known if _has_usual_columns(task, base)]
    return {_normalized(name): name for name in names}


def _names_of(stem: str, task_type: str, versions: Sequence[str] = ("",)) -> list[str]:
    """The names, normalized, that mteb's task of this file may have, the likeliest first."""
    stems = (_normalized(_ALIASES.get(_normalized(stem), stem)), _normalized(stem))
    return [f"{plain}{suffix}{v}" for plain in stems for suffix in ("", task_type.lower()) for v in versions]


def _normalized(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def _has_usual_columns(task: AbsTask, base: type[AbsTask]) -> bool:
    """Whether a task is of this class, and its data have the class's own columns."""
    fields = {n: v for n, v in vars(base).items() if not callable(v) and ("column" in n or n == "train_split")}
    return isinstance(task, base) and all(getattr(task, name) == value for name, value in fields.items())
