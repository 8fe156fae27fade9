"""Fitting the statistics of a corpus: one pass, exact, and the same whatever the order and the batches."""

import itertools

import numpy as np
import pytest
import torch
from support.common import CHECKPOINT, TEXTS, set_random_statistics

from moee_hf import MoEEModel
from moee_hf.cli import main
from moee_hf.model import fitted_moee, stream_moee
from moee_hf.model.statistics_moee import Moments

CORPUS = [f"{text} {number}" for number, text in itertools.product(range(6), TEXTS)]


@pytest.fixture(params=["grown-by-one", "halves", "all-at-once"])
def batches(request):
    return {
        "grown-by-one": lambda vectors: vectors.split(1),
        "halves": lambda vectors: vectors.split(len(vectors) // 2),
        "all-at-once": lambda vectors: [vectors],
    }[request.param]


@pytest.mark.parametrize("offset", [0.0, 1e4], ids=["centred", "far-from-zero"])
def test_moments_are_those_of_numpy_in_any_order_and_batches(batches, offset):
    vectors = torch.randn(500, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + offset
    for order in (torch.arange(500), torch.arange(499, -1, -1), torch.randperm(500)):
        moments = Moments()
        for batch in batches(vectors[order]):
            moments.update(batch)
        assert moments.count == 500
        np.testing.assert_allclose(moments.mean, vectors.numpy().mean(axis=0), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(moments.std, vectors.numpy().std(axis=0), rtol=1e-9)


def test_what_never_changes_gets_the_standard_deviation_1():
    moments = Moments()
    moments.update(torch.tensor([[3.0, 0.0, 1.0], [3.0, 0.0, 2.0]]))
    moments.update(torch.tensor([[3.0 + 1e-7, 0.0, 3.0]]))
    assert moments.std.tolist() == pytest.approx([1.0, 1.0, (2 / 3) ** 0.5])


def outputs(model, texts, **prompt):
    """HS and RW of each text, alone, in float64."""
    with torch.inference_mode():
        read = [model(**model.tokenize([text], **prompt)) for text in texts]
    hidden, routing = (
        [getattr(output, name)[0].double().numpy() for output in read]
        for name in ("pooled_hidden_state", "router_weights")
    )
    return np.stack(hidden), np.stack(routing)


# each pair of a pooling, a prompt and a kind of routing
@pytest.mark.parametrize(
    ("pooling", "prompt", "keep_routing"),
    [
        ("lasttoken", {}, True),
        ("lasttoken", {"prompt_name": "none"}, False),
        ("lasttoken", {"prompt": "About {text}:"}, True),
        ("mean", {}, False),
        ("mean", {"prompt_name": "none"}, True),
        ("mean", {"prompt": "About {text}:"}, False),
    ],
    ids=str,
)
def test_statistics_are_those_of_the_texts(model, pooling, prompt, keep_routing):
    model.config.pooling = pooling
    read = model.with_config(router_activation="softmax" if keep_routing else "clr")
    hidden, routing = outputs(read, CORPUS, **prompt)
    model.config.router_layers = [0, -1]  # statistics are of all routers, whichever are chosen
    model.calibrate(CORPUS, batch_size=5, keep_routing=keep_routing, **prompt)
    statistics = model.statistics
    assert model.config.calibrated
    assert model.config.standardize
    np.testing.assert_allclose(statistics.hidden_mean, hidden.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(statistics.hidden_std, hidden.std(axis=0), atol=1e-5)
    np.testing.assert_allclose(statistics.routing_mean, routing.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(statistics.routing_std, routing.std(axis=0), atol=1e-6)


def test_the_corpus_itself_becomes_standard(model):
    _, raw = outputs(model, CORPUS)
    model.calibrate(CORPUS, keep_routing=True)
    hidden, routing = (model.encode(CORPUS, combination=combination) for combination in ("hs", "rw"))
    for vectors in (hidden, routing):
        np.testing.assert_allclose(vectors.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(hidden.std(axis=0), 1, atol=1e-2)
    np.testing.assert_allclose(routing.std(axis=0), raw.std(axis=0).ravel(), atol=1e-4)  # centred, not divided


def test_routing_weights_are_divided_if_the_configuration_says_so(model):
    model.calibrate(CORPUS, keep_routing=True)
    model.config.router_standardization = "zscore"
    np.testing.assert_allclose(model.encode(CORPUS, combination="rw").std(axis=0), 1, atol=1e-2)


def test_calibrated_vectors_do_not_depend_on_the_batch(model):
    model.calibrate(CORPUS)
    expected = np.stack([model.encode(text) for text in TEXTS])
    for batch_size in (1, 3, 7):
        np.testing.assert_allclose(model.encode(TEXTS, batch_size=batch_size), expected, atol=2e-5)


def test_statistics_do_not_depend_on_batches_and_order(model):
    model.calibrate(CORPUS, batch_size=32)
    first = {name: value.clone() for name, value in model.statistics.state_dict().items()}
    model.calibrate(reversed(CORPUS), batch_size=3)
    for name, value in model.statistics.state_dict().items():
        torch.testing.assert_close(value, first[name], atol=1e-5, rtol=1e-5)


def test_texts_are_a_stream_read_once_and_not_kept(model, monkeypatch):
    """Windows of a stream that counts how far it was read when a window is embedded."""
    read = []

    def stream():
        for number in range(2500):
            read.append(number)
            yield f"Text {number}."

    ahead = []
    tokens = stream_moee.token_ids
    monkeypatch.setattr(
        stream_moee,
        "token_ids",
        lambda model, texts, *rest: (
            ahead.append((len(texts), len(read))) or tokens(model, texts[:1], *rest) * len(texts)
        ),
    )
    model.calibrate(stream())
    assert ahead == [(1024, 1024), (1024, 2048), (452, 2500)]


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ([], ValueError, "expected two or more to calibrate on; got 0"),
        ("One text.", ValueError, "expected two or more to calibrate on; got 1"),
        (["a", 7], TypeError, r"texts\[1\]: expected a string; got 7"),
        (["a", "\ud800"], ValueError, r"texts\[1\]: expected valid Unicode"),
        (["a"] * 2050 + ["\ud800"], ValueError, r"texts\[2050\]: expected valid Unicode"),
        ({"a": "b", "c": "d"}, TypeError, "texts: expected a string or several"),
    ],
)
def test_a_corpus_that_is_none_changes_nothing(model, texts, error, message):
    with pytest.raises(error, match=message):
        model.calibrate(texts)
    assert not model.config.calibrated
    assert not model.config.standardize


def test_other_choices_than_those_of_the_statistics_warn(model, caplog, monkeypatch):
    """By name of what differs, once; and the record is saved with the model."""
    model.calibrate(CORPUS, prompt_name="none", keep_routing=True)
    assert model.config.calibration == {
        "prompt": "{text}", "pooling": "lasttoken", "hidden_layer": -1, "router_activation": "softmax"
    }  # fmt: skip
    warnings = []
    monkeypatch.setattr(fitted_moee.logger, "warning_once", warnings.append)
    model.encode("A text.", prompt_name="none")
    model.encode("A text.", standardize=False)
    assert warnings == []
    model.encode("A text.", prompt_name="prompteol")
    model.config.pooling = "mean"
    model.encode("A text.", prompt_name="none")
    assert len(warnings) == 2
    assert "This sentence" in warnings[0]
    assert "'pooling': 'mean'" in warnings[1]
    set_random_statistics(model)  # of unknown origin
    assert model.config.calibration is None
    model.encode("A text.")
    assert len(warnings) == 2


@pytest.mark.parametrize("standardize", [True, False])
def test_standardize_in_place_of_the_configurations(model, standardize):
    raw = model.encode(TEXTS, combination="concat")
    with pytest.raises(ValueError, match="expected a model with statistics of a corpus; this one has none"):
        model.encode(TEXTS, standardize=True)
    model.calibrate(CORPUS, keep_routing=True)
    model.config.standardize = not standardize
    vectors = model.encode(TEXTS, combination="concat", standardize=standardize)
    statistics = {name: value.flatten().numpy() for name, value in model.statistics.state_dict().items()}
    mean = np.concatenate([statistics["hidden_mean"], statistics["routing_mean"]])
    std = np.concatenate([statistics["hidden_std"], np.ones_like(statistics["routing_std"])])
    np.testing.assert_allclose(vectors, (raw - mean) / std if standardize else raw, rtol=1e-3, atol=1e-3)


def test_command(tmp_path, capsys):
    (tmp_path / "corpus.txt").write_text("\n".join(CORPUS[:20]).replace("\n and", " and"))
    command = ["calibrate", str(tmp_path / "corpus.txt"), "--output", str(tmp_path / "model")]
    assert main([*command, "--model", str(CHECKPOINT), "--prompt", "none"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "texts: " in err
    model = MoEEModel.from_pretrained(tmp_path / "model")
    assert model.config.standardize
    assert model.config.calibration["prompt"] == model.config.prompt_template("none")
    assert np.isfinite(model.encode(TEXTS)).all()
    assert main(command) == 1
    assert "expected a new or empty folder" in capsys.readouterr().err
