"""`moee embed INPUT... --output FOLDER/`: any number of files in, a file of embeddings for each part of them out."""

from __future__ import annotations

import argparse
import copy
import functools
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..bulk.description import describe
from ..bulk.folder import CARD, Folder
from ..bulk.inputs import Part, find_inputs, request_of
from ..bulk.job import Plan, plan, run
from ..bulk.recipe import model_recipe, versions
from ..bulk.work import Here, Result, Work
from ..files.parquet import import_pyarrow
from ..files.rows import Request
from ..files.texts import TextFile
from .flags import report_leftovers
from .folder_flags import completed
from .loading import load_config, load_model
from .progress import Progress

if TYPE_CHECKING:
    from ..model.modeling_moee import MoEEModel


def embed_folder(arguments: argparse.Namespace) -> None:
    """Run the command."""
    arguments = completed(arguments)
    import_pyarrow()
    folder, files = Folder(arguments.output), find_inputs(arguments.input, arguments.output)
    keep = arguments.keep
    request = Request("", arguments.column, arguments.delimiter, keep)
    requests = [request_of(request, file) for file in files]
    for name in ("column", "delimiter"):
        if getattr(request, name) is not None and not any(getattr(asked, name) for asked in requests):
            raise ValueError(f"{name}: expected an input that has a use for it; got {getattr(request, name)!r}.")
    for asked in requests:
        TextFile(asked.source, asked.column, asked.delimiter, keep)
    report_leftovers(folder.remove_leftovers())
    source, commit, config = load_config(arguments)
    described = (arguments.prompt, arguments.normalize, arguments.precision, arguments.quantize)
    recipe = model_recipe(config, source, commit, arguments.prompt)
    recipe |= {name: getattr(arguments, name) for name in _RECIPE_FLAGS} | {
        "column": request.text_column,
        "keep": list(keep),
    }
    planned = plan(folder, files, request, arguments.rows_per_file, recipe, versions(), not arguments.no_text)
    if planned.is_new or CARD not in planned.done:
        folder.write(CARD, _card(arguments.output, arguments, planned, recipe))
    work = Work(
        load=functools.partial(_load, arguments, commit),
        folder=folder,
        request=request,
        keep_empty=arguments.keep_empty,
        with_text=not arguments.no_text,
        schema=planned.schema,
        metadata=describe(config, source, commit, *described) | {"revision": recipe["revision"]},
        options={
            "prompt": recipe["prompt"],
            "batch_size": arguments.batch_size,
            "normalize_embeddings": arguments.normalize,
            "precision": arguments.precision,
        },
    )
    todo = planned.todo(arguments.num_shards, arguments.shard)
    results = _run(todo, _runner(work, arguments)) if todo else []
    _report(arguments, planned, results)
    if arguments.push_to_hub is not None:
        _push(arguments, planned, folder, _card(arguments.push_to_hub, arguments, planned, recipe))


# what decides the embeddings and files of a folder, beside the model
_RECIPE_FLAGS = (
    *("dtype", "quantize", "normalize", "precision", "rows_per_file"),
    *("keep_empty", "no_text"),
)


def _load(arguments: argparse.Namespace, commit: str | None, device: str | None) -> MoEEModel:
    """Load the model, in whichever process."""
    arguments = copy.copy(arguments)
    arguments.devices, arguments.revision = None, commit
    arguments.device = device or arguments.device
    return load_model(arguments)


def _runner(work: Work, arguments: argparse.Namespace) -> Any:
    if arguments.ray is not None:
        from ..bulk.on_ray import OnRay

        return OnRay(work, arguments.ray or None, arguments.actors, arguments.cpus_per_actor, arguments.device)
    if arguments.devices is not None:
        from ..bulk.processes import Processes
        from ..model.devices_moee import find_devices

        return Processes(work, [str(device) for device in find_devices(arguments.devices)])
    return Here(work)


def _run(parts: list[Part], runner: Any) -> list[Result]:
    sizes = [part.rows for part in parts]
    total = None if None in sizes else sum(filter(None, sizes))
    results = []
    with runner as running, Progress() as progress:
        progress.begin(total)
        for result in run(parts, running, progress.update):
            results.append(result)
            progress.say(f"{len(results):,} of {len(parts):,} files")
    return results


def _card(place: str, arguments: argparse.Namespace, planned: Plan, recipe: dict[str, Any]) -> str:
    from ..bulk.dataset import dataset_card

    kept = [] if planned.schema is None else planned.schema.names
    columns = [*([] if arguments.no_text else ["text"]), *kept, "embedding"]
    name = recipe["model"]
    return dataset_card(place, recipe, columns, f"path/to/{name}" if os.path.isdir(arguments.model) else name)


def _push(arguments: argparse.Namespace, planned: Plan, folder: Folder, card: str) -> None:
    """Push the folder to the Hub, if all files are there, whoever made them.

    Raises:
        ValueError: If some are not.
        OSError: If the Hub refuses.
    """
    from ..bulk.dataset import push_dataset

    present = folder.files()
    if missing := [part.output for part in planned.parts if part.output not in present]:
        raise ValueError(
            f"push_to_hub: expected all files of the data set; {len(missing):,} are not there yet, such as "
            f"{missing[0]}. Push when the other shards are done."
        )
    folder.write(CARD, card)
    print(push_dataset(folder.location, arguments.push_to_hub, arguments.private).commit_url)


def _report(arguments: argparse.Namespace, planned: Plan, results: Sequence[Result]) -> None:
    """Say what was done and what was not.

    Raises:
        ValueError: If a file failed.
    """
    failed = [f"{result.output}: {result.error}" for result in results if result.error is not None]
    failed += [str(error) for error in planned.errors.values()]
    for problem in failed:
        print(problem, file=sys.stderr)
    if skipped := sum(result.skipped for result in results):
        print(f"{skipped:,} empty texts were skipped", file=sys.stderr)
    if planned.unnamed:
        more = f", and {len(planned.unnamed) - 1:,} more" if len(planned.unnamed) > 1 else ""
        print(f"{arguments.output}: has {planned.unnamed[0]}{more} of inputs that are not named now", file=sys.stderr)
    made = sum(result.error is None for result in results)
    there = sum(part.output in planned.done for part in planned.parts) + made
    print(
        f"{sum(result.texts for result in results):,} embeddings in {made:,} files; {there:,} of "
        f"{len(planned.parts) + len(planned.errors):,} files are there: {arguments.output}",
        file=sys.stderr,
    )
    if failed:
        raise ValueError(
            f"{arguments.output}: expected embeddings of every file; {len(failed):,} failed, for the reasons above. "
            "Mend them, or leave them out; the same command tries them again."
        )
