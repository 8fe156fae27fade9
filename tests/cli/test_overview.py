"""The first thing that a newcomer sees, and what is said of a name that is nearly right."""

import argparse
import contextlib
import re
import shlex

import pytest
from support.common import CHECKPOINT

from moee_hf.cli import build_parser, main

SMALL = ["--model", str(CHECKPOINT)]


def test_every_command_is_shown_once_with_an_example_that_parses(capsys):
    parser = build_parser()
    commands = next(action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert sorted(re.findall(r"^  (\w+) ", shown, re.MULTILINE)) == sorted(commands)
    examples = [shlex.split(line) for line in re.findall(r"^ +\$ moee (.*)$", shown, re.MULTILINE)]
    assert [example[0] for example in examples] == re.findall(r"^  (\w+) ", shown, re.MULTILINE)
    assert all(callable(parser.parse_args(example).run) for example in examples)
    assert max(map(len, shown.splitlines())) <= 120
    with pytest.raises(SystemExit):
        main(["--help"])
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["embd"], "embed"),
        (["similarty", "a"], "similarity"),
        (["similarity", "a", "--combination", "som"], "sum"),
        (["similarity", "a", "--prompt", "knowlege", *SMALL], "knowledge"),
        (["similarity", "a", "--prompt", "none+stile", *SMALL], "style"),
        (["similarity", "a", "--model", "embeded"], "embedded"),
        (["xyzzy"], None),
        (["similarity", "a", "--prompt", "xyzzy", *SMALL], None),
        (["similarity", "a", "--model", "xyzzy"], None),
    ],
)
def test_what_was_meant(arguments, meant, capsys):
    with contextlib.suppress(SystemExit):
        assert main(arguments) == 1
    printed = capsys.readouterr().err
    assert "expected one of" in printed or "invalid choice" in printed or "there is no such folder" in printed
    assert re.findall(r"Did you mean '(\w+)'\?", printed) == ([] if meant is None else [meant])
