"""`moee serve`: a model behind HTTP, until a signal ends it."""

from __future__ import annotations

import argparse
import os
import sys

from ..serving.limits import Limits
from .choices import add_choice_flags
from .flags import Commands, add_model_flags, add_prompt_flag, positive_int, set_run
from .listening import add_address_flags, listening, run_server, url_of
from .loading import load_model

# the key of the server, where other users of the machine cannot list it, as they can list arguments
KEY_VARIABLE = "MOEE_API_KEY"
# of other servers with this interface
PORT = 8000
# how long requests that were taken in may take to be answered once the server is told to end
DRAINING_SECONDS = 60
# how long a connection without requests stays open: longer than clients keep one for their next request, which would
# fail where both ends let go at the same time
IDLE_SECONDS = 75


def add_serve_command(commands: Commands) -> None:
    """Add `moee serve`."""
    parser = commands.add_parser(
        "serve",
        help="serve a model over HTTP, to clients of OpenAI's embeddings",
        description="Serve a model over HTTP, to clients of OpenAI's embeddings, of text-embeddings-inference and of "
        "Inference Endpoints. SIGTERM and Ctrl-C end it once all that it took in is answered; a second one sooner. "
        "In Python: moee_hf.serving.create_app.",
    )
    add_model_flags(parser)
    # the same argument, in the form that is typed most often
    parser.add_argument("model", metavar="MODEL", nargs="?", default=argparse.SUPPRESS, help="as --model")
    add_prompt_flag(parser)
    add_choice_flags(parser)
    parser.add_argument(
        "--normalize",
        action="store_true",
        help="scale vectors of /v1/embeddings to length 1, unless a request says not to",
    )
    _add_server_flags(parser)
    set_run(parser, _serve)


def _add_server_flags(parser: argparse.ArgumentParser) -> None:
    limits = Limits()
    group = parser.add_argument_group("server")
    add_address_flags(group, PORT)
    group.add_argument(
        "--served-model-name", metavar="NAME", help="what clients call the model (default: its id or folder's name)"
    )
    group.add_argument(
        "--api-key",
        metavar="KEY",
        help=f"what requests must carry as 'Authorization: Bearer KEY' (default: the variable {KEY_VARIABLE}, which "
        "other users do not see, or none)",
    )
    group.add_argument(
        "--max-texts",
        type=positive_int("texts"),
        default=limits.max_texts,
        help=f"of a request; larger ones are refused with 413 (default: {limits.max_texts})",
    )
    group.add_argument(
        "--max-waiting",
        type=positive_int("texts"),
        default=limits.max_waiting,
        help=f"texts not answered yet; beyond, requests are refused with 429 (default: {limits.max_waiting})",
    )
    group.add_argument(
        "--max-bytes",
        type=positive_int("bytes"),
        default=limits.max_bytes,
        help=f"of a request's body; larger ones are refused with 413 (default: {limits.max_bytes})",
    )


def _serve(arguments: argparse.Namespace) -> None:
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise ImportError(
            "serve: expected starlette and uvicorn; they are not installed. pip install 'moee_hf[serve]'"
        ) from error
    limits = Limits(arguments.max_texts, arguments.max_waiting, arguments.max_bytes)
    key = _key(arguments.api_key)
    with listening(arguments.host, arguments.port):  # a port that is taken is told before minutes of loading
        pass
    model = load_model(arguments)
    from ..serving.application import create_app

    name = arguments.served_model_name or _name(arguments.model)
    served = create_app(model, name, arguments.prompt, limits, key, arguments.normalize)
    # the first text takes longer, and a model that gives no finite numbers is told now
    model.encode("warm up", prompt=model.config.find_prompts(arguments.prompt), show_progress_bar=False)
    with listening(arguments.host, arguments.port) as listener:  # no sooner: who is connected expects an answer
        size = model.config.embedding_size
        print(f"{name}: vectors of {size} numbers at {url_of(listener)}/v1/embeddings", file=sys.stderr, flush=True)
        run_server(
            served,
            listener,
            lifespan="off",
            timeout_graceful_shutdown=DRAINING_SECONDS,
            timeout_keep_alive=IDLE_SECONDS,
        )


def _key(flag: str | None) -> str | None:
    key = os.environ.get(KEY_VARIABLE) if flag is None else flag
    if key is not None and not key.strip():
        raise ValueError(
            f"api_key: expected a key; got an empty one. Leave --api-key and {KEY_VARIABLE} out for none."
        )
    return None if key is None else key.strip()


def _name(model: str) -> str:
    """Return what clients call a model: an id as it is; of a folder its name, not where it lies."""
    return os.path.basename(os.path.abspath(model)) if os.path.exists(model) else model
