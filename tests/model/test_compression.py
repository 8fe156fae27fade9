"""Smaller embeddings: principal components and fewer bits, against the judge, and what they were not fitted to."""

import itertools

import numpy as np
import pytest
import reference
import torch
from support.common import CHECKPOINT, TEXTS

from moee_hf import MoEEModel
from moee_hf.model.compression_moee import principal_components

CORPUS = [f"{text} {number}" for number, text in itertools.product(range(6), TEXTS)]
CHOICES = ("router_activation", "router_layer_weights", "alpha", "standardize", "calibrated", "dimensions")


@pytest.mark.parametrize("num_texts", [90, 20], ids=["more-texts-than-dimensions", "fewer"])
def test_principal_components_are_those_of_the_judge(num_texts):
    vectors = torch.randn(num_texts, 30, generator=torch.Generator().manual_seed(0)) * torch.linspace(1, 4, 30) + 1
    components = principal_components(vectors, 6)
    expected = reference.principal_components(vectors.numpy(), 6)
    products = np.array([reference.projected(component.numpy(), expected) for component in components])
    assert np.abs(np.abs(products) - np.eye(6)).max() < 1e-6  # a direction has no sign


@pytest.fixture
def compressed(model):
    """A model that projects on 6 dimensions, and its whole embeddings of the corpus."""
    model.calibrate(CORPUS, dimensions=6)
    return model, model.with_config(dimensions=None).encode(CORPUS).astype(float)


def test_dimensions(compressed):
    model, whole = compressed
    expected = reference.principal_components([reference.unit(row) for row in whole[:, :]], 6)
    embeddings = model.encode(CORPUS).astype(float)
    assert embeddings.shape == (len(CORPUS), 6) == (len(CORPUS), model.config.embedding_size)
    for row, embedding in zip(whole, embeddings, strict=True):
        assert np.abs(embedding) == pytest.approx(np.abs(reference.projected(row, expected)), abs=1e-4)
    with torch.no_grad():
        np.testing.assert_allclose(model(**model.tokenize(CORPUS)).embeddings, embeddings, rtol=0, atol=2e-5)
    assert model.encode([]).shape == (0, 6)
    fewer = model.with_config(dimensions=2).encode(CORPUS)  # the first of them
    np.testing.assert_allclose(fewer, embeddings[:, :2], rtol=0, atol=1e-6)
    lengths = np.linalg.norm(model.encode(CORPUS, normalize_embeddings=True), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-6)


def test_dimensions_are_saved(compressed, tmp_path):
    model, _ = compressed
    model.save_pretrained(tmp_path)
    again = MoEEModel.from_pretrained(tmp_path, dtype=torch.float32)
    assert again.config.embedding_size == 6
    for precision in ("float32", "int8"):
        got, expected = (one.encode(TEXTS, precision=precision).astype(float) for one in (again, model))
        assert np.abs(got - expected).max() < (1e-5 if precision == "float32" else 1.5)


@pytest.mark.parametrize("dimensions", [None, 6])
@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_bytes(model, precision, dimensions):
    model.calibrate(CORPUS, dimensions=dimensions)
    units = [reference.unit(row) for row in model.encode(CORPUS).astype(float)]
    largest = max(abs(value) for row in units for value in row)
    codes = model.encode(CORPUS, precision=precision)
    assert (codes.dtype, codes.shape) == (np.dtype(precision), (len(CORPUS), model.config.embedding_size))
    signed = codes.astype(int) - (128 if precision == "uint8" else 0)
    for row, unit in zip(signed, units, strict=True):
        exact = np.array([value / largest * 127 for value in unit])
        assert np.abs(row - exact).max() < 0.51  # the nearest step
    for i, j in itertools.pairwise(range(10)):
        expected = reference.cosine(units[i], units[j])
        assert reference.cosine(signed[i], signed[j]) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("combination", ["hs", "sum"])
def test_signs(model, combination):
    model.calibrate(CORPUS, keep_routing=True)
    model.config.combination = combination
    whole = model.encode(TEXTS, normalize_embeddings=True)
    expected = np.array([reference.signs(row) for row in whole])
    ubinary, binary = (model.encode(TEXTS, precision=precision) for precision in ("ubinary", "binary"))
    assert (ubinary.dtype, binary.dtype) == (np.uint8, np.int8)
    assert np.array_equal(ubinary, expected)
    assert np.array_equal(binary.astype(int) + 128, expected)
    tensor = model.encode(TEXTS[0], precision="ubinary", convert_to_tensor=True)
    assert tensor.tolist() == expected[0].tolist()


