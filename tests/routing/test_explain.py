"""The parts of a similarity, against the judge: what the model's forward pass gives, taken apart in loops."""

import itertools
import json

import numpy as np
import pytest
import reference
import torch
from support.common import TEXTS, set_random_statistics

from moee_hf.routing.explain import explain

PAIR, FOUR = TEXTS[:2], TEXTS[:4]
CORPUS = [f"{text} {number}" for number in range(4) for text in TEXTS]
CHOICES = [
    {},
    {"pooling": "mean", "router_activation": "clr"},
    {"pooling": "weightedmean", "hidden_source": "attention", "hidden_layer": -1},
    {"hidden_source": "values", "router_activation": "logits"},
    {"router_layers": [4, 0, 2], "router_layer_weights": [0.5, 2, 1], "router_standardization": "zscore"},
    {"hidden_layer": 2, "router_layer_weights": [0.5, 0, 2, 1, 0]},
]


def texts_of_the_judge(model, texts, names, standardize=False):
    """The (HS, RW) of each text in each prompt, standardized and weighted as the model's configuration says."""
    config, statistics, layers = model.config, model.statistics, model.config.router_indices
    prompts = []
    for number, name in enumerate(names):
        with torch.no_grad():
            output = model(**model.tokenize(texts, name))
        h, r = output.pooled_hidden_state.double(), output.router_weights.double()
        if standardize:
            moments = (statistics.hidden_mean, statistics.hidden_std, statistics.routing_mean, statistics.routing_std)
            # of several prompts, each has statistics of its own
            moments = [m[number] if statistics.hidden_mean.ndim == 2 else m for m in moments]
            h = (h - moments[0]) / moments[1]
            r = r - moments[2][layers]
            r = r / moments[3][layers] if config.router_standardization == "zscore" else r
        weights = config.router_weights or [1.0] * len(layers)
        pairs = zip(h.numpy(), r.numpy(), strict=True)
        prompts.append([(hs, reference.weighted_layers(rw, weights)) for hs, rw in pairs])
    return list(zip(*prompts, strict=True))


def assert_parts(explanation, judged, combination, alpha, components=None):
    similarity, of_layers = explanation.similarity, explanation.of_layers
    for i, j in [(0, 0), (0, 1), (1, 3), (3, 2)]:
        hidden, experts = reference.similarity_parts(judged[i], judged[j], combination, alpha, components)
        assert explanation.of_hidden[i, j] == pytest.approx(hidden, abs=1e-6)
        assert of_layers[i, j] == pytest.approx([sum(layer) for layer in experts], abs=1e-6)
        assert explanation.of_experts(i, j).ravel() == pytest.approx(list(itertools.chain(*experts)), abs=1e-6)
        assert similarity[i, j] == pytest.approx(hidden + sum(map(sum, experts)), abs=1e-6)


@pytest.mark.parametrize("choices", CHOICES, ids=str)
def test_parts_add_up_on_every_choice(model, choices):
    set_random_statistics(model)
    for field, value in choices.items():
        setattr(model.config, field, value)
    for standardize in (False, True):
        judged = texts_of_the_judge(model, FOUR, ["prompteol"], standardize)
        for combination, alpha in [("hs", 1), ("rw", 1), ("concat", 1), ("sum", 0), ("sum", 0.3), ("sum", 4.5)]:
            mix = {"combination": combination, "alpha": alpha, "standardize": standardize}
            explanation = explain(model, *FOUR, prompt_name="prompteol", **mix)
            assert_parts(explanation, judged, combination, alpha)
            embeddings = model.encode(FOUR, "prompteol", **mix).astype(float)
            expected = [[reference.cosine(a, b) for b in embeddings] for a in embeddings]
            assert explanation.similarity == pytest.approx(np.array(expected), abs=1e-6)
            assert explanation.layers == ([] if combination == "hs" else model.config.router_indices)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("combination", ["hs", "rw", "concat", "sum"])
def test_parts_add_up_in_several_prompts(model, combination, standardize):
    names = ["prompteol", "none"]
    model.calibrate(CORPUS, names, keep_routing=True)
    judged = texts_of_the_judge(model, FOUR, names, standardize)
    mix = {"combination": combination, "alpha": 0.7, "standardize": standardize}
    assert_parts(explain(model, *FOUR, prompt_name=names, **mix), judged, combination, 0.7)


@pytest.mark.parametrize("dimensions", [6, 2])
def test_parts_add_up_in_fewer_dimensions(model, dimensions):
    model.calibrate(CORPUS, dimensions=6)
    model.config.dimensions = dimensions
    judged = texts_of_the_judge(model, FOUR, [model.config.default_prompt_name], model.config.standardize)
    components = model.statistics.components.double().numpy()[:dimensions]
    explanation = explain(model, *FOUR)
    assert_parts(explanation, judged, model.config.combination, model.config.alpha, components)
    assert explanation.similarity == pytest.approx(model.similarity(*2 * [model.encode(FOUR)]).numpy(), abs=1e-5)


