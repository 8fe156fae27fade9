"""Prompt templates, and tokenising a text inside one without ever cutting the template."""

from __future__ import annotations

import bisect
import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

TEXT = "{text}"
PROMPTS = {
    # section 4 of the paper, after Jiang et al. (arXiv 2307.16645)
    "prompteol": 'This sentence : "{text}" means in one word:"',
    "none": "{text}",
    # Zhang et al. (arXiv 2404.03921)
    "pretended_cot": 'After thinking step by step , this sentence : "{text}" means in one word:"',
    "knowledge": "The essence of a sentence is often captured by its main subjects and actions, while descriptive "
    'terms provide additional but less central details. With this in mind , this sentence : "{text}" means in one '
    'word:"',
    # the other eight of table 2 of the paper
    "style": 'In one word, describe the style of the following sentence - "{text}" :',
    "sentiment": "In one word, describe the sentiment of the following sentence (positive, neutral, or negative) - "
    '"{text}" :',
    "tone": 'In one word, describe the tone of the following sentence - "{text}" (e.g., formal, informal, humorous, '
    "serious):",
    "intent": "In one word, describe the intent behind the following sentence (e.g., request, suggestion, command) - "
    '"{text}" :',
    "complexity": "In one word, rate the complexity of the following sentence (simple, moderate, complex) - "
    '"{text}" :',
    "subjectivity": 'In one word, describe whether the following sentence is subjective or objective - "{text}" :',
    "language style": "In one word, describe the language style of the following sentence (e.g., academic, "
    'conversational, literary) - "{text}" :',
    "grammar structure": "In one word, describe the grammatical structure of the following sentence (simple, "
    'compound, complex) - "{text}" :',
}


# a tokenizer takes minutes and gigabytes for a book: it gets a beginning of so many characters a token first
CHARACTERS_PER_TOKEN = 16
# a beginning may have more tokens than more of the text, as a word that is cut has more of them; not so many more
SPARE_TOKENS = 64


class TextError(ValueError):
    """A text that cannot be embedded.

    Args:
        index: Which text of the list at hand it is.
        problem: What was expected of it, and what came.
    """

    def __init__(self, index: int, problem: str):
        super().__init__(index, problem)
        self.index, self.problem = index, problem

    def __str__(self) -> str:
        return f"texts[{self.index}]: {self.problem}"

    def renumbered(self, index: int) -> TextError:
        """Return the same error of the text of this number in a longer list, of which the list at hand is a part."""
        return TextError(index, self.problem)


def check_texts(texts: str | Iterable[str]) -> list[str]:
    """Return the texts, one or several, as a list; errors are those of `stream_texts`."""
    return list(stream_texts(texts))


def stream_texts(texts: str | Iterable[str]) -> Iterator[str]:
    """Return an iterator over the texts, one or several, that checks each of them.

    Raises:
        TypeError: If these are no texts in an order, such as a table, or a text is not a string.
        TextError: If a text is no valid Unicode.
    """
    check_container(texts)
    if not isinstance(texts, Iterable) or isinstance(texts, bytes | bytearray):
        raise TypeError(f"texts: expected a string or several; got {_shown(texts)} of type {type(texts).__name__}.")
    return map(_checked_text, itertools.count(), [texts] if isinstance(texts, str) else texts)


def check_container(texts: Any) -> None:
    """Raise `TypeError` if this is a table or a set: iterating over it gives columns, or texts in any order."""
    if problem := _container_problem(texts):
        raise TypeError(f"texts: expected a string or several; got {problem}")


def _container_problem(texts: Any) -> str | None:
    kind, num_dimensions = type(texts).__name__, getattr(texts, "ndim", None)
    if isinstance(texts, str) or num_dimensions == 1:
        return None
    columns = texts if isinstance(texts, Mapping) else None
    for attribute in ("column_names", "columns"):  # of data sets and Arrow's tables; of data frames
        columns = getattr(texts, attribute, None) if columns is None else columns
    if isinstance(columns, Iterable) and not isinstance(columns, str):
        names = [name for name in columns if isinstance(name, str)]
        column = "text" if "text" in names or not names else names[0]
        return f"a table of type {kind}. Pass one column of it, such as texts[{column!r}]."
    if isinstance(num_dimensions, int):
        return f"{_shown(texts)} of type {kind} and {num_dimensions} dimensions. Pass one column of it."
    if isinstance(texts, set | frozenset):
        return f"a {kind}, which has no order. Pass a list."
    return None


def _checked_text(index: int, text: Any) -> str:
    text = text.as_py() if hasattr(text, "as_py") else text  # of a column of Arrow's
    if problem := _type_problem(text):
        raise TypeError(f"texts[{index}]: {problem}")
    if problem := _unicode_problem(text):
        raise TextError(index, problem)
    return text


def _type_problem(text: Any) -> str | None:
    if isinstance(text, str):
        return None
    problem = f"expected a string; got {_shown(text)} of type {type(text).__name__}."
    if isinstance(text, Mapping):
        column = next((name for name, value in text.items() if isinstance(value, str)), "text")
        return f"{problem} Take the text out of it, as in [row[{column!r}] for row in rows]."
    if container := _container_problem(text):
        return f"expected a string; got {container}"
    if isinstance(text, Iterable) and not isinstance(text, bytes | bytearray):
        return f"{problem} Pass all texts in one list of strings."
    return problem


