"""The commands of `moee` that print what there is to know: similarity, info, backbones."""

from __future__ import annotations

import argparse
import json
import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .. import EMBEDDED
from .choices import add_choice_flags
from .flags import Commands, add_model_flags, add_prompt_flag, add_revision_flag, set_run
from .loading import check_source, import_transformers, load_model
from .routing import layers_of_routing

if TYPE_CHECKING:
    from ..info import ModelInfo
    from ..model.configuration_moee import MoEEConfig

_LABEL_WIDTH = 48


def add_similarity_command(commands: Commands) -> None:
    """Add `moee similarity`."""
    parser = commands.add_parser(
        "similarity",
        help="print the cosine similarity of every text with every other",
        description="Print the cosine similarity of every text with every other. In Python: MoEEModel.encode, then "
        "similarity.",
    )
    parser.add_argument("texts", nargs="+", metavar="TEXT")
    add_model_flags(parser)
    add_prompt_flag(parser)
    add_choice_flags(parser)
    set_run(parser, _similarity)


def add_info_command(commands: Commands) -> None:
    """Add `moee info`."""
    parser = commands.add_parser(
        "info",
        help="print what a model gives and takes, from its configuration alone",
        description="Print what a model gives and takes, from its configuration alone. In Python: "
        "moee_hf.info.model_info.",
    )
    parser.add_argument("model", metavar="MODEL", nargs="?", default=EMBEDDED, help="folder, config.json or Hub id")
    add_revision_flag(parser)
    set_run(parser, _info)


def add_backbones_command(commands: Commands) -> None:
    """Add `moee backbones`."""
    parser = commands.add_parser(
        "backbones",
        help="list the supported architectures of the installed transformers",
        description="List the supported architectures of the installed transformers. In Python: "
        "moee_hf.info.supported_backbones.",
    )
    set_run(parser, _backbones)


def _similarity(arguments: argparse.Namespace) -> None:
    model = load_model(arguments)
    embeddings: Any = model.encode(arguments.texts, prompt=model.config.find_prompts(arguments.prompt))
    labels = list(map(_label, arguments.texts))
    width = max(map(_display_width, labels))
    print(" " * (width + 4), *(f"{number:>6}" for number in range(1, len(labels) + 1)))
    for number, (label, row) in enumerate(zip(labels, model.similarity(embeddings, embeddings), strict=True), 1):
        padding = " " * (width - _display_width(label))
        print(f"{number:>3} {label}{padding}", *(f"{value:6.3f}" for value in row.tolist()))


def _label(text: str) -> str:
    """A text as the name of a row: on one line, with what cannot be shown there escaped, and not too long."""
    label = text if text.isprintable() else json.dumps(text, ensure_ascii=False)
    return label if len(label) <= _LABEL_WIDTH else label[: _LABEL_WIDTH - 1] + "…"


def _display_width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _info(arguments: argparse.Namespace) -> None:
    import_transformers()
    from ..info import dtype_name, format_count, model_info
    from ..model.configuration_moee import MoEEConfig

    check_source(arguments.model, arguments.revision)
    config = MoEEConfig.from_pretrained(arguments.model, revision=arguments.revision)
    info = model_info(config)
    visits = "" if info.top_k is None else f", {info.top_k} per token"
    active = "unknown" if info.active_parameters is None else format_count(info.active_parameters)
    quantized = "" if info.quantized_by is None else f", quantized by {info.quantized_by}"
    rows = {
        "backbone": f"{info.model_type}, {info.num_layers} layers, {dtype_name(info.dtype)}{quantized}",
        "routers": f"{info.num_moe_layers} MoE layers x {info.num_experts} experts{visits}",
        "HS": str(info.hidden_size),
        "RW": str(info.embedding_sizes["rw"]),
        "embedding": ", ".join(f"{combination} {size}" for combination, size in info.embedding_sizes.items())
        + ("" if config.dimensions is None else f"; projected on {config.dimensions}"),
        **_defaults(config),
        "a vector": f"{config.combination} {info.embedding_size}: "
        + ", ".join(f"{info.embedding_bytes(name):,} bytes in {name}" for name in ("float32", "int8", "binary")),
        "fits": _indexes(info.embedding_size),
        "parameters": f"{format_count(info.parameters)}, active {active} (without the language-model head)",
    }
    if config.router_agreement is not None:
        rows["calibrated"] = layers_of_routing(info.router_indices, info.num_moe_layers)
    for name, value in rows.items():
        print(f"{name:<11} {value}")
    print("\n".join(_memory(info)))


def _memory(info: ModelInfo) -> Iterator[str]:
    """What the weights take in each format, as a table, and which cards hold them."""
    import torch

    from ..info import CARDS, ROOM, dtype_name

    yield f"{'memory':<11} experts in    weights  + a layer  cards that hold both and a batch ({ROOM} GB)"
    formats = [(torch.float32, None), *((torch.bfloat16, name) for name in (None, *info.experts))]
    for dtype, quantization in formats:
        weights = f"{info.memory(dtype, quantization) / 2**30:.2f} GiB"
        layer = "" if quantization is None else f"{info.layer_memory(dtype, quantization) / 2**30:.2f} GiB"
        cards = ", ".join(map(str, info.cards(dtype, quantization)))
        fits = f"{cards} GB" if cards else f"none of {CARDS[-1]} GB"
        yield f"{'':<11} {quantization or dtype_name(dtype):<8} {weights:>12} {layer:>10}  {fits}"


def _defaults(config: MoEEConfig) -> dict[str, str]:
    """What an embedding is made of if a call does not say: combination, pooling, prompt, length."""
    names = (
        config.default_prompt_name if isinstance(config.default_prompt_name, list) else [config.default_prompt_name]
    )
    prompts = [f"{name or 'none'}, {json.dumps(config.prompt_template(name), ensure_ascii=False)}" for name in names]
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if config.max_length is None:
        length = "as the tokenizer has it" + (f", at most {positions} tokens" if positions else "")
    else:
        length = f"{config.max_length} tokens"
    weight = f", alpha {config.alpha:g}" if config.combination == "sum" else ""
    return {
        "default": f"{config.combination}{weight}" + ", standardized" * config.standardize,
        "pooling": config.pooling,
        "prompt": " + ".join(prompts),
        "length": length,
    }


def _backbones(arguments: argparse.Namespace) -> None:
    import_transformers()
    from ..info import supported_backbones

    print("\n".join(supported_backbones()))


def _indexes(width: int) -> str:
    """Which common indexes take vectors of this width."""
    from ..info import INDEX_LIMITS

    fits = [f"{name} ({limit:,})" for name, limit in INDEX_LIMITS.items() if width <= limit]
    others = [f"{name} ({limit:,})" for name, limit in INDEX_LIMITS.items() if width > limit]
    return " but not ".join(", ".join(names) for names in (fits or ["none"], others) if names)
