"""A folder that an earlier version saved loads, and gives the vectors that it gave (see saved_earlier/README.md)."""

import json

import numpy as np
import pytest
from support.common import ROOT

from moee_hf import MoEEModel

FOLDER = ROOT / "tests" / "saved_earlier"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
# the arguments of `encode` that each set of vectors was made with
ARGUMENTS = {
    **{combination: {"combination": combination} for combination in ("hs", "rw", "concat", "sum")},
    "sum, alpha 2, not standardized, prompteol": {"alpha": 2.0, "standardize": False, "prompt_name": "prompteol"},
}


@pytest.fixture(scope="module")
def earlier():
    return MoEEModel.from_pretrained(FOLDER)


def test_choices(earlier):
    config = earlier.config
    assert (config.combination, config.alpha, config.pooling, config.hidden_layer) == ("sum", 0.5, "mean", -2)
    assert config.default_prompt_name == "topic"
    assert config.prompts == {"topic": 'Topic of "{text}":'}
    assert config.standardize
    assert config.calibrated


# another processor adds in another order, and small deviations divide what comes of it
ATOL = 1e-5


@pytest.mark.parametrize("name", EXPECTED["vectors"])
def test_vectors(earlier, name):
    vectors = earlier.encode(EXPECTED["texts"], **ARGUMENTS[name])
    np.testing.assert_allclose(vectors, EXPECTED["vectors"][name], rtol=0, atol=ATOL)


def test_vectors_by_default(earlier):
    np.testing.assert_allclose(earlier.encode(EXPECTED["texts"]), EXPECTED["vectors"]["sum"], rtol=0, atol=ATOL)
