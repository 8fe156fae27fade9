"""Prompt robustness, complementarity of HS and RW, and the choice of alpha, against plain counts and loops."""

import itertools
import json
import statistics

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from scipy.stats import spearmanr
from support import evaluation_data, metrics
from support.common import TEXTS

from moee_hf import MoEEModel
from moee_hf.cli import main
from moee_hf.evaluation import MoEEEncoder, local_tasks
from moee_hf.evaluation.alpha import ALPHAS, choose_alpha
from moee_hf.evaluation.pairs import pairs_of
from moee_hf.evaluation.paper.complementarity import agreement, complementarity, misranked
from moee_hf.evaluation.paper.robustness import NINE_PROMPTS, robustness

PNG = b"\x89PNG\r\n\x1a\n"


def pairs(rows):
    return [row["sentence1"] for row in rows], [row["sentence2"] for row in rows]


def test_prompts_are_nine_of_the_papers():
    assert len(NINE_PROMPTS) == 9
    assert all(template.count("{text}") == 1 for template in NINE_PROMPTS.values())


def test_robustness_is_what_the_prompts_give(model, data, tmp_path):
    found = robustness(model, local_tasks(data, ["stsb", "topics"]), tmp_path, ("hs", "rw"), control=True)
    rows = evaluation_data.rows()["sts/stsb.test"]
    gold = [row["score"] for row in rows]
    first, second = pairs(rows)
    similarity, scores = {}, {}
    for name, template in NINE_PROMPTS.items():
        for combination in ("hs", "rw"):
            a, b = (model.encode(texts, prompt=template, combination=combination) for texts in (first, second))
            similarity[combination, name] = metrics.cosines(a, b)
            scores.setdefault(combination, []).append(100 * spearmanr(similarity[combination, name], gold).statistic)
    table = found.score_table()
    assert table.header[:5] == ["task", "embedding", "mean", "std", "range"]
    assert [row[:2] for row in table.rows] == [
        [task, weights + combination]
        for weights, task, combination in itertools.product(("", "random "), ("STSBenchmark", "topics"), ("hs", "rw"))
    ]
    for row in table.rows[:2]:
        values = scores[row[1]]
        expected = [statistics.mean(values), statistics.stdev(values), max(values) - min(values), *values]
        assert row[2:] == pytest.approx(expected, abs=0.02)
    correlations = {(a, b): [] for a, b in (("hs", "hs"), ("rw", "rw"), ("hs", "rw"))}
    for (a, b), values in correlations.items():
        for one, other in itertools.permutations(NINE_PROMPTS, 2):
            values.append(spearmanr(similarity[a, one], similarity[b, other]).statistic)
    (trained, _random) = found.rank_table().rows
    assert trained[:2] == ["STSBenchmark", "trained"]
    assert trained[2:] == pytest.approx([np.mean(values) for values in correlations.values()], abs=1e-3)


