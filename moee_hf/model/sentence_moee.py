"""A MoEE repository as a `SentenceTransformer`, whose prompts may have words after the text too."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

import torch

from .prompts_moee import TEXT, named_by_themselves

try:
    from sentence_transformers.base.modules import Transformer
except ImportError as error:
    raise ImportError("A MoEE SentenceTransformer needs sentence-transformers >= 6; install it.") from error


class MoEETransformer(Transformer):
    """The input module of sentence-transformers around a `MoEEModel`, which tokenises and embeds."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.model.tokenizer = self.tokenizer

    def preprocess(self, inputs: Sequence[str], prompt: str | None = None, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Tokenise texts inside a prompt.

        Args:
            inputs: The texts.
            prompt: A template with `{text}`, a JSON list of several, or words to put before the text.
            kwargs: What sentence-transformers passes for other kinds of model; not read.
        """
        # sentence-transformers has sorted the texts
        try:
            with named_by_themselves(inputs):
                return self.model.tokenize(inputs, prompt=_templates(prompt))
        except TypeError as error:
            if not any(isinstance(text, dict | list | tuple) for text in inputs):
                raise
            # at a TypeError sentence-transformers would put the prompt before these itself, and fail
            raise ValueError(str(error)) from error

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return _Features(super().forward(features, **kwargs))

    @property
    def max_seq_length(self) -> int:
        """The most tokens of a text with its prompt."""
        return self.model.max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        self.model.config.max_length = value


class _Features(dict[str, Any]):
    """What the module gives, with an error of one sentence for what is not among it."""

    def __missing__(self, name: str) -> Any:
        raise ValueError(
            "output_value: expected 'sentence_embedding', as a MoEE model embeds texts, not their tokens; got "
            f"{name!r}."
        )


def _templates(prompt: Any) -> Any:
    """What a prompt of sentence-transformers stands for; `tokenize` refuses what is none."""
    if not isinstance(prompt, str):
        return TEXT if prompt is None else prompt
    if TEXT not in prompt:
        return prompt + TEXT
    if prompt.count(TEXT) > 1:  # no template has that
        with contextlib.suppress(ValueError):
            return json.loads(prompt)
    return prompt
