"""The tokenizer beside a model's weights."""

from __future__ import annotations

from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from .hub_moee import hub_errors, optional_file


class TokenizerNotFoundError(ValueError):
    """A model source without a tokenizer, or with one that cannot be loaded as things are."""


class DamagedTokenizerError(OSError):
    """A model source with a tokenizer that cannot be read."""


def load_tokenizer(source: str, **kwargs: Any) -> PreTrainedTokenizerBase:
    """Load the tokenizer beside a model's weights.

    Args:
        source: Folder or Hub id.
        kwargs: Those of `AutoTokenizer.from_pretrained`.

    Raises:
        TokenizerNotFoundError: If there is none, or it takes a package or remote code that may not be used.
        DamagedTokenizerError: If its files are damaged.
        OSError: If the Hub cannot be reached.
    """
    names = ("tokenizer.json", "tokenizer_config.json")
    is_there = source != "" and any(optional_file(source, name, **kwargs) for name in names)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **kwargs)
        # for some model types transformers makes an empty tokenizer where there is none; and a call here settles the
        # state of a fast tokenizer before threads share it
        if tokenizer("text")["input_ids"]:
            return tokenizer
        why: Any = ValueError("it has no vocabulary")
    except Exception as error:  # of tokenizers, which raises nothing more special, or of any tokenizer's own code
        why = error
        is_there = is_there and not isinstance(error, ImportError) and "trust_remote_code" not in str(error)
    reason = " ".join(str(why).split())
    if is_there:
        with hub_errors(f"{source!r}, the tokenizer: ", source, kwargs.get("revision")):  # it may be that alone
            raise DamagedTokenizerError(
                f"{source}: expected a tokenizer that can be read; its files are damaged ({reason}). Fetch them again."
            ) from why
    raise TokenizerNotFoundError(
        f"MoEEModel.tokenizer: expected a tokenizer beside the weights; {source!r} has none ({reason}). Set one: "
        "model.tokenizer = AutoTokenizer.from_pretrained(...)."
    ) from why
