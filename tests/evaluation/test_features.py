"""Features: each text is read once."""

from support import evaluation_data, recompute
from support.judge import COMBINATIONS, CORPUS

from moee_hf import MoEEModel
from moee_hf.evaluation import Corpus, encoders, evaluate, local_tasks


def test_each_text_is_read_once_per_prompt(model, data, tmp_path, monkeypatch):
    """Every variant of two tasks that share texts: the model sees each distinct text, and the corpus, once."""
    read = {}
    encode = MoEEModel.encode

    def counted(self, texts, prompt=None, **options):
        read.setdefault(prompt, []).extend(texts)
        return encode(self, texts, prompt=prompt, **options)

    monkeypatch.setattr(MoEEModel, "encode", counted)
    grid = encoders(model, ["none", "prompteol"], combinations=COMBINATIONS, alphas=(0.5, 2.0), corpus=Corpus(CORPUS))
    scores = list(evaluate(grid, local_tasks(data, ["stsb", "topics"]), tmp_path))
    assert len(scores) == 2 * 2 * 2 * (3 + 2)  # tasks, prompts, raw and calibrated, two alphas of sum
    rows = evaluation_data.rows()
    asked = set(CORPUS).union(*(recompute.texts_of(rows[name]) for name in ("sts/stsb.test", "clustering/topics")))
    assert read.keys() == {model.config.prompt_template(name) for name in ("none", "prompteol")}
    for texts in read.values():
        assert len(texts) == len(set(texts))
        assert set(texts) <= asked
