"""Every choice of the configuration against the judge, on what the backbone gives when it runs alone on one text."""

import functools
import itertools

import numpy as np
import pytest
import reference
import torch
from support.common import TEXTS, backbone_alone

COMBINATIONS = ["hs", "rw", "concat", "sum"]
POOLINGS = ["lasttoken", "mean", "weightedmean"]


@pytest.fixture(scope="module")
def traces(loaded):
    """The hidden states and router logits of each text in the PromptEOL template, from the backbone alone."""
    backbone = backbone_alone()
    result = []
    for text in TEXTS:
        ids = loaded.tokenizer(f'This sentence : "{text}" means in one word:"', return_tensors="pt")["input_ids"]
        with torch.no_grad():
            output = backbone(input_ids=ids, output_hidden_states=True, output_router_logits=True, use_cache=False)
        hidden = [states[0].double().numpy() for states in output.hidden_states]
        result.append((hidden, [logits.double().numpy() for logits in output.router_logits]))
    return result


@pytest.fixture(scope="module")
def judged(traces):
    """HS and RW of each text as the judge has them, by pooling and activation."""

    @functools.cache
    def features(pooling, activation):
        layers = range(len(traces[0][1]))
        return [
            (
                reference.hidden_state(hidden, -1, pooling),
                reference.routing_weights(logits, layers, activation, pooling),
            )
            for hidden, logits in traces
        ]

    return features


@pytest.mark.parametrize("activation", ["softmax", "logits", "clr"])
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("combination", COMBINATIONS)
def test_every_combination_and_pooling(model, judged, combination, pooling, activation):
    model.config.pooling, model.config.router_activation = pooling, activation
    embeddings = model.encode(TEXTS, combination=combination, alpha=0.7)
    for embedding, (h, r) in zip(embeddings, judged(pooling, activation), strict=True):
        assert embedding == pytest.approx(reference.embedding(h, r, combination, 0.7), rel=1e-4, abs=1e-4)
    assert embeddings.dtype == np.float32


@pytest.mark.parametrize("layer", range(-6, 6))
def test_every_hidden_layer(model, traces, layer):
    model.config.hidden_layer = layer
    for embedding, (hidden, _) in zip(model.encode(TEXTS, combination="hs"), traces, strict=True):
        assert embedding == pytest.approx(reference.hidden_state(hidden, layer, "lasttoken"), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("layers", [[0], [-1], [2, 0, 4], [1, 3]], ids=str)
def test_every_choice_of_routers(model, traces, layers):
    model.config.router_layers = layers
    embeddings = model.encode(TEXTS, combination="rw")
    assert embeddings.shape == (len(TEXTS), model.config.embedding_size_for("rw"))
    for embedding, (_, logits) in zip(embeddings, traces, strict=True):
        expected = reference.routing_weights(logits, layers, "softmax", "lasttoken")
        assert embedding == pytest.approx(expected.ravel(), abs=1e-6)


@pytest.mark.parametrize("activation", ["softmax", "clr"])
@pytest.mark.parametrize(("layers", "weights"), [(None, [0.5, 0, 2, 1, 0]), ([4, 0, -2], [0, 3, 1e-3])], ids=str)
def test_layers_count_by_their_weights(model, judged, layers, weights, activation):
    """In the cosine of two RW, and in the sum; what has no weight takes no room."""
    model.config.router_activation, model.config.router_layers = activation, layers
    model.config.router_layer_weights = weights
    rw, both = model.encode(TEXTS, combination="rw"), model.encode(TEXTS, combination="sum", alpha=0.7)
    kept = [(layer, weight) for layer, weight in zip(layers or range(5), weights, strict=True) if weight]
    assert rw.shape == (len(TEXTS), model.config.embedding_size_for("rw")) == (len(TEXTS), 16 * len(kept))
    routing = [r for _, r in judged("lasttoken", activation)]
    for row, (h, r) in enumerate(judged("lasttoken", activation)):
        expected = reference.weighted_layers(r[[layer for layer, _ in kept]], [weight for _, weight in kept])
        assert rw[row] == pytest.approx(expected.ravel(), abs=1e-5)
        assert both[row] == pytest.approx(reference.embedding(h, expected, "sum", 0.7), abs=1e-6)
        dots = [weight * (r[layer] @ routing[0][layer]) for layer, weight in kept]
        assert rw[row].astype(float) @ rw[0] == pytest.approx(sum(dots), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("alpha", [0, 0.3, 1, 4.5])
def test_cosine_of_sum_is_the_papers_weighted_sum_of_similarities(model, alpha):
    hs, rw, both = (model.encode(TEXTS, combination=c, alpha=alpha).astype(float) for c in ("hs", "rw", "sum"))
    for i, j in itertools.product(range(len(TEXTS)), repeat=2):
        expected = (reference.cosine(hs[i], hs[j]) + alpha * reference.cosine(rw[i], rw[j])) / (1 + alpha)
        assert reference.cosine(both[i], both[j]) == pytest.approx(expected, abs=1e-6)


def test_similarity_is_cosine(model):
    a, b = model.encode(TEXTS[:4]), model.encode(TEXTS[4:])
    expected = [[reference.cosine(x, y) for y in b] for x in a]
    assert model.similarity(a, b).numpy() == pytest.approx(np.array(expected), abs=1e-6)
    assert model.similarity_pairwise(a[:3], b).tolist() == pytest.approx([expected[i][i] for i in range(3)], abs=1e-6)
    assert model.similarity(a[0], torch.as_tensor(b[0])).shape == (1, 1)
    assert model.similarity(list(torch.as_tensor(a)), b).shape == (4, 3)


@pytest.mark.parametrize("router_standardization", ["center", "zscore"])
def test_standardized_embeddings_use_the_stored_statistics(model, router_standardization):
    h = torch.as_tensor(model.encode(TEXTS, combination="hs")).double()
    r = torch.as_tensor(model.encode(TEXTS, combination="rw")).double().view(len(TEXTS), *model.config.router_shape)
    moments = {"hidden_mean": h.mean(0), "hidden_std": h.std(0), "routing_mean": r.mean(0), "routing_std": r.std(0)}
    model.set_statistics(**moments)
    assert model.encode(TEXTS, combination="hs") == pytest.approx(h.numpy(), abs=1e-6), "off until it is asked for"
    model.config.standardize, model.config.router_standardization = True, router_standardization
    expected = ((h - h.mean(0)) / h.std(0), (r - r.mean(0)) / (r.std(0) if router_standardization == "zscore" else 1))
    assert model.encode(TEXTS, combination="hs") == pytest.approx(expected[0].numpy(), abs=1e-3)
    concat = torch.cat([expected[0], expected[1].flatten(1)], dim=1)
    assert model.encode(TEXTS, combination="concat") == pytest.approx(concat.numpy(), abs=1e-3)
