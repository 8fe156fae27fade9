"""A folder of embeddings: planned, made, and gone on with after whatever ended it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..files.embeddings import check_columns
from ..files.locations import Found
from ..files.rows import Request
from .folder import Folder, Manifest
from .inputs import Part, check_outputs, measure_inputs
from .work import Result

if TYPE_CHECKING:
    import pyarrow

# a part that fails is tried once more, when all others are done
ATTEMPTS = 2


class Runner(Protocol):
    """Does parts, in any order: here, in processes, or on Ray."""

    def run(self, parts: list[Part], progress: Callable[[int], None]) -> Iterator[Result]: ...


@dataclass(frozen=True)
class Plan:
    """What there is to do.

    Args:
        parts: All parts of all files, in order.
        done: The names of the files that are there.
        schema: The columns that are kept.
        errors: Of the files that cannot be read, by location, why.
        is_new: Whether the folder was not there before.
        unnamed: The names of the files that are there, of inputs that are not among these.
    """

    parts: list[Part]
    done: set[str]
    schema: pyarrow.Schema | None
    errors: Mapping[str, Exception]
    is_new: bool
    unnamed: list[str]

    def todo(self, num_shards: int = 1, shard: int = 0) -> list[Part]:
        """Return the parts that are not done, of every so many the one of this number."""
        return [part for part in self.parts[shard::num_shards] if part.output not in self.done]


def plan(
    folder: Folder,
    files: Sequence[Found],
    request: Request,
    rows_per_file: int,
    recipe: Mapping[str, Any],
    versions: Mapping[str, str],
    with_text: bool = True,
) -> Plan:
    """Look at the files and the folder, and write down in the folder what is to be in it.

    Args:
        folder: The folder.
        files: The files with texts.
        request: What is asked of each; its source and span are not read.
        rows_per_file: The most rows of a file with embeddings. 0: those of a file go to one.
        recipe: As `Manifest` takes it, here and below.
        versions: The versions of packages.
        with_text: Whether the texts are kept.

    Raises:
        ValueError: If another recipe wrote the folder, a file has changed, or columns do not go together.
        OSError: If the folder cannot be read or written.
    """
    manifest = Manifest(folder, recipe, versions)
    inputs, schema, errors = measure_inputs(files, manifest.known(files), request, rows_per_file, manifest.schema)
    check_columns("a.parquet", schema, with_text)
    check_outputs((manifest.inputs() | {input_.file.name: input_ for input_ in inputs}).values(), rows_per_file)
    is_new = manifest.add(inputs, schema)
    parts = [part for input_ in inputs for part in input_.parts(rows_per_file)]
    present, mine = folder.files(), {file.name for file in files}
    others = [input_ for name, input_ in manifest.inputs().items() if name not in mine]
    unnamed = [part.output for input_ in others for part in input_.parts(rows_per_file) if part.output in present]
    return Plan(parts, present, schema, errors, is_new, unnamed)


def run(parts: list[Part], runner: Runner, progress: Callable[[int], None]) -> Iterator[Result]:
    """Do parts, and yield what became of each; what fails is tried again at the end, if that may help.

    Args:
        parts: The parts.
        runner: Does them.
        progress: Is told how many more texts were embedded.
    """
    for attempt in range(ATTEMPTS):
        by_output, again = {part.output: part for part in parts}, []
        for result in runner.run(parts, progress) if parts else ():
            if result.passes and attempt + 1 < ATTEMPTS:
                again.append(by_output[result.output])
            else:
                yield result
        parts = again
