"""`moee publish`: a complete repository of a recipe or of a saved model, and its way to the Hub."""

from __future__ import annotations

import argparse
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
    parser.add_argument("--device", default="cpu", help="where embeddings for the card are computed: cpu, cuda, auto")
    parser.add_argument("--push", action="store_true", help="push it to the Hub")
    parser.add_argument("--private", action="store_true", help="with --push: make a new repository private")
    set_run(parser, _publish)


def _publish(arguments: argparse.Namespace) -> None:
    if not arguments.push and arguments.output is None:
        raise ValueError("publish: expected --output FOLDER, or --push; got neither. Name a folder, or push.")
    if arguments.private and not arguments.push:
        raise ValueError(
            "private: expected --push beside it, as it has no effect otherwise. Leave one of the two out."
        )
    import_transformers()
    from ..publishing import build, files_to_push, push, recipe_of

    recipe = recipe_of(arguments.source, arguments.repo_id, arguments.license)
    with tempfile.TemporaryDirectory() as temporary:
        folder = build(
            recipe,
            arguments.output or Path(temporary, "repository"),
            reference=False if arguments.full else None,
            device_map=arguments.device,
        )
        if not arguments.push:
            size = sum(path.stat().st_size for path in folder.iterdir())
            print(f"{folder}: {size:,} bytes, of which README.md may be edited", file=sys.stderr)
            return
        files_to_push(folder)  # what it refuses is refused before the Hub is asked
        print(push(folder, private=arguments.private or None).commit_url)
