"""The commands of `moee` that evaluate: evaluate, robustness, complementarity."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import read_texts
from .flags import add_batch_size_flag, add_model_flags, add_prompt_flag, alpha, load_model, number_of
from .functional_moee import COMBINATIONS, POOLINGS
from .prompts_moee import TEXT

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

    from .evaluation.scores import Score
    from .evaluation.tables import Table


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
        "--alpha", nargs="+", type=alpha, metavar="WEIGHT", help="weights of the routing part in 'sum'"
    )
    evaluate.add_argument(
        "--calibrate",
        metavar="FILE",
        help="a text a line to calibrate on: raw and calibrated embeddings are both scored",
    )
    evaluate.add_argument(
        "--vectors",
        metavar="FOLDER",
        help="keep HS and RW of all texts there, and read what was kept",
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
        "--clusters", type=number_of("clusters"), default=50, help="clusters of k-means (default: 50)"
    )
    complementarity.set_defaults(run=_complementarity)


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
        "--output", required=True, metavar="FOLDER", help="for results, from which a later run resumes"
    )
    add_batch_size_flag(parser)


def _add_score_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--combination", nargs="+", choices=COMBINATIONS, help="what embeddings are made of")
    parser.add_argument(
        "--control", choices=("random",), help="score the same architecture with random weights beside"
    )


def _tasks(arguments: argparse.Namespace, names: list[str] | None = None) -> list[AbsTask]:
    import datasets

    from .evaluation import get_tasks

    logging.getLogger("mteb").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="mteb|sklearn")  # newer tasks, slow convergence
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    return get_tasks(arguments.tasks or names, arguments.data, arguments.split, skip_missing=arguments.tasks is None)


def _store(arguments: argparse.Namespace) -> Path | None:
    return None if arguments.vectors is None else Path(arguments.vectors)


def _report(score: Score) -> None:
    left_out = ("dtype", "max_length", "router_activation")
    choices = " ".join(f"{name}={value}" for name, value in score.choices.items() if name not in left_out)
    print(f"{score.value:6.2f}  {score.task}  {choices}", file=sys.stderr)


def _print(tables: dict[str, Table], output: Path, note: str = "") -> None:
    for number, (name, table) in enumerate(tables.items()):
        print(("\n" if number else "") + table.text())
        table.save(output, name)
    if note:
        print(f"\n{note}")
    print(f"{', '.join(f'{output / name}.md' for name in tables)}, and .csv beside", file=sys.stderr)


def _evaluate(arguments: argparse.Namespace) -> None:
    from .evaluation import Corpus, encoders, evaluate, table

    if arguments.paper is not None:
        return _evaluate_paper(arguments)
    if arguments.released_code:
        raise ValueError(
            "--released-code: expected --paper beside it; for anything else than its tables it is no use."
        )
    tasks = _tasks(arguments)
    corpus = None if arguments.calibrate is None else Corpus(read_texts(arguments.calibrate))
    choices = {
        "prompts": arguments.prompt,
        "poolings": arguments.pooling,
        "hidden_layers": arguments.hidden_layer,
        "combinations": arguments.combination,
        "alphas": arguments.alpha,
    }
    groups = encoders(
        load_model(arguments),
        **{name: values for name, values in choices.items() if values is not None},
        corpus=corpus,
        control=arguments.control is not None,
        batch_size=arguments.batch_size,
        store=_store(arguments),
    )
    scores = []
    for score in evaluate(groups, tasks, Path(arguments.output)):
        _report(score)
        scores.append(score)
    _print({"scores": table(scores)}, Path(arguments.output))


def _evaluate_paper(arguments: argparse.Namespace) -> None:
    from .evaluation import encoders, evaluate, released_code
    from .evaluation.paper import NOTE, PROMPTS, paper_table, read_paper

    paper = read_paper(arguments.paper)
    for flag in ("prompt", "pooling", "hidden_layer", "combination", "calibrate", "control"):
        if getattr(arguments, flag) is not None:
            raise ValueError(f"--paper: expected no --{flag.replace('_', '-')} beside it; the paper's are evaluated.")
    tasks = _tasks(arguments, list(paper.types))
    if other := [task.metadata.name for task in tasks if task.metadata.name not in paper.types]:
        raise ValueError(f"--tasks: expected tasks of the paper ({', '.join(paper.types)}); got {other[0]!r}.")
    arguments.model = arguments.model or paper.model
    model = load_model(arguments)
    make = released_code.encoders if arguments.released_code else encoders
    groups = make(
        model,
        prompts=PROMPTS,
        combinations=COMBINATIONS,
        alphas=arguments.alpha or (1.0,),
        batch_size=arguments.batch_size,
        store=_store(arguments),
    )
    scores = []
    for score in evaluate(groups, tasks, Path(arguments.output)):
        _report(score)
        scores.append(score)
    _print({f"paper-{arguments.paper}": paper_table(paper, scores)}, Path(arguments.output), NOTE)


def _robustness(arguments: argparse.Namespace) -> None:
    from .evaluation.robustness import Robustness

    tasks, output = _tasks(arguments), Path(arguments.output)
    robustness = Robustness(
        load_model(arguments),
        tasks,
        output,
        arguments.combination or COMBINATIONS,
        control=arguments.control is not None,
        batch_size=arguments.batch_size,
    )
    robustness.figure(output / "robustness.png")
    _print({"robustness": robustness.score_table(), "prompt-correlation": robustness.rank_table()}, output)


def _complementarity(arguments: argparse.Namespace) -> None:
    from .evaluation import MoEEEncoder
    from .evaluation.complementarity import complementarity

    tasks, output = _tasks(arguments), Path(arguments.output)
    encoder = MoEEEncoder(load_model(arguments), prompt=arguments.prompt, batch_size=arguments.batch_size)
    output.mkdir(parents=True, exist_ok=True)
    _print({"complementarity": complementarity(encoder, tasks, arguments.clusters)}, output)
