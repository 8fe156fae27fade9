"""Tasks of local files: which file is which task."""

import json

import pytest
from support import evaluation_data

from moee_hf.evaluation import encoders, evaluate, local_tasks


def test_names_that_may_be_several(tmp_path):
    rows = evaluation_data.rows()
    for name, source in (("sts/foo", "sts/stsb.test"), ("clustering/foo", "clustering/topics")):
        path = tmp_path / f"{name}.jsonl"
        path.parent.mkdir()
        path.write_text("".join(json.dumps(row) + "\n" for row in rows[source]))
    with pytest.raises(ValueError, match="expected one file for foo; got two"):
        local_tasks(tmp_path)
    with pytest.raises(ValueError, match="tasks: expected one of clustering/foo, sts/foo; got 'foo'"):
        local_tasks(tmp_path, ["foo"])
    assert [type(task).__mro__[1].__name__ for task in local_tasks(tmp_path, ["sts/foo"])] == ["AbsTaskSTS"]
    (tmp_path / "sts" / "foo.jsonl").rename(tmp_path / "sts" / "sts-b.v1.dev.jsonl")
    assert [task.metadata.name for task in local_tasks(tmp_path)] == ["foo", "sts-b.v1"]


def test_file_of_the_name_of_a_multilingual_task(model, tmp_path):
    (tmp_path / "sts").mkdir()
    rows = evaluation_data.rows()["sts/stsb.test"]
    (tmp_path / "sts" / "sts17.test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (score,) = evaluate(encoders(model), local_tasks(tmp_path), tmp_path / "out")
    assert score.task == "STS17"


def test_rows_that_change_their_file_change_the_revision(tmp_path):
    lines = [json.dumps({"text": f"text {n}", "label": str(n % 2)}) + "\n" for n in range(20)]
    revisions = set()
    for cut in (8, 12):
        folder = tmp_path / str(cut) / "classification"
        folder.mkdir(parents=True)
        (folder / "a.train.jsonl").write_text("".join(lines[:cut]))
        (folder / "a.test.jsonl").write_text("".join(lines[cut:]))
        (task,) = local_tasks(folder.parent)
        revisions.add(task.metadata.revision)
    assert len(revisions) == 2
