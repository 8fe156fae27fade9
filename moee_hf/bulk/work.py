"""What a process with a model does: one part of a file after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from ..files.rows import Request
from ..files.texts import TextFile
from .file import write_embeddings
from .folder import Folder
from .inputs import Part, request_of

if TYPE_CHECKING:
    import pyarrow

    from ..model.modeling_moee import MoEEModel


@dataclass(frozen=True)
class Result:
    """What became of a part.

    Args:
        output: The name of its file of embeddings.
        texts: Number of the texts in it.
        skipped: Number of the empty texts that were skipped.
        error: Why there is none. None: it is there.
        passes: Whether that may be another time, as the network may be back.
    """

    output: str
    texts: int = 0
    skipped: int = 0
    error: str | None = None
    passes: bool = False


@dataclass(frozen=True)
class Work:
    """Makes files of embeddings; can be pickled, and so go to another process or machine.

    Args:
        load: Loads the model, onto a device of this name; None: where it likes.
        folder: Where the files go.
        request: What is asked of each file with texts; its source and span are not read.
        keep_empty: Whether empty texts are embedded.
        with_text: Whether the texts are kept.
        schema: The other columns that are kept. None: none.
        metadata: How the embeddings are made.
        options: As `MoEEModel.encode_stream` takes them.
    """

    load: Callable[[str | None], MoEEModel]
    folder: Folder
    request: Request
    keep_empty: bool = False
    with_text: bool = True
    schema: pyarrow.Schema | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def embed(self, model: MoEEModel, part: Part, progress: Callable[[int], None] = lambda count: None) -> Result:
        """Make the file of a part, whole, or say why there is none.

        Args:
            model: What `load` returned.
            part: The part.
            progress: Is told how many more texts were embedded.
        """
        try:
            wanted = request_of(self.request, part.file)
            file = TextFile(wanted.source, wanted.column, wanted.delimiter, wanted.keep, self.keep_empty, part.span)
            file.kept = self.schema
            metadata = self.metadata | {"source": part.file.name}
            with self.folder.writing(part.output) as output:
                writer = write_embeddings(
                    model, file, output, metadata, self.with_text, progress, show_progress_bar=False, **self.options
                )
            return Result(part.output, writer.count, file.skipped)
        except (ValueError, TypeError) as error:  # of what the file holds
            return Result(part.output, error=_sentence(error))
        except OSError as error:
            return Result(part.output, error=_sentence(error), passes=True)
        except Exception as error:
            return Result(part.output, error=f"{type(error).__name__}: {_sentence(error)}", passes=True)


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class Here:
    """A context with one model, in this process.

    Args:
        work: The work.
    """

    def __init__(self, work: Work):
        self._work = work

    def __enter__(self) -> Self:
        self._model = self._work.load(None)
        return self

    def __exit__(self, *_: object) -> None:
        del self._model

    def run(self, parts: list[Part], progress: Callable[[int], None]) -> Iterator[Result]:
        """Yield what became of each part, as they are done; `progress` is told how many more texts were embedded."""
        return (self._work.embed(self._model, part, progress) for part in parts)
