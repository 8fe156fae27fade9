"""`moee embed INPUT... --output FOLDER/`: any number of files in, a file of embeddings for each part of them out."""

from __future__ import annotations

import argparse
import copy
import functools
import os
import sys
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from ..bulk.description import describe
from ..bulk.folder import CARD, Folder
from ..bulk.inputs import Part, find_inputs
from ..bulk.job import Plan, plan, run
from ..bulk.recipe import model_recipe, versions
from ..bulk.work import Here, Result, Work
from ..files.formats import FORMATS
from ..files.locations import is_remote
from ..files.parquet import import_pyarrow
from ..files.rows import Request
from ..files.texts import TextFile
from .flags import positive_int, whole_number
from .loading import load_config, load_model
from .progress import JobProgress

if TYPE_CHECKING:
    from ..model.modeling_moee import MoEEModel

# flags that a single file has no use for; what they are if they are not given
_DEFAULTS = {
    "rows_per_file": 50_000,
    **{"num_shards": 1, "shard": 0},
    **{"ray": None, "actors": None, "cpus_per_actor": 1},
    **{"push_to_hub": None, "private": None},
}
# flags that count only beside another
_BESIDE = {
    "shard": "num_shards",
    "num_shards": "shard",
    "actors": "ray",
    "cpus_per_actor": "ray",
    "private": "push_to_hub",
}


def add_folder_flags(parser: argparse.ArgumentParser) -> None:
    """Add how many files become many; all are None unless they are given."""
    group = parser.add_argument_group("folders", "of many files; the same command goes on with what is not there yet")
    group.add_argument(
        "--rows-per-file",
        type=whole_number,
        metavar="N",
        help=f"divide larger inputs, into files of so many rows; 0: never (default: {_DEFAULTS['rows_per_file']})",
    )
    group.add_argument("--num-shards", type=positive_int("shards"), metavar="N", help="divide the work among N runs")
    group.add_argument("--shard", type=whole_number, metavar="I", help="which of them this is, from 0")
    group.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="embed on a Ray cluster (default: that of RAY_ADDRESS, or one on this machine)",
    )
    group.add_argument(
        "--actors", type=positive_int("actors"), metavar="N", help="models on it at once (default: one for each GPU)"
    )
    group.add_argument(
        "--cpus-per-actor", type=positive_int("processors"), metavar="N", help="processors of each (default: 1)"
    )
    group.add_argument(
        "--push-to-hub",
        metavar="NAME",
        help="when all files are there, make them a data set on the Hub, such as me/name",
    )
    group.add_argument("--private", action="store_true", default=None, help="make a new repository private")


def is_folder(output: str) -> bool:
    """Return whether an output is a folder."""
    named = output.endswith(("/", os.sep)) or is_remote(output)
    return named or (os.path.isdir(output) and PurePath(output).suffix.lower() not in FORMATS)


def refuse_folder_flags(arguments: argparse.Namespace) -> None:
    """Raise `ValueError` if a flag was given that only folders have a use for, or there are several inputs."""
    for name in _DEFAULTS:
        if getattr(arguments, name) is not None:
            raise ValueError(
                f"{name}: expected an output that is a folder, with / at its end; got {arguments.output}. Leave one "
                "of the two out."
            )
    if len(arguments.input) > 1 or os.path.isdir(arguments.input[0]):
        raise ValueError(
            f"output: expected a folder, with / at its end, for embeddings of several files; got {arguments.output}."
        )


def embed_folder(arguments: argparse.Namespace) -> None:
    """Run the command."""
    arguments = _completed(arguments)
    import_pyarrow()
    folder, files = Folder(arguments.output), find_inputs(arguments.input)
    keep = arguments.keep
    request = Request("", arguments.column, arguments.delimiter, keep)
    for file in files:  # flags that its format has no use for
        TextFile(file.location, arguments.column, arguments.delimiter, keep)
    for leftover in folder.remove_leftovers():
        print(f"{leftover}: the beginning of a file, from a run that was killed; removed", file=sys.stderr)
    source, commit, config = load_config(arguments)
    described = (arguments.prompt, arguments.normalize, arguments.precision, arguments.quantize)
    recipe = model_recipe(config, source, commit, arguments.prompt)
    recipe |= {name: getattr(arguments, name) for name in _RECIPE_FLAGS} | {"keep": list(keep)}
    planned = plan(folder, files, request, arguments.rows_per_file, recipe, versions(), not arguments.no_text)
    if CARD not in planned.done:
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
    *("column", "delimiter", "keep_empty", "no_text"),
)


def _completed(arguments: argparse.Namespace) -> argparse.Namespace:
    """The flags with their defaults.

    Raises:
        ValueError: If two do not go together.
    """
    for name, other in _BESIDE.items():
        if getattr(arguments, name) is not None and getattr(arguments, other) is None:
            flag = other.replace("_", "-")
            raise ValueError(f"{name}: expected --{flag} beside it; there is none. Give both, or none.")
    if arguments.ray is not None and arguments.devices is not None:
        raise ValueError(
            "devices: expected none beside --ray, whose actors have a GPU each. Leave one of the two out."
        )
    given = {name: value for name in _DEFAULTS if (value := getattr(arguments, name)) is not None}
    arguments = argparse.Namespace(**vars(arguments) | _DEFAULTS | given)
    if arguments.shard >= arguments.num_shards:
        raise ValueError(f"shard: expected a number below {arguments.num_shards}; got {arguments.shard}.")
    if arguments.push_to_hub is not None and is_remote(arguments.output):
        raise ValueError(
            f"push_to_hub: expected an output that is a folder of this machine; got {arguments.output}. Copy it here."
        )
    if arguments.ray is not None:  # its processes may run in another folder
        places = [arguments.output, *arguments.input]
        arguments.output, *arguments.input = (
            place if is_remote(place) else os.path.abspath(place) for place in places
        )
        if os.path.isdir(arguments.model):
            arguments.model = os.path.abspath(arguments.model)
    return arguments


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
    with runner as running, JobProgress(len(parts), total) as progress:
        for result in run(parts, running, progress.texts):
            progress.file()
            results.append(result)
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
    made = sum(result.error is None for result in results)
    there = sum(part.output in planned.done for part in planned.parts) + made
    print(
        f"{sum(result.texts for result in results):,} embeddings in {made:,} files; {there:,} of "
        f"{len(planned.parts):,} files are there: {arguments.output}",
        file=sys.stderr,
    )
    if failed:
        raise ValueError(
            f"{arguments.output}: expected embeddings of every file; {len(failed):,} failed, for the reasons above. "
            "The same command tries them again."
        )
