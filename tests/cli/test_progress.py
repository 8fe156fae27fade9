"""How far the work is, as a person sees it on a terminal, and a log gets it."""

import re
import sys

import pytest
from support.common import CHECKPOINT, MANY

from moee_hf import MoEEModel
from moee_hf.cli import main, progress

SMALL = ["--model", str(CHECKPOINT)]


def shown(printed: str) -> list[str]:
    """What stands on the terminal in the course of time, line by line."""
    return [re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", line).strip() for line in re.split(r"\r|\n|\x1b\[2K", printed)]


def test_a_terminal_has_a_bar_until_the_work_is_done(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    (tmp_path / "a.txt").write_text("\n".join(MANY))
    embed = ["embed", "a.txt", "--output", "x.npy", "--batch-size", "8", *SMALL]
    assert main(embed) == 0
    assert "texts/s" not in capsys.readouterr().err  # short work has none
    monkeypatch.setattr(progress, "DELAY", 0)
    assert main(embed) == 0
    printed = capsys.readouterr().err
    line = re.compile(r"━.* (\d+) of (\d+) texts, [\d.,e+]+ texts/s, 0:00:\d\d left")
    found = [match for part in shown(printed) if (match := line.fullmatch(part))]
    assert {match[2] for match in found} == {str(len(MANY))}
    assert found[-1][1] == str(len(MANY))
    # at the end the bar is wiped away
    assert "texts/s" not in printed.rpartition("\x1b[2K")[2]
    assert shown(printed)[-2].startswith(f"{len(MANY)} embeddings of width")
    MoEEModel.from_pretrained(CHECKPOINT).encode(MANY)
    assert "texts" not in capsys.readouterr().err  # nobody asked


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        (["evaluate", "--prompt", "none", "tone"], [f"task {number} of 2, STSBenchmark" for number in (1, 2)]),
        (["complementarity", "--clusters", "3"], ["task 1 of 1, STSBenchmark"]),
    ],
)
def test_a_log_says_which_task_of_how_many(arguments, steps, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS", 0)
    assert main([*arguments, "--data", str(data), "--tasks", "stsb", "--output", str(tmp_path), *SMALL]) == 0
    line = re.compile(r"[\d,]+ of [\d,]+ texts, [\d.,e+]+ texts/s, 0:00:\d\d left, (.*)")
    found = [match[1] for printed in capsys.readouterr().err.splitlines() if (match := line.fullmatch(printed))]
    assert list(dict.fromkeys(found)) == steps
