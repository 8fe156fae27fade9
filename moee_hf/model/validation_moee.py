"""Checks of the fields of `MoEEConfig`: each raises `ValueError` for a value that the field cannot have."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from pathlib import PurePath
from typing import Any

from .arguments_moee import check_dtype
from .choices_moee import (
    COMBINATIONS,
    HIDDEN_SOURCES,
    POOLINGS,
    ROUTER_ACTIVATIONS,
    ROUTER_STANDARDIZATIONS,
    check_alpha,
    check_choice,
)
from .functional_moee import check_count
from .hub_moee import is_repo_id
from .prompts_moee import check_template


def check_field(field: str, value: object) -> None:
    """Raise `ValueError` unless a field of `MoEEConfig` may have this value; fields without a check may have any."""
    if check := _CHECKS.get(field):
        check(f"MoEEConfig.{field}", value)


def check_settable(kind: type, name: str) -> None:
    """Raise `ValueError` if a class of configurations has something else of this name than a field."""
    there = getattr(kind, name, None)
    follows = isinstance(there, property) and there.fset is None
    if follows or callable(there):
        what = "follows from its fields" if follows else "is one of its methods"
        raise ValueError(f"MoEEConfig.{name}: expected the name of a field; {name} {what}, and cannot be set.")


def listed(value: str | Sequence[str] | None) -> list[Any]:
    """Return what stands for one or several as a list."""
    return list(value) if isinstance(value, list | tuple) else [value]


def layer_indices(name: str, chosen: Sequence[int] | None, num_layers: int, kind: str) -> list[int]:
    """Return the layers that a field chooses, counted from 0, in its order. None: all.

    Raises:
        ValueError: If there is no such layer, or one is named twice; `name` says in which field.
    """
    if chosen is None:
        return list(range(num_layers))
    if bad := [layer for layer in chosen if not -num_layers <= layer < num_layers]:
        raise ValueError(
            f"{name}: expected numbers from {-num_layers} to {num_layers - 1}, as the backbone has {num_layers} "
            f"{kind}; got {bad[0]!r}."
        )
    indices = [layer % num_layers for layer in chosen]
    if len(set(indices)) < len(indices):
        raise ValueError(f"{name}: expected each layer once; got {list(chosen)!r}.")
    return indices


def _is_int(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _check_int(name: str, value: object) -> None:
    if not _is_int(value):
        raise ValueError(f"{name}: expected an integer; got {value!r}.")


def _check_bool(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected True or False; got {value!r}.")


def _check_repo_id(name: str, value: object) -> None:
    # never a path: a configuration from elsewhere shall not name files of this machine
    if value is not None and not (isinstance(value, str) and is_repo_id(value)):
        raise ValueError(
            f"{name}: expected the id of a repository on the Hub, such as 'allenai/OLMoE-1B-7B-0924'; got {value!r}."
        )


def _check_revision(name: str, value: object) -> None:
    if value is not None and not (isinstance(value, str) and value):
        raise ValueError(f"{name}: expected a commit of the backbone's repository; got {value!r}.")


def _check_layers(name: str, value: object) -> None:
    if value is not None and not (isinstance(value, list | tuple) and value and all(map(_is_int, value))):
        raise ValueError(f"{name}: expected a list of layers, such as [0, -1], or None for all; got {value!r}.")


def _check_layer_weights(name: str, value: object) -> None:
    if value is None:
        return
    weights = value if isinstance(value, list | tuple) else []
    numbers = [weight for weight in weights if isinstance(weight, int | float) and not isinstance(weight, bool)]
    are_weights = len(numbers) == len(weights) and all(0 <= weight < float("inf") for weight in numbers)
    if not are_weights or not any(numbers):
        raise ValueError(
            f"{name}: expected a list with a finite number >= 0 for each layer, not all of them 0, or None for layers "
            f"that all count alike; got {value!r}."
        )


def _check_name(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name}: expected a string; got {value!r}.")


def _check_prompt_name(name: str, value: object) -> None:
    if value is None:
        return
    names = value if isinstance(value, list | tuple) else [value]
    if not names or not all(isinstance(part, str) for part in names):
        raise ValueError(f"{name}: expected the name of a prompt, a list of names, or None; got {value!r}.")


def _check_record(name: str, value: object) -> None:
    if value is not None and not (isinstance(value, dict) and _is_json(value)):
        raise ValueError(f"{name}: expected a dictionary that JSON can hold, or None; got {value!r}.")


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _check_agreement(name: str, value: object) -> None:
    numbers = [] if value is None else value
    if (
        not isinstance(numbers, list)
        or not all(isinstance(number, Real) for number in numbers)
        or not _is_json(numbers)
    ):
        raise ValueError(f"{name}: expected a list with a finite number for each MoE layer, or None; got {value!r}.")


def _check_sizes(name: str, value: object) -> None:
    sizes = [] if value is None else list(value.values()) if isinstance(value, dict) else value
    if not isinstance(sizes, list) or not all(_is_int(size) and size >= 1 for size in sizes):
        raise ValueError(f"{name}: expected numbers >= 1, as a model finds them in its backbone; got {value!r}.")


def _check_digests(name: str, value: object) -> None:
    digests = {} if value is None else value
    if not isinstance(digests, dict) or not all(isinstance(part, str) for pair in digests.items() for part in pair):
        raise ValueError(f"{name}: expected a dictionary of digests by names of files; got {value!r}.")
    for path in map(PurePath, digests):
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{name}: expected files of the repository; got {str(path)!r}.")


def _check_prompts(name: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, dict):
        raise ValueError(f"{name}: expected a dictionary of templates by name; got {value!r}.")
    for prompt_name, template in value.items():
        _check_name(f"{name}: a name", prompt_name)
        check_template(f"{name}[{prompt_name!r}]", template)


_CHECKS: dict[str, Callable[[str, object], None]] = {
    "combination": lambda name, value: check_choice(name, value, COMBINATIONS),
    "alpha": check_alpha,
    "pooling": lambda name, value: check_choice(name, value, POOLINGS),
    "hidden_source": lambda name, value: check_choice(name, value, HIDDEN_SOURCES),
    "hidden_layer": _check_int,
    "attention_layers": _check_layers,
    "router_layers": _check_layers,
    "router_layer_weights": _check_layer_weights,
    "router_activation": lambda name, value: check_choice(name, value, ROUTER_ACTIVATIONS),
    "router_standardization": lambda name, value: check_choice(name, value, ROUTER_STANDARDIZATIONS),
    "standardize": _check_bool,
    "calibrated": _check_bool,
    "dtype": check_dtype,
    "return_dict": _check_bool,
    "output_hidden_states": _check_bool,
    "prompts": _check_prompts,
    "default_prompt_name": _check_prompt_name,
    "max_length": lambda name, value: check_count(name, value, "tokens"),
    "dimensions": lambda name, value: check_count(name, value, "dimensions"),
    "base_model_name_or_path": _check_repo_id,
    "base_model_revision": _check_revision,
    "digests": _check_digests,
    "calibration": _check_record,
    "compression": _check_record,
    "router_agreement": _check_agreement,
    "router_shape": _check_sizes,
    "hidden_sizes": _check_sizes,
}
