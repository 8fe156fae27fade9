"""`moee_hf.routing.atlas`: every number beside loops over the logits of the backbone alone."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from support.common import MANY, TEXTS, backbone_alone, set_random_statistics

from moee_hf.model.prompts_moee import PROMPTS
from moee_hf.routing import atlas_reading
from moee_hf.routing.atlas import atlas
from moee_hf.routing.atlas_groups import groups_of, names_of, words_in
from moee_hf.routing.atlas_neighbours import between_groups
from moee_hf.routing.atlas_sums import Sample, TokenSums, TopTexts, digest_of

# some of them twice or three times, in different windows
CORPUS = [*TEXTS, *MANY[:30], *TEXTS[:3], *MANY[10:12], TEXTS[0]]
DISTINCT = list(dict.fromkeys(CORPUS))
CHOSEN = 4


def log_ratios(model, text):
    """The tokens of a text, and the log-ratios [T, L, E] at them, the last one's last, of the layers in RW."""
    filled = (
        PROMPTS["prompteol"].format(text=text) if "{" not in text else PROMPTS["prompteol"].replace("{text}", text)
    )
    start = PROMPTS["prompteol"].index("{text}")
    encoded = model.tokenizer(filled, return_offsets_mapping=True)
    logits = backbone_alone()(torch.tensor([encoded["input_ids"]]), output_router_logits=True).router_logits
    weights = torch.stack(logits, dim=1).double().softmax(-1)[:, model.config.router_indices].numpy()
    ratios = np.log(weights) - np.log(weights).mean(-1, keepdims=True)
    inside = [a < start + len(text) and b > start for a, b in encoded["offset_mapping"]]
    ids = [token for token, own in zip(encoded["input_ids"], inside, strict=True) if own]
    return ids, ratios[inside], ratios[-1]


@pytest.fixture
def made(model, monkeypatch):
    monkeypatch.setattr(atlas_reading, "WINDOW_TEXTS", 16)
    set_random_statistics(model)
    model.config.choose(combination="sum", standardize=True, router_layers=[0, 2, 4])
    with torch.no_grad():
        judged = {text: log_ratios(model, text) for text in DISTINCT}
    return atlas(model, iter(CORPUS), top=3), judged, model


def test_experts_are_as_loops_have_them(made):
    found, judged, model = made
    tokens = [(token, row) for text in CORPUS for token, row in zip(*judged[text][:2], strict=True)]
    assert (found.num_texts, found.num_tokens, found.num_left_out) == (len(CORPUS), len(tokens), 0)
    assert [(expert.layer, expert.expert) for expert in found.experts] == [
        (layer, expert) for layer in (0, 2, 4) for expert in range(16)
    ]
    counts, rows = Counter(token for token, _ in tokens), np.array([row for _, row in tokens])  # [t, L, E]
    mean = {text: judged[text][2] for text in DISTINCT}
    overall = np.mean([mean[text] for text in CORPUS], axis=0)
    visits = np.zeros(rows.shape[1:])
    for row in rows:
        for layer, values in enumerate(row):
            visits[layer, np.argsort(-values)[:CHOSEN]] += 1
    profiles = np.array([mean[text].flatten() for text in DISTINCT]).T
    correlation = np.corrcoef(profiles) - 2 * np.eye(len(profiles))
    for number, expert in enumerate(found.experts):
        place = divmod(number, 16)
        assert expert.share == pytest.approx(visits[place] / len(tokens))
        best = sorted(DISTINCT, key=lambda text: -mean[text][place])[:3]
        assert [text for text, _ in expert.texts] == [" ".join(text.split()) for text in best]
        expected = [mean[text][place] - overall[place] for text in best]
        assert [value for _, value in expert.texts] == pytest.approx(expected, abs=1e-4)
        values = Counter()
        for token, row in tokens:
            values[token] += (row[place] - rows[:, *place].mean()) / (counts[token] + 5)
        tokens_of = {}
        for token, value in values.most_common():
            word = model.tokenizer.decode([token]).strip()
            if value > 0 and word and "\ufffd" not in word:
                tokens_of.setdefault(word.casefold(), value)
        assert [value for _, value in expert.tokens] == pytest.approx(list(tokens_of.values())[:8], abs=1e-4)
        assert all(tokens_of[word.casefold()] == pytest.approx(value, abs=1e-4) for word, value in expert.tokens)
        others = [16 * (0, 2, 4).index(layer) + other for layer, other, _ in expert.partners]
        assert [value for _, _, value in expert.partners] == pytest.approx(
            np.sort(correlation[number])[:-5:-1], abs=5e-3
        )
        assert correlation[number, others] == pytest.approx([value for _, _, value in expert.partners], abs=5e-3)


