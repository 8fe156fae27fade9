"""Which files are embedded, and in which parts: each part becomes one file of embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from ..files.lines import suffix_of
from ..files.locations import Found, find_files, is_inside
from ..files.parquet import import_pyarrow
from ..files.readers import READERS, Extent, measure
from ..files.rows import Request, Span

if TYPE_CHECKING:
    import pyarrow

# files that are looked at together: of those far away, most of the time is spent waiting
THREADS = 16


@dataclass(frozen=True)
class Part:
    """Rows of a file, and the name of the file in the folder that their embeddings go to."""

    file: Found
    span: Span
    output: str

    @property
    def rows(self) -> int | None:
        """The number of its rows. None: not known."""
        return None if self.span.stop is None else self.span.stop - self.span.start


@dataclass(frozen=True)
class Input:
    """A file with texts.

    Args:
        file: The file.
        extent: How large it is. None: that is not known, as it is not to be divided.
    """

    file: Found
    extent: Extent | None = None

    def parts(self, rows_per_file: int) -> list[Part]:
        """Return its parts; 0 rows per file: the whole file."""
        spans = [Span()] if self.extent is None or not rows_per_file else self.extent.spans(rows_per_file)
        stem = _stem(self.file)
        names = [stem] if len(spans) == 1 else [f"{stem}-{number:05}" for number in range(len(spans))]
        return [Part(self.file, span, f"{name}.parquet") for span, name in zip(spans, names, strict=True)]


def request_of(request: Request, file: Found) -> Request:
    """Return what is asked of one file of many: of what its format has a use for.

    Raises:
        ValueError: If columns are to be kept of lines of text.
    """
    suffix = suffix_of(file.name)
    if request.keep and suffix == ".txt":
        raise ValueError(
            f"keep: expected inputs with columns; got {file.location}, lines of text, which have none. Embed such "
            "files into another folder, or keep no columns."
        )
    return Request(
        file.location,
        None if suffix == ".txt" else request.column,
        request.delimiter if suffix in (".csv", ".tsv") else None,
        request.keep,
    )


def find_inputs(locations: Sequence[str], output: str) -> list[Found]:
    """Return the files with texts that these names stand for, in order.

    Args:
        locations: Files, folders and patterns, as `find_files` takes them. Of a folder or pattern only files that can
            hold texts are taken, and none that lies in the output.
        output: The folder of the output.

    Raises:
        ValueError: If there is no file with texts.
        OSError: If one is not there.
    """
    found: dict[str, Found] = {}
    for location in locations:
        files = find_files(location)
        several = len(files) > 1 or files[0].location != location
        outside = [file for file in files if not several or not is_inside(file.location, output)]
        texts = [file for file in outside if not several or suffix_of(file.name) in READERS]
        if not texts:
            raise ValueError(f"{location}: expected files ending in {', '.join(READERS)}; got {len(files):,} others.")
        found |= {file.location: file for file in texts}
    return list(found.values())


def check_outputs(inputs: Iterable[Input], rows_per_file: int) -> None:
    """Raise `ValueError` if two files would be written to one."""
    outputs: dict[str, Input] = {}
    for input_ in inputs:
        for part in input_.parts(rows_per_file):
            if (other := outputs.setdefault(part.output, input_)) is not input_:
                raise ValueError(
                    f"{input_.file.location}: expected names of inputs that differ; {other.file.location} is written "
                    f"to {part.output} too. Name the folder that both are in, or rename one."
                )


def measure_inputs(
    files: Sequence[Found],
    known: Mapping[str, Input],
    request: Request,
    rows_per_file: int,
    schema: pyarrow.Schema | None = None,
) -> tuple[list[Input], pyarrow.Schema | None, dict[str, Exception]]:
    """Find how large files are, and which columns are kept of them.

    Args:
        files: The files.
        known: Those that were looked at before, by name; they are looked at again only for their columns.
        request: What is asked of each; its source is not read.
        rows_per_file: After how many rows to divide a file. 0: never.
        schema: The columns that are kept, if files were written with them before. None: they are to be found.

    Returns:
        The files; the columns of all that are kept, None if none are asked for; and of the files that cannot be read,
        by location, why.

    Raises:
        ValueError: If a column has several types that do not go together, or others than `schema`.
    """
    before = schema

    def look(file: Found) -> tuple[Input, pyarrow.Schema | None]:
        is_known = file.name in known and not (request.keep and before is None)
        if is_known or not (rows_per_file or request.keep):
            return known.get(file.name, Input(file)), None
        extent, schema = measure(request_of(request, file), rows_per_file or 1)
        return Input(file, extent), schema

    inputs: list[Input] = []
    errors: dict[str, Exception] = {}
    with ThreadPoolExecutor(THREADS) as threads:
        for file, future in [(file, threads.submit(look, file)) for file in files]:
            try:
                input_, columns = future.result()
            except (ValueError, OSError) as error:
                errors[file.location] = error
                continue
            inputs.append(input_)
            schema = columns if schema is None else _with(schema, columns, file.location)
            if before is not None and schema != before:
                raise ValueError(
                    f"{file.location}: expected the columns that the folder has, {_listed(before)}; got "
                    f"{_listed(schema)}. Embed the file into another folder."
                )
    return inputs, schema, errors


def _with(schema: pyarrow.Schema, other: pyarrow.Schema | None, source: str) -> pyarrow.Schema:
    """The columns of several files as one."""
    pa = import_pyarrow()
    if other is None:  # of a file without rows
        return schema
    if sorted(schema.names) != sorted(other.names):
        raise ValueError(
            f"{source}: expected the columns of the files before it, {', '.join(schema.names)}; got "
            f"{', '.join(other.names)}. Name those to keep that all files have."
        )
    try:
        return pa.unify_schemas([schema.remove_metadata(), other.remove_metadata()], promote_options="permissive")
    except pa.ArrowException as error:
        raise ValueError(
            f"{source}: expected the types of the files before it; got others ({error}). Leave the column out, or "
            "embed the file into another folder."
        ) from error


def _listed(schema: pyarrow.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)


def _stem(file: Found) -> str:
    """The name of a file without what says its format."""
    name = file.name[: -len(".gz")] if file.name.lower().endswith(".gz") else file.name
    return str(PurePosixPath(name).with_suffix(""))
