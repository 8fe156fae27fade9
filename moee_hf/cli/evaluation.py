"""The commands of `moee` that evaluate: evaluate, robustness, complementarity.

mteb, which they need, takes seconds to import and is an extra: it is imported when one of them runs.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.texts import read_texts
from ..model.choices_moee import COMBINATIONS, HIDDEN_SOURCES, POOLINGS, ROUTER_ACTIVATIONS
from .choices import CHOICES, add_choice_flags
from .flags import (
    Commands,
    add_batch_size_flag,
    add_model_flags,
    add_prompt_flag,
    add_theme_flag,
    nonnegative_alpha,
    positive_int,
    set_run,
)
from .loading import load_model
from .progress import Progress

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

    from ..evaluation import MoEEEncoder
    from ..evaluation.scores import Score
    from ..evaluation.tables import Table

# choices of a score that are the same in every row, or said by the model, or digests of what is named beside
_NOT_PRINTED = ("backbone", "dtype", "max_length", "router_standardization", "prompt_digest", "corpus")
# choices of `moee evaluate` that are the same for all that it scores
_FIXED = (
    *("attention_layers", "router_layers", "router_layer_weights", "router_standardization"),
    *("standardize", "max_length"),
)
# flags that mean nothing beside --paper
_NOT_OF_THE_PAPER = (
    *("prompt", "pooling", "hidden_layer", "hidden_source", "router_activation", "layer_weights"),
    *("combination", "dimensions", "precision", "calibrate", "control", *_FIXED),
)


def add_evaluate_command(commands: Commands) -> None:
    """Add `moee evaluate`."""
    parser = commands.add_parser(
        "evaluate",
        help="score a model on tasks of mteb, in every combination of choices, from one reading of the texts",
        description="Score a model on tasks of mteb, in every combination of choices, from one reading of the texts. "
        "In Python: moee_hf.evaluation.encoders, then evaluate and table.",
    )
    _add_task_flags(parser)
    parser.add_argument(
        "--prompt",
        nargs="+",
        metavar="PROMPT",
        help="names of prompts, or templates with {text}; those of A+B are averaged (default: the model's)",
    )
    _add_choice_flags(parser)
    add_choice_flags(parser, _FIXED)
    parser.add_argument(
        "--paper",
        metavar="BACKBONE",
        help="the paper's tables, ours beside: deepseek, olmoe or qwen (model and tasks too; Python: "
        "moee_hf.evaluation.paper)",
    )
    parser.add_argument(
        "--released-code", action="store_true", help="with --paper: as the authors' released code does it"
    )
    set_run(parser, _evaluate)
    parser.set_defaults(model=None)  # of --paper, the paper's


def _add_choice_flags(parser: argparse.ArgumentParser) -> None:
    """Add the choices that an embedding depends on besides the prompt."""
    parser.add_argument("--pooling", nargs="+", choices=POOLINGS, help="default: the model's, here and below")
    parser.add_argument("--hidden-layer", nargs="+", type=int, metavar="LAYER", help="which hidden state is HS")
    parser.add_argument("--hidden-source", nargs="+", choices=HIDDEN_SOURCES, help="what HS is read from")
    parser.add_argument(
        "--router-activation",
        nargs="+",
        choices=ROUTER_ACTIVATIONS,
        help="what RW are (default: the model's; clr where --calibrate is given)",
    )
    parser.add_argument(
        "--layer-weights",
        nargs="+",
        choices=("equal", "agreement"),
        help="how much MoE layers count: all alike, or as their routing agrees with HS on the texts of --calibrate, "
        "which is the default there",
    )
    _add_score_flags(parser)
    parser.add_argument(
        "--alpha",
        nargs="+",
        type=nonnegative_alpha,
        metavar="WEIGHT",
        help="weights of the routing part in 'sum' (default: the model's; a cautious one with --calibrate)",
    )
    parser.add_argument(
        "--dimensions",
        nargs="+",
        type=_dimensions,
        metavar="N",
        help="principal components that calibrated embeddings are projected on; 0: whole ones",
    )
    parser.add_argument(
        "--precision", nargs="+", choices=("float32", "int8", "binary"), help="of calibrated embeddings in an index"
    )
    parser.add_argument(
        "--calibrate",
        metavar="FILE",
        help="a text a line to calibrate on: raw and calibrated embeddings are both scored (Python: corpus=)",
    )


def _dimensions(value: str) -> int:
    if (number := int(value)) < 0:
        raise argparse.ArgumentTypeError(f"expected a number of dimensions, or 0 for whole embeddings; got {value}")
    return number


def add_robustness_command(commands: Commands) -> None:
    """Add `moee robustness`."""
    parser = commands.add_parser(
        "robustness",
        help="score a model with each of the paper's nine prompts",
        description="Score a model with each of the paper's nine prompts. In Python: "
        "moee_hf.evaluation.paper.robustness.",
    )
    _add_task_flags(parser)
    _add_score_flags(parser)
    add_theme_flag(parser)
    add_choice_flags(parser, CHOICES.keys() - {"combination", "alpha", "dimensions"})
    set_run(parser, _robustness)


def add_complementarity_command(commands: Commands) -> None:
    """Add `moee complementarity`."""
    parser = commands.add_parser(
        "complementarity",
        help="compare the clusters that HS and RW make of the same texts, and their errors",
        description="Compare the clusters that HS and RW make of the same texts, and their errors. In Python: "
        "moee_hf.evaluation.paper.complementarity.",
    )
    _add_task_flags(parser)
    add_prompt_flag(parser)
    add_choice_flags(parser, CHOICES.keys() - {"combination", "alpha", "dimensions"})
    parser.add_argument(
        "--clusters", type=positive_int("clusters"), default=50, help="clusters of k-means (default: 50)"
    )
    set_run(parser, _complementarity)


def _add_task_flags(parser: argparse.ArgumentParser) -> None:
    # on the processor, bfloat16 makes a score depend on the batch in its fourth digit, and is no faster
    add_model_flags(parser, dtype=None)
    group = parser.add_argument_group("tasks", "arguments of moee_hf.evaluation.get_tasks")
    group.add_argument("--tasks", nargs="+", metavar="TASK", help="names of mteb's tasks (default: all in --data)")
    group.add_argument(
        "--data", metavar="FOLDER", help="tasks as files, such as sts/NAME.test.jsonl.gz (default: mteb's)"
    )
    group.add_argument("--split", help="part of the data to score on (default: the task's, mostly test)")
    parser.add_argument(
        "--output", required=True, metavar="FOLDER", help="for results, from which a later run resumes"
    )
    parser.add_argument(
        "--vectors",
        metavar="FOLDER",
        help="keep HS and RW of the texts that are read, for later runs (Python: store=)",
    )
    add_batch_size_flag(parser)


def _add_score_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--combination", nargs="+", choices=COMBINATIONS, help="what embeddings are made of")
    parser.add_argument("--control", choices=("random",), help="also score the same architecture with random weights")


def _evaluate(arguments: argparse.Namespace) -> None:
    from ..evaluation import Corpus, encoders, get_tasks, table

    if arguments.paper is not None:
        return _evaluate_paper(arguments)
    if arguments.released_code:
        raise ValueError("--released-code: expected --paper beside it; for anything but its tables it is no use.")
    _quieten_mteb()
    tasks, output = get_tasks(arguments.tasks, arguments.data, arguments.split), Path(arguments.output)
    groups = encoders(
        load_model(arguments),
        arguments.prompt or [None],
        arguments.pooling or [None],
        arguments.hidden_layer or [None],
        arguments.combination or [None],
        arguments.alpha or [None],
        arguments.hidden_source or [None],
        arguments.router_activation or [None],
        arguments.layer_weights or [None],
        arguments.dimensions or [None],
        arguments.precision or [None],
        corpus=None if arguments.calibrate is None else Corpus(read_texts(arguments.calibrate)),
        control=arguments.control is not None,
        **_reading_options(arguments),
    )
    _print_and_save({"scores": table(_score(groups, tasks, output))}, output)


def _evaluate_paper(arguments: argparse.Namespace) -> None:
    from ..evaluation.paper.comparison import paper_encoders, paper_note, paper_tasks
    from ..evaluation.paper.tables import paper_table, read_paper

    paper = read_paper(arguments.paper)
    for flag in _NOT_OF_THE_PAPER:
        if getattr(arguments, flag) is not None:
            raise ValueError(f"--paper: expected no --{flag.replace('_', '-')} beside it; the paper's are evaluated.")
    _quieten_mteb()
    tasks, output = paper_tasks(paper, arguments.tasks, arguments.data, arguments.split), Path(arguments.output)
    model = load_model(arguments, default=paper.model)
    alphas = arguments.alpha or [1.0]
    groups = paper_encoders(model, alphas, arguments.released_code, **_reading_options(arguments))
    table = paper_table(paper, _score(groups, tasks, output))
    _print_and_save({f"paper-{paper.key}": table}, output, paper_note(paper, model, arguments.released_code))


def _robustness(arguments: argparse.Namespace) -> None:
    from ..evaluation import get_tasks
    from ..evaluation.paper.robustness import NINE_PROMPTS, robustness

    _quieten_mteb()
    tasks, output = get_tasks(arguments.tasks, arguments.data, arguments.split), Path(arguments.output)
    model, control = load_model(arguments), arguments.control is not None
    with Progress() as progress:
        found = robustness(
            model,
            tasks,
            output,
            arguments.combination or COMBINATIONS,
            control=control,
            **_reading_options(arguments),
            begins=_steps(progress, "prompt", len(NINE_PROMPTS) * (1 + control)),
        )
    found.figure(output / "robustness.png", arguments.theme or "light")
    _print_and_save({"robustness": found.score_table(), "prompt-correlation": found.rank_table()}, output)


def _complementarity(arguments: argparse.Namespace) -> None:
    from ..evaluation import MoEEEncoder, get_tasks
    from ..evaluation.paper.complementarity import COLUMNS, complementarity

    _quieten_mteb()
    tasks, output = get_tasks(arguments.tasks, arguments.data, arguments.split), Path(arguments.output)
    encoder = MoEEEncoder(load_model(arguments), prompt=arguments.prompt, **_reading_options(arguments))
    output.mkdir(parents=True, exist_ok=True)
    note = "\n".join(f"- {column}: {meaning}." for column, meaning in COLUMNS.items())
    with Progress() as progress:
        begins = _steps(progress, "task", len(tasks))
        table = complementarity(encoder, tasks, arguments.clusters, begins=begins)
    _print_and_save({"complementarity": table}, output, note)


def _reading_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """How texts are read, as arguments of `encoders` and the like."""
    store = None if arguments.vectors is None else Path(arguments.vectors)
    return {"batch_size": arguments.batch_size, "store": store}


def _quieten_mteb() -> None:
    import datasets

    logging.getLogger("mteb").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="mteb|sklearn")  # newer tasks, slow convergence
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()


def _score(groups: Iterable[Sequence[MoEEEncoder]], tasks: list[AbsTask], output: Path) -> list[Score]:
    """Evaluate, and report each score as soon as it is there."""
    from ..evaluation import evaluate

    scores, groups = [], list(groups)
    with Progress() as progress:
        for score in evaluate(groups, tasks, output, _steps(progress, "task", len(groups) * len(tasks))):
            made = score.choices | ({"statistics": "calibrated"} if "statistics" in score.choices else {})
            choices = " ".join(
                f"{name}={f'{value:g}' if isinstance(value, float) else value}"
                for name, value in made.items()
                if name not in _NOT_PRINTED
            )
            print(f"{score.value:6.2f}  {score.task}  {choices}", file=sys.stderr)
            scores.append(score)
    return scores


def _steps(progress: Progress, kind: str, total: int) -> Callable[[str], None]:
    """Return what says which task or prompt it is, of how many, when it is told that one begins."""
    numbers = itertools.count(1)

    def begins(name: str) -> None:
        progress.begin(None)
        progress.say(f"{kind} {next(numbers)} of {total}, {name}")

    return begins


def _print_and_save(tables: dict[str, Table], output: Path, note: str = "") -> None:
    """Print tables, and save them by their names."""
    for number, (name, table) in enumerate(tables.items()):
        print(("\n" if number else "") + table.text())
        table.save(output, name, note)
    if note:
        print(f"\n{note}")
    print(f"{', '.join(f'{output / name}.md' for name in tables)}, and .csv beside", file=sys.stderr)
