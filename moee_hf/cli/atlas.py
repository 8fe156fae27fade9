"""`moee atlas`: what each expert reads in a corpus, as a page."""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
import sys
from functools import partial
from pathlib import Path

from ..files.partial import check_place, remove_leftovers
from ..files.texts import Counted, TextFile
from .choices import add_choice_flags
from .flags import (
    Commands,
    add_input_flags,
    add_model_flags,
    add_prompt_flag,
    input_file,
    positive_int,
    report_leftovers,
    report_skipped,
    set_run,
)
from .loading import load_model
from .progress import Progress


def add_atlas_command(commands: Commands) -> None:
    """Add `moee atlas`."""
    parser = commands.add_parser(
        "atlas",
        help="show what each expert reads in the texts of a file, and a map of them, as a page",
        description="Show which texts and words each expert is chosen for, which experts go together, and a map of "
        "the texts: one page for a browser, which needs no network. In Python: moee_hf.routing.atlas.atlas, then "
        "moee_hf.routing.atlas_page.write_page.",
    )
    add_input_flags(parser)
    parser.add_argument("--output", required=True, metavar="FILE", help="the page, .html")
    parser.add_argument(
        "--top", type=positive_int("texts"), default=8, metavar="N", help="texts of each expert (default: 8)"
    )
    add_model_flags(parser)
    add_prompt_flag(parser)
    add_choice_flags(parser)
    set_run(parser, partial(_atlas, parser))


def _atlas(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    from ..model.prompts_moee import TextError
    from ..routing.atlas import atlas
    from ..routing.atlas_groups import import_sklearn
    from ..routing.atlas_page import write_page

    output = Path(arguments.output)
    if output.suffix.lower() != ".html":
        raise ValueError(f"output: expected a name ending in .html; got {arguments.output!r}.")
    check_place(arguments.output, arguments.input)
    import_sklearn()
    file = input_file(arguments)
    file.check()
    report_leftovers(remove_leftovers(output))
    model = load_model(arguments)
    texts = (row.text for row in file.rows())
    with Progress():
        try:
            found = atlas(
                model,
                texts if file.count is None else Counted(texts, file.count),
                prompt=model.config.find_prompts(arguments.prompt),
                top=arguments.top,
                batch_size=arguments.batch_size,
            )
        except TextError as error:
            raise ValueError(f"{file.source}{_place(file, error.index)}: {error.problem}") from error
    write_page(found, output, _command(parser, arguments))
    report_skipped(file)
    print(f"{found.num_texts:,} texts, {len(found.experts):,} experts: {output}", file=sys.stderr)


def _place(file: TextFile, index: int) -> str:
    """Where the text of this number stands, if the file can be read again."""
    row = next(itertools.islice(file.rows(), index, None), None) if file.count is not None else None
    return f", text {index + 1}" if row is None else f", {row.where}"


def _command(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> str:
    """The command as the page has it: the flags that were given, and no folders of this machine."""
    words = ["moee", "atlas", _without_place(arguments.input)]
    for action in parser._actions:
        value = getattr(arguments, action.dest, None) if action.option_strings else None
        if value is None or value == action.default:
            continue
        flag = action.option_strings[-1 if value is False else 0]
        values = [] if isinstance(value, bool) else value if isinstance(value, list) else [value]
        is_place = action.dest == "output" or (action.dest == "model" and os.path.exists(value))
        words += [flag, *(_without_place(part) if is_place else str(part) for part in values)]
    return os.fsencode(shlex.join(words)).decode(errors="replace")


def _without_place(path: str) -> str:
    """The name of a file, without folders of this machine, and what may be a secret in an address."""
    return os.path.basename(os.path.normpath(path.partition("?")[0]))
