"""Embeddings to files, which are complete, or not there."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np

from .formats import FORMATS, SAFETENSORS_TYPES, WITH_COLUMNS, Format
from .locations import is_remote
from .parquet import import_pyarrow
from .partial import Partial, check_place, named_errors

if TYPE_CHECKING:
    import pyarrow

STDOUT = "-"


def check_output(output: str, source: str | None = None) -> None:
    """Raise unless embeddings can be written to this file: asked before the work, not after.

    Args:
        output: The file; `-` is standard output.
        source: The file with the texts, which must be another.

    Raises:
        ValueError: If the format is none of those of `EmbeddingWriter`, or the file is that with the texts.
        OSError: If the folder is not there or not writable, or there is something of this name that is no file.
        ImportError: If the format needs a package that is not installed.
    """
    if not output:
        raise ValueError("output: expected the name of a file; got an empty one.")
    if output == STDOUT:
        return
    if is_remote(output):
        raise ValueError(
            f"{output}: expected a folder at an address, with / at its end, or a file of this machine; got a file."
        )
    if format_of(output) == ".parquet":
        import_pyarrow()
    check_place(output, source)


def format_of(output: str) -> str:
    """Return the format of a file with embeddings, as its ending: `.jsonl` of standard output.

    Raises:
        ValueError: If there is no such format.
    """
    suffix = ".jsonl" if output == STDOUT else Path(output).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"{output}: expected a file ending in {', '.join(FORMATS)}; got {suffix!r}.")
    return suffix


def check_columns(output: str, columns: pyarrow.Schema | None, with_text: bool) -> None:
    """Raise unless a file can have these columns beside the embeddings.

    Raises:
        ValueError: If its format has no columns, or two have one name.
    """
    if columns is not None and format_of(output) not in WITH_COLUMNS:
        raise ValueError(f"keep: expected an output in {' or '.join(WITH_COLUMNS)}, which have columns; got {output}.")
    if not with_text and format_of(output) not in WITH_COLUMNS:
        raise ValueError(f"no_text: expected an output in {' or '.join(WITH_COLUMNS)}; {output} has no texts anyway.")
    names = [] if columns is None else columns.names
    for name in ("embedding", "text") if with_text else ("embedding",):
        if name in names:
            raise ValueError(
                f"keep: expected other columns than {name!r}, which is written beside them; got {', '.join(names)}. "
                "Name those to keep, or rename it."
            )


class EmbeddingWriter:
    """A context that writes embeddings to a file chunk by chunk; the file is complete, or not there at all.

        with EmbeddingWriter("vectors.npy", {"model": "embedded"}) as writer:
            writer.write(texts, embeddings)

    Until the context ends without an error, a file of this name stays as it was. If two write the same file at once,
    the last to end leaves its own, whole. Only to standard output everything goes at once.

    Args:
        output: `.npy` (the array), `.safetensors` (tensor `embeddings`, and the metadata), `.parquet` (columns `text`,
            those that are kept, and `embedding`, a fixed-size list, and the metadata) or `.jsonl` (an object a line
            with the same fields); `-` is standard output, as `.jsonl`.
        metadata: How the embeddings were made.

    Attributes:
        name: What messages call the file.
        count: Number of the embeddings so far.
        width: Their width; 0 before the first.

    Raises:
        ValueError: If the format is another, or at the end nothing was written.
        OSError: If the file cannot be written; it names the file.
    """

    def __init__(self, output: str, metadata: dict[str, str]):
        check_output(output)
        self.count = self.width = 0
        self._metadata, self._output = metadata, output
        self._format: Format | None = None
        self._dtype: np.dtype[Any] = np.dtype(np.float32)
        self._partial = None if output == STDOUT else Partial(Path(output))
        self.name = "standard output" if output == STDOUT else output

    def __enter__(self) -> Self:
        with named_errors(self.name):
            self._file = _stdout() if self._partial is None else self._partial.path.open("wb")
        return self

    def write(self, texts: Sequence[str] | None, embeddings: np.ndarray, columns: pyarrow.Table | None = None) -> None:
        """Add a chunk.

        Args:
            texts: n texts, of which `.parquet` and `.jsonl` keep a column. None: they keep none.
            embeddings: Float32, int8 or uint8 of shape `(n, embedding_size)`, of the same texts.
            columns: Other columns of n rows, which the same two keep, with the same names and types in each chunk.

        Raises:
            ValueError: If embeddings are of another type, or not of the type and width of the first chunk.
            OSError: If they cannot be written.
        """
        with named_errors(self.name):
            if self._format is None:
                self.width, self._dtype = embeddings.shape[1], embeddings.dtype
                if self._dtype not in SAFETENSORS_TYPES:
                    raise ValueError(f"embeddings: expected float32, int8 or uint8; got {self._dtype}.")
                make = FORMATS[format_of(self._output)]
                self._format = make(self._file, self.width, self._dtype, self._metadata)
            if (embeddings.dtype, embeddings.shape[1]) != (self._dtype, self.width):
                raise ValueError(
                    f"embeddings: expected {self._dtype} of width {self.width}, as the first chunk; got "
                    f"{embeddings.dtype} of width {embeddings.shape[1]}."
                )
            self._format.write(texts, embeddings, columns)
            if self._partial is None:
                self._file.flush()
        self.count += len(embeddings)

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        try:
            with named_errors(self.name):
                self._close()
            if error is None and self._format is None:
                raise ValueError(f"{self._output}: expected embeddings to write; got none.")
            if error is None and self._partial is not None:
                self._partial.put_in_place()
        except (OSError, ValueError):
            # after another error, that one is what the caller should see
            if error is None:
                raise
        finally:
            if self._partial is not None:
                self._partial.remove()

    def _close(self) -> None:
        if self._partial is not None:
            with self._file:
                if self._format is not None:
                    self._format.close()


def _stdout() -> BinaryIO:
    sys.stdout.flush()
    return sys.stdout.buffer
