"""`moee embed`: the texts of a file in, a file of embeddings out, in flat memory."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from .. import __version__
from ..files.embeddings import EmbeddingWriter, check_output
from ..files.texts import check_input, iter_texts
from ..model.compression_moee import PRECISIONS
from ..model.configuration_moee import MoEEConfig
from .flags import (
    Commands,
    add_embedding_flags,
    add_input_flags,
    add_model_flags,
    add_prompt_flag,
    embedding_options,
    load_model,
    set_run,
)


def add_embed_command(commands: Commands) -> None:
    """Add `moee embed`."""
    parser = commands.add_parser(
        "embed",
        help="embed the texts of a file",
        description="Embed the texts of a file, of any size. In Python: MoEEModel.encode, or encode_stream for more "
        "texts than fit into memory.",
    )
    add_input_flags(parser)
    parser.add_argument("--output", required=True, metavar="FILE", help=".npy, .parquet or .safetensors")
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
    add_model_flags(parser)
    add_prompt_flag(parser)
    add_embedding_flags(parser)
    set_run(parser, _embed)


def _embed(arguments: argparse.Namespace) -> None:
    check_output(arguments.output)
    check_input(arguments.input, arguments.column)
    model = load_model(arguments)
    options = {"batch_size": arguments.batch_size, "normalize_embeddings": arguments.normalize}
    options |= embedding_options(arguments, model.config) | {"precision": arguments.precision}
    texts = iter_texts(arguments.input, arguments.column)
    with EmbeddingWriter(arguments.output, _metadata(arguments, model.config)) as writer:
        for chunk, embeddings in with_texts(lambda texts: model.encode_stream(texts, **options), texts):
            writer.write(chunk, embeddings)
    unit = " bytes" if arguments.precision in ("binary", "ubinary") else ""
    print(f"{writer.count} embeddings of width {writer.width}{unit}: {arguments.output}", file=sys.stderr)


def with_texts(
    encode: Callable[[Iterable[str]], Iterable[np.ndarray]], texts: Iterable[str]
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield the embeddings of a stream chunk by chunk, each chunk with its texts; no other texts are kept.

    Args:
        encode: Makes arrays of shape `(n, embedding_size)` of a stream, each of the next n texts.
        texts: The stream.
    """
    waiting: list[str] = []  # read, and not embedded yet

    def stream() -> Iterator[str]:
        for text in texts:
            waiting.append(text)
            yield text

    for embeddings in encode(stream()):
        chunk = waiting[: len(embeddings)]
        del waiting[: len(embeddings)]
        yield chunk, embeddings


def _metadata(arguments: argparse.Namespace, config: MoEEConfig) -> dict[str, str]:
    """How the embeddings are made, to keep beside them."""
    mix = config.mix(arguments.combination, arguments.alpha)
    default = config.default_prompt_name
    default = "+".join(default) if isinstance(default, list) else default
    return {
        "model": arguments.model,
        "revision": arguments.revision or "",
        "prompt": arguments.prompt or default or "none",
        "combination": mix.combination,
        "alpha": str(mix.alpha),
        "normalized": str(arguments.normalize or arguments.precision != "float32"),
        "dimensions": str(mix.dimensions or ""),
        "precision": arguments.precision,
        "moee_hf": __version__,
    }
