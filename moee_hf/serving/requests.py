"""Bodies of JSON into texts and options; what cannot be honoured is refused, and nothing is ignored but `user`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..model.choices_moee import nearest_name
from ..model.prompts_moee import CHARACTERS_PER_TOKEN, TextError, check_texts
from .limits import Limits, RequestError, refusal

if TYPE_CHECKING:
    from ..model.modeling_moee import MoEEModel

_OPTIONS = ("prompt_name", "prompt", "combination", "alpha", "normalize", "dimensions")
_OPENAI = ("model", "input", "encoding_format", "user", "input_type", *_OPTIONS)
_INFERENCE = ("inputs", "truncate", "truncation_direction", "encoding_format", *_OPTIONS)
_FORMATS = ("float", "base64")
# names of prompts for each kind of text, as sentence-transformers looks for them
_INPUT_TYPES = {"query": ("query",), "document": ("document", "passage", "corpus")}


@dataclass(frozen=True)
class Served:
    """What a server offers.

    Args:
        model: The model.
        name: What clients call it.
        templates: The prompts of requests that name none.
        limits: What a request may hold.
        normalize: Whether vectors in OpenAI's form have length 1 where a request says nothing of it.
    """

    model: MoEEModel
    name: str
    templates: tuple[str, ...]
    limits: Limits
    normalize: bool


@dataclass(frozen=True)
class Options:
    """What changes a vector; texts of equal options are embedded together.

    Args:
        templates: The prompts, each with `{text}` once.
        combination: As `MoEEModel.encode` takes it, here and below.
        alpha: Weight of RW in `"sum"`.
        normalize: Whether vectors have length 1.
    """

    templates: tuple[str, ...]
    combination: str
    alpha: float
    normalize: bool


@dataclass(frozen=True)
class Embeddings:
    """A request for vectors.

    Args:
        texts: The texts.
        names: What each is called in the body, such as `input[3]`.
        options: How they are embedded.
        dimensions: How many of the first numbers of a vector are wanted. None: all.
        base64: Whether vectors go out as bytes in base64, in place of numbers in JSON.
    """

    texts: list[str]
    names: list[str]
    options: Options
    dimensions: int | None
    base64: bool = False


def read_openai(body: bytes, served: Served) -> Embeddings:
    """Read the body of `/v1/embeddings`.

    Raises:
        RequestError: If it is none, has fields of no use, or more texts than the limits allow.
    """
    fields = _fields(body, _OPENAI)
    check_name(fields.get("model"), served)
    encoding = _one_of(fields, "encoding_format", _FORMATS, "float")
    texts, names = _texts(fields.get("input"), "input")
    options = _options(fields, served, served.normalize)
    _check_count("input", texts, options, served.limits)
    return Embeddings(texts, names, options, _dimensions(fields, served), encoding == "base64")


def read_inference(body: bytes, served: Served) -> tuple[Embeddings, bool]:
    """Read a body in the form of text-embeddings-inference and Inference Endpoints.

    Returns:
        The request, and whether it asks how similar its first text is to each of the others.

    Raises:
        RequestError: As `read_openai`.
    """
    fields = _fields(body, (*_INFERENCE, "parameters"))
    parameters = fields.pop("parameters", {})
    if not isinstance(parameters, dict):
        raise refusal("parameters", f"expected an object; got {_shown(parameters)}.")
    fields |= _known(parameters, _INFERENCE)
    if _flag(fields, "truncate", True) is not True:
        raise refusal("truncate", "expected true; got false. Texts that are too long lose their end.")
    if str(fields.get("truncation_direction", "right")).lower() != "right":
        shown = _shown(fields["truncation_direction"])
        raise refusal("truncation_direction", f"expected 'right', as long texts lose their end; got {shown}.")
    _one_of(fields, "encoding_format", _FORMATS[:1], "float")
    inputs = fields.get("inputs")
    compares = isinstance(inputs, dict)
    if isinstance(inputs, dict):
        texts, names = _compared(inputs)
    else:
        texts, names = _texts(inputs, "inputs")
    options = _options(fields, served, normalize=True)  # as text-embeddings-inference does
    _check_count("inputs", texts, options, served.limits)
    return Embeddings(texts, names, options, _dimensions(fields, served)), compares


def check_name(name: Any, served: Served) -> None:
    """Raise `RequestError` if a request is for another model than the one that is served; None is for any."""
    if name is not None and name != served.name:
        problem = f"expected {served.name!r}, which is served here; got {_shown(name)}."
        raise refusal("model", problem, 404, "model_not_found")


def prompt_of(templates: Sequence[str], served: Served) -> str | list[str]:
    """Return what to call prompts in an answer: by name, or the template where it has none."""
    known = {template: name for name, template in reversed(served.model.config.known_prompts.items())}
    names = [known.get(template, template) for template in templates]
    return names[0] if len(names) == 1 else names


def split_error(error: Exception) -> tuple[str, str]:
    """Return where a message of the library says that the error is, and the rest, not too long."""
    where, _, problem = str(error).partition(": ")
    return where, problem if len(problem) < 1000 else f"{problem[:1000]}…"


def _fields(body: bytes, known: Sequence[str]) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RequestError(400, f"body: expected JSON; got something else: {reason}.", code="invalid_json") from None
    if not isinstance(fields, dict):
        raise RequestError(400, f"body: expected a JSON object; got {_shown(fields)}.", code="invalid_json")
    return _known(fields, known)


def _known(fields: dict[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """Return the fields that have a value; a client says null for what it leaves out."""
    unknown = next((name for name in fields if name not in known), None)
    if unknown is not None:
        problem = f"unknown field; expected among {', '.join(known)}.{nearest_name(unknown[:100], known)}"
        raise refusal(unknown[:100], problem, code="unknown_field")
    return {name: value for name, value in fields.items() if value is not None}


def _options(fields: dict[str, Any], served: Served, normalize: bool) -> Options:
    config = served.model.config
    templates = _templates(fields, served)
    try:
        mix = config.mix(fields.get("combination"), fields.get("alpha"))
    except (ValueError, TypeError) as error:
        raise refusal(*split_error(error)) from None
    return Options(templates, mix.combination, float(mix.alpha), _flag(fields, "normalize", normalize))


def _templates(fields: dict[str, Any], served: Served) -> tuple[str, ...]:
    config = served.model.config
    given = [name for name in ("prompt_name", "prompt", "input_type") if name in fields]
    if len(given) > 1:
        raise refusal(given[1], f"expected one of prompt_name, prompt and input_type; got {' and '.join(given)}.")
    if not given:
        return served.templates
    if given == ["input_type"]:
        kind = _one_of(fields, "input_type", tuple(_INPUT_TYPES))
        names = [name for name in _INPUT_TYPES[kind] if name in config.known_prompts]
        return (config.prompt_template(names[0]),) if names else served.templates
    value = fields[given[0]]
    if not isinstance(value, str | list):
        raise refusal(given[0], f"expected a string, or several in a list; got {_shown(value)}.")
    try:
        templates = tuple(config.resolve_prompts(**{given[0]: value}))
    except (ValueError, TypeError) as error:
        raise refusal(*split_error(error)) from None
    longest = CHARACTERS_PER_TOKEN * served.model.max_length
    if any(len(template) > longest for template in templates):
        raise refusal("prompt", f"expected a template of at most {longest} characters; got a longer one.")
    return templates


def _texts(value: Any, name: str) -> tuple[list[str], list[str]]:
    """Return texts and what each is called."""
    if isinstance(value, str):
        return _checked([value], [name])
    if not isinstance(value, list) or not value:
        raise refusal(name, f"expected a string, or several in a list; got {_shown(value)}.")
    first = value[0][0] if isinstance(value[0], list) and value[0] else value[0]
    if isinstance(first, int) and not isinstance(first, bool):
        raise refusal(
            name,
            "expected text; got token ids, which are of another tokenizer. Send the text itself "
            "(LangChain: check_embedding_ctx_length=False).",
            code="token_ids",
        )
    return _checked(value, [f"{name}[{index}]" for index in range(len(value))])


def _compared(inputs: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the texts of a comparison, the source first, and what each is called."""
    sentences = inputs.get("sentences")
    if inputs.keys() != {"source_sentence", "sentences"} or not isinstance(sentences, list) or not sentences:
        problem = "expected 'source_sentence', a string, and 'sentences', a list of them; got something else."
        raise refusal("inputs", problem)
    names = [f"inputs.sentences[{index}]" for index in range(len(sentences))]
    return _checked([inputs["source_sentence"], *sentences], ["inputs.source_sentence", *names])


