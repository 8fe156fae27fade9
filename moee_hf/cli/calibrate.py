"""`moee calibrate`: a model with the statistics of a corpus."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ..files.folders import check_new_folder
from .choices import CHOICES, add_choice_flags
from .flags import (
    Commands,
    add_input_flags,
    add_model_flags,
    add_prompt_flag,
    input_file,
    positive_int,
    report_skipped,
    set_run,
)
from .loading import load_model
from .progress import Counted, progress_lines
from .routing import agreement_chart, layers_of_routing

if TYPE_CHECKING:
    from ..model.configuration_moee import MoEEConfig
    from ..model.modeling_moee import MoEEModel


def add_calibrate_command(commands: Commands) -> None:
    """Add `moee calibrate`."""
    parser = commands.add_parser(
        "calibrate",
        help="fit a model to the texts of a file, which need no labels, and save it",
        description="Fit a model to the texts of a file, which need no labels, and save it: statistics that "
        "standardize HS and centre RW, which MoE layers are in RW, and how much RW weigh. In Python: "
        "MoEEModel.calibrate, then save_pretrained or save_reference.",
    )
    add_input_flags(parser)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="a new folder for the model")
    parser.add_argument("--reference", action="store_true", help="save it without the weights, which the Hub has")
    parser.add_argument(
        "--dimensions",
        type=positive_int("dimensions"),
        metavar="N",
        help="project embeddings on N principal components of the texts (default: leave them whole)",
    )
    parser.add_argument(
        "--keep-routing",
        action="store_true",
        help="fit the statistics alone; RW and alpha stay as they are (Python: keep_routing=True)",
    )
    parser.add_argument(
        "--fit-alpha",
        metavar="DEV",
        help="choose the weight of RW on a development set: .jsonl with sentence1, sentence2, score; without it, the "
        "weight is chosen without labels, to stay close to HS (Python: moee_hf.evaluation.alpha.choose_alpha)",
    )
    add_model_flags(parser)
    add_prompt_flag(parser)
    add_choice_flags(parser, [field for field in CHOICES if field not in ("standardize", "dimensions")])
    set_run(parser, _calibrate)


def _calibrate(arguments: argparse.Namespace) -> None:
    from ..model.digests_moee import is_interrupted_save
    from ..model.statistics_moee import SAMPLE_SIZE

    output = arguments.output
    if not is_interrupted_save(output):  # what that has left gives way to the next save
        check_new_folder(output)
    choose = None if arguments.fit_alpha is None else _alpha_chooser(arguments)
    file = input_file(arguments)
    file.check()
    model = load_model(arguments)
    prompt = model.config.find_prompts(arguments.prompt)
    number, sample = 0, []

    def stream() -> Iterator[str]:
        nonlocal number
        for number, row in enumerate(file.rows(), 1):
            if choose is not None and number <= SAMPLE_SIZE:
                sample.append(row.text)
            yield row.text

    with progress_lines():
        model.calibrate(
            stream() if file.count is None else Counted(stream(), file.count),
            prompt=prompt,
            batch_size=arguments.batch_size,
            keep_routing=arguments.keep_routing,
            # with another alpha they are others
            dimensions=arguments.dimensions if choose is None else None,
        )
    if choose is not None:
        model.config.alpha = choose(model)
        model.compress(sample, arguments.dimensions)
    (model.save_reference if arguments.reference else model.save_pretrained)(output)
    for line in _report(arguments, model.config):
        print(line, file=sys.stderr)
    report_skipped(file)
    print(f"calibrated on {number} texts: {output}", file=sys.stderr)


def _report(arguments: argparse.Namespace, config: MoEEConfig) -> Iterator[str]:
    """What was found out about the routing, line by line."""
    yield "How far the routing of each MoE layer agrees with HS on which texts are similar (rank correlation):"
    yield from agreement_chart(config)
    yield f"{layers_of_routing(config.router_indices, config.router_shape[0])}."
    if arguments.fit_alpha is not None:
        yield f"alpha: {config.alpha:g}, the best on {arguments.fit_alpha}."
    elif arguments.keep_routing:
        yield f"alpha: {config.alpha:g}, as it was."
    else:
        yield (
            f"alpha: {config.alpha:g}. Without labels nothing says how good RW are; this is the largest weight with "
            "which pairs of texts stay in the order of HS."
        )


def _alpha_chooser(arguments: argparse.Namespace) -> Callable[[MoEEModel], float]:
    """Return what chooses alpha for a model on the development set of `--fit-alpha`, which is read now.

    Raises:
        ImportError: If mteb is not installed.
        ValueError: If `--fit-alpha` names a file that is no development set.
    """
    from ..evaluation import MoEEEncoder
    from ..evaluation.alpha import choose_alpha, read_development_set

    first, second, gold = read_development_set(arguments.fit_alpha)

    def choose(model: MoEEModel) -> float:
        encoder = MoEEEncoder(model, prompt=arguments.prompt, batch_size=arguments.batch_size)
        return choose_alpha(encoder, first, second, gold)

    return choose
