"""Prompt robustness, against plain loops."""

import itertools
import statistics

import numpy as np
import pytest
from scipy.stats import spearmanr
from support import evaluation_data, metrics
from support.common import CHECKPOINT

from moee_hf.cli import main
from moee_hf.evaluation import local_tasks
from moee_hf.evaluation.paper.robustness import NINE_PROMPTS, robustness

PNG = b"\x89PNG\r\n\x1a\n"


def test_prompts_are_nine_of_the_papers():
    assert len(NINE_PROMPTS) == 9
    assert all(template.count("{text}") == 1 for template in NINE_PROMPTS.values())


@pytest.mark.slow
def test_robustness_is_what_the_prompts_give(model, data, tmp_path):
    found = robustness(model, local_tasks(data, ["stsb", "topics"]), tmp_path, ("hs", "rw"), control=True)
    rows = evaluation_data.rows()["sts/stsb.test"]
    gold = [row["score"] for row in rows]
    first, second = evaluation_data.sides(rows)
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
        # rounding decides between pairs whose cosines are equal to seven digits
        assert row[2:] == pytest.approx(expected, abs=0.3)
    correlations = {(a, b): [] for a, b in (("hs", "hs"), ("rw", "rw"), ("hs", "rw"))}
    for (a, b), values in correlations.items():
        for one, other in itertools.permutations(NINE_PROMPTS, 2):
            values.append(spearmanr(similarity[a, one], similarity[b, other]).statistic)
    (trained, _random) = found.rank_table().rows
    assert trained[:2] == ["STSBenchmark", "trained"]
    assert trained[2:] == pytest.approx([np.mean(values) for values in correlations.values()], abs=1e-3)


@pytest.mark.slow
def test_robustness_command(data, tmp_path, capsys):
    command = ["robustness", "--data", str(data), "--tasks", "stsb", "--combination", "hs", "sum"]
    assert main([*command, "--model", str(CHECKPOINT), "--output", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "grammar structure" in out
    assert "HS-RW" in out
    assert (tmp_path / "robustness.png").read_bytes().startswith(PNG)
    for name in ("robustness", "prompt-correlation"):
        assert (tmp_path / f"{name}.md").is_file()
        assert (tmp_path / f"{name}.csv").is_file()
