"""The command `moee`: data on standard output, everything else on standard error.

Nothing here imports torch or transformers before a command runs: they take seconds, which `--help`, `--version` and a
mistyped flag need not wait for.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Sequence
from typing import Any

from .. import __version__
from ..model.choices_moee import nearest_name
from .atlas import add_atlas_command
from .calibrate import add_calibrate_command
from .demo import add_demo_command
from .embed import add_embed_command
from .errors import replace_unknown_characters, sentence
from .evaluation import add_complementarity_command, add_evaluate_command, add_robustness_command
from .examples import add_examples_command
from .explain import add_explain_command
from .inspect import add_backbones_command, add_info_command, add_similarity_command
from .overview import overview
from .publish import add_publish_command
from .search import add_search_command
from .serve import add_serve_command
from .signals import ended_by_signals


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 an error that its message explains, 2 wrong usage.

    An interruption is 130, as the shell has it; SIGTERM raises `SystemExit` with 143, SIGHUP with 129.
    """
    replace_unknown_characters(sys.stdout, sys.stderr)
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.run is None:
        parser.print_help()
        return 0
    try:
        with ended_by_signals():
            arguments.run(arguments)
            sys.stdout.flush()
    except KeyboardInterrupt:
        print("moee: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():  # who did has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        if (text := sentence(error, arguments)) is None:
            raise
        print(f"moee: {text}", file=sys.stderr)
        return 1
    return 0


def _nobody_reads() -> bool:
    """Whether standard output is a pipe that is closed at the other end."""
    try:
        sys.stdout.flush()  # where the system has no `poll`; but what failed once may be dropped, and fail no more
        if not hasattr(select, "poll"):
            return False
        pipe = select.poll()
        pipe.register(sys.stdout.fileno(), 0)
    except BrokenPipeError:
        return True
    except (OSError, ValueError):  # no file
        return False
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in pipe.poll(0))


class _Parser(argparse.ArgumentParser):
    """One that takes no beginning of a flag for the flag, and says what was meant by a name that is nearly right."""

    def __init__(self, **arguments: Any):
        super().__init__(**arguments, allow_abbrev=False)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        choices = [] if action.choices is None else list(action.choices)
        if choices and value not in choices and (near := nearest_name(str(value), choices)):
            raise argparse.ArgumentError(action, f"expected one of {', '.join(choices)}; got {value!r}.{near}")
        super()._check_value(action, value)


class _Commands(_Parser):
    """That of all commands, whose help is an overview."""

    def format_help(self) -> str:
        commands = next(action for action in self._actions if isinstance(action, argparse._SubParsersAction))
        helps = {command.dest: command.help for command in commands._choices_actions}
        return "\n".join([self.format_usage(), f"{self.description}\n", *overview(helps), ""])


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; what it parses holds the function to run as `run`, None without a command."""
    parser = _Commands(
        prog="moee", description="Text embeddings from any pretrained mixture-of-experts LLM, without training."
    )
    parser.add_argument("--version", action="version", version=f"moee_hf {__version__}")
    parser.set_defaults(run=None)
    kind: type[argparse.ArgumentParser] = _Parser
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=kind)
    add_similarity_command(commands)
    add_embed_command(commands)
    add_search_command(commands)
    add_explain_command(commands)
    add_atlas_command(commands)
    add_demo_command(commands)
    add_calibrate_command(commands)
    add_evaluate_command(commands)
    add_robustness_command(commands)
    add_complementarity_command(commands)
    add_publish_command(commands)
    add_serve_command(commands)
    add_examples_command(commands)
    add_info_command(commands)
    add_backbones_command(commands)
    return parser