def test_robustness_command(data, tmp_path, capsys):
    command = ["robustness", "--data", str(data), "--tasks", "stsb", "--combination", "hs", "sum"]
    assert main([*command, "--output", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "grammar structure" in out
    assert "HS-RW" in out
    assert (tmp_path / "robustness.png").read_bytes().startswith(PNG)
    for name in ("robustness", "prompt-correlation"):
        assert (tmp_path / f"{name}.md").is_file()
        assert (tmp_path / f"{name}.csv").is_file()


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
        a, b = (model.encode(texts, combination=combination) for texts in pairs(rows))
        wrong[combination] = misranked(metrics.cosines(a, b), gold, 0.25)
    alone = sum(h != r for h, r in zip(wrong["hs"], wrong["rw"], strict=True))
    either = sum(h or r for h, r in zip(wrong["hs"], wrong["rw"], strict=True))
    expected = [100 * wrong["hs"].mean(), 100 * wrong["rw"].mean(), 100 * alone / either]
    assert table.rows[0][5:] == pytest.approx(expected, abs=4)  # a pair at the edge may fall to either side
    assert table.rows[2][5:] == [None, None, None]
    assert all(0 <= value <= 1 for row in table.rows for value in row[1:4])
    with pytest.raises(ValueError, match="--clusters: expected at most"):
        complementarity(MoEEEncoder(model), local_tasks(data, ["stsb"]), clusters=500)
    with pytest.raises(
        ValueError, match=r"expected tasks of STS, pair classification or clustering.*; got 'questions'"
    ):
        complementarity(MoEEEncoder(model), local_tasks(data, ["questions"]))


def test_complementarity_command(data, tmp_path, capsys):
    command = ["complementarity", "--data", str(data), "--tasks", "stsb", "--clusters", "5", "--output"]
    assert main([*command, str(tmp_path / "new")]) == 0
    assert "errors of one only" in capsys.readouterr().out
    assert (tmp_path / "new" / "complementarity.csv").is_file()


def test_alpha_is_the_best_of_the_grid(model):
    rows = evaluation_data.rows()["sts/stsb.dev"]
    gold = [row["score"] for row in rows]
    first, second = pairs(rows)
    alpha = choose_alpha(MoEEEncoder(model), first, second, gold)

    def quality(alpha):
        a, b = (model.encode(texts, combination="sum", alpha=alpha) for texts in (first, second))
        return spearmanr(metrics.cosines(a, b), gold).statistic

    assert quality(alpha) >= max(map(quality, ALPHAS)) - 1e-3


def test_alpha_without_labels_agrees_with_both_parts(model):
    rows = evaluation_data.rows()["sts/stsb.dev"]
    first, second = pairs(rows)
    alpha = choose_alpha(MoEEEncoder(model), first, second)
    similarity = {
        combination: metrics.cosines(*(model.encode(texts, combination=combination) for texts in (first, second)))
        for combination in ("hs", "rw")
    }

    def quality(alpha):
        total = similarity["hs"] + alpha * similarity["rw"]
        return sum(spearmanr(total, part).statistic for part in similarity.values())

    assert quality(alpha) >= max(map(quality, ALPHAS)) - 1e-3


@pytest.mark.parametrize("labels", [True, False], ids=["dev", "without-labels"])
def test_calibrate_chooses_alpha(data, tmp_path, capsys, labels):
    (tmp_path / "corpus.txt").write_text("\n".join(text.replace("\n", " ") for text in TEXTS * 3))
    dev = [str(next((data / "sts").glob("stsb.dev*")))] if labels else []
    command = ["calibrate", str(tmp_path / "corpus.txt"), "--output", str(tmp_path / "model"), "--fit-alpha", *dev]
    assert main(command) == 0
    alpha = MoEEModel.from_pretrained(tmp_path / "model").config.alpha
    assert alpha in ALPHAS
    assert f"alpha: {alpha:g}" in capsys.readouterr().err


def test_calibrate_refuses_a_test_set(data, tmp_path, capsys):
    (tmp_path / "corpus.txt").write_text("One text.\nAnother.\n")
    test = str(next((data / "sts").glob("stsb.test*")))
    command = ["calibrate", str(tmp_path / "corpus.txt"), "--output", str(tmp_path / "model"), "--fit-alpha", test]
    assert main(command) == 1
    assert "--fit-alpha: expected a development set; got a test set" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
    for name in ("STSB.TEST.jsonl", "stsb-test.jsonl"):
        assert main([*command[:-1], name]) == 1
        assert "got a test set" in capsys.readouterr().err
    bad = tmp_path / "pairs.jsonl"
    bad.write_text(json.dumps({"sentence1": "x"}) + "\n")
    assert main([*command[:-1], str(bad)]) == 1
    assert "line 1: expected an object with the field 'sentence2'" in capsys.readouterr().err


def test_alpha_of_pairs_that_cannot_be_ranked(model):
    with pytest.raises(ValueError, match="--fit-alpha: expected three pairs or more that differ"):
        choose_alpha(MoEEEncoder(model), ["a", "b", "c"], ["d", "e", "f"], [1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="--fit-alpha: expected three pairs or more that differ"):
        choose_alpha(MoEEEncoder(model), ["a"], ["b"])


def test_pairs_in_one_row_of_lists(model, data):
    """As data sets of pair classification were stored once."""
    (task,) = local_tasks(data, ["twins"])
    expected = pairs_of(task)
    task.dataset = DatasetDict(test=Dataset.from_list([dict(task.dataset["test"].to_dict())]))
    assert pairs_of(task) == expected
    task.hf_subsets = ["en", "de"]
    with pytest.raises(ValueError, match="--tasks: expected tasks of one language and one split; got 'twins' with en"):
        pairs_of(task)
