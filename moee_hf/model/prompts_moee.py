"""Prompt templates, and tokenising a text inside one without ever cutting the template."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

TEXT = "{text}"
PROMPTS = {
    # section 4 of the paper, after Jiang et al. (arXiv 2307.16645)
    "prompteol": 'This sentence : "{text}" means in one word:"',
    "none": "{text}",
}


class TokenizerNotFoundError(ValueError):
    """A model source without a tokenizer."""


def load_tokenizer(source: str, **kwargs: Any) -> PreTrainedTokenizerBase:
    """Load the tokenizer beside a model's weights.

    Args:
        source: Folder or Hub id.
        kwargs: Those of `AutoTokenizer.from_pretrained`.

    Raises:
        TokenizerNotFoundError: If there is none.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **kwargs)
        # for some model types transformers makes an empty tokenizer where there is none; and a call here settles the
        # state of a fast tokenizer before threads share it
        if tokenizer("text")["input_ids"]:
            return tokenizer
        why = "it has no vocabulary"
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:  # none, or files that are damaged
        why = str(error)
    raise TokenizerNotFoundError(
        f"MoEEModel.tokenizer: expected a tokenizer beside the weights; {source!r} has none ({why}). Set one: "
        "model.tokenizer = AutoTokenizer.from_pretrained(...)."
    )


def check_texts(texts: str | Iterable[str]) -> list[str]:
    """Return the texts, one or several, as a list; errors are those of `stream_texts`."""
    return list(stream_texts(texts))


def stream_texts(texts: str | Iterable[str]) -> Iterator[str]:
    """Return an iterator over the texts, one or several, which lets pass what a tokenizer can read.

    Raises:
        TypeError: If a text is not a string.
        ValueError: If a text is empty or no valid Unicode.
    """
    if not isinstance(texts, Iterable) or isinstance(texts, Mapping | bytes):
        raise TypeError(f"texts: expected a string or several; got {texts!r} of type {type(texts).__name__}.")
    return map(_checked_text, itertools.count(), [texts] if isinstance(texts, str) else texts)


def _checked_text(i: int, text: str) -> str:
    if not isinstance(text, str):
        raise TypeError(f"texts[{i}]: expected a string; got {text!r} of type {type(text).__name__}.")
    if not text:
        raise ValueError(f"texts[{i}]: expected a text to embed; got an empty string. Leave it out.")
    _check_unicode(f"texts[{i}]", text)
    return text


def check_template(name: str, template: object) -> None:
    """Raise `ValueError` unless `template` is a string with `{text}` exactly once; `name` says where it stands."""
    if not isinstance(template, str) or template.count(TEXT) != 1:
        raise ValueError(
            f"{name}: expected a template with {TEXT} exactly once, where the text goes; got {template!r}. "
            f"To put words before the text, write 'words: {TEXT}'; for no prompt, {PROMPTS['none']!r}."
        )
    _check_unicode(name, template)


def _check_unicode(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name}: expected valid Unicode; got a lone surrogate at character {error.start}. Decode its source with "
            "the right encoding."
        ) from None


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    template: str,
    max_length: int,
    numbers: Sequence[int] | None = None,
) -> tuple[list[list[int]], int]:
    """Tokenise each text inside the template; a text too long loses its end, the template nothing.

    The text is put in as it is, quotes, braces and all. An uncut text gets the tokenizer's ids of the filled template;
    a cut one those of the template filled with the longest beginning of the text that fits.

    Args:
        tokenizer: Any tokenizer; its special tokens are added as it adds them.
        texts: The texts.
        template: A string with `{text}` exactly once.
        max_length: The most tokens that a filled template may have, special tokens included.
        numbers: Numbers of the texts, for errors. None: 0, 1, 2, ...

    Returns:
        The token ids of each text, and how many texts were cut.

    Raises:
        ValueError: If not one character of a text fits beside the template.
    """
    head, tail = template.split(TEXT)

    def token_ids(texts: Sequence[str]) -> list[list[int]]:
        # neither padding nor truncation, so that a fast tokenizer shared by threads is never reconfigured
        return tokenizer([head + text + tail for text in texts], verbose=False)["input_ids"]

    ids = token_ids(texts) if texts else []
    if without := [i for i, text_ids in enumerate(ids) if not text_ids]:
        number = without[0] if numbers is None else numbers[without[0]]
        raise ValueError(
            f"texts[{number}]: expected a text with tokens; the tokenizer finds none in {texts[without[0]]!r}."
        )
    too_long = [i for i, text_ids in enumerate(ids) if len(text_ids) > max_length]
    for i in too_long:
        text = texts[i]

        def num_tokens(end: int, text: str = text) -> int:
            return len(token_ids([text[:end]])[0])

        end = max_length  # a bound on what fits, found from below: a long document is not tokenised over and over
        while end < len(text) and num_tokens(end) <= max_length:
            end *= 2
        kept = bisect.bisect_right(range(1, min(end, len(text)) + 1), max_length, key=num_tokens)
        if kept == 0:
            raise ValueError(
                f"max_length: expected room for the prompt and some text; got {max_length}, and the prompt "
                f"{template!r} alone takes {len(token_ids([''])[0])} tokens. Raise max_length or shorten the prompt."
            )
        ids[i] = token_ids([text[:kept]])[0]
    return ids, len(too_long)
