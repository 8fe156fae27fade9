"""Flags that commands of `moee` share, and what they stand for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

from .. import EMBEDDED
from ..files.texts import TextFile
from ..model.choices_moee import QUANTIZATIONS, check_alpha

# what ArgumentParser.add_subparsers returns
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


FILE_HELP = ".txt, .jsonl, .json, .csv or .tsv, gzipped or not, or .parquet"
INPUT_HELP = f"{FILE_HELP}; - for standard input, a text a line"


def set_run(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], None]) -> None:
    """Let a command, whose flags are all there, run a function; `flags` are the names of the flags in Python."""
    flags = {action.dest for action in parser._actions if action.option_strings}
    parser.set_defaults(run=run, flags=flags)


def add_input_flags(parser: argparse.ArgumentParser) -> None:
    """Add the file with texts, and how it is read; `input_file` is what they stand for."""
    parser.add_argument("input", metavar="FILE", help=INPUT_HELP)
    add_reading_flags(parser)


def add_reading_flags(parser: argparse.ArgumentParser) -> None:
    """Add how files with texts are read."""
    parser.add_argument("--column", help="field of the input that holds the text (default: text)")
    parser.add_argument(
        "--delimiter",
        type=lambda value: "\t" if value == "\\t" else value,
        metavar="CHARACTER",
        help="what separates the fields of .csv (default: a comma) or .tsv (default: a tab), such as ';' or '\\t'",
    )
    add_batch_size_flag(parser)


def input_file(arguments: argparse.Namespace) -> TextFile:
    """Return the file with texts that the flags name.

    Raises:
        ValueError: If there is no such format, or it has no use for a flag.
    """
    return TextFile(arguments.input, arguments.column, arguments.delimiter)


def report_skipped(file: TextFile) -> None:
    """Say how many empty texts were skipped, if any."""
    if file.skipped:
        texts = "1 empty text was" if file.skipped == 1 else f"{file.skipped:,} empty texts were"
        print(f"{file.source}: {texts} skipped", file=sys.stderr)


def report_leftovers(leftovers: Iterable[Path]) -> None:
    """Say what of killed runs was removed, if anything."""
    for leftover in leftovers:
        print(f"{leftover}: the beginning of a file, from a run that was killed; removed", file=sys.stderr)


def add_batch_size_flag(parser: argparse.ArgumentParser) -> None:
    """Add the number of texts per forward pass."""
    parser.add_argument(
        "--batch-size",
        type=positive_int("texts"),
        help="the most texts per forward pass (default: as many as the device is fast with)",
    )


def add_model_flags(
    parser: argparse.ArgumentParser, dtype: str | None = "auto", several_devices: bool = False
) -> None:
    """Add the model and how it is loaded.

    Args:
        parser: The parser of a command.
        dtype: Of the weights. None: float32 on the processor, else as stored.
        several_devices: Whether the command can run on several.
    """
    parser.set_defaults(choices=())  # those of MoEEConfig that are flags too, see choices.py
    group = parser.add_argument_group("model", "arguments of MoEEModel.from_pretrained; --device is its device_map")
    group.add_argument(
        "--model",
        default=EMBEDDED,
        help=f"folder or Hub id of a MoEE repository or a plain MoE checkpoint (default: {EMBEDDED})",
    )
    add_revision_flag(group)
    group.add_argument(
        "--dtype",
        default=dtype,
        choices=("auto", "float32", "bfloat16", "float16"),
        help=f"of the weights (default: {dtype or 'float32 on the processor, else auto'}); auto is as stored",
    )
    group.add_argument(
        "--quantize",
        choices=QUANTIZATIONS,
        help="load the experts in 4.5 bits a weight (nf4) or 8, and compute them in --dtype; `moee info` compares "
        "(default: as stored; Python: quantization_config=)",
    )
    where = group.add_mutually_exclusive_group()
    where.add_argument(
        "--device",
        help="cpu, an accelerator as torch names it (cuda, cuda:1, xpu, mps, ...), or auto: its layers on all "
        "accelerators (default: auto with an accelerator, else cpu)",
    )
    if several_devices:
        where.add_argument(
            "--devices",
            type=lambda value: value if value == "all" else [name.strip() for name in value.split(",")],
            metavar="NAMES",
            help="share the texts out: a whole model in a process for each, such as cuda:0,cuda:1, or all for all "
            "accelerators (Python: devices=)",
        )


def add_revision_flag(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the commit of a model."""
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")


def add_prompt_flag(parser: argparse.ArgumentParser) -> None:
    """Add the prompt."""
    parser.add_argument(
        "--prompt",
        help="name of a prompt, several names with + between them (their embeddings are averaged), or a template with "
        "{text} (default: the model's; Python: prompt_name= or prompt=)",
    )


def add_theme_flag(parser: argparse.ArgumentParser) -> None:
    """Add the theme of a figure."""
    parser.add_argument("--theme", choices=("light", "dark"), help="of the figure (default: light)")


def positive_int(what: str) -> Callable[[str], int]:
    """Return a type of flags: a number of these, 1 or more."""

    def number(value: str) -> int:
        if (parsed := int(value)) < 1:
            raise argparse.ArgumentTypeError(f"expected a number of {what} >= 1; got {value}")
        return parsed

    return number


def whole_number(value: str) -> int:
    """Return a number that a flag gives, 0 or more."""
    if (parsed := int(value)) < 0:
        raise argparse.ArgumentTypeError(f"expected a number >= 0; got {value}")
    return parsed


def nonnegative_alpha(value: str) -> float:
    """Return the weight of the routing part that a flag gives."""
    try:
        check_alpha("alpha", number := float(value))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return number