def _checked(texts: list[Any], names: list[str]) -> tuple[list[str], list[str]]:
    for name, text in zip(names, texts, strict=True):
        if not isinstance(text, str):
            raise refusal(name, f"expected a string; got {_shown(text)}.")
    try:
        return check_texts(texts), names
    except TextError as error:
        raise refusal(names[error.index], error.problem) from None


def _check_count(name: str, texts: list[str], options: Options, limits: Limits) -> None:
    if (count := len(texts) * len(options.templates)) > limits.max_texts:
        each = f" in {len(options.templates)} prompts each ({count})" if len(options.templates) > 1 else ""
        problem = f"expected at most {limits.max_texts} texts; got {len(texts)}{each}. Send several requests."
        raise refusal(name, problem, 413, "too_many_texts")


def _dimensions(fields: dict[str, Any], served: Served) -> int | None:
    value, config = fields.get("dimensions"), served.model.config
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise refusal("dimensions", f"expected a number >= 1; got {_shown(value)}.")
    size = config.dimensions or config.embedding_size_for(fields.get("combination") or config.combination)
    if value > size:
        raise refusal("dimensions", f"expected at most {size}, as this model's vectors have; got {_shown(value)}.")
    if value < size and config.dimensions is None:
        raise refusal(
            "dimensions",
            f"expected {size}, all of them, as this model is not fitted to principal components; got {value}. "
            "Serve one that is: moee calibrate --dimensions.",
        )
    return value


def _flag(fields: dict[str, Any], name: str, default: bool) -> bool:
    value = fields.get(name, default)
    if not isinstance(value, bool):
        raise refusal(name, f"expected true or false; got {_shown(value)}.")
    return value


def _one_of(fields: dict[str, Any], name: str, choices: tuple[str, ...], default: str = "") -> str:
    value = fields.get(name, default)
    if value not in choices:
        raise refusal(name, f"expected one of {', '.join(map(repr, choices))}; got {_shown(value)}.")
    return str(value)


def _shown(value: Any) -> str:
    """A value in a message, not too long."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    if (
        isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 200
    ):  # slow, or refused, to print
        return "a very large number"
    value = value[:100] if isinstance(value, str) else value
    return "nothing" if value is None else json.dumps(value) if isinstance(value, bool) else repr(value)
