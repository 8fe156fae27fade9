"""Flags of `moee embed` for many files, and which of them go together."""

from __future__ import annotations

import argparse
import os
from pathlib import PurePath

from ..files.formats import FORMATS
from ..files.locations import is_remote
from .flags import positive_int, whole_number

# flags that a single file has no use for; what they are if they are not given
_DEFAULTS = {
    "rows_per_file": 50_000,
    "num_shards": 1,
    "shard": 0,
    "ray": None,
    "actors": None,
    "cpus_per_actor": 1,
    "push_to_hub": None,
    "private": None,
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
        help="embed on a Ray cluster (default: that of RAY_ADDRESS, or local: one of its own on this machine)",
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
    is_named = output.endswith(("/", os.sep))
    may_be = is_remote(output) or os.path.isdir(output)
    return is_named or (may_be and PurePath(output).suffix.lower() not in FORMATS)


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


def completed(arguments: argparse.Namespace) -> argparse.Namespace:
    """Return the flags with their defaults.

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
