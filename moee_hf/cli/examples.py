"""`moee examples`: small files to try the other commands on, without a network."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ..files.folders import check_new_folder
from .flags import Commands, set_run

# pairs of sentences, and how similar they are, 0 to 5; written for this package and judged by one person
_PAIRS = Path(__file__).with_name("examples.jsonl")


def add_examples_command(commands: Commands) -> None:
    """Add `moee examples`."""
    parser = commands.add_parser(
        "examples",
        help="write small files to try the other commands on",
        description="Write small files to try the other commands on: corpus.txt, texts.jsonl (with ids), dev.jsonl "
        "(pairs with scores), and sts/examples.test.jsonl, a task. Too small to tell how good a model is.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="a new folder")
    set_run(parser, _examples)


def _examples(arguments: argparse.Namespace) -> None:
    folder = check_new_folder(arguments.folder)
    pairs = [json.loads(line) for line in _PAIRS.read_text(encoding="utf-8").splitlines()]
    sentences = [pair[name] for pair in pairs for name in ("sentence1", "sentence2")]
    rows = [{"id": number, "text": sentence} for number, sentence in enumerate(sentences)]
    (folder / "sts").mkdir(parents=True, exist_ok=True)
    (folder / "corpus.txt").write_text("\n".join(sentences) + "\n", encoding="utf-8")
    files: dict[str, list[Any]] = {
        "texts.jsonl": rows,
        "dev.jsonl": pairs[::2],
        "sts/examples.test.jsonl": pairs[1::2],
    }
    for name, content in files.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in content)
        (folder / name).write_text("".join(lines), encoding="utf-8")
    print(f"{folder}: {', '.join(['corpus.txt', *files])}", file=sys.stderr)
