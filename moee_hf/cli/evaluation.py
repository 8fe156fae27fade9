"""The commands of `moee` that evaluate: evaluate, robustness, complementarity."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.texts import read_texts
from ..model.functional_moee import COMBINATIONS, POOLINGS
from ..model.modeling_moee import MoEEModel
from ..model.prompts_moee import TEXT
from .flags import add_batch_size_flag, add_model_flags, add_prompt_flag, load_model, nonnegative_alpha, positive_int

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

    from ..evaluation import MoEEEncoder
    from ..evaluation.scores import Score
    from ..evaluation.tables import Table


def add_evaluation_commands(commands: Any) -> None:
    """Add the commands to those of `moee`; mteb is imported when one of them runs."""
    evaluate = commands.add_parser(
        "evaluate",
        help="score a model on tasks of mteb, in every combination of choices, from one reading of the texts",
    )
    _add_task_flags(evaluate)
    evaluate.add_argument(
        "--prompt",
        nargs="+",
        metavar="PROMPT",
        help=f"names of prompts, or templates with {TEXT} (default: the model's)",
    )
    evaluate.add_argument("--pooling", nargs="+", choices=POOLINGS, help="default: the model's, here and below")
    evaluate.add_argument("--hidden-layer", nargs="+", type=int, metavar="LAYER", help="where HS is taken from")
    _add_score_flags(evaluate)
    evaluate.add_argument(
        "--alpha", nargs="+", type=nonnegative_alpha, metavar="WEIGHT", help="weights of the routing part in 'sum'"
    )
    evaluate.add_argument(
        "--calibrate",
        metavar="FILE",
        help="a text a line to calibrate on: raw and calibrated embeddings are both scored",
    )
    evaluate.add_argument(
        "--paper",
        metavar="BACKBONE",
        help="the paper's tables, ours beside: deepseek, olmoe or qwen (model and tasks too)",
    )
    evaluate.add_argument(
        "--released-code", action="store_true", help="with --paper: as the authors' released code does it"
    )
    evaluate.set_defaults(run=_evaluate, model=None)

    robustness = commands.add_parser("robustness", help="score a model with each of the paper's nine prompts")
    _add_task_flags(robustness)
    _add_score_flags(robustness)
    robustness.set_defaults(run=_robustness)

    complementarity = commands.add_parser(
        "complementarity", help="compare the clusters that HS and RW make of the same texts, and their errors"
    )
    _add_task_flags(complementarity)
    add_prompt_flag(complementarity)
    complementarity.add_argument(
        "--clusters", type=positive_int("clusters"), default=50, help="clusters of k-means (default: 50)"
    )
    complementarity.set_defaults(run=_complementarity)


def alpha_fitter(arguments: argparse.Namespace) -> Callable[[MoEEModel, list[str]], float]:
    """Return what chooses alpha for a model and texts: on a development set, read now, or on the texts.

    Raises:
        ImportError: If mteb is not installed.
        ValueError: If `--fit-alpha` names a file that is no development set.
    """
    from ..evaluation import MoEEEncoder
    from ..evaluation.alpha import choose_alpha, random_pairs, read_development_set

    options = {"prompt": arguments.prompt, "batch_size": arguments.batch_size}
    pairs = read_development_set(arguments.fit_alpha) if arguments.fit_alpha else None
    return lambda model, texts: choose_alpha(
        MoEEEncoder(model, **options), *(random_pairs(texts) if pairs is None else pairs)
    )


def _add_task_flags(parser: argparse.ArgumentParser) -> None:
    add_model_flags(parser)
    # on the processor, bfloat16 makes a score depend on the batch in its fourth digit, and is no faster
    parser.set_defaults(dtype=None)
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="names of mteb's tasks (default: all in --data)")
    parser.add_argument(
        "--data", metavar="FOLDER", help="tasks as files, such as sts/NAME.test.jsonl.gz (default: mteb's)"
    )
    parser.add_argument("--split", help="to evaluate (default: the task's, mostly test)")
    parser.add_argument(
        "--vectors",
        metavar="FOLDER",
        help="keep HS and RW of the texts that are read, for later runs",
    )
    parser.add_argument(
        "--output", required=True, metavar="FOLDER", help="for results, from which a later run resumes"
    )
    add_batch_size_flag(parser)


def _add_score_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--combination", nargs="+", choices=COMBINATIONS, help="what embeddings are made of")
    parser.add_argument(
        "--control", choices=("random",), help="score the same architecture with random weights beside"
    )


def _tasks(arguments: argparse.Namespace) -> list[AbsTask]:
    import datasets

    from ..evaluation import get_tasks

    logging.getLogger("mteb").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="mteb|sklearn")  # newer tasks, slow convergence
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    return get_tasks(arguments.tasks, arguments.data, arguments.split)


def _run(groups: Iterable[Sequence[MoEEEncoder]], tasks: list[AbsTask], output: Path) -> list[Score]:
    from ..evaluation import evaluate

    scores = []
    for score in evaluate(groups, tasks, output):
        left_out = ("backbone", "dtype", "max_length", "router_activation")
        choices = " ".join(f"{name}={value}" for name, value in score.choices.items() if name not in left_out)
        print(f"{score.value:6.2f}  {score.task}  {choices}", file=sys.stderr)
        scores.append(score)
    return scores


def _print(tables: dict[str, Table], output: Path, note: str = "") -> None:
    for number, (name, table) in enumerate(tables.items()):
        print(("\n" if number else "") + table.text())
        table.save(output, name, note)
    if note:
        print(f"\n{note}")
    print(f"{', '.join(f'{output / name}.md' for name in tables)}, and .csv beside", file=sys.stderr)


def _evaluate(arguments: argparse.Namespace) -> None:
    from ..evaluation import Corpus, encoders, table

    if arguments.paper is not None:
        return _evaluate_paper(arguments)
    if arguments.released_code:
        raise ValueError("--released-code: expected --paper beside it; for anything but its tables it is no use.")
    tasks, output = _tasks(arguments), Path(arguments.output)
    groups = encoders(
        load_model(arguments),
        arguments.prompt or [None],
        arguments.pooling or [None],
        arguments.hidden_layer or [None],
        arguments.combination or [None],
        arguments.alpha or [None],
        corpus=None if arguments.calibrate is None else Corpus(read_texts(arguments.calibrate)),
        control=arguments.control is not None,
        batch_size=arguments.batch_size,
        store=_store(arguments),
    )
    _print({"scores": table(_run(groups, tasks, output))}, output)


def _evaluate_paper(arguments: argparse.Namespace) -> None:
    from ..evaluation import Features, encoders
    from ..evaluation.paper.released_code import released_encoders
    from ..evaluation.paper.tables import NOTE, PROMPTS, paper_table, read_paper
    from ..evaluation.tasks import available_tasks

    paper = read_paper(arguments.paper)
    for flag in ("prompt", "pooling", "hidden_layer", "combination", "calibrate", "control"):
        if getattr(arguments, flag) is not None:
            raise ValueError(f"--paper: expected no --{flag.replace('_', '-')} beside it; the paper's are evaluated.")
    if other := [task for task in arguments.tasks or [] if task not in paper.types]:
        raise ValueError(f"--tasks: expected tasks of the paper ({', '.join(paper.types)}); got {other[0]!r}.")
    if arguments.tasks is None:
        # of a folder those that are there; the others stay blank
        names = list(paper.types)
        arguments.tasks = names if arguments.data is None else available_tasks(arguments.data, names)
    tasks, output = _tasks(arguments), Path(arguments.output)
    arguments.model = arguments.model or paper.model
    model = load_model(arguments)
    # the paper's choices, whatever the repository's are
    model.config.standardize, model.config.router_layers, model.config.prompts = False, None, None
    options: dict[str, Any] = {"batch_size": arguments.batch_size, "store": _store(arguments)}
    alphas = arguments.alpha or [1.0]
    groups: Iterable[Sequence[MoEEEncoder]]
    if arguments.released_code:
        groups = released_encoders(model, PROMPTS, COMBINATIONS, alphas, **options)
    else:
        groups = encoders(model, PROMPTS, ["lasttoken"], [-1], COMBINATIONS, alphas, **options)
    name, revision = Features(model).identity
    command = f"moee evaluate --paper {arguments.paper}{' --released-code' * arguments.released_code} --output FOLDER"
    note = f"Ours: {name} at {revision}. What is blank is filled by: {command}. {NOTE}"
    _print({f"paper-{arguments.paper}": paper_table(paper, _run(groups, tasks, output))}, output, note)


def _robustness(arguments: argparse.Namespace) -> None:
    from ..evaluation.paper.robustness import robustness

    tasks, output = _tasks(arguments), Path(arguments.output)
    found = robustness(
        load_model(arguments),
        tasks,
        output,
        arguments.combination or COMBINATIONS,
        control=arguments.control is not None,
        batch_size=arguments.batch_size,
        store=_store(arguments),
    )
    found.figure(output / "robustness.png")
    _print({"robustness": found.score_table(), "prompt-correlation": found.rank_table()}, output)


def _complementarity(arguments: argparse.Namespace) -> None:
    from ..evaluation import MoEEEncoder
    from ..evaluation.paper.complementarity import complementarity

    tasks, output = _tasks(arguments), Path(arguments.output)
    options: dict[str, Any] = {"batch_size": arguments.batch_size, "store": _store(arguments)}
    encoder = MoEEEncoder(load_model(arguments), prompt=arguments.prompt, **options)
    output.mkdir(parents=True, exist_ok=True)
    _print({"complementarity": complementarity(encoder, tasks, arguments.clusters)}, output)


def _store(arguments: argparse.Namespace) -> Path | None:
    return None if arguments.vectors is None else Path(arguments.vectors)
