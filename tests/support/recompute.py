"""Recompute every number of a table of `moee evaluate --vectors` from the raw vectors, and print how far it is off.

    PYTHONPATH=tests python -m support.recompute OUT/scores.csv --data DIR --vectors FOLDER [--corpus FILE]

The table may have any of the rows and columns of `--prompt ... --pooling ... --hidden-layer ... --combination ...
--calibrate FILE --control random`. Nothing of the package is imported; the numbers come from `metrics`. The exit
status is 1 if a number is off. mteb compares in float32, this in float64: where cosines are equal to seven digits, as
those of raw RW can be, a few pairs may rank otherwise.
"""

import argparse
import csv
import gzip
import json
import sys
from pathlib import Path

import numpy as np
from safetensors import safe_open

from support import metrics

# what the sets are called in the table, and the shots per class where they are not mteb's usual 8
FILES = {
    "Banking77Classification": "classification/banking77.test",
    "EmotionClassification": "classification/emotion.test",
    "TwitterURLCorpus": "pair_classification/twitter_url_corpus.test",
    "SICK-R": "sts/sickr.test",
    "STS12": "sts/sts12.test",
    "STS13": "sts/sts13.test",
    "STSBenchmark": "sts/stsb.test",
    "SummEvalSummarization.v2": "summarization/summeval.public",
}
SAMPLES_PER_LABEL = {"EmotionClassification": 16}
# columns of the table that say how its texts were read, where they are there
READING = ("prompt", "pooling", "hidden_layer")
TOLERANCE = 0.01  # of numbers with two digits


def read(data, name):
    path = next((data / name).parent.glob(Path(name).name + ".jsonl*"))
    content = path.read_bytes()
    text = gzip.decompress(content) if path.suffix == ".gz" else content
    return [json.loads(line) for line in text.decode().splitlines()]


def file_of(data, task):
    if task in FILES:
        return FILES[task]
    (path,) = data.glob(f"*/{task}.*") if len(list(data.glob(f"*/{task}.*"))) == 1 else data.glob(f"*/{task}.test.*")
    return f"{path.parent.name}/{path.name.split('.jsonl')[0]}"


def texts_of(rows):
    for row in rows:
        for value in row.values():
            parts = value if isinstance(value, list) else [value]
            yield from (part for part in parts if isinstance(part, str))


def score(task, name, rows, train, vector):
    kind = name.split("/")[0]
    if kind == "classification":
        return metrics.classification(rows, vector, train, SAMPLES_PER_LABEL.get(task, 8))
    return getattr(metrics, kind)(rows, vector)


def read_vectors(folder, reading, random):
    """HS and RW of every text that was read so, by the trained or the random weights."""
    vectors = {}
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            choices = json.loads(file.metadata()["choices"])
            read_so = all(str(choices[name]) == value for name, value in reading.items())
            if read_so and ("weights" in choices) == random:
                parts = (file.get_tensor("hidden_state"), file.get_tensor("router_weights"))
                vectors.update(zip(json.loads(file.metadata()["texts"]), zip(*parts, strict=True), strict=True))
    return vectors


def recompute(cells, data, vectors, corpus):
    """Yield what a cell is, the number of the table and ours, of every cell."""
    combinations = [name for name in ("hs", "rw", "concat", "sum") if name in cells[0]]
    columns = [name for name in READING if name in cells[0]]
    for values in dict.fromkeys(tuple(row[name] for name in columns) for row in cells):
        reading = dict(zip(columns, values, strict=True))
        for weights in [weights for weights in ("", "random ") if weights + combinations[0] in cells[0]]:
            kept = read_vectors(vectors, reading, bool(weights))

            def raw(texts, kept=kept):
                return [np.stack(part) for part in zip(*(kept[text or " "] for text in texts), strict=True)]

            means, stds = [], []
            if corpus:
                means, stds = zip(
                    *((p.mean(axis=0, dtype="d"), p.std(axis=0, dtype="d")) for p in raw(corpus)), strict=True
                )
                # what never changes over the corpus is left where it is; RW is centred, and not divided
                stds = [np.where(stds[0] > 1e-6 * abs(means[0]), stds[0], 1.0), 1.0]
            for row in (row for row in cells if reading.items() <= row.items()):
                name = file_of(data, row["task"])
                rows = read(data, name)
                train = read(data, name.replace(".test", ".train")) if name.startswith("classification") else []
                # of texts to learn from, mteb reads those that it draws
                texts = [text for text in dict.fromkeys(texts_of(rows + train)) if (text or " ") in kept]
                if not texts:
                    raise SystemExit(
                        f"{vectors}: no vectors of {row['task']}; evaluate into a new folder with --vectors."
                    )
                parts = raw(texts)
                if row.get("statistics") == "calibrated":
                    triples = zip(parts, means, stds, strict=True)
                    parts = [((p - mean.astype("f")) / np.float32(std)).astype("f") for p, mean, std in triples]
                for combination in combinations:
                    column = weights + combination
                    embeddings = metrics.embedding(*parts, combination)
                    vector = dict(zip(texts, embeddings, strict=True))
                    ours = 100 * score(row["task"], name, rows, train, vector)
                    yield " ".join([row["task"], *values, row.get("statistics", ""), column]), float(row[column]), ours


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--vectors", type=Path, required=True)
    parser.add_argument("--corpus", type=Path)
    arguments = parser.parse_args()
    corpus = arguments.corpus.read_text(encoding="utf-8").splitlines() if arguments.corpus else None
    with arguments.table.open(encoding="utf-8") as file:
        cells = list(csv.DictReader(file))
    worst = 0.0
    for cell, theirs, ours in recompute(cells, arguments.data, arguments.vectors, corpus):
        off = abs(theirs - ours)
        worst = max(worst, off)
        print(f"{'OFF ' if off > TOLERANCE else '    '}{theirs:7.2f} {ours:9.4f}  {cell}", flush=True)
    print(f"largest difference: {worst / 100:.1e}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
