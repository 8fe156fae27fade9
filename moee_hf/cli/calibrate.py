"""`moee calibrate`: a model with the statistics of a corpus."""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..files.folders import check_new_folder
from ..files.texts import Counted
from .choices import CHOICES, add_choice_flags, check_effects
from .flags import (
    Commands,
    add_input_flags,
    add_model_flags,
    add_prompt_flag,
    add_theme_flag,
    input_file,
    positive_int,
    report_skipped,
    set_run,
)
from .loading import load_model
from .progress import Progress
from .routing import agreement_chart, alpha_table, layers_of_routing

if TYPE_CHECKING:
    from ..model.configuration_moee import MoEEConfig
    from ..model.modeling_moee import MoEEModel

# choices that are fitted to the texts, unless --keep-routing
FITTED = ("alpha", "router_layer_weights", "router_activation", "router_standardization")


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
    parser.add_argument(
        "--figure",
        metavar="FILE",
        help="draw how far the routing of each layer agrees with HS: .png, .svg or .pdf",
    )
    add_theme_flag(parser)
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
    add_choice_flags(parser, CHOICES.keys() - {"standardize", "dimensions"})
    set_run(parser, _calibrate)


def _calibrate(arguments: argparse.Namespace) -> None:
    from ..model.digests_moee import is_interrupted_save
    from ..model.statistics_moee import SAMPLE_SIZE

    output, by_labels = arguments.output, arguments.fit_alpha is not None
    if not is_interrupted_save(output):  # what that has left gives way to the next save
        check_new_folder(output)
    _check_flags(arguments)
    score = _scorer(arguments) if by_labels else None
    file = input_file(arguments)
    file.check()
    model = load_model(arguments)
    _check_model(arguments, model)
    keep_prompt(model.config, arguments.prompt)
    number, sample, alpha = 0, [], model.config.alpha

    def stream() -> Iterator[str]:
        nonlocal number
        for number, row in enumerate(file.rows(), 1):
            if score is not None and number <= SAMPLE_SIZE:
                sample.append(row.text)
            yield row.text

    with Progress():
        by_alpha = model.calibrate(
            stream() if file.count is None else Counted(stream(), file.count),
            batch_size=arguments.batch_size,
            keep_routing=arguments.keep_routing,
            # with another alpha they are others
            dimensions=None if by_labels else arguments.dimensions,
        )
    if score is not None:
        by_alpha, model.config.alpha = score(model)
        model.compress(sample, arguments.dimensions)
    if model.config.combination != "sum":  # the others have no weight
        model.config.alpha = alpha
    (model.save_reference if arguments.reference else model.save_pretrained)(output)
    if arguments.figure is not None:
        _draw(arguments, model.config)
    for line in _report(arguments, model.config, by_alpha):
        print(line, file=sys.stderr)
    report_skipped(file)
    print(f"calibrated on {number} texts: {output}", file=sys.stderr)


def _draw(arguments: argparse.Namespace, config: MoEEConfig) -> None:
    """Write the figure of a calibrated model."""
    from ..figures.agreement import draw_agreement
    from ..figures.style import drawing, save

    with drawing(arguments.theme or "light") as theme:
        save(draw_agreement(config.router_agreement or [], config.router_indices, theme), Path(arguments.figure))


def _check_flags(arguments: argparse.Namespace) -> None:
    """Raise if a flag says what is fitted to the texts anyway, or the figure cannot be written."""
    if arguments.figure is not None:
        from ..figures.style import check_figure

        check_figure(Path(arguments.figure))
    elif arguments.theme is not None:
        raise ValueError("theme: expected --figure beside it, which it is of; got none. Leave it out.")
    for field in FITTED:
        if getattr(arguments, field) is not None and not arguments.keep_routing:
            raise ValueError(
                f"{field}: expected --keep-routing beside it, as it is fitted to the texts otherwise; got none. Give "
                "--keep-routing, or leave the flag out."
            )
    if arguments.fit_alpha is not None and arguments.combination is not None:
        check_effects({"fit_alpha": arguments.fit_alpha}, {"combination": arguments.combination})


