"""Arguments of `from_pretrained`: who reads which, this package, the backbone's configuration, or transformers."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from .choices_moee import nearest_name

# fields of every configuration that are arguments of loading too, as which they do more
_OF_LOADING = {"dtype", "torch_dtype", "quantization_config", "attn_implementation", "experts_implementation"}
# those of AutoModel and of the Hub's client that `PreTrainedModel.from_pretrained` does not name
_OF_OTHERS = {"verify_weights", "code_revision", "mirror", "resume_download", "adapter_kwargs", "low_cpu_mem_usage"}
# what configurations and models have an object for each of, wherever the weights lie
_LIMITS = {"num_hidden_layers": 10_000, "num_layers": 10_000, "n_layers": 10_000, "num_labels": 1_000_000}


@contextlib.contextmanager
def in_one_sentence(expected: str) -> Iterator[None]:
    """Turn what transformers and torch raise of bad values into a `ValueError`; they check few of them.

    Args:
        expected: The beginning of the sentence: where, and what was expected.
    """
    try:
        yield
    except (OSError, ImportError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        is_of_memory = isinstance(error, RuntimeError) and "memory" in str(error)
        if is_of_memory or (isinstance(error, ValueError) and not isinstance(error, UnicodeError)):
            raise
        problem = " ".join(str(error).split())
        raise ValueError(f"{expected}; got something else ({type(error).__name__}: {problem}).") from error


def as_json_has_it(value: Any) -> Any:
    """Return a value with lists in place of tuples and arrays, and Python's numbers in place of numpy's."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [as_json_has_it(part) for part in value]
    return {name: as_json_has_it(part) for name, part in value.items()} if type(value) is dict else value


def unknown_argument(where: str, name: str, known: Iterable[str], expected: str) -> ValueError:
    """Return the error for an argument of a name that nobody knows, with the nearest name that is known."""
    return ValueError(f"{where}: expected {expected}; got {name!r}.{nearest_name(name, known)}")


def check_spelling(names: Iterable[str], choices: Iterable[str]) -> None:
    """Raise `ValueError` if a name is nearly that of a choice; configurations hold fields of other tools besides."""
    for name in names:
        if difflib.get_close_matches(name, choices := sorted(choices), n=1, cutoff=0.8):
            raise unknown_argument("MoEEConfig", name, choices, "a field that it has")


def is_backbone_field(config: PreTrainedConfig, name: str) -> bool:
    """Whether a backbone's configuration has a field of this name that `AutoModel.from_pretrained` would set."""
    is_own = not name.startswith("_") and not callable(getattr(type(config), name, None))
    return is_own and name not in _OF_LOADING and hasattr(config, name)


def set_backbone_fields(config: PreTrainedConfig, arguments: dict[str, Any]) -> None:
    """Set fields of a backbone's configuration, as `AutoModel.from_pretrained` does with arguments of their names.

    Args:
        config: The configuration.
        arguments: Those of loading; the fields are taken out.

    Raises:
        ValueError: If a field takes no such value.
    """
    for name in [name for name in arguments if is_backbone_field(config, name)]:
        current, value = getattr(config, name), as_json_has_it(arguments.pop(name))
        if name == "model_type" and value != current:
            raise ValueError(f"model_type: expected {current!r}, as the checkpoint is; got {value!r}. Leave it out.")
        _check_limits("from_pretrained", {name: value})
        with in_one_sentence(f"{name}: expected a value for a {config.model_type} backbone"):
            if isinstance(current, PreTrainedConfig) and isinstance(value, dict):
                value = type(current)(**current.to_dict() | value)
            if isinstance(current, bool) and not isinstance(value, bool):
                raise TypeError("expected True or False")
            if name in PreTrainedConfig.__annotations__:  # which are read where they are made, not where they are set
                type(config)(**{name: value})
            setattr(config, name, value)
            json.dumps(config.to_dict())  # as it is saved
            if name == "num_hidden_layers":
                _cut_layer_types(config, value)


def _cut_layer_types(config: PreTrainedConfig, num_layers: int) -> None:
    # a configuration with types of more layers than there are is not read again once it is saved
    for name, value in config.to_dict().items():
        if name.endswith("layer_types") and isinstance(value, list):
            setattr(config, name, value[:num_layers])


def check_fields(where: str, fields: Mapping[str, Any]) -> None:
    """Raise `ValueError` for what transformers does not check: a dtype that is none, a number that fills the memory.

    Args:
        where: Whose fields they are.
        fields: Fields of any configuration, or arguments of loading.
    """
    for name in ("dtype", "torch_dtype"):
        check_dtype(f"{where}.{name}", fields.get(name))
    _check_limits(where, fields)


def _check_limits(where: str, fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        if isinstance(value, dict):
            _check_limits(f"{where}.{name}", value)
        elif isinstance(value, int) and value > (limit := _LIMITS.get(name, value)):
            raise ValueError(f"{where}.{name}: expected at most {limit:,}, as no model has more; got a larger number.")


def check_dtype(name: str, value: object) -> None:
    """Raise `ValueError` unless `value` is a dtype of torch, its name, `"auto"`, a dictionary for parts, or None."""
    if isinstance(value, str):
        is_dtype = value == "auto" or isinstance(getattr(torch, value, None), torch.dtype)
    else:
        is_dtype = value is None or isinstance(value, torch.dtype | dict)
    if not is_dtype:
        raise ValueError(f"{name}: expected a dtype of torch, such as 'bfloat16'; got {value!r}.")


def check_arguments(names: Iterable[str], config: PreTrainedConfig, choices: Iterable[str]) -> None:
    """Raise `ValueError` unless transformers knows arguments of these names.

    Args:
        names: Those that are neither choices of `MoEEConfig` nor fields of the backbone's configuration.
        config: That configuration.
        choices: The choices.
    """
    known = {*loading_arguments(), *choices}
    for name in names:
        if name not in known and not name.startswith("_"):
            expected = (
                f"an argument of transformers, a choice of MoEEConfig or a field of a {config.model_type} config"
            )
            raise unknown_argument("from_pretrained", name, known | config.to_dict().keys(), expected)


@cache
def loading_arguments() -> frozenset[str]:
    """Return the names of the arguments that transformers takes for loading a model.

    Many are taken out of `**kwargs` there: their names are constants of the code.
    """
    code = inspect.unwrap(PreTrainedModel.from_pretrained.__func__).__code__
    groups = [const if isinstance(const, tuple | frozenset) else (const,) for const in code.co_consts]
    named = {const for group in groups for const in group if isinstance(const, str) and const.isidentifier()}
    return frozenset(named | set(code.co_varnames) | _OF_LOADING | _OF_OTHERS)
