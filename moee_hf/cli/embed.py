"""`moee embed`: the texts of a file in, a file of embeddings out, in flat memory."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..files.columns import kept_columns
from ..files.embeddings import STDOUT, EmbeddingWriter, check_columns, check_output
from ..files.partial import remove_leftovers
from ..files.rows import ALL, Row
from ..files.texts import TextFile
from ..model.choices_moee import PRECISIONS
from .choices import add_choice_flags
from .flags import Commands, add_input_flags, add_model_flags, add_prompt_flag, input_file, report_skipped, set_run
from .loading import load_model
from .progress import Counted, progress_lines

if TYPE_CHECKING:
    import numpy as np

    from ..model.configuration_moee import MoEEConfig
    from ..model.modeling_moee import MoEEModel


def add_embed_command(commands: Commands) -> None:
    """Add `moee embed`."""
    parser = commands.add_parser(
        "embed",
        help="embed the texts of a file",
        description="Embed the texts of a file, of any size. In Python: MoEEModel.encode, or encode_stream for more "
        "texts than fit into memory.",
    )
    add_input_flags(parser)
    _add_output_flags(parser)
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
        help=f".npy, .safetensors, .parquet or .jsonl; {STDOUT} for standard output, as .jsonl",
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
    check_output(arguments.output, arguments.input)
    file = input_file(arguments, arguments.keep, arguments.keep_empty)
    file.check()
    check_columns(arguments.output, file.kept, not arguments.no_text)
    for leftover in remove_leftovers(Path(arguments.output)) if arguments.output != STDOUT else ():
        print(f"{leftover}: the beginning of a file, from a run that was killed; removed", file=sys.stderr)
    model = load_model(arguments)
    prompt = model.config.find_prompts(arguments.prompt)
    options = {
        "prompt": prompt,
        "batch_size": arguments.batch_size,
        "normalize_embeddings": arguments.normalize,
        "precision": arguments.precision,
        "devices": arguments.devices,
    }
    if file.first_empty is not None:
        _check_empty(model, file, prompt)
    with EmbeddingWriter(arguments.output, _metadata(arguments, model.config)) as writer, progress_lines():
        for rows, embeddings in with_rows(lambda texts: model.encode_stream(texts, **options), file):
            texts = None if arguments.no_text else [row.text for row in rows]
            writer.write(texts, embeddings, None if file.kept is None else kept_columns(rows, file.kept))
    unit = " bytes" if arguments.precision in ("binary", "ubinary") else ""
    report_skipped(file)
    print(f"{writer.count} embeddings of width {writer.width}{unit}: {writer.name}", file=sys.stderr)


def with_rows(
    encode: Callable[[Iterable[str]], Iterable[np.ndarray]], file: TextFile
) -> Iterator[tuple[list[Row], np.ndarray]]:
    """Yield the embeddings of a file chunk by chunk, each chunk with its rows; no other rows are kept.

    Args:
        encode: Makes arrays of shape `(n, embedding_size)` of a stream of texts, each of the next n.
        file: The texts.

    Raises:
        ValueError: If a text cannot be embedded; names where it stands in the file.
    """
    from ..model.prompts_moee import TextError

    waiting: list[Row] = []  # read, and not embedded yet
    done = 0

    def stream() -> Iterator[str]:
        for row in file.rows():
            waiting.append(row)
            yield row.text

    try:
        for embeddings in encode(stream() if file.count is None else Counted(stream(), file.count)):
            rows = waiting[: len(embeddings)]
            del waiting[: len(embeddings)]
            done += len(rows)
            yield rows, embeddings
    except TextError as error:
        raise ValueError(f"{file.source}, {waiting[error.index - done].where}: {error.problem}") from error


def _check_empty(model: MoEEModel, file: TextFile, prompt: str | Sequence[str] | None) -> None:
    """Raise unless the model can embed an empty text: before the work, not in the middle of it."""
    from ..model.prompts_moee import TextError

    try:
        model.tokenize("", prompt=prompt)
    except TextError as error:
        raise ValueError(f"{file.source}, {file.first_empty}: {error.problem}") from error


def _names(value: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in value.split(",")))
    if "" in names or (ALL in names and len(names) > 1):
        raise argparse.ArgumentTypeError(f"expected names with commas between them, or '{ALL}'; got {value!r}")
    return names


def _metadata(arguments: argparse.Namespace, config: MoEEConfig) -> dict[str, str]:
    """How the embeddings are made, to keep beside them."""
    from ..model.quantization_moee import stored_method

    mix = config.mix()
    default = config.default_prompt_name
    default = "+".join(default) if isinstance(default, list) else default
    return {
        "model": arguments.model,
        "revision": arguments.revision or "",
        "quantization": arguments.quantize or stored_method(config.backbone_config) or "",
        "prompt": arguments.prompt or default or "none",
        "combination": mix.combination,
        "alpha": str(mix.alpha),
        "normalized": str(arguments.normalize or arguments.precision != "float32"),
        "dimensions": str(mix.dimensions or ""),
        "precision": arguments.precision,
        "moee_hf": __version__,
    }