@contextlib.contextmanager
def named_by_themselves(texts: Sequence[Any]) -> Iterator[None]:
    """Name texts that cannot be embedded by what they say, where their numbers are none that the caller knows.

    Raises:
        TypeError: If a text is not a string.
        ValueError: If a text cannot be embedded.
    """
    for text in texts:
        if problem := _type_problem(text):
            raise TypeError(f"text: {problem}")
    try:
        yield
    except ValueError as error:  # a `TextError`, of this file or of the copy of it that the model came with
        if (index := getattr(error, "index", None)) is None:
            raise
        raise ValueError(f"text {_shown(texts[index])}: {getattr(error, 'problem', error)}") from error


def _shown(value: object) -> str:
    """A value in the message of an error, on one line and not too long."""
    value = value[:100] if isinstance(value, str) else value  # the repr of a book takes long
    shown = repr(value).replace("\n", " ")
    return shown if len(shown) <= 80 else f"{shown[:80]}…"


def check_template(name: str, template: object) -> None:
    """Raise `ValueError` unless `template` is a string with `{text}` exactly once; `name` says where it stands."""
    if not isinstance(template, str) or template.count(TEXT) != 1:
        raise ValueError(
            f"{name}: expected a template with {TEXT} exactly once, where the text goes; got {template!r}. "
            f"To put words before the text, write 'words: {TEXT}'; for no prompt, {PROMPTS['none']!r}."
        )
    if problem := _unicode_problem(template):
        raise ValueError(f"{name}: {problem}")


def _unicode_problem(text: str) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return (
            f"expected valid Unicode; got a lone surrogate at character {error.start}. Decode its source with the "
            "right encoding."
        )
    return None


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    template: str,
    max_length: int,
    without_end: bool = False,
) -> tuple[list[list[int]], list[str]]:
    """Tokenize each text inside the template; a text that is too long is truncated at its end, the template never.

    The text is put in as it is, quotes, braces and all. An uncut text gets the tokenizer's ids of the filled template;
    a cut one those of the template filled with the longest beginning of the text that fits.

    Args:
        tokenizer: Any tokenizer; its special tokens are added as it adds them.
        texts: The texts.
        template: A string with `{text}` exactly once.
        max_length: The most tokens that a filled template may have, special tokens included.
        without_end: Whether to leave out the special tokens that the tokenizer puts behind the filled template.

    Returns:
        The token ids of each text, and what of it they are of: a beginning of a text that was cut.

    Raises:
        TextError: If the tokenizer finds no token in a text.
        ValueError: If not one character of a text fits beside the template.
    """
    head, tail = template.split(TEXT)
    num_end = _num_tokens_behind(tokenizer) if without_end else 0

    def token_ids(texts: Sequence[str]) -> list[list[int]]:
        # neither padding nor truncation, so that a fast tokenizer shared by threads is never reconfigured
        ids = tokenizer([head + text + tail for text in texts], verbose=False)["input_ids"] if texts else []
        return [row[: len(row) - num_end] for row in ids]

    parts = [text[: CHARACTERS_PER_TOKEN * max_length] for text in texts]
    ids = token_ids(parts)
    for index, text in enumerate(texts):
        while len(parts[index]) < len(text) and len(ids[index]) <= max_length + SPARE_TOKENS:
            parts[index] = text[: 2 * len(parts[index])]
            ids[index] = token_ids([parts[index]])[0]
        if len(ids[index]) <= max_length:
            continue
        kept = _num_characters_that_fit(parts[index], max_length, lambda text: len(token_ids([text])[0]))
        if kept == 0:
            raise ValueError(
                f"max_length: expected room for the prompt and some text; got {max_length}, and the prompt "
                f"{template!r} alone takes {len(token_ids([''])[0])} tokens. Raise max_length or shorten the prompt."
            )
        parts[index] = text[:kept]
        ids[index] = token_ids([parts[index]])[0]
    if without := [index for index, text_ids in enumerate(ids) if not text_ids]:
        raise TextError(
            without[0],
            f"expected a text with tokens; the tokenizer finds none in {_shown(texts[without[0]])}, and the prompt "
            f"{template!r} has none either. Leave the text out, or use a prompt with words.",
        )
    return ids, parts


def _num_tokens_behind(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return how many special tokens a tokenizer puts behind a text."""
    with_special, without = (
        tokenizer("a", add_special_tokens=special, verbose=False)["input_ids"] for special in (True, False)
    )
    starts = range(len(with_special) - len(without) + 1)
    start = next((start for start in starts if with_special[start : start + len(without)] == without), None)
    return 0 if start is None or not without else len(with_special) - start - len(without)


def _num_characters_that_fit(text: str, max_length: int, num_tokens: Callable[[str], int]) -> int:
    """Return how long the longest beginning of a text is that has no more tokens than `max_length`."""
    end = max_length  # a bound on what fits, found from below: a long document is not tokenised over and over
    while end < len(text) and num_tokens(text[:end]) <= max_length:
        end *= 2
    ends = range(1, min(end, len(text)) + 1)
    return bisect.bisect_right(ends, max_length, key=lambda end: num_tokens(text[:end]))