def _check_model(arguments: argparse.Namespace, model: MoEEModel) -> None:
    """Raise `ValueError` before the work if its result cannot be had of this model, or not be saved."""
    if arguments.fit_alpha is not None:
        check_effects({"fit_alpha": arguments.fit_alpha}, vars(model.config))
    if arguments.reference and model.origin.base is None:
        raise ValueError(
            f"reference: expected a model whose weights the Hub has; got {arguments.model!r}. Leave --reference out."
        )


def keep_prompt(config: MoEEConfig, prompt: str | None) -> None:
    """Let the prompt of a flag be the default of a model, so that it is saved with what is fitted in it.

    Args:
        config: Of the model.
        prompt: As `find_prompts` takes it; a template that has no name gets one.

    Raises:
        ValueError: If no prompt has this name, or a template is none.
    """
    if prompt is None:
        return
    config.find_prompts(prompt)  # refuses what is none
    known = config.known_prompts
    if "{text}" in prompt:
        numbered = itertools.chain(["custom"], (f"custom-{number}" for number in itertools.count(2)))
        free = (name for name in numbered if name not in known)
        chosen = {next((name for name, template in known.items() if template == prompt), next(free)): prompt}
    else:
        chosen = {name: known[name] for name in ([prompt] if prompt in known else prompt.split("+"))}
    config.choose(
        prompts=(config.prompts or {}) | chosen,
        default_prompt_name=list(chosen) if len(chosen) > 1 else next(iter(chosen)),
    )


def _report(arguments: argparse.Namespace, config: MoEEConfig, by_alpha: Mapping[float, float]) -> Iterator[str]:
    """What was found out about the routing, and what was chosen, line by line."""
    yield "How far the routing of each MoE layer agrees with HS on which texts are similar (rank correlation):"
    yield from agreement_chart(config)
    yield f"{layers_of_routing(config.router_indices, config.router_shape[0])}."
    if arguments.fit_alpha is not None:
        yield f"How well each embedding ranks the pairs of {arguments.fit_alpha} (Spearman correlation):"
    elif by_alpha:
        yield "How far each embedding agrees with HS on which texts are similar (rank correlation):"
    yield from alpha_table(by_alpha, config)
    if config.combination != "sum":
        yield f"combination: {config.combination}, as asked for; it has no alpha."
    elif arguments.fit_alpha is not None:
        yield f"alpha: {config.alpha:g}, the best on {arguments.fit_alpha}."
        part = "hs" if by_alpha[0] >= by_alpha[math.inf] else "rw"
        if max(by_alpha[0], by_alpha[math.inf]) > by_alpha[config.alpha]:
            yield f"{part} alone ranks them better than any sum: --combination {part} would choose it."
    elif arguments.keep_routing:
        yield f"alpha: {config.alpha:g}, as it was."
    else:
        yield (
            f"alpha: {config.alpha:g}. Without labels nothing says how good RW are; this is the largest weight with "
            "which pairs of texts stay in the order of HS."
        )


def _scorer(arguments: argparse.Namespace) -> Callable[[MoEEModel], tuple[dict[float, float], float]]:
    """Return what scores each alpha, and chooses one, on the development set of `--fit-alpha`, which is read now.

    Raises:
        ImportError: If mteb is not installed.
        ValueError: If `--fit-alpha` names a file that is no development set.
    """
    from ..evaluation import MoEEEncoder
    from ..evaluation.alpha import best_alpha, read_development_set, scores_by_alpha

    first, second, gold = read_development_set(arguments.fit_alpha)

    def score(model: MoEEModel) -> tuple[dict[float, float], float]:
        scores = scores_by_alpha(MoEEEncoder(model, batch_size=arguments.batch_size), first, second, gold)
        return scores, best_alpha(scores)

    return score