def test_words_of_experts_and_groups_are_those_of_their_texts(made):
    """The mean over the texts with a word, less that over all, shrunk where they are few; each text counts once."""
    found, judged, _ = made
    holders = {}
    for text in DISTINCT:
        for word in words_in(text):
            holders.setdefault(word, []).append(text)
    holders = {word: texts for word, texts in holders.items() if len(texts) > 1}

    def check(words, value_of, tolerance):
        mean = np.mean([value_of(text) for text in DISTINCT])
        expected = {word: sum(value_of(text) - mean for text in own) / (len(own) + 5) for word, own in holders.items()}
        best = sorted((value for value in expected.values() if value > tolerance), reverse=True)[:8]
        assert [value for _, value in words][: len(best)] == pytest.approx(best, abs=tolerance)
        assert all(expected[word] == pytest.approx(value, abs=tolerance) for word, value in words)

    for number, expert in enumerate(found.experts):
        place = divmod(number, 16)
        check(expert.words, lambda text, place=place: judged[text][2][place], 5e-3)
        own = {word for word, _ in expert.words}
        assert expert.num_texts_with_words == sum(bool(own & words_in(text)) for text, _ in expert.texts)
    for group in found.expert_groups:
        profile = np.mean([judged_profile(judged, *place) for place in group.experts], axis=0)
        value = dict(zip(DISTINCT, profile.tolist(), strict=True))
        means = {word: sum(map(value.get, own)) / (len(own) + 5) for word, own in holders.items()}
        best = sorted((mean for mean in means.values() if mean > 1e-3), reverse=True)[:8]
        assert [means[word] for word in group.words][: len(best)] == pytest.approx(best, abs=1e-3)


def test_groups(made):
    found, judged, model = made
    places = {(expert.layer, expert.expert): expert.group for expert in found.experts}
    for number, group in enumerate(found.expert_groups):
        assert group.experts == [place for place, own in places.items() if own == number]
        members = [judged_profile(judged, layer, expert) for layer, expert in group.experts]
        mean = np.mean(members, axis=0)
        shown = [found.texts[point] for point in group.texts]
        values = [mean[[" ".join(text.split()) for text in DISTINCT].index(text)] for text in shown]
        assert values == pytest.approx(np.sort(mean)[: -len(shown) - 1 : -1], abs=5e-3)
    assert sorted(found.texts) == sorted(" ".join(text.split()) for text in DISTINCT)
    assert found.places.min() == 0
    assert found.places.max() == 1
    texts = sorted(DISTINCT, key=lambda text: found.texts.index(" ".join(text.split())))
    vectors = np.asarray(model.encode(texts, normalize_embeddings=True), np.float64)
    centres = [vectors[found.text_group == number].mean(axis=0) for number in range(len(found.text_groups))]
    centres = np.array([centre / np.linalg.norm(centre) for centre in centres])
    assert [group.size for group in found.text_groups] == sorted(np.bincount(found.text_group), reverse=True)
    for number, group in enumerate(found.text_groups):
        own = vectors[found.text_group == number] @ centres.T
        assert vectors[group.central] @ centres[number] == pytest.approx(np.sort(own[:, number])[::-1][:5], abs=2e-3)


def test_texts_whose_neighbours_are_of_another_group():
    """Of two directions: one text of each lies among those of the other."""
    angles = np.radians([*range(12), *range(80, 92)])
    vectors, groups = np.stack([np.cos(angles), np.sin(angles)], axis=1), np.repeat([0, 1], 12)
    groups[[5, 20]] = 1, 0
    (first,), (second,) = between_groups(vectors, groups, 10)
    assert (first[:3], second[:3]) == ((20, 1, 10), (5, 0, 10))
    assert first[3] in (19, 21)  # one degree away
    assert second[3] in (4, 6)


