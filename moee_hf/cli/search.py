"""`moee search`: the texts of a file that are most like a query."""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import TYPE_CHECKING

from ..figures.words import one_line
from ..files.texts import iter_texts
from .choices import add_choice_flags
from .flags import FILE_HELP, Commands, add_model_flags, add_prompt_flag, add_reading_flags, positive_int, set_run
from .loading import load_model
from .progress import Progress
from .routing import bar

if TYPE_CHECKING:
    from ..search import Hit, Index

# characters of the longest bar, for a similarity of 1; of a text that a person is shown
_BAR, _SHOWN = 10, 500


def add_search_command(commands: Commands) -> None:
    """Add `moee search`."""
    parser = commands.add_parser(
        "search",
        help="find the texts of a file that are most like a query",
        description="Find the texts of a file that are most like a query. Without QUERY, it asks for one after the "
        "other until an empty line; where no terminal is, queries are the lines of standard input. Answers that are "
        "piped are lines of rank, similarity, where the text stands, and the text, with tabs between them; rank 1 "
        "begins those of the next query. Embeddings of the texts are made once, and kept for later searches. In "
        "Python: moee_hf.search.open_index, then search.",
    )
    parser.add_argument("corpus", metavar="CORPUS", help=FILE_HELP)
    parser.add_argument("query", nargs="?", metavar="QUERY", help="what to search for")
    parser.add_argument(
        "--top", type=positive_int("texts"), default=10, metavar="N", help="texts for each query (default: 10)"
    )
    parser.add_argument(
        "--index",
        metavar="FILE",
        help="keep embeddings in this file, .safetensors (default: in the cache of Hugging Face, in "
        "assets/moee_hf/search, where all files may be removed)",
    )
    add_reading_flags(parser)
    add_model_flags(parser)
    add_prompt_flag(parser)
    parser.add_argument(
        "--query-prompt", metavar="PROMPT", help="of queries alone (default: the model's 'query', else as of texts)"
    )
    add_choice_flags(parser)
    set_run(parser, _search)


def _search(arguments: argparse.Namespace) -> None:
    from ..search import CorpusFile, check_index, open_index

    # what is wrong with them is told before minutes of loading
    check_index(arguments.index, arguments.corpus)
    corpus = CorpusFile(arguments.corpus, arguments.column, arguments.delimiter)
    if arguments.query is not None and not arguments.query.strip():
        raise ValueError(f"QUERY: expected some words; got {arguments.query!r}. Write a query.")
    model = load_model(arguments)
    with Progress():
        index = open_index(
            model,
            corpus,
            prompt=arguments.prompt,
            query_prompt=arguments.query_prompt,
            index=arguments.index,
            batch_size=arguments.batch_size,
        )
    if index.is_new:
        print(f"{len(index):,} embeddings, kept for later searches: {index.path}", file=sys.stderr)
    show = _show if sys.stdout.isatty() else _print
    if arguments.query is not None:
        show(index.search([arguments.query], arguments.top)[0])
    elif sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty():
        _ask(index, arguments.top)
    else:
        for query in iter_texts("-"):  # one by one: a program may wait for an answer before it asks again
            show(index.search([query], arguments.top)[0])
            sys.stdout.flush()


def _ask(index: Index, top: int) -> None:
    """Ask for queries and answer them, until an empty line or the end."""
    with contextlib.suppress(ImportError):  # Windows has none
        import readline  # noqa: F401  arrows find what was typed before
    print(f"Search in {len(index):,} texts. An empty line ends.")
    while query := _typed():
        try:
            hits = index.search([query], top)
        except ValueError as error:  # the next one may be better
            print(f"moee: {error}", file=sys.stderr)
        else:
            _show(hits[0])


def _typed() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        print()
        return ""


def _print(hits: list[Hit]) -> None:
    """Print a line for each text, for other programs."""
    for hit in hits:
        print(hit.rank, f"{hit.similarity:.4f}", hit.where, one_line(hit.text, len(hit.text)), sep="\t")


def _show(hits: list[Hit]) -> None:
    """Print texts for a person: a bar as long as the similarity, and the text, on as many lines as it takes."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("rank", "similarity", "bar", "where"):
        table.add_column(name, justify="right" if name != "bar" else "left", no_wrap=True)
    table.add_column("text", overflow="fold", ratio=1)
    for hit in hits:
        table.add_row(
            Text(str(hit.rank), "dim"),
            Text(f"{hit.similarity:.3f}", "bold"),
            Text(bar(hit.similarity, _BAR).ljust(_BAR), "cyan"),
            Text(hit.where, "dim"),
            Text(one_line(hit.text, _SHOWN)),
        )
    Console(highlight=False).print(table)
