"""What the files of tasks hold: what mteb cannot score is refused, and said where."""

import json

import pytest
from support import evaluation_data

from moee_hf.evaluation import encoders, evaluate, local_tasks

PAIR = '{"sentence1": "x", "sentence2": "y", %s}\n'


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "expected files such as"),
        ({"sts/a.test.jsonl": ""}, "sts/a.test.jsonl: expected rows; got none"),
        ({"sts/a.test.jsonl": '{"sentence1": "x"}\n'}, "line 1: expected an object with the field 'sentence2'"),
        ({"sts/a.test.jsonl": "[]\n"}, "line 1: expected an object with the field 'sentence1'"),
        (
            {"sts/a.test.jsonl": '{"sentence1": "x", "sentence2": "y", "score": "5"}\n'},
            "line 1: expected 'score' of type int or float; got '5'",
        ),
        ({"sts/a.test.jsonl": "{\n"}, "line 1: expected a JSON object"),
        ({"sts/a.test.jsonl": PAIR % '"score": NaN'}, "line 1: expected 'score' of type int or float; got nan"),
        ({"sts/a.test.jsonl": PAIR % '"score": 2' * 3}, "expected rows that differ in 'score'; got 2 alone"),
        ({"pair_classification/a.jsonl": PAIR % '"label": 1'}, "expected rows that differ in 'label'; got 1 alone"),
        ({"pair_classification/a.jsonl": PAIR % '"label": 2'}, "expected 'label' to be 0 or 1; got 2"),
        (
            {"clustering/a.jsonl": '{"text": "x", "label": "y"}\n'},
            "expected rows that differ in 'label'; got 'y' alone",
        ),
        ({"clustering/a.jsonl": '{"text": "\\ud800", "label": "y"}\n'}, "line 1: expected 'text' of type str"),
        ({"sts/.jsonl": PAIR}, "expected NAME.SPLIT.jsonl, one of each"),
        ({"sts/a.jsonl": PAIR, "sts/a.test.jsonl": PAIR}, "expected NAME.SPLIT.jsonl, one of each"),
        (
            {"sts/a.test.jsonl.gz": "no gzip"},
            "a.test.jsonl.gz, line 1: expected a file packed by gzip; got a damaged one",
        ),
        ({"sts/a.dev.jsonl": "", "sts/a.extra.jsonl": ""}, "expected a with the split 'test'; got 'dev', 'extra'"),
        ({"classification/a.test.jsonl": '{"text": "x", "label": "y"}\n'}, "expected a file of the split 'train'"),
        (
            {"reranking/a.jsonl": '{"query": "x", "positive": ["y"], "negative": [1]}\n'},
            "line 1: expected 'negative' of type list of str",
        ),
        (
            {"reranking/a.jsonl": '{"query": "x", "positive": [], "negative": ["z"]}\n'},
            "line 1: expected texts in 'positive'; got none",
        ),
        (
            {
                "summarization/a.jsonl": '{"text": "x", "machine_summaries": ["y"], "human_summaries": ["z"], '
                '"relevance": [1, 2]}\n'
            },
            "line 1: expected a score in 'relevance' for each of 1 summaries; got 2",
        ),
    ],
)
def test_data_that_are_none_say_where(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        local_tasks(tmp_path)


def test_two_classes_of_three_are_evaluated(model, tmp_path):
    (tmp_path / "classification").mkdir()
    rows = evaluation_data.rows()["classification/emotion.train"]
    parts = {"train": rows, "test": [row for row in rows[:40] if row["label"] != "money"]}
    for part, lines in parts.items():
        text = "".join(json.dumps(row) + "\n" for row in lines)
        (tmp_path / "classification" / f"a.{part}.jsonl").write_text(text)
    (score,) = evaluate(encoders(model), local_tasks(tmp_path), tmp_path / "out")
    assert 0 < score.value <= 100
