"""A model on the paper's tasks, with the paper's choices."""

import pytest
from support.common import CHECKPOINT

from moee_hf.cli import main
from moee_hf.evaluation.identity import identity_of
from moee_hf.evaluation.paper.comparison import paper_encoders, paper_note, paper_tasks
from moee_hf.evaluation.paper.tables import PROMPTS, read_paper


def test_tasks_are_the_papers(data):
    paper = read_paper("olmoe")
    assert [task.metadata.name for task in paper_tasks(paper)] == list(paper.types)
    there = [task.metadata.name for task in paper_tasks(paper, data=str(data))]
    assert set(there) == {"STSBenchmark", "EmotionClassification", "SummEval"}
    assert [task.metadata.name for task in paper_tasks(paper, ["STS12"])] == ["STS12"]
    with pytest.raises(ValueError, match=r"tasks: expected tasks of the paper \(STS12, .*\); got 'twins'"):
        paper_tasks(paper, ["STS12", "twins"], str(data))


@pytest.mark.parametrize("released_code", [False, True])
def test_choices_are_the_papers_whatever_the_models_are(model, released_code):
    model.calibrate(["One text.", "Another."])
    model.config.router_layers, model.config.pooling, model.config.hidden_layer = [0], "mean", -2
    model.config.prompts = {"prompteol": "Another {text}"}
    before = model.config.to_dict()
    groups = list(paper_encoders(model, released_code=released_code))
    assert [group[0].experiment["prompt"] for group in groups] == list(PROMPTS)
    for encoder in (encoder for group in groups for encoder in group):
        config = encoder.features.model.config
        assert (config.pooling, config.hidden_layer) == ("lasttoken", -1)
        assert len(config.router_indices) == model.config.router_shape[0]
        assert not any("Another" in template for template in encoder.features.templates)
        assert released_code or (encoder.standardize, encoder.router_activation) == (False, "softmax")
        assert (encoder.hidden_source, encoder.layer_weights, encoder.dimensions) == ("state", "equal", None)
    assert model.config.to_dict() == before


def test_note_says_which_model_and_how(model):
    name, revision = identity_of(model)
    note = paper_note(read_paper("qwen"), model, released_code=True)
    assert note.startswith(f"Ours: {name} at {revision}. ")
    assert "moee evaluate --paper qwen --released-code --output FOLDER" in note


@pytest.mark.slow
@pytest.mark.parametrize("extra", [[], ["--released-code"]], ids=["ours", "released-code"])
def test_command(data, tmp_path, capsys, extra):
    command = ["evaluate", "--paper", "olmoe", "--model", str(CHECKPOINT), "--data", str(data)]
    command += ["--output", str(tmp_path)]
    assert main(command + extra) == 0
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if line.startswith("STSBenchmark")]
    assert len(rows) == len(PROMPTS)
    ours = 5 if extra else 4  # sum of the released code comes standardized and not
    assert all(len(row.split()) == 3 + 4 + ours for row in rows)
    assert all(len(line.split()) == 3 + 4 for line in out.splitlines() if line.startswith("STS14"))
    assert "averages the numbers of classes and clusters" in out
    assert f"Ours: local/{CHECKPOINT.name} at " in out
    assert f"moee evaluate --paper olmoe{''.join(f' {flag}' for flag in extra)} --output FOLDER" in out
    assert (tmp_path / "paper-olmoe.md").is_file()
    assert main([*command, "--prompt", "none"]) == 1
    assert "expected no --prompt beside it" in capsys.readouterr().err
