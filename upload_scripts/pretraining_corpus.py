"""The corpus of pretrain_embedded.py: documents of a file, a vocabulary for them, and rows of their tokens."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END, PAD = "<|endoftext|>", "<|pad|>"
LONG, SHORT = 256, 64  # tokens of a row of consecutive text, and of one that starts with a sentence
SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\u201d]?\s+(?=[A-Z\"'\u201c])")


class Rows(NamedTuple):
    """Token ids of documents: every other one in long rows, the others in short rows, padded at the end."""

    long: np.ndarray  # [N, LONG]
    short: np.ndarray  # [M, SHORT]


def read_documents(path: Path) -> list[str]:
    """Return the documents of a file, one a line; `.zst` is decompressed.

    Raises:
        ValueError: If there is none, or the file needs a package that is not there.
        OSError: If the file cannot be read.
    """
    if path.suffix == ".zst":
        try:
            import zstandard
        except ImportError:
            raise ValueError(f"{path}: expected the package zstandard, to read it. pip install zstandard") from None
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
            lines = list(io.TextIOWrapper(stream, encoding="utf-8"))
    else:
        lines = path.read_text(encoding="utf-8").split("\n")
    if len(documents := [line.strip() for line in lines if line.strip()]) < 2:
        raise ValueError(f"{path}: expected two documents or more, one a line; got {len(documents)}.")
    return documents


def train_tokenizer(documents: list[str], size: int) -> Tokenizer:
    """Return a byte-level BPE of so many tokens, trained on documents."""
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer = _byte_level(models.BPE())
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def first_merges(donor: Tokenizer, size: int) -> tuple[Tokenizer, list[int]]:
    """Return the first tokens of a byte-level BPE as a tokenizer, and the donor's ids of all its tokens.

    Raises:
        ValueError: If it is no byte-level BPE with an end of text.
    """
    state = json.loads(donor.to_str())
    model, end = state["model"], donor.token_to_id(END)
    if model["type"] != "BPE" or "ByteLevel" not in json.dumps(state["pre_tokenizer"]) or end is None:
        raise ValueError(f"--warm-start: expected a byte-level BPE with {END}; got another tokenizer.")
    ids = model["vocab"]
    kept = {token: ids[token] for token in sorted(pre_tokenizers.ByteLevel.alphabet()) if token in ids}
    merges: list[tuple[str, str]] = []
    for merge in model["merges"]:
        if len(kept) + 2 == size:
            break
        first, second = merge if isinstance(merge, list) else merge.split(" ")
        merges.append((first, second))
        kept[first + second] = ids[first + second]
    tokenizer = _byte_level(models.BPE({token: i for i, token in enumerate([END, PAD, *kept])}, merges))
    tokenizer.add_special_tokens([END, PAD])
    return tokenizer, [end, end, *kept.values()]


def rows_of(tokenizer: Tokenizer, path: Path) -> Rows:
    """Return the rows of a file.

    Raises:
        ValueError: If there is not one long row.
        OSError: If the file cannot be read.
    """
    documents = read_documents(path)
    end, pad = tokenizer.token_to_id(END), tokenizer.token_to_id(PAD)
    tokens = np.concatenate([[*ids, end] for ids in _ids(tokenizer, documents[::2])]).astype(np.int32)
    if len(tokens) < LONG:
        raise ValueError(f"{path}: expected {LONG} tokens or more in every other document; got {len(tokens)}.")
    passages = [passage for document in documents[1::2] for passage in _passages(document)]
    short = np.full((len(passages), SHORT), pad, dtype=np.int32)
    for row, (_, is_last), ids in zip(short, passages, _ids(tokenizer, [text for text, _ in passages]), strict=True):
        ids = [*ids, end][:SHORT] if is_last else ids[:SHORT]
        row[: len(ids)] = ids
    return Rows(tokens[: len(tokens) // LONG * LONG].reshape(-1, LONG), short)


def _byte_level(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _ids(tokenizer: Tokenizer, texts: list[str]) -> Iterator[list[int]]:
    for start in range(0, len(texts), 1000):
        for encoding in tokenizer.encode_batch(texts[start : start + 1000], add_special_tokens=False):
            yield encoding.ids


def _passages(document: str) -> Iterator[tuple[str, bool]]:
    """Consecutive sentences, together long enough for a short row, and whether the document ends with them."""
    passage: list[str] = []
    for sentence in SENTENCE_END.split(document):
        passage.append(sentence)
        if sum(len(part) + 1 for part in passage) > 5 * SHORT:
            yield " ".join(passage), False
            passage = []
    if passage:
        yield " ".join(passage), True
