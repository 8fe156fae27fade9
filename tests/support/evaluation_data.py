"""Small sets of the six types of tasks, made of templates, in the files that `moee evaluate --data` reads."""

import gzip
import itertools
import json
import random

TOPICS = {
    "music": (["A man", "A girl", "The band"], ["plays a guitar", "sings a song", "tunes a piano"]),
    "money": (["The bank", "An investor", "The company"], ["buys shares", "pays a dividend", "sold its debt"]),
    "animals": (["A dog", "Two cats", "The horse"], ["runs in the snow", "sleeps on a sofa", "eats from a bowl"]),
}
WHERE = ["at home", "in the morning", "once more", "near the river", "as everyone expected"]
TEXTS = [
    (topic, f"{who} {what} {where}.")
    for topic, (whos, whats) in TOPICS.items()
    for who, what, where in itertools.product(whos, whats, WHERE)
]


def rows():
    """The rows of every file, by the file's path below the folder."""
    # a seed with which no text lies so near the border of two topics that rounding decides which it is given
    draw = random.Random(26)
    # of different texts, each pair once: no two similarities are equal, so that rounding does not decide their ranks
    pairs = draw.sample(list(itertools.combinations(TEXTS, 2)), 60)
    gold = [2.0 * (a[0] == b[0]) + draw.random() * 3 for a, b in pairs]
    sentences = [{"sentence1": a[1], "sentence2": b[1]} for a, b in pairs]
    labelled = [{"text": text, "label": topic} for topic, text in TEXTS]
    draw.shuffle(labelled)
    candidates, summaries = [], []
    for _ in range(12):
        topic, query = draw.choice(TEXTS)
        same, others = ([t for k, t in TEXTS if (k == topic) == there and t != query] for there in (True, False))
        candidates.append({"query": query, "positive": draw.sample(same, 2), "negative": draw.sample(others, 6)})
        good = draw.sample(same, 6)  # no summary is the text of a human one: they would be equally similar to it
        machine = good[:3] + draw.sample(others, 3)
        relevance = [draw.randint(1, 5) for _ in machine]
        parts = {"machine_summaries": machine, "human_summaries": good[3:], "relevance": relevance}
        summaries.append({"text": query, **parts})
    return {
        "sts/stsb.test": [{**row, "score": score} for row, score in zip(sentences, gold, strict=True)],
        "sts/stsb.dev": [{**row, "score": score} for row, score in zip(sentences[:30], gold[:30], strict=True)],
        "pair_classification/twins.test": [
            {**row, "label": int(score > 2.5)} for row, score in zip(sentences, gold, strict=True)
        ],
        "classification/emotion.train": labelled[:90],
        "classification/emotion.test": labelled[90:],
        "clustering/topics": labelled,
        "reranking/questions": candidates,
        "summarization/summeval.public": summaries,
    }


def sides(pairs):
    """The first and the second texts of rows of pairs."""
    return [row["sentence1"] for row in pairs], [row["sentence2"] for row in pairs]


def write(folder):
    """Write the files into a folder, and return it."""
    for number, (name, lines) in enumerate(rows().items()):
        path = folder / f"{name}.jsonl{'.gz' if number % 2 else ''}"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        path.write_bytes(gzip.compress(text.encode()) if number % 2 else text.encode())
    return folder