@pytest.mark.parametrize("combination", ["hs", "rw", "concat", "sum"])
def test_a_similarity_is_two_cosines_times_their_weights(model, combination):
    explanation = explain(model, *TEXTS, combination=combination, alpha=0.25)
    hs, rw = (model.encode(TEXTS, combination=part).astype(float) for part in ("hs", "rw"))
    lengths = {"hs": (1, 0), "rw": (0, 1), "sum": (1 / 1.25, 0.25 / 1.25)}
    for i, j in itertools.combinations(range(len(TEXTS)), 2):
        cosines = [reference.cosine(part[i], part[j]) for part in (hs, rw)]
        if combination == "concat":
            both = [reference.length([*hs[text], *rw[text]]) for text in (i, j)]
            weights = [reference.length(part[i]) / both[0] * reference.length(part[j]) / both[1] for part in (hs, rw)]
        else:
            weights = lengths[combination]
        assert [part[i, j] for part in explanation.weights] == pytest.approx(weights, abs=1e-6)
        expected = [cosine if weight else 0 for cosine, weight in zip(cosines, weights, strict=True)]
        assert [part[i, j] for part in explanation.cosines] == pytest.approx(expected, abs=1e-6)


def test_the_strongest_experts(model):
    model.config.router_activation, model.config.router_layers = "clr", [3, 1]
    ((first,), (second,)) = texts_of_the_judge(model, PAIR, ["prompteol"])
    explanation = explain(model, *PAIR, prompt_name="prompteol", combination="concat")
    _, experts = reference.similarity_parts([first], [second], "concat", 1)
    amounts = sorted((amount, (3, 1)[row], number) for row, e in enumerate(experts) for number, amount in enumerate(e))
    for most in (3, 1000):
        alike, differ = explanation.strongest(0, 1, most)
        assert [part.amount for part in alike] == sorted((part.amount for part in alike), reverse=True)
        expected = [(layer, number) for amount, layer, number in amounts[::-1][:most] if amount > 0]
        assert [(part.layer, part.expert) for part in alike] == expected
        expected = [(layer, number) for amount, layer, number in amounts[:most] if amount < 0]
        assert [(part.layer, part.expert) for part in differ] == expected
    assert len(alike) + len(differ) == 2 * 16
    assert explain(model, *PAIR, combination="hs").strongest(0, 1) == ([], [])


def test_json_says_it_all(model):
    explanation = explain(model, *TEXTS[:3], combination="sum", tokens=True)
    read = json.loads(json.dumps(explanation.to_dict(), allow_nan=False))
    assert (read["texts"], read["layers"], read["num_experts"]) == (TEXTS[:3], [0, 1, 2, 3, 4], 16)
    experts = np.array(read["experts"])
    assert experts.shape == (3, 5, 16)
    similarity = np.array(read["similarity"])
    assert similarity == pytest.approx(np.array(read["hidden"]) + np.array(read["routing"]), abs=1e-12)
    weighted = [np.array(read[f"{part}_weight"]) * np.array(read[f"{part}_cosine"]) for part in ("hidden", "routing")]
    assert similarity == pytest.approx(sum(weighted), abs=1e-12)
    assert [(pair["first"], pair["second"]) for pair in read["pairs"]] == [(0, 1), (0, 2), (1, 2)]
    for pair in read["pairs"]:
        products = experts[pair["first"]] * experts[pair["second"]]
        assert pair["layers"] == pytest.approx(products.sum(axis=1), abs=1e-12)
        for part in pair["for"] + pair["against"]:
            assert part["amount"] == pytest.approx(products[part["layer"], part["expert"]], abs=1e-12)
        assert len(pair["for"]) == 5
    for text, tokens in zip(TEXTS, read["tokens"], strict=False):
        assert "".join(text[token["begin"] : token["end"]] for token in tokens) == text
        assert {len(layer) for token in tokens for layer in token["experts"]} == {4}
    nearest = max(read["pairs"], key=lambda pair: similarity[pair["first"], pair["second"]])
    assert explanation.nearest() == (nearest["first"], nearest["second"])


def test_what_cannot_be_explained(model, monkeypatch):
    for texts in ([], ["one"]):
        with pytest.raises(ValueError, match=f"texts: expected two or more, to compare; got {len(texts)}"):
            explain(model, *texts)
    with pytest.raises(ValueError, match=r"texts\[1\]: expected some words; got '\\n'"):
        explain(model, "one", "\n")
    with pytest.raises(TypeError, match=r"texts\[0\]"):
        explain(model, 1, "two")
    with pytest.raises(ValueError, match=r"tokens: expected one prompt, .* got 2"):
        explain(model, *PAIR, prompt_name=["prompteol", "none"], tokens=True)
    with pytest.raises(ValueError, match="tokens: expected an embedding with RW; got the combination 'hs'"):
        explain(model, *PAIR, combination="hs", tokens=True)
    monkeypatch.setattr("moee_hf.routing.tokens.experts_per_token", lambda backbone: None)
    with pytest.raises(ValueError, match=r"tokens: expected a backbone that says how many experts .* got olmoe"):
        explain(model, *PAIR, tokens=True)
