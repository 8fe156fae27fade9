"""`moee publish`: a complete repository of a recipe or of a saved model, and its way to the Hub."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from .flags import Commands, set_run
from .loading import import_transformers


def add_publish_command(commands: Commands) -> None:
    """Add `moee publish`."""
    parser = commands.add_parser(
        "publish",
        help="make a repository with a card of a saved model or of a recipe, and push it to the Hub",
        description="Make a complete repository of a model: card, code, digests, and embeddings to verify it with; "
        "with --push, push it to the Hub in one commit. In Python: moee_hf.publishing.build, then push.",
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder that save_pretrained, save_reference or `moee calibrate` made, or a recipe: a YAML file, or "
        "the name of one of configs/, such as olmoe-1b-7b",
    )
    parser.add_argument("--repo-id", metavar="NAME", help="repository on the Hub (default: the recipe's)")
    parser.add_argument(
        "--output", metavar="FOLDER", help="a new folder for the repository (default, with --push: none that stays)"
    )
    parser.add_argument(
        "--full", action="store_true", help="with the weights (default: only where they are not on the Hub)"
    )
    parser.add_argument("--license", metavar="ID", help="the backbone's licence on the Hub (default: the recipe's)")
    parser.add_argument("--device", default="cpu", help="where to embed for the card: cpu, cuda:1, xpu, auto, ...")
    parser.add_argument("--push", action="store_true", help="push it to the Hub")
    parser.add_argument("--private", action="store_true", help="with --push: make a new repository private")
    parser.add_argument(
        "--dry-run", action="store_true", help="do all but push: list the files that would be, and their sizes"
    )
    set_run(parser, _publish)


def _publish(arguments: argparse.Namespace) -> None:
    _check_flags(arguments)
    import_transformers()
    from ..publishing import build, files_to_push, push, recipe_of, table_of_files

    recipe = recipe_of(arguments.source, arguments.repo_id, arguments.license)
    with tempfile.TemporaryDirectory() as temporary:
        folder = build(
            recipe,
            arguments.output or Path(temporary, "repository"),
            reference=False if arguments.full else None,
            device_map=arguments.device,
        )
        if arguments.push or arguments.dry_run:
            files = files_to_push(folder)  # what it refuses is refused before the Hub is asked
        _verify(folder, arguments.device)
        if arguments.dry_run:
            print("\n".join(table_of_files(files)))
        elif arguments.push:
            print(push(folder, private=arguments.private or None).commit_url)
        if arguments.output is not None:
            print(f"{folder}: built; README.md may be edited", file=sys.stderr)


def _check_flags(arguments: argparse.Namespace) -> None:
    if not (arguments.push or arguments.dry_run or arguments.output is not None):
        raise ValueError("publish: expected --output FOLDER, --push or --dry-run; got none of them. Give one.")
    if arguments.private and not arguments.push:
        raise ValueError(
            "private: expected --push beside it, as it has no effect otherwise. Leave one of the two out."
        )


def _verify(folder: Path, device: str) -> None:
    """Compare a folder with its build in a process that cannot import this package, as whoever loads it has it."""
    from ..publishing import verifying

    program = [sys.executable, "-P", verifying.__file__, str(folder), "--device", device]
    done = subprocess.run(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", check=False)
    print(done.stdout, end="", file=sys.stderr)
    if done.returncode:
        raise ValueError(
            f"{folder}: expected the embeddings of the build from whoever loads it without this package; see above "
            "what came. Nothing was pushed."
        )
