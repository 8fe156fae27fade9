"""What needs no model does not wait for torch."""

import subprocess
import sys

import pytest

import moee_hf

NEEDS_NO_TORCH = [
    ["--help"],
    ["--version"],
    [],
    ["embd"],
    ["embed", "x.txt"],
    ["similarity", "a", "--combination", "both"],
]
COMMANDS = (
    *("similarity", "embed", "search", "explain", "calibrate", "evaluate", "robustness", "complementarity"),
    *("publish", "serve", "examples", "info", "backbones"),
)
NEEDS_NO_TORCH += [[command, flag] for command in COMMANDS for flag in ("--help", "--nosuch")]
CODE = f"""
import sys
sys.argv = ["moee"]
from moee_hf.cli import main
for argv in {NEEDS_NO_TORCH}:
    try:
        main(argv)
    except SystemExit:
        pass
    assert not {{"torch", "transformers", "mteb"}} & sys.modules.keys(), argv
"""


def test_help_and_usage_errors_import_no_torch():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("usage: moee") == len(NEEDS_NO_TORCH) - 1  # but for --version


@pytest.mark.parametrize("name", moee_hf.__all__)
def test_a_program_of_the_same_name_finds_what_is_not_imported(name):
    assert moee_hf.__getattr__(name) is getattr(moee_hf, name)
