"""What is embedded: texts, prompts, and how much of them on which kind of device."""

import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

SENTENCES = ("stsb.test", "stsb.dev", "sickr.test")  # read in this order, as far as they are needed
ARTICLES = "summeval.public"
PROMPTS = {
    "none": "{text}",
    "prompteol": 'This sentence : "{text}" means in one word:"',
    # 40 tokens; of "Simple Techniques for Enhancing Sentence Embeddings in Generative Language Models" (2404.03921)
    "knowledge": (
        "The essence of a sentence is often captured by its main subjects and actions, while descriptive terms "
        "provide additional but less central details. With this in mind , this sentence : "
        '"{text}" means in one word:"'
    ),
}
CASES = [
    *(("short", "none"), ("short", "prompteol"), ("short", "knowledge")),
    *(("mixed", "none"), ("mixed", "prompteol")),
]


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Args:
        backbone: Fields of an `OlmoeConfig`, where they are not its defaults.
        short: Number of short texts.
        mixed: Numbers of sentences and of articles among the texts of mixed lengths.
        max_length: The most tokens of a text with its prompt.
        matmul: Rows and columns of the matrices whose product gives the peak.
        batch: Texts of a full batch, and tokens of each.
    """

    backbone: dict[str, Any]
    short: int
    mixed: tuple[int, int]
    max_length: int
    matmul: int
    batch: tuple[int, int]


PROCESSOR = Scale(
    backbone=dict(
        hidden_size=512, intermediate_size=256, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=8
    ),
    short=384,
    mixed=(56, 8),
    max_length=512,
    matmul=2048,
    batch=(60, 25),
)
ACCELERATOR = Scale(backbone={}, short=2048, mixed=(700, 200), max_length=512, matmul=8192, batch=(512, 64))
MINIATURE = Scale(
    backbone=dict(
        hidden_size=32, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, num_experts=8,
        num_experts_per_tok=2,
    ),
    short=20,
    mixed=(16, 4),
    max_length=64,
    matmul=128,
    batch=(8, 8),
)  # fmt: skip


def texts_of(data: Path, scale: Scale) -> dict[str, list[str]]:
    """Short texts: sentences. Mixed lengths: sentences and news articles, in one fixed disorder. All are different."""
    sentences = _take(_sentences(data), max(scale.short, scale.mixed[0]), "sentences")
    mixed = sentences[: scale.mixed[0]] + _take(_articles(data), scale.mixed[1], "articles")
    shuffled = torch.randperm(len(mixed), generator=torch.Generator().manual_seed(0)).tolist()
    return {"short": sentences[: scale.short], "mixed": [mixed[i] for i in shuffled]}


def _sentences(data: Path) -> Iterator[str]:
    for name in SENTENCES:
        yield from (row["sentence1"] for row in _rows(data / "sts" / f"{name}.jsonl.gz"))


def _articles(data: Path) -> Iterator[str]:
    """The articles, then each from its second, third and last quarter on, with what comes before at the end."""
    articles = [row["text"] for row in _rows(data / "summarization" / f"{ARTICLES}.jsonl.gz")]
    yield from articles
    for quarter in (1, 2, 3):
        for article in articles:
            start = article.find(" ", quarter * len(article) // 4) + 1
            yield f"{article[start:]} {article[:start]}".strip()


def _take(texts: Iterable[str], number: int, what: str) -> list[str]:
    """The first different texts; `encode` would read equal ones once."""
    taken: dict[str, None] = {}
    for text in texts:
        taken.setdefault(text)
        if len(taken) == number:
            return list(taken)
    raise ValueError(f"--data: expected {number} different {what}; got {len(taken)}.")


def _rows(path: Path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]
