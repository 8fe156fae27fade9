"""Build a complete Hub repository folder from a recipe in configs/: a model, or a Space that shows it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from moee_hf.publishing import build, build_space, read_recipe


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", metavar="YAML", help="one of configs/*.yaml, or your own")
    parser.add_argument("folder", metavar="FOLDER", help="a new folder")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--space", action="store_true", help="a Space with the demo of the model, in place of the model")
    kind.add_argument("--full", action="store_true", help="copy the weights too (default: refer to the backbone's)")
    parser.add_argument("--repo-id", help="repository to publish it in (default: the recipe's)")
    parser.add_argument("--device", default="cpu", help="where to embed for the card: cpu, cuda:1, xpu, auto, ...")
    arguments = parser.parse_args(argv)
    try:
        recipe = read_recipe(arguments.recipe)
        if arguments.space:
            folder = build_space(recipe, arguments.folder, repo_id=arguments.repo_id)
        else:
            folder = build(
                recipe,
                arguments.folder,
                reference=not arguments.full,
                repo_id=arguments.repo_id,
                device_map=arguments.device,
            )
    except (OSError, ValueError, ImportError) as error:
        print(f"build: {error}", file=sys.stderr)
        return 1
    print(f"{folder}: built")
    return 0


if __name__ == "__main__":
    sys.exit(main())
