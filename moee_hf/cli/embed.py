"""`moee embed`: the texts of files in, embeddings out, in flat memory."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..bulk.description import describe
from ..bulk.file import write_embeddings
from ..files.embeddings import STDOUT, check_columns, check_output
from ..files.partial import remove_leftovers
from ..files.rows import ALL
from ..files.texts import TextFile
from ..model.choices_moee import PRECISIONS
from .choices import add_choice_flags
from .embed_folder import embed_folder
from .flags import (
    INPUT_HELP,
    Commands,
    add_model_flags,
    add_prompt_flag,
    add_reading_flags,
    report_leftovers,
    report_skipped,
    set_run,
)
from .folder_flags import add_folder_flags, is_folder, refuse_folder_flags
from .loading import load_model
from .progress import Progress


def add_embed_command(commands: Commands) -> None:
    """Add `moee embed`."""
    parser = commands.add_parser(
        "embed",
        help="embed the texts of files",
        description="Embed the texts of a file, of any size, or of many files: FOLDER/ gets a file of embeddings for "
        "each of them. In Python: MoEEModel.encode, encode_stream for more texts than fit into memory, or "
        "moee_hf.bulk.embed_file.",
    )
    parser.add_argument(
        "input",
        nargs="+",
        metavar="INPUT",
        help=f"{INPUT_HELP}; folders and patterns for many; on this machine, or at an address, such as "
        "hf://datasets/user/name or s3://bucket/folder",
    )
    add_reading_flags(parser)
    _add_output_flags(parser)
    add_folder_flags(parser)
    parser.add_argument(
        "--normalize", action="store_true", help="scale embeddings to length 1 (Python: normalize_embeddings=True)"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="int8 and uint8 take a byte a dimension, binary and ubinary a bit; of a calibrated model "
        "(default: float32)",
    )
    add_model_flags(parser, several_devices=True)
    add_prompt_flag(parser)
    add_choice_flags(parser)
    set_run(parser, _embed)


def _add_output_flags(parser: argparse.ArgumentParser) -> None:
    """Add the file with embeddings, and what stands beside them in it."""
    parser.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help=f".npy, .safetensors, .parquet or .jsonl; {STDOUT} for standard output, as .jsonl; FOLDER/ for many "
        "files, as .parquet",
    )
    parser.add_argument(
        "--keep",
        type=_names,
        default=(),
        metavar="COLUMNS",
        help=f"columns of the input that the output has too, such as id,title; '{ALL}' for all (.parquet, .jsonl)",
    )
    parser.add_argument("--no-text", action="store_true", help="leave the texts out of .parquet or .jsonl")
    parser.add_argument(
        "--keep-empty",
        action="store_true",
        help="embed empty texts too, so that there is an embedding for each row (default: skip and count them)",
    )


def _embed(arguments: argparse.Namespace) -> None:
    if is_folder(arguments.output):
        embed_folder(arguments)
        return
    refuse_folder_flags(arguments)
    (source,) = arguments.input
    check_output(arguments.output, source)
    file = TextFile(source, arguments.column, arguments.delimiter, arguments.keep, arguments.keep_empty)
    file.check()
    check_columns(arguments.output, file.kept, not arguments.no_text)
    if arguments.output != STDOUT:
        report_leftovers(remove_leftovers(Path(arguments.output)))
    model = load_model(arguments)
    options = {
        "prompt": model.config.find_prompts(arguments.prompt),
        "batch_size": arguments.batch_size,
        "normalize_embeddings": arguments.normalize,
        "precision": arguments.precision,
        "devices": arguments.devices,
    }
    metadata = describe(
        *(model.config, model.origin.source, model.origin.revision),
        *(arguments.prompt, arguments.normalize, arguments.precision, arguments.quantize),
    )
    with Progress():
        writer = write_embeddings(model, file, arguments.output, metadata, not arguments.no_text, **options)
    unit = " bytes" if arguments.precision in ("binary", "ubinary") else ""
    report_skipped(file)
    print(f"{writer.count} embeddings of width {writer.width}{unit}: {writer.name}", file=sys.stderr)


def _names(value: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in value.split(",")))
    if "" in names or (ALL in names and len(names) > 1):
        raise argparse.ArgumentTypeError(f"expected names with commas between them, or '{ALL}'; got {value!r}")
    return names
