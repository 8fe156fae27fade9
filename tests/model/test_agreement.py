"""Which layers count how much: the judge on the same pairs, and a corpus of which a sample is kept."""

import itertools

import numpy as np
import pytest
import reference
import torch
from support.common import TEXTS

from moee_hf.model import agreement_moee, statistics_moee
from moee_hf.model.agreement_moee import (
    ALPHAS,
    agreement_by_alpha,
    average_ranks,
    cautious_alpha,
    layer_agreement,
    random_pairs,
)
from moee_hf.model.agreement_moee import weights_by_agreement as weights_of
from moee_hf.model.statistics_moee import Sample

CORPUS = [f"{text} {number}" for number, text in itertools.product(range(6), TEXTS)]
# rank correlation with HS that the sum keeps
LEAST = 0.995


@pytest.fixture
def few_pairs(monkeypatch):
    monkeypatch.setattr(agreement_moee, "NUM_PAIRS", 400)


def test_random_pairs_are_of_two_texts_any_of_them_and_the_same_ones():
    first, second = random_pairs(5)
    counts = torch.zeros(5, 5)
    counts.index_put_((first, second), torch.ones(len(first)), accumulate=True)
    assert counts.diagonal().sum() == 0
    assert (counts + torch.eye(5) * 1000).min() > 900  # of 1,000 in each of 20 places
    assert counts.max() < 1100
    assert all(torch.equal(a, b) for a, b in zip((first, second), random_pairs(5), strict=True))
    assert {*zip(*(side.tolist() for side in random_pairs(2)), strict=True)} == {(0, 1), (1, 0)}


def test_ranks_of_equal_values():
    values = [0.5, -1.0, 0.5, 3.0, -1.0, 0.5, 2.0]
    assert (average_ranks(torch.tensor(values)) + 1).tolist() == reference.ranks(values)


def test_layers_agree_as_the_judge_has_it(few_pairs):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(30, 8, generator=generator, dtype=torch.float64)
    noise = torch.randn(30, 4, 8, generator=generator, dtype=torch.float64)
    routing = torch.stack([hidden, -hidden, hidden, hidden * 0 + 2.0], dim=1) + noise * torch.tensor(
        [0.0, 0.5, 3.0, 0.0]
    ).view(-1, 1)
    pairs = list(zip(*(side.tolist() for side in random_pairs(30)), strict=True))
    expected = reference.layer_agreement(hidden.numpy(), routing.numpy(), pairs)
    standard = torch.as_tensor(reference.standard(hidden.numpy()))
    agreement = layer_agreement(standard, routing - routing.mean(dim=0))
    assert agreement.tolist() == pytest.approx(expected, abs=1e-6)
    assert agreement[3] == 0, "a layer that never changes"
    assert agreement[1] > agreement[2], "what points the other way for all texts has the same cosines"


@pytest.mark.parametrize(
    "agreement",
    [[0.4], [0.1, 0.3, -0.2, 0.2, 0.0], [-0.1, -0.3], [0.0] * 6, [0.1, 0.5, 0.4, 0.45, -1.0, 0.3, 0.2, 0.1, 0.0]],
    ids=str,
)
def test_weights_are_those_of_the_judge(agreement):
    weights = weights_of(torch.tensor(agreement, dtype=torch.float64))
    assert weights == pytest.approx(reference.weights_by_agreement(agreement), abs=1e-4)
    assert np.mean([weight for weight in weights if weight]) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("share", [1.0, 0.9, 0.3, 0.0, -1.0])
def test_alpha_is_the_largest_that_keeps_the_order_of_hs(share):
    generator = torch.Generator().manual_seed(1)
    hidden, other = torch.randn(2, 300, generator=generator, dtype=torch.float64) / 5
    routing = share * hidden + (1 - abs(share)) * other
    assert cautious_alpha(agreement_by_alpha(hidden, routing)) == reference.cautious_alpha(
        hidden.tolist(), routing.tolist(), ALPHAS, LEAST
    )


