"""`moee calibrate`: a model with the statistics of a corpus."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence

from ..files.folders import check_new_folder
from ..files.texts import check_input, iter_texts
from ..model.modeling_moee import MoEEModel
from .flags import Commands, add_input_flags, add_model_flags, add_prompt_flag, load_model, set_run

# texts of the corpus that alpha is chosen on, where there are no labels
_SAMPLE_SIZE = 2000


def add_calibrate_command(commands: Commands) -> None:
    """Add `moee calibrate`."""
    parser = commands.add_parser(
        "calibrate",
        help="fit the statistics that standardize embeddings on the texts of a file, and save the model",
        description="Fit the statistics that standardize embeddings on the texts of a file, and save the model. In "
        "Python: MoEEModel.calibrate, then save_pretrained or save_reference.",
    )
    add_input_flags(parser)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="a new folder for the model")
    parser.add_argument("--reference", action="store_true", help="save it without the weights, which the Hub has")
    parser.add_argument(
        "--fit-alpha",
        nargs="?",
        const="",
        metavar="DEV",
        help="also choose the weight of the routing part: the best on a development set (.jsonl with sentence1, "
        "sentence2, score), or without one, the one whose similarities agree best with both parts (Python: "
        "moee_hf.evaluation.alpha.choose_alpha)",
    )
    add_model_flags(parser)
    add_prompt_flag(parser)
    set_run(parser, _calibrate)


def _calibrate(arguments: argparse.Namespace) -> None:
    output = check_new_folder(arguments.output)
    choose = None if arguments.fit_alpha is None else _alpha_chooser(arguments)
    check_input(arguments.input, arguments.column)
    model = load_model(arguments)
    number, sample = 0, []

    def stream() -> Iterator[str]:
        nonlocal number
        for number, text in enumerate(iter_texts(arguments.input, arguments.column), 1):
            if number <= _SAMPLE_SIZE:
                sample.append(text)
            yield text

    prompt = model.config.find_prompts(arguments.prompt)
    model.calibrate(stream(), prompt=prompt, batch_size=arguments.batch_size)
    if choose is not None:
        model.config.alpha = choose(model, sample)
        print(f"alpha: {model.config.alpha:g}", file=sys.stderr)
    (model.save_reference if arguments.reference else model.save_pretrained)(output)
    print(f"calibrated on {number} texts: {output}", file=sys.stderr)


def _alpha_chooser(arguments: argparse.Namespace) -> Callable[[MoEEModel, Sequence[str]], float]:
    """Return what chooses alpha for a model and texts: on a development set, read now, or on the texts.

    Raises:
        ImportError: If mteb is not installed.
        ValueError: If `--fit-alpha` names a file that is no development set.
    """
    from ..evaluation import MoEEEncoder
    from ..evaluation.alpha import choose_alpha, random_pairs, read_development_set

    pairs = read_development_set(arguments.fit_alpha) if arguments.fit_alpha else None

    def choose(model: MoEEModel, texts: Sequence[str]) -> float:
        encoder = MoEEEncoder(model, prompt=arguments.prompt, batch_size=arguments.batch_size)
        return choose_alpha(encoder, *(random_pairs(texts) if pairs is None else pairs))

    return choose
