"""Recompute every number of a table of `moee evaluate` from raw vectors, and print how far it is off.

    python tests/recompute.py OUT/scores.csv --data DIR --corpus FILE [--model MODEL]

The table must have the rows and columns of `--combination hs rw concat sum --calibrate FILE --control random`, or some
of them. The numbers come from `metrics`, which is independent of the package; from the package comes the model alone.
"""

import argparse
import csv
import gzip
import json
from pathlib import Path

import metrics
import numpy as np

from moee_hf import MoEEModel
from moee_hf.evaluation import Features

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


def recompute(table, data, corpus, model, tasks=None):
    """Yield row, column, the number of the table and ours, of every cell."""
    with open(table, encoding="utf-8") as file:
        cells = [row for row in csv.DictReader(file) if tasks is None or row["task"] in tasks]
    models = {"": model}
    if any(name.startswith("random ") for name in cells[0]):
        models["random "] = Features(model).control().model
    for prompt in dict.fromkeys(row["prompt"] for row in cells):
        for weights, network in models.items():

            def raw(texts, network=network, prompt=prompt):
                vectors = network.encode(
                    [text or " " for text in texts], prompt_name=prompt, combination="concat", standardize=False
                ).astype(np.float64)
                return vectors[:, : model.config.hidden_size], vectors[:, model.config.hidden_size :]

            statistics = [(part.mean(axis=0), part.std(axis=0)) for part in raw(corpus)] if corpus else None
            for task in dict.fromkeys(row["task"] for row in cells):
                name = file_of(data, task)
                rows = read(data, name)
                train = read(data, name.replace(".test", ".train")) if name.startswith("classification") else []
                texts = list(dict.fromkeys(texts_of(rows + train)))
                plain = raw(texts)
                for row in cells:
                    if (row["task"], row["prompt"]) != (task, prompt):
                        continue
                    parts = plain
                    if row.get("statistics") == "calibrated":
                        parts = [(p - mean) / std for p, (mean, std) in zip(plain, statistics, strict=True)]
                    for combination in ("hs", "rw", "concat", "sum"):
                        if (column := weights + combination) in row:
                            vectors = metrics.embedding(*parts, combination).astype(np.float32)
                            vector = dict(zip(texts, vectors, strict=True))
                            ours = 100 * score(task, name, rows, train, vector)
                            yield [*row.values()][:3], column, float(row[column]), ours


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--model", default="embedded")
    arguments = parser.parse_args()
    corpus = arguments.corpus.read_text(encoding="utf-8").splitlines() if arguments.corpus else None
    model = MoEEModel.from_pretrained(arguments.model, dtype="float32")
    worst = 0.0
    for row, column, theirs, ours in recompute(arguments.table, arguments.data, corpus, model):
        off = abs(theirs - ours)
        worst = max(worst, off)
        print(f"{'OFF ' if off > 0.01 else '    '}{theirs:7.2f} {ours:9.4f}  {' '.join(row)} {column}", flush=True)
    print(f"largest difference: {worst / 100:.1e}")


if __name__ == "__main__":
    main()
