"""Features: each text is read once."""

from support import evaluation_data, judge, recompute
from support.judge import COMBINATIONS, CORPUS

from moee_hf.evaluation import Corpus, encoders, evaluate, local_tasks


def test_each_text_is_read_once_per_prompt(model, data, tmp_path, monkeypatch):
    """Every variant of two tasks that share texts: the model sees each distinct text, and the corpus, once."""
    read = []
    judge.texts_read(monkeypatch, read.append)
    grid = encoders(
        model,
        ["none", "prompteol", "none+prompteol"],
        combinations=("hs", "sum"),
        hidden_sources=("state", "attention"),
        router_activations=("softmax", "clr"),
        corpus=Corpus(CORPUS),
    )
    scores = list(evaluate(grid, local_tasks(data, ["stsb", "twins"]), tmp_path))
    # tasks, prompts, raw and calibrated; HS of each source, and their sums with each RW
    assert len(scores) == 2 * 3 * 2 * (2 + 2 * 2)
    rows = evaluation_data.rows()["sts/stsb.test"]
    texts, templates = {*CORPUS, *recompute.texts_of(rows)}, map(model.config.prompt_template, ("none", "prompteol"))
    assert sorted(read) == sorted((text, template) for template in templates for text in texts)


def test_several_readings_share_none_of_their_texts(model, data, tmp_path, monkeypatch):
    """RW do not depend on the hidden state that is HS: they are scored once, and HS of each."""
    read = []
    judge.texts_read(monkeypatch, read.append)
    grid = encoders(model, ["none"], ("lasttoken", "mean"), (-1, 2), COMBINATIONS)
    scores = list(evaluate(grid, local_tasks(data, ["stsb"]), tmp_path))
    assert len(scores) == 2 * (1 + 2 * 3)
    assert len(read) == 4 * len(set(read))
