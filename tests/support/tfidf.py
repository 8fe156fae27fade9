"""What counting words scores on pairs of sentences: TF-IDF with the defaults of scikit-learn.

PYTHONPATH=tests python -m support.tfidf --data FOLDER

FOLDER holds `sts/NAME.test.jsonl.gz`, as for `moee evaluate --data`. Each set is fitted on its own sentences.
"""

import argparse
import gzip
import json
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr
from sklearn.feature_extraction.text import TfidfVectorizer


def read(path: Path) -> list[dict]:
    """The pairs of a file, with their scores."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def score(pairs: list[dict]) -> float:
    """Spearman correlation of the cosines of pairs with their scores, times 100."""
    first, second = ([pair[name] for pair in pairs] for name in ("sentence1", "sentence2"))
    vectors = TfidfVectorizer().fit(first + second)
    cosines = np.asarray(vectors.transform(first).multiply(vectors.transform(second)).sum(axis=1)).ravel()
    return 100 * spearmanr(cosines, [pair["score"] for pair in pairs]).statistic


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    for file in sorted(parser.parse_args().data.glob("sts/*.test.jsonl.gz")):
        print(f"{file.name.partition('.')[0]}: {score(read(file)):.2f}")
