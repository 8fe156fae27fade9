"""Result files of mteb that are complete, or not there, also while several runs write into one folder."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from mteb.cache import ResultCache
from mteb.results import TaskResult

from ..files.partial import named_errors, remove_leftovers, written_aside


class WholeResults(ResultCache):
    """A cache of results whose files are written elsewhere and moved to their place, the result itself at last."""

    def save_to_cache(self, task_result: TaskResult, model_name: Any, *args: Any, **kwargs: Any) -> None:
        """Save a result, as `ResultCache` does.

        Raises:
            OSError: If it cannot be written; names the file.
        """
        revision = args[0] if args else kwargs.get("model_revision")
        place = self.get_task_result_path(task_result.task_name, model_name, revision)
        with tempfile.TemporaryDirectory() as folder:
            aside = ResultCache(folder)
            result = aside.get_task_result_path(task_result.task_name, model_name, revision)
            with named_errors(place):
                place.parent.mkdir(parents=True, exist_ok=True)
                result.parent.mkdir(parents=True)
                for path in place.parent.glob("*.jsonl"):  # mteb adds lines to those
                    shutil.copy(path, result.parent)
                aside.save_to_cache(task_result, model_name, *args, **kwargs)
            for path in sorted(result.parent.iterdir(), key=lambda path: path == result):
                _copy(path, place.parent / path.name)


def _copy(path: Path, place: Path) -> None:
    remove_leftovers(place)
    with written_aside(place) as partial:
        shutil.copyfile(path, partial)
