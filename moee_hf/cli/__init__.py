"""The command `moee`: data on standard output, everything else on standard error."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import transformers

from .. import __version__
from .calibrate import add_calibrate_command
from .embed import add_embed_command
from .evaluation import add_complementarity_command, add_evaluate_command, add_robustness_command
from .inspect import add_backbones_command, add_info_command, add_similarity_command
from .signals import ended_by_signals


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 an error that its message explains, 2 wrong usage.

    An interruption is 130, as the shell has it; SIGTERM raises `SystemExit` with 143, SIGHUP with 129.
    """
    arguments = build_parser().parse_args(argv)
    # transformers reports the language-model head of every checkpoint as unexpected
    transformers.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        transformers.logging.disable_progress_bar()
    try:
        with ended_by_signals():
            arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError, ImportError) as error:
        print(f"moee: {_with_flag(str(error), arguments)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("moee: interrupted", file=sys.stderr)
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; what it parses holds the function to run as `run`."""
    parser = argparse.ArgumentParser(
        prog="moee", description="Text embeddings from any pretrained mixture-of-experts LLM, without training."
    )
    parser.add_argument("--version", action="version", version=f"moee_hf {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_similarity_command(commands)
    add_embed_command(commands)
    add_calibrate_command(commands)
    add_evaluate_command(commands)
    add_robustness_command(commands)
    add_complementarity_command(commands)
    add_info_command(commands)
    add_backbones_command(commands)
    return parser


def _with_flag(message: str, arguments: argparse.Namespace) -> str:
    """Name a flag where the message of an error begins with the argument of Python that it stands for."""
    name, colon, rest = message.partition(":")
    # a file or folder may have the name of a flag
    is_flag = name in arguments.flags and name not in vars(arguments).values()
    return f"--{name.replace('_', '-')}{colon}{rest}" if is_flag else message
