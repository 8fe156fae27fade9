"""What the mixture is trained on: rows of consecutive tokens, and sentences inside prompts.

Nothing here says which texts are alike: there are no pairs and no labels.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from moee_hf.files.texts import iter_texts
from moee_hf.model.prompts_moee import PROMPTS, TEXT, tokenize

HELD_OUT_STRIDE = 50  # one text in so many is not trained on
END = "<|endoftext|>"  # between texts, if the vocabulary has it; else the tokenizer's end
SENTENCE_TOKENS = 32  # room for a sentence, beside the longest template
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
# templates with their weights: people embed with the first ones, which others than PromptEOL were published as
# improvements of it (arXiv 2404.03921)
TEMPLATES = {
    PROMPTS["prompteol"]: 45,
    'After thinking step by step , this sentence : "{text}" means in one word:"': 10,
    "The essence of a sentence is often captured by its main subjects and actions, while descriptive terms provide "
    "additional but less central details. With this in mind , this sentence : "
    '"{text}" means in one word:"': 10,
    PROMPTS["none"]: 20,
    'The sentiment of this sentence : "{text}" in one word:"': 4,
    'The main topic of this sentence : "{text}" in one word:"': 4,
    'The intent of this sentence : "{text}" in one word:"': 3,
    'In this sentence "{text}", emphasize its style:"': 2,
    'This sentence : "{text}" can be summarized as': 2,
}


class Batch(NamedTuple):
    """Rows of token ids `[B, T]`, padded at the end, and how many tokens each of them has, `[B]`."""

    ids: torch.Tensor
    lengths: torch.Tensor


def read_corpus(
    path: str, tokenizer: PreTrainedTokenizerBase, length: int, sentences: int, seed: int
) -> dict[str, torch.Tensor]:
    """Return the rows of a file of texts, as int32.

    Args:
        path: A text a line, or another format that `moee embed` reads.
        tokenizer: That of the dense model.
        length: T, tokens of a row of consecutive text.
        sentences: The most sentences that are put inside prompts.
        seed: Of their choice, and of each one's prompt.

    Returns:
        `text` and `held_out`: rows `[N, T]`. `prompts`: rows `[P, R]`, and `lengths`: how many of the R tokens there
        are, `[P]`; the rest is padding.

    Raises:
        ValueError: If the texts are too few, or the file is damaged.
        OSError: If it cannot be read.
    """
    tokens: dict[str, list[np.ndarray]] = {"text": [], "held_out": []}
    found: list[str] = []
    for number, (text, ids) in enumerate(_texts_with_ids(path, tokenizer)):
        part = "held_out" if number % HELD_OUT_STRIDE == HELD_OUT_STRIDE - 1 else "text"
        tokens[part].append(ids)
        if part == "text":
            found += plain_sentences(text)
    rows = {name: _rows(parts, length, f"{path}, {name.replace('_', ' ')}") for name, parts in tokens.items()}
    if not found:
        raise ValueError(f"{path}: expected sentences of 4 to 30 words, beside longer or shorter ones; got none.")
    random = np.random.default_rng(seed)
    chosen = random.permutation(len(found))[:sentences]
    return rows | _prompts([found[i] for i in chosen], tokenizer, random)


def plain_sentences(text: str) -> list[str]:
    """Return the sentences of a text that are neither long nor short, nor have quotes, which templates have."""
    sentences = SENTENCE_END.split(text)
    return [s for s in sentences if 4 <= len(s.split()) <= 30 and '"' not in s and s[0].isupper() and s[-1] in ".!?"]


def batch(data: dict[str, torch.Tensor], name: str, size: int, step: int, seed: int) -> Batch:
    """Return the rows of a step: the next of all in random order, in another one each time they are used up.

    Args:
        data: As `read_corpus` returns it, on any device.
        name: Of the rows: "text" or "prompts".
        size: How many.
        step: The first is 1.
        seed: Of the order.
    """
    rows = data[name]
    epochs = (divmod(number, len(rows)) for number in range((step - 1) * size, step * size))
    indices = [_order(len(rows), seed, epoch)[number] for epoch, number in epochs]
    chosen = torch.tensor(indices, device=rows.device)
    ids = rows[chosen].long()
    lengths = data["lengths"][chosen].long() if name == "prompts" else torch.full_like(chosen, ids.shape[1])
    return Batch(ids, lengths)


@functools.lru_cache(maxsize=8)
def _order(number: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(number)


def _texts_with_ids(path: str, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, np.ndarray]]:
    end = tokenizer.convert_tokens_to_ids(END) if END in tokenizer.get_vocab() else tokenizer.eos_token_id
    if end is None:
        raise ValueError(f"--dense: expected a tokenizer with the token {END} or an eos_token; got one with neither.")
    texts = iter_texts(path)
    while part := list(itertools.islice(texts, 1000)):
        for text, ids in zip(part, tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"], strict=True):
            yield text, np.array([*ids, end], dtype=np.int32)


def _rows(parts: list[np.ndarray], length: int, where: str) -> torch.Tensor:
    number = sum(map(len, parts)) // length
    if number == 0:
        raise ValueError(f"{where}: expected {length} tokens or more; got {sum(map(len, parts))}. Add texts.")
    return torch.from_numpy(np.concatenate(parts)[: number * length].reshape(number, length))


def _prompts(
    sentences: list[str], tokenizer: PreTrainedTokenizerBase, random: np.random.Generator
) -> dict[str, torch.Tensor]:
    """Sentences inside templates: rows and their lengths, in the order of the sentences."""
    templates, weights = list(TEMPLATES), np.array(list(TEMPLATES.values()))
    choices = random.choice(len(templates), size=len(sentences), p=weights / weights.sum())
    alone = tokenizer([template.replace(TEXT, "") for template in templates if template != TEXT])["input_ids"]
    length = max(map(len, alone)) + SENTENCE_TOKENS
    rows = torch.zeros(len(sentences), length, dtype=torch.int32)
    lengths = torch.zeros(len(sentences), dtype=torch.int32)
    for choice, template in enumerate(templates):
        members = np.flatnonzero(choices == choice)
        ids, _ = tokenize(tokenizer, [sentences[i] for i in members], template, length)
        for member, of_member in zip(members, ids, strict=True):
            rows[member, : len(of_member)] = torch.tensor(of_member)
            lengths[member] = len(of_member)
    return {"prompts": rows, "lengths": lengths}
