"""Flags for the choices of `MoEEConfig`, the same ones for every command that embeds."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..model.choices_moee import (
    COMBINATIONS,
    HIDDEN_SOURCES,
    POOLINGS,
    ROUTER_ACTIVATIONS,
    ROUTER_STANDARDIZATIONS,
)
from .flags import nonnegative_alpha, positive_int


def _several(number: Callable[[str], float], metavar: str, text: str) -> dict[str, Any]:
    """A flag with several numbers, with spaces or commas between them."""

    def parse(value: str) -> list[float]:
        try:
            return [number(part) for part in value.split(",")]
        except ValueError:
            kind = "integers" if number is int else "numbers"
            raise argparse.ArgumentTypeError(
                f"expected {kind} with spaces or commas between them; got {value!r}"
            ) from None

    return {"nargs": "+", "type": parse, "metavar": metavar, "help": text, "action": _Flat}


class _Flat(argparse.Action):
    """Store the items of several lists as one list."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        setattr(namespace, self.dest, [item for part in values for item in part])


# the flag of each choice of `MoEEConfig`, as `add_argument` takes it
CHOICES: dict[str, dict[str, Any]] = {
    "combination": dict(choices=COMBINATIONS, help="what the embedding is made of"),
    "alpha": dict(type=nonnegative_alpha, metavar="WEIGHT", help="weight of the routing part in 'sum'"),
    "pooling": dict(choices=POOLINGS, help="how the vectors of tokens become one"),
    "hidden_source": dict(choices=HIDDEN_SOURCES, help="what HS is read from"),
    "hidden_layer": dict(type=int, metavar="LAYER", help="the hidden state that is HS; 0: token embeddings, -1: last"),
    "attention_layers": _several(int, "LAYER", "attention blocks that HS is read from, such as 0 -1"),
    "router_layers": _several(int, "LAYER", "MoE layers that are in RW, such as 0 -1; they count alike"),
    "router_layer_weights": _several(float, "WEIGHT", "how much each of the layers in RW counts"),
    "router_activation": dict(choices=ROUTER_ACTIVATIONS, help="what RW are"),
    "router_standardization": dict(choices=ROUTER_STANDARDIZATIONS, help="how a calibrated model treats RW"),
    "standardize": dict(action=argparse.BooleanOptionalAction, help="whether to use the statistics of a corpus"),
    "dimensions": dict(
        type=positive_int("dimensions"), metavar="N", help="principal components of a model fitted to as many"
    ),
    "max_length": dict(type=positive_int("tokens"), metavar="N", help="the most tokens of a text with its prompt"),
}


# the choices that count only beside some values of another
_EFFECTS = {
    "alpha": ("combination", ("sum",)),
    "fit_alpha": ("combination", ("sum",)),
    "hidden_layer": ("hidden_source", ("state",)),
    "attention_layers": ("hidden_source", ("attention", "values")),
    "hidden_source": ("combination", ("hs", "concat", "sum")),
    "router_layers": ("combination", ("rw", "concat", "sum")),
    "router_layer_weights": ("combination", ("rw", "concat", "sum")),
    "router_activation": ("combination", ("rw", "concat", "sum")),
}


def add_choice_flags(parser: argparse.ArgumentParser, fields: Collection[str] | None = None) -> None:
    """Add flags for choices of `MoEEConfig`, all or these, with which `load_model` loads the model."""
    chosen = [field for field in CHOICES if fields is None or field in fields]
    group = parser.add_argument_group("embedding", "choices of MoEEConfig (default: the model's)")
    for field in chosen:
        group.add_argument(f"--{field.replace('_', '-')}", **CHOICES[field])
    parser.set_defaults(choices=chosen)


def check_effects(chosen: dict[str, Any], config: Mapping[str, Any]) -> None:
    """Raise `ValueError` if a choice is without effect beside the others, as far as they are known."""
    for name, (other, values) in _EFFECTS.items():
        if chosen.get(name) is not None and config.get(other, values[0]) not in values:
            flag = f"--{other.replace('_', '-')}"
            raise ValueError(
                f"{name}: expected {flag} {' or '.join(values)} beside it, as it has no effect otherwise; got "
                f"{flag} {config[other]}. Leave one of the two out."
            )
