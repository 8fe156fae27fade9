"""The pairs of texts of a task."""

import pytest
from datasets import Dataset, DatasetDict

from moee_hf.evaluation import local_tasks
from moee_hf.evaluation.pairs import pairs_of


def test_pairs_in_one_row_of_lists(data):
    """As data sets of pair classification were stored once."""
    (task,) = local_tasks(data, ["twins"])
    expected = pairs_of(task)
    task.dataset = DatasetDict(test=Dataset.from_list([dict(task.dataset["test"].to_dict())]))
    assert pairs_of(task) == expected
    task.hf_subsets = ["en", "de"]
    with pytest.raises(ValueError, match="tasks: expected tasks of one language and one split; got 'twins' with en"):
        pairs_of(task)
