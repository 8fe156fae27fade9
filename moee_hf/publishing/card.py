"""The model card of a MoEE repository; its text is the template `card.md`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Template

import torch
from huggingface_hub import ModelCardData

from .. import __version__
from ..info import ModelInfo, dtype_name, format_count, model_info
from ..model.choices_moee import COMBINATIONS
from ..model.configuration_moee import MoEEConfig
from ..model.modeling_moee import MoEEModel
from .recipes import Recipe

# texts, each with those that the Hub's widget compares it with
EXAMPLES: Mapping[str, Sequence[str]] = {
    "A man is playing a guitar.": (
        "Someone performs music.",
        "A chef is preparing a meal.",
        "Stock prices fell sharply on Monday.",
    ),
    "How do I reset my password?": (
        "I cannot log in to my account any more.",
        "What time does the museum open?",
        "The recipe needs two cups of flour.",
    ),
}
_HIDDEN = {"attention": "what attention adds to it, summed over blocks", "values": "the values of attention, averaged"}
_ROUTING = {"clr": "the centred log-ratios of the routing weights", "logits": "the raw logits of the routers"}
_MADE_OF = {
    "hs": "hidden state of the text (HS)",
    "rw": "routing weights (RW)",
    "concat": "HS and RW, one after the other",
    "sum": "one vector with the cosine (cos HS + alpha cos RW) / (1 + alpha)",
}


def model_card(model: MoEEModel, recipe: Recipe, repo_id: str, reference: bool) -> str:
    """Write the card: metadata as the Hub reads it, examples with what the model says of them, and how to use it.

    Args:
        model: The model that is published.
        recipe: What it was made from.
        repo_id: Its repository.
        reference: Whether the repository has no weights of its own.
    """
    first, second = next((source, sentences[0]) for source, sentences in EXAMPLES.items())
    template = Template(Path(__file__).with_name("card.md").read_text(encoding="utf-8"))
    return template.substitute(
        metadata=_metadata(model, recipe).to_yaml(),
        name=repo_id.partition("/")[2],
        repo_id=repo_id,
        first=first,
        second=second,
        version=__version__,
        **_weights(model, reference),
        **_choices(model.config),
        **_sizes(model_info(model.config)),
    )


def _metadata(model: MoEEModel, recipe: Recipe) -> ModelCardData:
    widget = []
    for source, sentences in EXAMPLES.items():
        embeddings = model.encode([source, *sentences])
        scores = model.similarity(embeddings[:1], embeddings[1:])[0].tolist()
        output = [{"label": s, "score": round(score, 4)} for s, score in zip(sentences, scores, strict=True)]
        widget.append({"source_sentence": source, "sentences": list(sentences), "output": output})
    return ModelCardData(
        language=recipe.language,
        license=recipe.license,
        license_name=recipe.license_name,
        license_link=recipe.license_link,
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=[*model.model_tags, "custom_code"],
        base_model=model.origin.base[0] if model.origin.base else None,
        widget=widget,
    )


def _weights(model: MoEEModel, reference: bool) -> dict[str, str]:
    """Where the weights come from, and where they are."""
    base, commit = model.origin.base or (None, None)
    name = base or f"A mixture of experts ({model.config.backbone_config.model_type})"
    return {
        "backbone": f"[{name}](https://huggingface.co/{name})" if base else name,
        "origin": f"{name} at commit `{commit}`" if base else "weights that are not on the Hub",
        "kind": (
            f"The weights are loaded from {name} at commit `{commit}`; this repository holds what comes on top."
            if reference
            else "The weights are in this repository, as those of the backbone: its base model loads from here too."
        ),
    }


def combinations_of(config: MoEEConfig) -> list[str]:
    """Return the combinations that a model embeds in: only its own, if its embeddings are projected."""
    return list(COMBINATIONS) if config.dimensions is None else [config.combination]


def _choices(config: MoEEConfig) -> dict[str, str]:
    """What embeddings are made of, and which of them the repository makes if nothing is said."""
    names = combinations_of(config)
    widths = [f'| `"{name}"` | {_MADE_OF[name]} | {config.embedding_size_for(name)} |' for name in names]
    prompts = ["`" + prompt.replace("`", "'") + "`" for prompt in config.resolve_prompts()]
    return {
        "others": ", and any of the combinations below" if len(names) > 1 else "",
        "option": ', combination="rw"' if len(names) > 1 else "",
        "widths": "\n".join(widths),
        "combination": config.combination,
        "alpha": f" with alpha {config.alpha:g}" if config.combination == "sum" else "",
        "pooling": config.pooling,
        "cone": "" if config.standardize else "Embeddings of an untrained model lie in a narrow cone. ",
        "details": "".join(f" {detail}" for detail in _details(config)),
        "prompts": (
            f"the prompt {prompts[0]}"
            if len(prompts) == 1
            else f"each of the prompts {', '.join(prompts)}, and their embeddings are averaged,"
        ),
    }


def _details(config: MoEEConfig) -> Iterator[str]:
    """A sentence on every choice that is not the paper's."""
    if config.hidden_source in _HIDDEN:
        yield f"In place of a hidden state, HS is {_HIDDEN[config.hidden_source]}."
    if config.router_activation in _ROUTING:
        yield f"RW are {_ROUTING[config.router_activation]}."
    if len(config.router_indices) < config.router_shape[0]:
        yield f"RW come from {len(config.router_indices)} of {config.router_shape[0]} MoE layers."
    if config.standardize:
        routing = "centred" if config.router_standardization == "center" else "standardized"
        yield f"HS is standardized, and RW are {routing}, with the statistics of a corpus, which the repository holds."
    if config.dimensions is not None:
        yield f"Embeddings are projected on {config.dimensions} principal components of that corpus."


def _sizes(info: ModelInfo) -> dict[str, str]:
    visited = info.active_parameters
    return {
        "model_type": info.model_type,
        "num_layers": str(info.num_layers),
        "num_moe_layers": str(info.num_moe_layers),
        "num_experts": str(info.num_experts),
        "parameters": format_count(info.parameters),
        "active": "" if visited is None else f", of which a token visits {format_count(visited)}",
        "memory": ", ".join(
            f"{info.memory(dtype) / 2**20:,.0f} MiB in {dtype_name(dtype)}"
            for dtype in (torch.bfloat16, torch.float32)
        ),
    }