def test_calibrating_does_what_the_judge_does(model, few_pairs):
    read = model.with_config(router_activation="clr")
    with torch.no_grad():
        output = read(**read.tokenize(CORPUS))
    hidden, routing = output.pooled_hidden_state.double().numpy(), output.router_weights.double().numpy()
    pairs = list(zip(*(side.tolist() for side in random_pairs(len(CORPUS))), strict=True))
    agreement = reference.layer_agreement(hidden, routing, pairs)
    weights = reference.weights_by_agreement(agreement)
    model.calibrate(CORPUS)
    config = model.config
    assert (config.router_activation, config.router_standardization) == ("clr", "center")
    assert config.router_agreement == pytest.approx(agreement, abs=1e-4)  # four digits of it are kept
    assert config.router_layer_weights == pytest.approx(weights, abs=1e-3)
    assert sum(weight > 0 for weight in config.router_layer_weights) == 2 == len(config.router_indices)

    h = reference.standard(hidden)
    centred = np.stack([reference.standard(routing[:, layer], divide=False) for layer in range(5)], axis=1)
    r = np.array([reference.weighted_layers(row, weights).ravel() for row in centred])
    cosines = [[reference.cosine(part[i], part[j]) for i, j in pairs] for part in (h, r)]
    assert config.alpha == reference.cautious_alpha(*cosines, ALPHAS, LEAST)
    kept = [layer for layer in range(5) if weights[layer]]
    expected = [
        reference.embedding(h[row], reference.weighted_layers(centred[row], weights)[kept], "sum", config.alpha)
        for row in range(len(CORPUS))
    ]
    assert np.abs(model.encode(CORPUS) - expected).max() < 1e-4  # deviations are near 0.1, and HS near 10


def test_layers_are_chosen_of_those_that_make_up_rw(model):
    model.calibrate(CORPUS)
    agreement = model.config.router_agreement
    chosen = sorted(range(5), key=lambda layer: agreement[layer])[:3]  # the worst ones
    model.config.router_layer_weights, model.config.router_layers = None, chosen
    model.calibrate(CORPUS)
    assert model.config.router_agreement == agreement
    assert [weight > 0 for weight in model.config.router_layer_weights] == [False, False, True]
    assert model.config.router_indices == chosen[-1:]


def test_routing_is_kept_if_asked_for(model):
    model.config.router_layer_weights, model.config.alpha = [1.0, 0.0, 2.0, 0.0, 0.5], 0.3
    model.config.router_standardization = "zscore"
    model.calibrate(CORPUS, keep_routing=True)
    config = model.config
    assert (config.router_activation, config.router_standardization, config.alpha) == ("softmax", "zscore", 0.3)
    assert config.router_layer_weights == [1.0, 0.0, 2.0, 0.0, 0.5]
    assert len(config.router_agreement) == 5


def test_two_texts_are_a_corpus(model):
    """They make one pair, in which all cosines are -1: no layer agrees more than another."""
    model.calibrate(TEXTS[:2])
    assert model.config.router_agreement == [0.0] * 5
    assert model.config.router_layer_weights == [1.0] * 5
    assert np.isfinite(model.encode(TEXTS)).all()


def test_a_sample_is_fair_and_knows_no_batches():
    rows = torch.arange(60.0)[:, None]
    first, second = Sample(20), Sample(20)
    for batch in rows.split(7):
        first.update(batch)
    for batch in rows.split(1):
        second.update(batch)
    assert torch.equal(first.rows(), second.rows())
    assert first.rows().unique().numel() == 20
    few = Sample(20)
    few.update(rows[:5])
    assert torch.equal(few.rows(), rows[:5])
    # over many streams, each place of a stream is kept as often as any other
    long = Sample(2000)
    long.update(torch.arange(8000.0)[:, None])
    counts = torch.histc(long.rows(), bins=8, min=0, max=8000)
    assert counts.min() > 200
    assert counts.max() < 300


def test_of_a_large_corpus_a_sample_is_compared(model, monkeypatch):
    """Whatever the batches; means and deviations are of all."""
    model.calibrate(CORPUS)
    whole = {name: value.clone() for name, value in model.statistics.state_dict().items()}
    agreement = model.config.router_agreement
    monkeypatch.setattr(statistics_moee, "SAMPLE_SIZE", 15)
    found = []
    for batch_size in (3, 32):
        model.calibrate(CORPUS, batch_size=batch_size)
        found.append(model.config.router_agreement)
        for name in ("hidden_mean", "hidden_std", "routing_mean", "routing_std"):
            torch.testing.assert_close(getattr(model.statistics, name), whole[name], atol=1e-5, rtol=1e-5)
    assert found[0] == pytest.approx(found[1], abs=1e-3)
    assert found[0] != pytest.approx(agreement, abs=1e-3)
