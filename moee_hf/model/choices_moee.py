"""What can be chosen: the names of each choice. No torch here, so that a command line explains itself at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from numbers import Real

COMBINATIONS = ("hs", "rw", "concat", "sum")
HIDDEN_SOURCES = ("state", "attention", "values")
POOLINGS = ("lasttoken", "mean", "weightedmean")
ROUTER_ACTIVATIONS = ("softmax", "logits", "clr")
ROUTER_STANDARDIZATIONS = ("zscore", "center")
# those of sentence-transformers
PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
# formats that the weights of experts are loaded in
QUANTIZATIONS = ("nf4", "fp8", "int8")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise `ValueError` unless `value` is one of `choices`; `name` says where it stands."""
    if value not in choices:
        near = nearest_name(value, choices) if isinstance(value, str) else ""
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}; got {value!r}.{near}")


def nearest_name(name: str, known: Iterable[str]) -> str:
    """Return a sentence with the known name that is nearest to a name, to end an error with; empty if none is near."""
    nearest = difflib.get_close_matches(name, sorted(known), n=1)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""


def check_alpha(name: str, value: object) -> None:
    """Raise `ValueError` unless `value` is a finite number >= 0; `name` says where it stands."""
    try:
        is_weight = isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) < float("inf")
    except OverflowError:  # an integer can be larger
        is_weight = False
    if not is_weight:
        raise ValueError(f"{name}: expected a finite number >= 0 (the weight of the routing part); got {value!r}.")
