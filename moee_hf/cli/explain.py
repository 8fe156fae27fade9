"""`moee explain`: why texts are alike, as a view for the terminal or a file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..files.embeddings import STDOUT
from ..files.partial import remove_leftovers
from .choices import add_choice_flags
from .flags import Commands, add_model_flags, add_prompt_flag, add_theme_flag, report_leftovers, set_run
from .loading import import_transformers, load_model


def add_explain_command(commands: Commands) -> None:
    """Add `moee explain`."""
    parser = commands.add_parser(
        "explain",
        help="show why texts are alike: hidden state, routing, experts",
        description="Show why texts are alike: what the hidden state, the routing in each MoE layer, and each expert "
        "give to their similarity. The parts add up to it. In Python: moee_hf.routing.explain.explain.",
    )
    parser.add_argument("texts", nargs="+", metavar="TEXT", help="two or more")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help=f".png, .svg or .pdf for a figure, .html for a page, .json for all numbers; {STDOUT} for JSON on "
        "standard output (default: a view for the terminal)",
    )
    parser.add_argument(
        "--tokens", action="store_true", help="show which words choose each expert, too; in one prompt"
    )
    add_theme_flag(parser)
    add_model_flags(parser)
    add_prompt_flag(parser)
    add_choice_flags(parser)
    set_run(parser, _explain)


def _explain(arguments: argparse.Namespace) -> None:
    import_transformers()
    from ..routing.explain import check_comparable, explain
    from ..routing.explain_files import FIGURES, check_explanation_file, to_json, write_explanation
    from .explain_view import show_explanation

    # before the model is loaded
    check_comparable(arguments.texts)
    if arguments.output not in (None, STDOUT):
        check_explanation_file(arguments.output, arguments.theme)
        if arguments.tokens and len(arguments.texts) > 2 and Path(arguments.output).suffix.lower() in FIGURES:
            raise ValueError(
                f"tokens: expected two texts for a figure with words; got {len(arguments.texts)}. Leave --tokens out, "
                "or write a page, .html."
            )
        report_leftovers(remove_leftovers(Path(arguments.output)))
    elif arguments.theme is not None:
        raise ValueError("theme: expected --output with a figure beside it; got none. Leave --theme out.")
    model = load_model(arguments)
    prompts = model.config.find_prompts(arguments.prompt)
    explanation = explain(model, *arguments.texts, prompt=prompts, tokens=arguments.tokens)
    if arguments.output is None:
        show_explanation(explanation)
    elif arguments.output == STDOUT:
        print(to_json(explanation), end="")
    else:
        write_explanation(explanation, arguments.output, arguments.theme)
        print(f"{len(explanation.texts)} texts: {arguments.output}", file=sys.stderr)
