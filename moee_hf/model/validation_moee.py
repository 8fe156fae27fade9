"""Checks of the fields of `MoEEConfig`: each raises `ValueError` for a value that the field cannot have."""

from __future__ import annotations

from collections.abc import Callable

from .functional_moee import (
    COMBINATIONS,
    POOLINGS,
    ROUTER_ACTIVATIONS,
    ROUTER_STANDARDIZATIONS,
    check_alpha,
    check_choice,
)
from .hub_moee import is_repo_id
from .prompts_moee import check_template


def check_field(field: str, value: object) -> None:
    """Raise `ValueError` unless a field of `MoEEConfig` may have this value; fields without a check may have any."""
    if check := _CHECKS.get(field):
        check(f"MoEEConfig.{field}", value)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_int(name: str, value: object) -> None:
    if not _is_int(value):
        raise ValueError(f"{name}: expected an integer; got {value!r}.")


def _check_bool(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected True or False; got {value!r}.")


def _check_max_length(name: str, value: object) -> None:
    if value is not None and not (_is_int(value) and value >= 1):  # type: ignore[operator]
        raise ValueError(f"{name}: expected a number of tokens >= 1, or None; got {value!r}.")


def _check_repo_id(name: str, value: object) -> None:
    # never a path: a configuration from elsewhere shall not name files of this machine
    if value is not None and not (isinstance(value, str) and is_repo_id(value)):
        raise ValueError(
            f"{name}: expected the id of a repository on the Hub, such as 'allenai/OLMoE-1B-7B-0924'; got {value!r}."
        )


def _check_revision(name: str, value: object) -> None:
    if value is not None and not (isinstance(value, str) and value):
        raise ValueError(f"{name}: expected a commit of the backbone's repository; got {value!r}.")


def _check_router_layers(name: str, value: object) -> None:
    if value is not None and not (isinstance(value, list | tuple) and value and all(map(_is_int, value))):
        raise ValueError(f"{name}: expected a list of MoE layers, such as [0, -1], or None for all; got {value!r}.")


def _check_prompt_name(name: str, value: object) -> None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name}: expected a string; got {value!r}.")


def _check_prompts(name: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, dict):
        raise ValueError(f"{name}: expected a dictionary of templates by name; got {value!r}.")
    for prompt_name, template in value.items():
        _check_prompt_name(f"{name}: a name", prompt_name)
        check_template(f"{name}[{prompt_name!r}]", template)


_CHECKS: dict[str, Callable[[str, object], None]] = {
    "combination": lambda name, value: check_choice(name, value, COMBINATIONS),
    "alpha": check_alpha,
    "pooling": lambda name, value: check_choice(name, value, POOLINGS),
    "hidden_layer": _check_int,
    "router_layers": _check_router_layers,
    "router_activation": lambda name, value: check_choice(name, value, ROUTER_ACTIVATIONS),
    "router_standardization": lambda name, value: check_choice(name, value, ROUTER_STANDARDIZATIONS),
    "standardize": _check_bool,
    "calibrated": _check_bool,
    "prompts": _check_prompts,
    "default_prompt_name": _check_prompt_name,
    "max_length": _check_max_length,
    "base_model_name_or_path": _check_repo_id,
    "base_model_revision": _check_revision,
}
