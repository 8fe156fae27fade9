"""Files of texts, and the command that makes a folder of embeddings of them."""

import json
from pathlib import Path

from moee_hf.cli import main
from support.common import CHECKPOINT, TEXTS

MODEL = ["--model", str(CHECKPOINT), "--dtype", "float32"]
LINES = [text for text in TEXTS if "\n" not in text]


def write_lines(path, texts, first):
    lines = (json.dumps({"id": first + number, "text": text}) for number, text in enumerate(texts))
    Path(path).write_text("\n".join(lines) + "\n")


def embed(*arguments, output="out/", code=0):
    assert main(["embed", *map(str, arguments), "--output", str(output), *MODEL]) == code


def outputs(folder="out"):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def states(folder="out"):
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in Path(folder).rglob("*.parquet")}