def test_groups_of_texts_have_the_words_that_tell_them_apart():
    texts = ["The cat sleeps, the cat's bed", "the cat eats", "The CAT runs"] + ["the dog runs", "the dog eats"] * 2
    texts += ["猫が好き"] * 3
    groups = np.array([0] * 3 + [1] * 4 + [2] * 3)
    names = names_of(texts, groups)
    assert [names[0][0], names[1][0], set(names[2])] == ["cat", "dog", {"猫が", "が好", "好き"}]


def judged_profile(judged, layer, expert):
    """The standardized log-ratios of an expert over the different texts, of unit length."""
    values = np.array([judged[text][2][(0, 2, 4).index(layer), expert] for text in DISTINCT])
    values -= values.mean()
    return values / np.linalg.norm(values)


def test_order_does_not_matter(model):
    """The sample is the same whatever the order, and how often a text comes."""
    first, second = (atlas(model, texts) for texts in (DISTINCT, DISTINCT[::-1] + DISTINCT[3:9]))
    assert first.texts == second.texts
    np.testing.assert_allclose(np.abs(first.places - 0.5), np.abs(second.places - 0.5), atol=0.02)


def test_sums_of_millions_of_tokens_lose_none():
    sums = TokenSums(3, 1, 2, 1)
    ratios, often = torch.tensor([[[0.5, -0.5]]] * 2), torch.tensor([2**24, 2**24])
    sums.update(torch.tensor([1, 1]), ratios, often)
    for _ in range(8):
        sums.update(torch.tensor([1]), ratios[:1], torch.tensor([1]))
    assert sums.counts[0] == sums.num_tokens == 2**25 + 8
    assert sums.num_left_out == 0


@pytest.mark.parametrize("vectors", [np.eye(4), np.ones((20, 3))], ids=["few", "equal"])
def test_few_or_equal_vectors_are_one_group(vectors):
    assert groups_of(vectors).tolist() == [0] * len(vectors)


@pytest.mark.parametrize("whole", [True, False])
def test_what_is_kept_is_bounded(whole):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(200, 6, generator=generator)
    texts = [f"text {number}" for number in range(200)]
    digests = list(map(digest_of, texts))
    tops, sample = TopTexts(4, 6), Sample(6, most_texts=50, most_bytes=2**20 if whole else 2 * 6 * 30)
    sums = TokenSums(100, 2, 3, 1, 2**20 if whole else 4 * 6 * 20)
    for start in (0, 70, 40, 140):  # with texts that come again
        part = slice(start, start + 70)
        tops.update(texts[part], digests[part], values[part])
        sample.update(texts[part], digests[part], values[part].numpy())
        if start < 140:
            sums.update(torch.arange(70), values[part].reshape(-1, 2, 3), torch.ones(70, dtype=torch.long))
    for expert in range(6):
        best = values[:, expert].topk(4)
        assert [tops.texts[number] for number in tops.numbers[:, expert].tolist()] == [texts[i] for i in best.indices]
    assert len(tops.texts) <= 24
    kept, vectors = sample.result()
    assert kept == [text for _, text in sorted(zip(digests, texts, strict=True))][: 50 if whole else 30]
    np.testing.assert_array_equal(vectors, values.numpy().astype(np.float16)[[int(text[5:]) for text in kept]])
    assert len(sums.ids) == (70 if whole else 20)
    assert sums.num_left_out == (0 if whole else 3 * 50)


@pytest.mark.parametrize(
    ("texts", "arguments", "problem"),
    [
        (DISTINCT[:9], {}, "expected 10 different ones or more"),
        (DISTINCT[:5] * 4, {}, "got 5"),
        (DISTINCT, {"prompt_name": ["prompteol", "none"]}, "prompt: expected one"),
        (DISTINCT, {"top": 0}, "top: "),
        ([*DISTINCT, "\ud800"], {}, rf"texts\[{len(DISTINCT)}\]"),
    ],
)
def test_refused(model, texts, arguments, problem):
    with pytest.raises(ValueError, match=problem):
        atlas(model, texts, **arguments)


def test_few_texts_that_hardly_differ(model):
    found = atlas(model, [" " * number + "x" for number in range(1, 12)])
    assert np.isfinite(found.places).all()
    assert all(math.isfinite(value) for expert in found.experts for _, value in expert.texts)
