"""Complementarity of HS and RW, against plain counts and loops."""

import itertools

import numpy as np
import pytest
from support import evaluation_data, metrics
from support.common import CHECKPOINT

from moee_hf.cli import main
from moee_hf.evaluation import MoEEEncoder, local_tasks
from moee_hf.evaluation.paper.complementarity import agreement, complementarity, misranked


def entropy(counts):
    p = np.asarray(counts, float) / np.sum(counts)
    return -(p[p > 0] * np.log(p[p > 0])).sum()


def test_agreement_of_clusterings():
    draw = np.random.default_rng(0)
    first, second = draw.integers(0, 3, 40), draw.integers(0, 3, 40)
    second[:25] = (first[:25] + 1) % 3  # the same clusters by other numbers
    found = agreement(first, second)
    joint = np.array([[np.sum((first == a) & (second == b)) for b in range(3)] for a in range(3)])
    shared = entropy(joint.sum(axis=1)) + entropy(joint.sum(axis=0)) - entropy(joint.ravel())
    mean = (entropy(joint.sum(axis=1)) + entropy(joint.sum(axis=0))) / 2
    assert found["nmi"] == pytest.approx(shared / mean)
    together = [(first[i] == first[j], second[i] == second[j]) for i, j in itertools.combinations(range(40), 2)]
    assert found["jaccard"] == pytest.approx(sum(a and b for a, b in together) / sum(a or b for a, b in together))
    best = max(np.sum(np.array(order)[first] == second) for order in itertools.permutations(range(3)))
    assert found["exact"] == pytest.approx(best / 40)
    assert found["ami"] < found["nmi"]  # less what chance gives
    same = agreement(first, (first + 1) % 3)
    assert same == pytest.approx(dict.fromkeys(("ami", "nmi", "jaccard", "exact"), 1.0))


def test_errors_are_of_ranks():
    gold = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert not misranked(gold * 7 - 3, gold, 0.0).any()
    assert misranked(np.array([5.0, 2.0, 3.0, 4.0, 1.0]), gold, 0.25).tolist() == [True, False, False, False, True]
    assert not misranked(np.array([2.0, 1.0, 3.0, 4.0, 5.0]), gold, 0.25).any()


def test_complementarity_of_the_model(model, data):
    table = complementarity(MoEEEncoder(model), local_tasks(data, ["stsb", "twins", "topics"]), clusters=5)
    assert [row[0] for row in table.rows] == ["STSBenchmark", "twins", "topics"]
    rows = evaluation_data.rows()["sts/stsb.test"]
    gold = np.array([row["score"] for row in rows])
    wrong = {}
    for combination in ("hs", "rw"):
        a, b = (model.encode(texts, combination=combination) for texts in evaluation_data.sides(rows))
        wrong[combination] = misranked(metrics.cosines(a, b), gold, 0.25)
    alone = sum(h != r for h, r in zip(wrong["hs"], wrong["rw"], strict=True))
    either = sum(h or r for h, r in zip(wrong["hs"], wrong["rw"], strict=True))
    expected = [100 * wrong["hs"].mean(), 100 * wrong["rw"].mean(), 100 * alone / either]
    assert table.rows[0][5:] == pytest.approx(expected, abs=4)  # a pair at the edge may fall to either side
    assert table.rows[2][5:] == [None, None, None]
    assert all(0 <= value <= 1 for row in table.rows for value in row[1:4])
    with pytest.raises(ValueError, match="clusters: expected at most"):
        complementarity(MoEEEncoder(model), local_tasks(data, ["stsb"]), clusters=500)
    with pytest.raises(
        ValueError, match=r"expected tasks of STS, pair classification or clustering.*; got 'questions'"
    ):
        complementarity(MoEEEncoder(model), local_tasks(data, ["questions"]))


def test_complementarity_command(data, tmp_path, capsys):
    command = ["complementarity", "--model", str(CHECKPOINT), "--data", str(data), "--tasks", "stsb"]
    assert main([*command, "--clusters", "5", "--output", str(tmp_path / "new")]) == 0
    assert "errors of one only" in capsys.readouterr().out
    assert (tmp_path / "new" / "complementarity.csv").is_file()
