"""Every claim of the README is a command that works."""

import doctest
import os
import re
import shlex
import subprocess
import sys

import pytest
import transformers
from support import update_readme
from support.common import EMBEDDED, ROOT

from moee_hf.cli import _parser
from moee_hf.info import supported_backbones
from moee_hf.model.functional_moee import COMBINATIONS

README = (ROOT / "README.md").read_text(encoding="utf-8")
BASH, TEXT = (
    re.findall(r"```bash\n(.*?)\n```", README, re.DOTALL),
    re.findall(r"```text\n(.*?)\n```", README, re.DOTALL),
)
CONSTRAINTS = (ROOT / "constraints.txt").read_text()


def test_the_first_command_prints_what_the_readme_shows():
    install, command = BASH[0].split(" && ")
    assert install == "pip install -c constraints.txt ."
    moee, *arguments = shlex.split(command)
    assert moee == "moee"
    run = [sys.executable, "-m", "moee_hf.cli", *arguments]
    printed = subprocess.run(run, capture_output=True, encoding="utf-8", check=True).stdout
    number = r"\d\.\d{3}"
    assert re.sub(number, "", printed).strip("\n") == re.sub(number, "", TEXT[0])
    # processors round bfloat16 differently
    shown, values = ([float(value) for value in re.findall(number, text)] for text in (TEXT[0], printed))
    assert values == pytest.approx(shown, abs=3e-3)


def test_continuous_integration_runs_the_test_command():
    assert BASH[1] in (ROOT / ".ci" / "run").read_text()


def test_python_examples(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert doctest.testfile(str(ROOT / "README.md"), module_relative=False).failed == 0


def test_save_example_runs(monkeypatch, tmp_path):
    """In the package's own process no remote code is loaded; the other process is tested with the checkpoints."""
    monkeypatch.chdir(tmp_path)
    example = next(
        block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "save_pretrained(" in block
    )
    exec("from moee_hf import MoEEModel\nmodel = MoEEModel.from_pretrained('embedded')\n" + example)
    assert (tmp_path / "my-moee-model" / "model.safetensors").is_file()


def test_offline_trial_of_publishing(tmp_path):
    (trial,) = (block for block in BASH if "configs/embedded.yaml" in block)
    for command in trial.split(" && "):
        python, *arguments = shlex.split(command)
        assert python == "python"
        arguments = [str(ROOT / name) if (ROOT / name).is_file() else name for name in arguments]
        subprocess.run([sys.executable, *arguments], check=True, cwd=tmp_path)


def test_recipes_and_scripts_that_are_named_exist():
    for path in re.findall(r"\b(?:upload_scripts|configs)/[\w.-]+", README):
        assert (ROOT / path).exists()


def test_backbones_are_generated():
    if f"transformers=={transformers.__version__}\n" not in CONSTRAINTS:
        pytest.skip(f"the README lists the backbones of another transformers than {transformers.__version__}")
    listed = re.search(r"<!-- backbones -->\n(.*)<!-- /backbones -->", README, re.DOTALL)[1]
    assert f"transformers {transformers.__version__}" in README
    assert re.findall(r"`([^`]+)`", listed) == supported_backbones(), "run tests/update_readme.py"


def test_averages_of_the_paper_are_generated():
    listed = re.search(r"<!-- paper -->\n(.*)\n<!-- /paper -->", README, re.DOTALL)[1]
    assert listed == update_readme.paper_averages(), "run tests/update_readme.py"


def test_table_of_scores_is_whole():
    """Two sets, two prompts, two poolings, raw and calibrated; eight numbers a row, a control beside each."""
    card = (EMBEDDED / "README.md").read_text(encoding="utf-8")
    header, _, *rows = re.search(r"<!-- scores -->\n(.*)\n<!-- /scores -->", card, re.DOTALL)[1].splitlines()
    names = [name.strip() for name in header.strip("|").split("|")]
    assert names == [
        "task",
        "prompt",
        "statistics",
        "pooling",
        *COMBINATIONS,
        *(f"random {name}" for name in COMBINATIONS),
    ]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert len({tuple(row[:4]) for row in cells}) == len(cells) == 2 * 2 * 2 * 2
    assert all(-100 <= float(cell) <= 100 for row in cells for cell in row[4:])


def test_commands_of_the_package_parse():
    """Every command `moee` of the README has flags that exist."""
    commands = [line for block in BASH for line in block.replace("\\\n", "").split("\n") if line.startswith("moee ")]
    assert len(commands) >= 10
    for command in commands:
        _parser().parse_args(shlex.split(command)[1:])


def test_versions_of_the_constraints_are_the_tested_ones():
    if "CI" not in os.environ:
        pytest.skip("the environment is yours; CI makes its own from constraints.txt")
    from importlib.metadata import version

    for name, pinned in re.findall(r"^([\w-]+)==([\w.]+)$", CONSTRAINTS, re.MULTILINE):
        assert version(name).split("+")[0] == pinned
