"""The embedded backbone: what the README and its card say of it."""

import re

import numpy as np
import pytest
from scipy.stats import spearmanr
from support import tfidf
from support.common import EVALUATION_DATA, ROOT

from moee_hf import MoEEModel

FOLDER = ROOT / "moee_hf" / "embedded"
# of the README's first command: two sentences on each of three topics
SIX = re.findall(r'"([^"]+\.)"', (ROOT / "README.md").read_text(encoding="utf-8").split("```")[1])
STSB = EVALUATION_DATA / "sts" / "stsb.test.jsonl.gz"


@pytest.fixture(scope="module")
def embedded():
    return MoEEModel.from_pretrained("embedded")


@pytest.mark.parametrize("combination", ["hs", "rw", "concat", "sum"])
@pytest.mark.parametrize("standardize", [True, False])
def test_each_of_six_sentences_is_nearest_to_its_twin(embedded, combination, standardize):
    vectors = embedded.encode(SIX, combination=combination, standardize=standardize)
    cosines = embedded.similarity(vectors, vectors).numpy()
    np.fill_diagonal(cosines, -1)
    assert cosines.argmax(axis=1).tolist() == [1, 0, 3, 2, 5, 4]


def test_it_is_small_and_nothing_but_a_folder():
    names = {path.name for path in FOLDER.iterdir()}
    plain = {"README.md", "config.json", "model.gguf", "tokenizer.json", "tokenizer_config.json"}
    assert names == plain | {"moee_config.json", "statistics.safetensors"}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 95_000_000


@pytest.mark.slow
def test_in_safetensors_it_gives_the_same_vectors(embedded, tmp_path):
    embedded.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    expected = embedded.encode(SIX)
    got = MoEEModel.from_pretrained(tmp_path).encode(SIX)
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
def test_scores_on_stsb(embedded):
    if not STSB.is_file():
        pytest.skip(f"needs {STSB.relative_to(ROOT.parent)} beside the checkout, which may not be redistributed")
    pairs = tfidf.read(STSB)[::6]  # all of them take minutes
    vectors = [embedded.encode([pair[name] for pair in pairs]) for name in ("sentence1", "sentence2")]
    gold = [pair["score"] for pair in pairs]
    own = 100 * spearmanr(embedded.similarity_pairwise(*vectors), gold).statistic
    assert own >= 71
    assert own > tfidf.score(pairs)
