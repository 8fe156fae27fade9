"""The command `moee`: data on standard output, everything else on standard error."""

from __future__ import annotations

import argparse
import json
import os
import sys
import unicodedata
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain, tee
from typing import Any

import torch
import transformers

from .. import EMBEDDED, __version__
from ..files.embeddings import check_output, write_embeddings
from ..files.folders import check_new_folder
from ..files.texts import iter_texts
from ..info import dtype_name, format_count, model_info, supported_backbones
from ..model.configuration_moee import MoEEConfig
from .evaluation import add_evaluation_commands, alpha_fitter
from .flags import (
    add_embedding_flags,
    add_input_flags,
    add_model_flags,
    add_prompt_flag,
    embedding_options,
    load_model,
    prompt_options,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 an error that its message explains, 2 wrong usage.

    An interruption is 130, as the shell has it.
    """
    arguments = _parser().parse_args(argv)
    # transformers reports the language-model head of every checkpoint as unexpected
    transformers.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        transformers.logging.disable_progress_bar()
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError, ImportError) as error:
        print(f"moee: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("moee: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="moee", description="Text embeddings from any pretrained mixture-of-experts LLM, without training."
    )
    parser.add_argument("--version", action="version", version=f"moee_hf {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    similarity = commands.add_parser("similarity", help="print the cosine similarity of every text with every other")
    similarity.add_argument("texts", nargs="+", metavar="TEXT")
    add_model_flags(similarity)
    add_prompt_flag(similarity)
    add_embedding_flags(similarity)
    similarity.set_defaults(run=_similarity)

    embed = commands.add_parser("embed", help="embed the texts of a file")
    add_input_flags(embed)
    embed.add_argument("--output", required=True, metavar="FILE", help=".npy, .parquet or .safetensors")
    embed.add_argument("--normalize", action="store_true", help="scale embeddings to length 1")
    add_model_flags(embed)
    add_prompt_flag(embed)
    add_embedding_flags(embed)
    embed.set_defaults(run=_embed)

    calibrate = commands.add_parser(
        "calibrate", help="fit the statistics that standardize embeddings on the texts of a file, and save the model"
    )
    add_input_flags(calibrate)
    calibrate.add_argument("--output", required=True, metavar="FOLDER", help="a new folder for the model")
    calibrate.add_argument("--reference", action="store_true", help="save it without the weights, which the Hub has")
    calibrate.add_argument(
        "--fit-alpha",
        nargs="?",
        const="",
        metavar="DEV",
        help="also choose the weight of the routing part: the best on a development set (.jsonl with sentence1, "
        "sentence2, score), or without one, the one whose similarities agree best with both parts",
    )
    add_model_flags(calibrate)
    add_prompt_flag(calibrate)
    calibrate.set_defaults(run=_calibrate)

    add_evaluation_commands(commands)

    info = commands.add_parser("info", help="print what a model gives and takes, from its configuration alone")
    info.add_argument("model", metavar="MODEL", nargs="?", default=EMBEDDED, help="folder, config.json or Hub id")
    info.add_argument("--revision", help="branch, tag or commit on the Hub")
    info.set_defaults(run=_info)

    backbones = commands.add_parser("backbones", help="list the supported architectures of the installed transformers")
    backbones.set_defaults(run=lambda arguments: print("\n".join(supported_backbones())))
    return parser


def _similarity(arguments: argparse.Namespace) -> None:
    model = load_model(arguments)
    embeddings: Any = model.encode(arguments.texts, **embedding_options(arguments))
    # what cannot be shown on one line is shown escaped, so that the matrix stays one
    labels = [text if text.isprintable() else json.dumps(text, ensure_ascii=False) for text in arguments.texts]
    labels = [label if len(label) <= 48 else label[:47] + "…" for label in labels]
    width = max(map(_display_width, labels))
    print(" " * (width + 4), *(f"{number:>6}" for number in range(1, len(labels) + 1)))
    for number, (label, row) in enumerate(zip(labels, model.similarity(embeddings, embeddings), strict=True), 1):
        padding = " " * (width - _display_width(label))
        print(f"{number:>3} {label}{padding}", *(f"{value:6.3f}" for value in row.tolist()))


def _display_width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _embed(arguments: argparse.Namespace) -> None:
    check_output(arguments.output)
    if os.path.isfile(arguments.input):  # what is wrong anywhere in a file is said before the work
        deque(iter_texts(arguments.input, arguments.column), maxlen=0)
    texts = iter_texts(arguments.input, arguments.column)
    if (first := next(texts, None)) is None:
        raise ValueError(f"{arguments.input}: expected texts; got none.")
    texts, copies = tee(chain([first], texts))
    model = load_model(arguments)
    embeddings = model.encode_stream(
        texts,
        batch_size=arguments.batch_size,
        normalize_embeddings=arguments.normalize,
        **embedding_options(arguments),
    )
    config = model.config
    metadata = {
        "model": arguments.model,
        "revision": arguments.revision or "",
        "prompt": config.default_prompt_name or "none" if arguments.prompt is None else arguments.prompt,
        "combination": arguments.combination or config.combination,
        "alpha": str(config.alpha if arguments.alpha is None else arguments.alpha),
        "normalized": str(arguments.normalize),
        "moee_hf": __version__,
    }
    count, width = write_embeddings(arguments.output, copies, embeddings, metadata)
    print(f"{count} embeddings of width {width}: {arguments.output}", file=sys.stderr)


def _calibrate(arguments: argparse.Namespace) -> None:
    output = check_new_folder(arguments.output)
    fit = None if arguments.fit_alpha is None else alpha_fitter(arguments)
    model = load_model(arguments)
    number, first = 0, []

    def stream() -> Iterator[str]:
        nonlocal number
        for text in iter_texts(arguments.input, arguments.column):
            number += 1
            if number <= 2000:
                first.append(text)  # to choose alpha on, without labels
            yield text

    model.calibrate(stream(), batch_size=arguments.batch_size, **prompt_options(arguments.prompt))
    if fit is not None:
        model.config.alpha = fit(model, first)
        print(f"alpha: {model.config.alpha:g}", file=sys.stderr)
    (model.save_reference if arguments.reference else model.save_pretrained)(output)
    print(f"calibrated on {number} texts: {output}", file=sys.stderr)


def _info(arguments: argparse.Namespace) -> None:
    info = model_info(MoEEConfig.from_pretrained(arguments.model, revision=arguments.revision))
    visits = "" if info.top_k is None else f", {info.top_k} per token"
    active = "unknown" if info.active_parameters is None else format_count(info.active_parameters)
    dtypes = (torch.float32, torch.bfloat16)
    rows = {
        "backbone": f"{info.model_type}, {info.num_layers} layers, {dtype_name(info.dtype)}",
        "routers": f"{info.num_moe_layers} MoE layers x {info.num_experts} experts{visits}",
        "HS": str(info.hidden_size),
        "RW": str(info.embedding_sizes["rw"]),
        "embedding": ", ".join(f"{combination} {size}" for combination, size in info.embedding_sizes.items()),
        "parameters": f"{format_count(info.parameters)}, active {active} (without the language-model head)",
        "weights": ", ".join(f"{info.memory(dtype) / 2**30:.2f} GiB in {dtype_name(dtype)}" for dtype in dtypes),
    }
    for name, value in rows.items():
        print(f"{name:<11} {value}")
