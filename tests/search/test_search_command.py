"""`moee search`: lines for programs, a view for people, queries from three places."""

import io
import re
import sys
from pathlib import Path

import pytest
from support.common import CHECKPOINT

from moee_hf import MoEEModel
from moee_hf.cli import main
from moee_hf.search import index, open_index

TEXTS = ["A man plays\tthe guitar.", "Two dogs run in the snow.", "\x1b[31mred [bold]\x07", "word " * 200]
SMALL = ["--model", str(CHECKPOINT), "--dtype", "float32"]


@pytest.fixture(autouse=True)
def hits(tmp_path, monkeypatch):
    """What is found in Python, by query."""
    monkeypatch.setattr(index, "cache_folder", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    opened = open_index(MoEEModel.from_pretrained(CHECKPOINT, dtype="float32"), "a.txt", index="own.safetensors")
    return lambda query, top=10: opened.search([query], top)[0]


def typed(monkeypatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def on_a_terminal(monkeypatch, *queries: str) -> None:
    remaining = iter(queries)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)

    def answer(question):
        if (query := next(remaining, None)) is None:
            raise EOFError
        return query

    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")


def test_programs_get_lines(hits, monkeypatch, capsys):
    assert main(["search", "a.txt", "dogs", "--top", "3", *SMALL]) == 0
    printed = capsys.readouterr()
    rows = [line.split("\t") for line in printed.out.split("\n")[:-1]]
    assert [(row[0], row[2]) for row in rows] == [(str(hit.rank), hit.where) for hit in hits("dogs", 3)]
    assert [float(row[1]) for row in rows] == pytest.approx([hit.similarity for hit in hits("dogs", 3)], abs=1e-4)
    for row, hit in zip(rows, hits("dogs", 3), strict=True):
        assert row[3] == " ".join(re.sub(r"[\x00-\x1f]", " ", hit.text).split())
    assert printed.err.startswith("4 embeddings, kept for later searches: ")
    typed(monkeypatch, b"dogs\n\nmusic\n")
    assert main(["search", "a.txt", "--top", "3", *SMALL]) == 0
    several = capsys.readouterr()
    assert several.out.startswith(printed.out)
    places = [line.split("\t")[2] for line in several.out.split("\n")[:-1]]
    assert places == [hit.where for query in ("dogs", "music") for hit in hits(query, 3)]
    assert several.err == ""  # they are kept


def test_people_are_asked_until_an_empty_line_or_the_end(hits, monkeypatch, capsys):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for queries in (["dogs", "", "never"], ["dogs"], ["\ud800", "dogs", ""]):
        on_a_terminal(monkeypatch, *queries)
        assert main(["search", "a.txt", "--top", "4", *SMALL]) == 0
        shown = capsys.readouterr().out
        assert "Search in 4 texts." in shown
        assert [int(rank) for rank in re.findall(r"^\x1b\[2m(\d+)\x1b\[0m", shown, re.MULTILINE)] == [1, 2, 3, 4]
    plain = re.sub(r"\x1b\[[\d;]*m", "", shown)
    assert re.findall(r"\d\.\d{3}", plain) == [f"{hit.similarity:.3f}" for hit in hits("dogs", 4)]
    assert "\x1b[31m" not in shown  # of a text
    assert "\x07" not in shown
    assert "[31mred [bold]" in plain
    assert max(map(len, plain.splitlines())) <= 80
    assert plain.count("word") == 100  # a text of a thousand characters is cut


def test_no_colour_where_none_is_wanted(monkeypatch, capsys):
    on_a_terminal(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["search", "a.txt", "dogs", *SMALL]) == 0
    assert "\x1b[36m" not in capsys.readouterr().out


def test_an_index_that_is_named_is_used(capsys):
    assert main(["search", "a.txt", "dogs", "--index", "own.safetensors", *SMALL]) == 0
    assert capsys.readouterr().err == ""
    assert main(["search", "a.txt", "dogs", "--index", "a.txt", *SMALL]) == 1
    assert capsys.readouterr().err.startswith("moee: --index: expected a file ending in .safetensors")
    assert main(["search", "a.txt", "dogs", "--query-prompt", "eol", *SMALL]) == 1
    assert capsys.readouterr().err.startswith("moee: --query-prompt: expected one of")
