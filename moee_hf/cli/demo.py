"""`moee demo`: a model in the browser, until Ctrl-C."""

from __future__ import annotations

import argparse
import sys
import threading
import webbrowser

from .choices import add_choice_flags
from .flags import FILE_HELP, Commands, add_model_flags, add_prompt_flag, add_reading_flags, set_run
from .listening import add_address_flags, listening, run_server, url_of
from .loading import load_model
from .progress import Progress

# of Gradio
PORT = 7860
# pages that are open keep connections, which need not end by themselves
ENDING_SECONDS = 1


def add_demo_command(commands: Commands) -> None:
    """Add `moee demo`."""
    parser = commands.add_parser(
        "demo",
        help="compare, search and see the routing in the browser",
        description="Open a page in the browser: compare texts, search a corpus, see which experts a text visits. It "
        "asks no other server for anything. Ctrl-C ends it. In Python: moee_hf.demo.create_demo.",
    )
    parser.add_argument(
        "--corpus", metavar="FILE", help=f"texts to search in, {FILE_HELP} (default: some sentences of the package)"
    )
    add_reading_flags(parser)
    add_model_flags(parser)
    add_prompt_flag(parser)
    add_choice_flags(parser)
    group = parser.add_argument_group("server")
    add_address_flags(group, PORT)
    group.add_argument("--no-browser", action="store_true", help="open no browser; the address is printed anyway")
    set_run(parser, _demo)


def _demo(arguments: argparse.Namespace) -> None:
    try:
        import gradio  # noqa: F401
    except ModuleNotFoundError as error:
        raise ImportError("demo: expected gradio; it is not installed. pip install 'moee_hf[demo]'") from error
    for name in ("column", "delimiter"):
        if arguments.corpus is None and getattr(arguments, name) is not None:
            raise ValueError(f"{name}: expected --corpus beside it, as it has no effect otherwise. Leave it out.")
    # what is wrong with them is told before minutes of loading
    from ..search import CorpusFile, open_index

    corpus = None
    if arguments.corpus is not None:
        corpus = CorpusFile(arguments.corpus, arguments.column, arguments.delimiter)
    with listening(arguments.host, arguments.port):
        pass
    model = load_model(arguments)
    from ..demo import create_app
    from ..demo.blocks import open_small_corpus

    with Progress():
        if corpus is None:
            index = open_small_corpus(model, arguments.prompt)
        else:
            index = open_index(model, corpus, prompt=arguments.prompt, batch_size=arguments.batch_size)
    app = create_app(model, index, arguments.prompt)
    with listening(arguments.host, arguments.port) as listener:  # no sooner: who is connected expects an answer
        url = url_of(listener)

        def begin() -> None:
            print(f"{url}  (Ctrl-C ends it)", file=sys.stderr, flush=True)
            if not arguments.no_browser:  # some browsers return when they are closed
                threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()

        # its only words would be that it ends connections
        run_server(app, listener, begin, timeout_graceful_shutdown=ENDING_SECONDS, log_level="critical")
