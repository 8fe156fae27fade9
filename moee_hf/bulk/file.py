"""The texts of a file, or of a part of one, to a file of embeddings, in flat memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files.columns import kept_columns
from ..files.embeddings import EmbeddingWriter, check_columns, check_output
from ..files.rows import Row
from ..files.texts import Counted, TextFile
from .description import describe

if TYPE_CHECKING:
    from ..model.modeling_moee import MoEEModel


def embed_file(
    model: MoEEModel,
    input: str,
    output: str,
    *,
    column: str | None = None,
    delimiter: str | None = None,
    keep: tuple[str, ...] = (),
    keep_empty: bool = False,
    with_text: bool = True,
    prompt: str | None = None,
    batch_size: int | None = None,
    normalize_embeddings: bool = False,
    precision: str = "float32",
) -> int:
    """Embed the texts of a file; the output is complete, or not there.

    Args:
        model: The model.
        input: The file with texts, as `TextFile` takes it, here and below: on this machine, or an address such as
            `hf://datasets/user/name/file.parquet`.
        output: The file with embeddings, as `EmbeddingWriter` takes it.
        column: The field that holds the text.
        delimiter: What separates the fields of a `.csv` or `.tsv` file.
        keep: The columns of the input that the output has too; `("*",)`: all.
        keep_empty: Whether empty texts are embedded. False: they are skipped.
        with_text: Whether a `.parquet` or `.jsonl` output has the texts.
        prompt: A name, several with `+` between them, or a template with `{text}`. None: the model's default.
        batch_size: As `MoEEModel.encode` takes it, here and below.
        normalize_embeddings: Whether embeddings have length 1.
        precision: How a number of an embedding is stored.

    Returns:
        The number of embeddings.

    Raises:
        ValueError: If an argument has no such value, a row is damaged, or a text cannot be embedded; names the row.
        OSError: If a file cannot be read or written.
        ImportError: If the format needs a package that is not installed.
    """
    check_output(output, input)
    file = TextFile(input, column, delimiter, keep, keep_empty)
    file.check()
    check_columns(output, file.kept, with_text)
    origin = model.origin
    metadata = describe(model.config, origin.source, origin.revision, prompt, normalize_embeddings, precision)
    options = {
        "prompt": model.config.find_prompts(prompt),
        "batch_size": batch_size,
        "normalize_embeddings": normalize_embeddings,
        "precision": precision,
    }
    return write_embeddings(model, file, output, metadata, with_text, **options).count


def write_embeddings(
    model: MoEEModel,
    file: TextFile,
    output: str,
    metadata: dict[str, str],
    with_text: bool = True,
    progress: Callable[[int], None] = lambda count: None,
    **options: Any,
) -> EmbeddingWriter:
    """Write the embeddings of a file that was checked, or of a span of one; return the writer, which has ended.

    Args:
        model: The model.
        file: The texts.
        output: As `embed_file` takes it, here and below.
        metadata: How the embeddings are made.
        with_text: Whether the output has the texts.
        progress: Is told how many more texts were embedded.
        options: As `MoEEModel.encode_stream` takes them.

    Raises:
        ValueError: If a row is damaged, or a text cannot be embedded; names the row.
        OSError: If a file cannot be read or written.
    """
    if file.first_empty is not None:
        _check_empty(model, file, options["prompt"])
    with EmbeddingWriter(output, metadata) as writer:
        for rows, embeddings in with_rows(lambda texts: model.encode_stream(texts, **options), file):
            columns = None if file.kept is None else kept_columns(rows, file.kept)
            writer.write([row.text for row in rows] if with_text else None, embeddings, columns)
            progress(len(rows))
        if not writer.count and file.request.span is not None:  # a part of a file may have no text
            empty = {name: value for name, value in options.items() if name != "devices"}
            columns = None if file.kept is None else file.kept.empty_table()
            writer.write([] if with_text else None, np.asarray(model.encode([], **empty)), columns)
    return writer


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


def _check_empty(model: MoEEModel, file: TextFile, prompt: Sequence[str]) -> None:
    """Raise unless the model can embed an empty text: before the work, not in the middle of it."""
    from ..model.prompts_moee import TextError

    try:
        model.tokenize("", prompt=prompt)
    except TextError as error:
        raise ValueError(f"{file.source}, {file.first_empty}: {error.problem}") from error