def test_what_is_larger_than_the_corpus_has_the_largest_byte(model):
    model.calibrate(CORPUS)
    model.statistics.largest = model.statistics.largest / 4
    units, codes = model.encode(TEXTS, normalize_embeddings=True), model.encode(TEXTS, precision="int8")
    beyond = np.abs(units) > 1.02 * float(model.statistics.largest)
    assert beyond.any()
    assert (np.sign(codes[beyond]) == np.sign(units[beyond])).all()
    assert np.abs(codes[beyond].astype(int)).min() >= 127


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"combination": "hs"}, "MoEEConfig.dimensions: expected embeddings as the model was fitted to"),
        ({"alpha": 0.123}, "MoEEConfig.dimensions: expected embeddings as the model was fitted to"),
        ({"standardize": False}, "MoEEConfig.dimensions: expected embeddings as the model was fitted to"),
        ({"precision": "int4"}, "precision: expected one of 'float32', 'int8', 'uint8', 'binary', 'ubinary'; got"),
    ],
)
def test_other_choices_than_those_fitted_to_are_refused(compressed, options, message):
    model, _ = compressed
    with pytest.raises(ValueError, match=message):
        model.encode(TEXTS, **options)


def test_precision_takes_what_it_was_fitted_to(model):
    with pytest.raises(ValueError, match=r"precision: expected a model that was fitted to a corpus; this one was not"):
        model.encode(TEXTS, precision="int8")
    with pytest.raises(ValueError, match=r"precision: expected standardized embeddings for 'binary'"):
        model.encode(TEXTS, precision="binary")
    model.calibrate(CORPUS)
    with pytest.raises(ValueError, match=r"precision: expected embeddings as the model was fitted to"):
        model.encode(TEXTS, precision="uint8", combination="rw")
    assert model.encode(TEXTS, precision="binary", combination="rw").dtype == np.int8


def test_dimensions_without_components_are_refused(model):
    model.config.dimensions = 6
    with pytest.raises(
        ValueError, match=r"dimensions: expected a model that was fitted to a corpus; this one was not"
    ):
        model.encode(TEXTS)
    model.config.dimensions = None
    model.calibrate(CORPUS)  # the range of int8, but no components
    model.config.dimensions = 6
    with pytest.raises(
        ValueError, match="dimensions: expected at most 0 dimensions, as the model was fitted to; got 6"
    ):
        model.encode(TEXTS)


def test_more_dimensions_than_fitted_are_refused(compressed):
    model, _ = compressed
    with pytest.raises(
        ValueError, match="dimensions: expected at most 6 dimensions, as the model was fitted to; got 7"
    ):
        model.with_config(dimensions=7).encode(TEXTS)
    for dimensions in (None, 5):  # int8 has the range of unit vectors of 6
        with pytest.raises(ValueError, match="precision: expected embeddings of 6 dimensions for 'int8'"):
            model.with_config(dimensions=dimensions).encode(TEXTS, precision="int8")


@pytest.mark.parametrize("dimensions", [len(CORPUS) + 1, 1000])
def test_too_few_texts_for_the_dimensions_change_nothing(model, dimensions):
    before = {name: getattr(model.config, name) for name in CHOICES}
    with pytest.raises(ValueError, match=r"dimensions: expected at most 42, as there are 42 different texts"):
        model.calibrate(CORPUS, dimensions=dimensions)
    assert {name: getattr(model.config, name) for name in CHOICES} == before
    assert model.statistics.hidden_mean is None


def test_compressing_anew(compressed):
    model, _ = compressed
    statistics = model.statistics.hidden_mean.clone()
    model.config.alpha = 0.9
    with pytest.raises(ValueError, match="dimensions: expected embeddings as the model was fitted to"):
        model.encode(TEXTS)
    model.compress(CORPUS, dimensions=5)
    assert (model.config.alpha, model.config.dimensions) == (0.9, 5)
    assert torch.equal(model.statistics.hidden_mean, statistics)
    whole = model.with_config(dimensions=None).encode(CORPUS).astype(float)
    expected = reference.principal_components([reference.unit(row) for row in whole], 5)
    for row, embedding in zip(whole, model.encode(CORPUS), strict=True):
        assert np.abs(embedding) == pytest.approx(np.abs(reference.projected(row, expected)), abs=1e-4)
    model.compress(CORPUS)
    assert model.config.dimensions is None
    assert model.encode(TEXTS, precision="int8").dtype == np.int8


def test_compressing_takes_a_calibrated_model():
    model = MoEEModel.from_pretrained(CHECKPOINT, dtype=torch.float32)
    with pytest.raises(ValueError, match="expected a model with statistics of a corpus; this one has none"):
        model.compress(CORPUS, dimensions=3)
