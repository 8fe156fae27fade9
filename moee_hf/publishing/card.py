"""The model card of a MoEE repository."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from huggingface_hub import ModelCardData

from .. import __version__
from ..info import dtype_name, format_count, model_info
from ..model.modeling_moee import MoEEModel
from .recipes import Recipe

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

_CARD = """\
---
{metadata}
---

# {name}

{backbone} as a text embedding model, without any training, after *Your Mixture-of-Experts LLM Is Secretly an
Embedding Model For Free* ([arXiv 2410.10814](https://arxiv.org/abs/2410.10814)). An embedding joins the hidden state
of a text (HS) and the routing weights of its mixture-of-experts layers (RW), both from one forward pass.

{kind}

## Use

With [sentence-transformers](https://sbert.net) 6 or newer:

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{repo_id}", trust_remote_code=True)
embeddings = model.encode(["{first}", "{second}"])
print(model.similarity(embeddings, embeddings))
```

With [transformers](https://huggingface.co/docs/transformers) 5.19 or newer, and any of the combinations below:

```python
from transformers import AutoModel

model = AutoModel.from_pretrained("{repo_id}", trust_remote_code=True)
embeddings = model.encode(["{first}", "{second}"], combination="rw")
```

As a pipeline:

```python
from transformers import pipeline

pipe = pipeline("moee-embedding", model="{repo_id}", trust_remote_code=True)
embedding = pipe("{first}")
```

Texts go into the prompt `{prompt}` unless another is asked for, by `prompt_name` or `prompt`.
The pipeline `feature-extraction` works as well, and applies no prompt. `handler.py` serves the repository as an
Inference Endpoint.

## What an embedding is made of

| `combination` | embedding | width |
|---|---|---|
{widths}

This repository's own is `{combination}`{alpha}, with `{pooling}` pooling.

| | |
|---|---|
| backbone | {model_type}, {num_layers} layers, of which {num_moe_layers} with {num_experts} experts each |
| parameters | {parameters}{active} |
| memory for the weights | {memory} |

## How it was made

By moee_hf {version}, from {origin}. No weight was trained or changed.
`moee_build.json` lists versions and the digests of the files; `verification.safetensors` holds the embeddings of a few
texts, to compare with those of another machine.

## Limits

- Embeddings of an untrained model lie in a narrow cone: compare cosines with each other, not with a threshold.
- It was not evaluated on a benchmark for this card, and never trained to bring a question and its answer together.
- It has the biases of its backbone, and knows the languages that the backbone knows.
- All experts are loaded, though a token visits few.

## Citation

```bibtex
@misc{{li2024mixtureofexpertsllmsecretlyembedding,
  title = {{Your Mixture-of-Experts LLM Is Secretly an Embedding Model For Free}},
  author = {{Ziyue Li and Tianyi Zhou}},
  year = {{2024}},
  eprint = {{2410.10814}},
  archivePrefix = {{arXiv}},
  url = {{https://arxiv.org/abs/2410.10814}},
}}
```
"""


def model_card(
    model: MoEEModel, recipe: Recipe, repo_id: str, base: str | None, commit: str | None, reference: bool
) -> str:
    """Write the card: metadata as the Hub reads it, examples with what the model says of them, and how to use it.

    Args:
        model: The model that is published.
        recipe: What it was made from.
        repo_id: Its repository.
        base: Repository of the backbone on the Hub; None if it comes from elsewhere.
        commit: Its commit.
        reference: Whether the repository has no weights of its own.
    """
    config, info = model.config, model_info(model.config)
    backbone = base or "A backbone of its author's own"
    widths = {
        "hs": "hidden state of the text (HS)",
        "rw": "routing weights (RW)",
        "concat": "HS and RW, one after the other",
        "sum": "one vector with the cosine (cos HS + alpha cos RW) / (1 + alpha)",
    }
    active = (
        "" if info.active_parameters is None else f", of which a token visits {format_count(info.active_parameters)}"
    )
    first, second = next((source, sentences[0]) for source, sentences in EXAMPLES.items())
    return _CARD.format(
        metadata=_metadata(model, recipe, base).to_yaml(),
        name=repo_id.partition("/")[2],
        repo_id=repo_id,
        backbone=f"[{backbone}](https://huggingface.co/{backbone})" if base else backbone,
        kind=(
            f"The weights are loaded from {backbone} at commit `{commit}`; this repository holds what comes on top."
            if reference
            else "The weights are in this repository, as those of the backbone: its base model loads from here too."
        ),
        first=first,
        second=second,
        prompt=config.prompt_template(config.default_prompt_name).replace("`", "'"),
        widths="\n".join(
            f'| `"{name}"` | {what} | {config.embedding_size_for(name)} |' for name, what in widths.items()
        ),
        combination=config.combination,
        alpha=f" with alpha {config.alpha:g}" if config.combination == "sum" else "",
        pooling=config.pooling,
        model_type=info.model_type,
        num_layers=info.num_layers,
        num_moe_layers=info.num_moe_layers,
        num_experts=info.num_experts,
        parameters=format_count(info.parameters),
        active=active,
        memory=", ".join(
            f"{info.memory(dtype) / 2**20:,.0f} MiB in {dtype_name(dtype)}"
            for dtype in (torch.bfloat16, torch.float32)
        ),
        version=__version__,
        origin=f"{backbone} at commit `{commit}`" if base else "weights that are not on the Hub",
    )


def _metadata(model: MoEEModel, recipe: Recipe, base: str | None) -> ModelCardData:
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
        base_model=base,
        widget=widget,
    )
