"""The choice of alpha, against a loop over the grid."""

import json

import pytest
from scipy.stats import spearmanr
from support import evaluation_data, metrics
from support.common import CHECKPOINT, TEXTS

from moee_hf import MoEEModel
from moee_hf.cli import main
from moee_hf.evaluation import MoEEEncoder
from moee_hf.evaluation.alpha import ALPHAS, choose_alpha


def test_alpha_is_the_best_of_the_grid(model):
    rows = evaluation_data.rows()["sts/stsb.dev"]
    gold = [row["score"] for row in rows]
    first, second = evaluation_data.sides(rows)
    alpha = choose_alpha(MoEEEncoder(model), first, second, gold)

    def quality(alpha):
        a, b = (model.encode(texts, combination="sum", alpha=alpha) for texts in (first, second))
        return spearmanr(metrics.cosines(a, b), gold).statistic

    assert quality(alpha) >= max(map(quality, ALPHAS)) - 1e-3


def test_alpha_without_labels_leaves_the_order_of_hs(model):
    texts = [text for _, text in evaluation_data.TEXTS]
    first, second = texts[1:] + texts[2:], texts[:-1] + texts[:-2]
    alpha = choose_alpha(MoEEEncoder(model), first, second)
    hidden, routing = (
        metrics.cosines(*(model.encode(side, combination=part) for side in (first, second))) for part in ("hs", "rw")
    )
    faithful = [a for a in ALPHAS if spearmanr(hidden + a * routing, hidden).statistic >= 0.995]
    assert min(ALPHAS) < alpha < max(ALPHAS)
    assert alpha == max(faithful)


def test_calibrate_chooses_alpha(data, tmp_path, capsys):
    (tmp_path / "corpus.txt").write_text("\n".join(text.replace("\n", " ") for text in TEXTS * 3))
    dev = str(next((data / "sts").glob("stsb.dev*")))
    command = ["calibrate", str(tmp_path / "corpus.txt"), "--output", str(tmp_path / "model")]
    assert main([*command, "--model", str(CHECKPOINT), "--fit-alpha", dev]) == 0
    alpha = MoEEModel.from_pretrained(tmp_path / "model").config.alpha
    assert alpha in ALPHAS
    assert f"alpha: {alpha:g}" in capsys.readouterr().err


def test_calibrate_refuses_a_test_set(data, tmp_path, capsys):
    (tmp_path / "corpus.txt").write_text("One text.\nAnother.\n")
    test = str(next((data / "sts").glob("stsb.test*")))
    command = ["calibrate", str(tmp_path / "corpus.txt"), "--output", str(tmp_path / "model"), "--fit-alpha", test]
    assert main(command) == 1
    assert f"{test}: expected a development set; got a test set" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
    for name in ("STSB.TEST.jsonl", "stsb-test.jsonl"):
        assert main([*command[:-1], name]) == 1
        assert "got a test set" in capsys.readouterr().err
    bad = tmp_path / "pairs.jsonl"
    bad.write_text(json.dumps({"sentence1": "x"}) + "\n")
    assert main([*command[:-1], str(bad)]) == 1
    assert "line 1: expected an object with the field 'sentence2'" in capsys.readouterr().err


def test_alpha_of_pairs_that_cannot_be_ranked(model):
    with pytest.raises(ValueError, match="choose_alpha: expected three pairs or more that differ"):
        choose_alpha(MoEEEncoder(model), ["a", "b", "c"], ["d", "e", "f"], [1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="choose_alpha: expected three pairs or more that differ"):
        choose_alpha(MoEEEncoder(model), ["a"], ["b"])
