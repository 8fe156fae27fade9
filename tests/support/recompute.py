"""Recompute every number of a table of `moee evaluate --vectors` from the raw vectors, and print how far it is off.

    PYTHONPATH=tests python -m support.recompute OUT/scores.csv --data DIR --vectors FOLDER [--corpus FILE]

The table may have any of the rows and columns of `moee evaluate`, of a model that was not calibrated before and whose
alpha is 1; a single number in the name of a column is a weight of RW up to 16, and dimensions above. Nothing of the
package is imported; the numbers come from `metrics` and `fitting`. The exit status is 1 if a number is off. mteb
compares in float32, this in float64: where cosines are equal to seven digits, as those of raw RW can be, a few pairs
may rank otherwise.
"""

import argparse
import csv
import functools
import gzip
import itertools
import json
import sys
from pathlib import Path

import numpy as np
from safetensors import safe_open

from support import fitting, metrics

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
COMBINATIONS = ("hs", "rw", "concat", "sum")
SOURCES = ("state", "attention", "values")
ACTIVATIONS = ("softmax", "clr", "logits")
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
    """HS and RW by name of every text that was read so, by the trained or the random weights."""
    vectors = {}
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            choices = json.loads(file.metadata()["choices"])
            read_so = all(str(choices[name]) == value for name, value in reading.items())
            if read_so and ("weights" in choices) == random:
                parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                for number, text in enumerate(json.loads(file.metadata()["texts"])):
                    vectors.setdefault(text, {}).update({name: part[number] for name, part in parts.items()})
    return vectors


def the_one(names, kept, default):
    """What all rows of a table are made of that does not say it."""
    found = [name for name in names if name in next(iter(kept.values()))]
    return found[0] if len(found) == 1 else default


class Row:
    """Embeddings of a row of the table, by one kind of weights, from vectors of each prompt; `corpus` None: raw."""

    def __init__(self, row, kept, corpus):
        self.kept, self.corpus = kept, corpus
        self.source = row.get("hidden_source") or the_one(SOURCES, kept[0], "state")
        self.activation = row.get("router_activation") or the_one(ACTIVATIONS, kept[0], "softmax")
        self.from_softmax = self.activation == "clr" and row.get("pooling", "lasttoken") == "lasttoken"
        self.standards, self.weights = None, None
        if corpus:
            self.standards = [fitting.Standard(*parts) for parts in self.raw(corpus)]
            self.texts = fitting.sample(corpus)
            if row.get("layer_weights") == "agreement":
                agreements = [fitting.agreement(*parts) for parts in self.parts(self.texts)]
                self.weights = fitting.layer_weights(np.mean(agreements, axis=0))

    @functools.cached_property
    def alpha(self):
        if self.standards is None:
            return 1.0
        return fitting.cautious_alpha(self.whole(self.texts, "hs"), self.whole(self.texts, "rw"))

    def raw(self, texts):
        """HS and RW of texts in each prompt. Log-ratios are computed from softmax weights, where those are kept."""
        for kept in self.kept:
            rows = [kept[text if text in kept else " "] for text in texts]
            hidden = np.stack([row[self.source] for row in rows])
            if self.from_softmax and all("softmax" in row and row["softmax"].all() for row in rows):
                logarithms = np.log(np.stack([row["softmax"] for row in rows]))
                yield hidden, logarithms - logarithms.mean(axis=-1, keepdims=True)
            else:
                yield hidden, np.stack([row[self.activation] for row in rows])

    def parts(self, texts):
        """HS and RW of texts in each prompt, standardized unless raw."""
        parts = list(self.raw(texts))
        if self.standards:
            parts = [standard(*part) for standard, part in zip(self.standards, parts, strict=True)]
        return parts

    def whole(self, texts, combination, alpha=None):
        if combination == "sum" and alpha is None:
            alpha = self.alpha
        vectors = []
        for hidden, routing in self.parts(texts):
            weights = np.ones(routing.shape[1]) if self.weights is None else self.weights
            vectors.append(metrics.embedding(hidden, fitting.weigh(routing, weights), combination, alpha or 0.0))
        return fitting.average(vectors)

    def embeddings(self, texts, column):
        """Embeddings of texts in one column, such as `sum 0.5 256 int8`."""
        combination, *labels = column.split()
        precision = labels.pop() if labels and labels[-1] in ("int8", "binary") else None
        numbers = [float(label) for label in labels]
        dimensions = int(numbers.pop()) if numbers and numbers[-1] > max(fitting.ALPHAS) else None
        alpha = numbers[0] if numbers else None
        embeddings = self.whole(texts, combination, alpha)
        if dimensions is None and precision is None:
            return embeddings
        return fitting.smaller(embeddings, self.whole(self.texts, combination, alpha), dimensions, precision)


def recompute(cells, data, vectors, corpus):
    """Yield what a cell is, the number of the table and ours, of every cell that is filled."""
    columns = [name for name in cells[0] if name.removeprefix("random ").split()[0] in COMBINATIONS]
    reading = [name for name in READING if name in cells[0]]
    kept, made = {}, {}
    for row, random in itertools.product(cells, (False, True)):
        filled = [name for name in columns if name.startswith("random ") == random and row[name] not in ("", None)]
        if not filled:
            continue
        prompts = [row["prompt"]] if "{text}" in row["prompt"] else row["prompt"].split("+")
        keys = [(*(row[name] for name in reading if name != "prompt"), prompt, random) for prompt in prompts]
        for key, prompt in zip(keys, prompts, strict=True):
            if key not in kept:
                choices = {name: row[name] for name in reading} | {"prompt": prompt}
                kept[key] = read_vectors(vectors, choices, random)
        by_prompt = [kept[key] for key in keys]
        name = file_of(data, row["task"])
        rows = read(data, name)
        train = read(data, name.replace(".test", ".train")) if name.startswith("classification") else []
        # of texts to learn from, mteb reads those that it draws
        texts = [text for text in dict.fromkeys(texts_of(rows + train)) if text in by_prompt[0] or not text]
        if not texts:
            raise SystemExit(f"{vectors}: no vectors of {row['task']}; evaluate into a new folder with --vectors.")
        labels = [value for label, value in row.items() if label not in columns]
        if (key := (*labels[1:], random)) not in made:  # one for all tasks
            made[key] = Row(row, by_prompt, corpus if row.get("statistics") == "calibrated" else None)
        for column in filled:
            embeddings = made[key].embeddings(texts, column.removeprefix("random "))
            ours = 100 * score(row["task"], name, rows, train, dict(zip(texts, embeddings, strict=True)))
            yield " ".join([*labels, column]), float(row[column]), ours


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
