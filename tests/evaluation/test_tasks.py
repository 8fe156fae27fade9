"""Tasks by name."""

import pytest

from moee_hf.evaluation import get_tasks, local_tasks


def test_names_that_are_none(tmp_path, data):
    with pytest.raises(ValueError, match=r"expected tasks with a file in .*sts/stsb.*; got 'STS12'"):
        local_tasks(data, ["STS12"])
    with pytest.raises(
        ValueError, match=r"tasks: expected the name of a task of mteb .*; got 'STS-12'\. Did you mean 'STS12'\?$"
    ):
        get_tasks(["STS-12"])
    with pytest.raises(ValueError, match=r"got 'nosuchthing'\.$"):
        get_tasks(["nosuchthing"])
    with pytest.raises(ValueError, match=r"got 'stsbb'\. Did you mean 'stsb'\?$"):
        local_tasks(data, ["stsbb"])
    with pytest.raises(ValueError, match="tasks: expected names of mteb's tasks"):
        get_tasks(None)
    with pytest.raises(NotADirectoryError, match="expected a folder with sts, "):
        local_tasks(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"split: expected one that STS12 evaluates \(test\); got 'dev'"):
        get_tasks(["STS12"], split="dev")
    assert [task.metadata.name for task in get_tasks(["SummEval", "stsb"], str(data))] == ["SummEval", "STSBenchmark"]
