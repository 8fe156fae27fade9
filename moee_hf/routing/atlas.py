"""An atlas: what each expert reads in a corpus, which experts go together, and a map of the texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..model.backbone_moee import experts_per_token
from ..model.functional_moee import check_count
from .atlas_groups import groups_of, import_sklearn, names_of, plane, principal, words_in
from .atlas_neighbours import between_groups, nearest_rows
from .atlas_reading import read_texts
from .atlas_sums import Sample, TokenSums, TopTexts, digest_of
from .atlas_words import TextWords, best_tokens

if TYPE_CHECKING:
    from ..model.modeling_moee import MoEEModel

# the fewest texts of which groups and a map say something
LEAST_TEXTS = 10
# of all experts together, so many texts are kept at most
EXPERT_TEXTS = 2**14
# texts of the map, and those of them on which experts are compared
SAMPLE_TEXTS, COMPARED_TEXTS = 20_000, 4096
# how many partners an expert gets, and how many texts and words a group
PARTNERS, GROUP_TEXTS, WORDS = 4, 5, 8
# and how many texts that are nearest to another group
BETWEEN_TEXTS = 10


@dataclass(frozen=True)
class Expert:
    """One expert.

    Args:
        layer: Its MoE layer, counted from 0.
        expert: Its number in the layer.
        share: The share of the tokens that visit it; the weights decide, as far as they do in this architecture. None:
            the model does not say how many experts a token visits.
        words: The words of the texts at which it lights up, the best first: for each, how much larger its centred
            log-ratio is at the last token of texts with this word than on average.
        tokens: The tokens at which it lights up, the best first: for each, how much larger its centred log-ratio is
            there than on average.
        texts: The texts with the largest centred log-ratios at the last token: the beginning of each, and how much
            larger it is than on average.
        partners: The experts whose log-ratios rise and fall with its own over the texts: layer, expert, correlation.
        group: The number of its group of experts.
    """

    layer: int
    expert: int
    share: float | None
    words: list[tuple[str, float]]
    tokens: list[tuple[str, float]]
    texts: list[tuple[str, float]]
    partners: list[tuple[int, int, float]]
    group: int

    @property
    def num_texts_with_words(self) -> int:
        """How many of its texts have one of its words: the more, the clearer is what it is about."""
        words = {word for word, _ in self.words}
        return sum(not words.isdisjoint(words_in(text)) for text, _ in self.texts)


@dataclass(frozen=True)
class ExpertGroup:
    """Experts that go together.

    Args:
        experts: Layer and number of each.
        words: The words of the texts at which they light up, on average.
        texts: Numbers of the points of the map with the largest log-ratios, on average.
    """

    experts: list[tuple[int, int]]
    words: list[str]
    texts: list[int]


@dataclass(frozen=True)
class TextGroup:
    """Texts with similar embeddings.

    Args:
        size: How many points of the map it has.
        words: Words that many of its texts have, and few others.
        central: Numbers of the points that are most similar to its mean, the most similar first.
        between: Numbers of the points whose ten nearest texts, by the cosine of embeddings, are mostly of one other
            group: each with this group, how many of the ten are in it, and the nearest of them; the clearest first.
    """

    size: int
    words: list[str]
    central: list[int]
    between: list[tuple[int, int, int, int]]


@dataclass(frozen=True)
class Atlas:
    """What a model's experts read in a corpus; `atlas` makes it, and `write_page` a page of it.

    Args:
        model: Where the model came from.
        num_texts: How many texts were read.
        num_tokens: How many tokens they have, without those of the prompt.
        num_left_out: How many of these are not among the words of experts, as the sums are full.
        num_experts: Of one layer.
        experts_per_token: How many of them a token visits. None: not known.
        experts: All experts, layer by layer.
        expert_groups: Groups of them, the largest first.
        texts: The beginnings of the texts on the map, a random sample of the different ones.
        places: Where each is on the map, of shape `(n, 2)`, from 0 to 1.
        projection: How the places were found: `"UMAP"` or `"PCA"`.
        text_group: The number of each text's group, of shape `(n,)`.
        text_groups: Groups of the texts, the largest first.
    """

    model: str
    num_texts: int
    num_tokens: int
    num_left_out: int
    num_experts: int
    experts_per_token: int | None
    experts: list[Expert]
    expert_groups: list[ExpertGroup]
    texts: list[str]
    places: np.ndarray
    projection: str
    text_group: np.ndarray
    text_groups: list[TextGroup]


def atlas(
    model: MoEEModel,
    texts: str | Iterable[str],
    prompt_name: str | Sequence[str] | None = None,
    prompt: str | Sequence[str] | None = None,
    top: int = 8,
    batch_size: int | None = None,
    show_progress_bar: bool | None = None,
) -> Atlas:
    """Read texts as they come, in flat memory, and say what each expert of the MoE layers in RW is about.

    Args:
        model: The model.
        texts: Ten different ones or more.
        prompt_name: As in `MoEEModel.encode`, here and below; one prompt only.
        prompt: In place of prompts by name.
        top: How many texts of each expert, at most: fewer where there are very many experts.
        batch_size: The most texts per forward pass.
        show_progress_bar: Whether to show one.

    Raises:
        TypeError: If a text is not a string.
        ValueError: If there are too few texts, or several prompts, a text cannot be embedded, or the tokenizer cannot
            say where its tokens stand.
        ImportError: If scikit-learn is not installed.
    """
    import_sklearn()
    check_count("top", top, "texts")
    templates, config, mix = model.config.resolve_prompts(prompt_name, prompt), model.config, model.config.mix()
    if len(templates) > 1:
        raise ValueError(f"prompt: expected one, in which every text is read once; got {len(templates)}. Name one.")
    shape = (len(config.router_indices), config.router_shape[1])
    num_experts = shape[0] * shape[1]
    tops = TopTexts(min(top, max(2, EXPERT_TEXTS // num_experts)), num_experts)
    chosen = experts_per_token(model.model)
    sums = TokenSums(len(model.get_input_embeddings().weight), *shape, chosen)
    sample = Sample(mix.dimensions or config.embedding_size_for(mix.combination), SAMPLE_TEXTS)
    compared = Sample(num_experts, COMPARED_TEXTS)
    num_texts, last_total = 0, torch.zeros(num_experts, dtype=torch.float64)
    for reading in read_texts(model, texts, templates[0], mix, batch_size, show_progress_bar):
        digests, last = list(map(digest_of, reading.texts)), reading.last.flatten(1)
        tops.update(reading.texts, digests, last)
        sums.update(reading.ids, reading.tokens, reading.times[reading.owners])
        sample.update(reading.texts, digests, reading.embeddings.numpy())
        compared.update(reading.texts, digests, last.numpy())
        last_total += reading.times.double() @ last.double()
        num_texts += int(reading.times.sum())
    (shown, embeddings), (_, ratios) = sample.result(), compared.result()
    del sample, compared  # which hold the vectors a second time
    if len(shown) < LEAST_TEXTS:
        raise ValueError(f"texts: expected {LEAST_TEXTS} different ones or more, to compare; got {len(shown)}.")
    ratios = ratios[: len(shown)]  # which are of the first of these texts
    experts, groups = _experts(model, tops, sums, last_total / num_texts, ratios, TextWords(shown[: len(ratios)]))
    components = principal(embeddings)
    text_group = groups_of(components)
    places, projection = plane(components)
    return Atlas(
        _name(model),
        *(num_texts, sums.num_tokens, sums.num_left_out, shape[1], chosen, experts, groups),
        *(shown, places, projection, text_group, _text_groups(shown, embeddings, text_group)),
    )


def _name(model: MoEEModel) -> str:
    """What a page calls a model: its id on the Hub, or the name of its folder alone."""
    source = model.origin.source
    return (
        Path(source).resolve().name if source and Path(source).is_dir() else source
    ) or model.config.backbone_config.model_type


def _experts(
    model: MoEEModel, tops: TopTexts, sums: TokenSums, mean: torch.Tensor, ratios: np.ndarray, text_words: TextWords
) -> tuple[list[Expert], list[ExpertGroup]]:
    """All experts and their groups; `mean` is that of log-ratios at the last token, `ratios` those of some texts."""
    layers, width = model.config.router_indices, model.config.router_shape[1]
    profiles = ratios.astype(np.float32).T  # a row for each expert, a number for each text
    profiles -= profiles.mean(axis=1, keepdims=True)
    words, tokens = text_words.best(profiles.T, WORDS), best_tokens(model.tokenizer, sums, WORDS)
    profiles /= np.maximum(np.linalg.norm(profiles, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    near, values = nearest_rows(profiles, min(PARTNERS, len(profiles) - 1))
    group_of = groups_of(principal(profiles))
    places = [(layers[number // width], number % width) for number in range(len(profiles))]
    experts = []
    for number, place in enumerate(places):
        share = float(sums.visits[number]) / max(sums.num_tokens, 1) if sums.visits.any() else None
        texts = [
            (tops.texts[text], value - float(mean[number]))
            for text, value in zip(tops.numbers[:, number].tolist(), tops.values[:, number].tolist(), strict=True)
            if text >= 0
        ]
        partners = [
            (*places[other], value)
            for other, value in zip(near[number].tolist(), values[number].tolist(), strict=True)
        ]
        group = int(group_of[number])
        experts.append(Expert(*place, share, words[number], tokens[number], texts, partners, group))
    members = [np.flatnonzero(group_of == group) for group in range(int(group_of.max()) + 1)]
    groups, means = [], np.stack([profiles[own].mean(axis=0) for own in members])
    for own, mean_profile, common in zip(members, means, text_words.best(means.T, WORDS), strict=True):
        best = np.argsort(-mean_profile, kind="stable")[:GROUP_TEXTS]
        groups.append(ExpertGroup([places[number] for number in own], [word for word, _ in common], best.tolist()))
    return experts, groups


def _text_groups(texts: Sequence[str], embeddings: np.ndarray, group_of: np.ndarray) -> list[TextGroup]:
    """The groups of texts, from embeddings of unit length."""
    numbers = range(int(group_of.max()) + 1)
    centres = np.stack([embeddings[group_of == group].mean(axis=0, dtype=np.float32) for group in numbers])
    centres /= np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    between, groups = between_groups(embeddings, group_of, BETWEEN_TEXTS), []
    for group, words in zip(numbers, names_of(texts, group_of), strict=True):
        own = np.flatnonzero(group_of == group)
        order = np.argsort(-(embeddings[own].astype(np.float32) @ centres[group]), kind="stable")
        groups.append(TextGroup(len(own), words, own[order[:GROUP_TEXTS]].tolist(), between[group]))
    return groups
