"""Scores: the judge's, from raw vectors, and a table of them."""

import re

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from mteb.abstasks import AbsTaskClustering
from mteb.abstasks.task_metadata import TaskMetadata
from support import evaluation_data, judge, metrics, recompute
from support.common import CHECKPOINT
from support.judge import COMBINATIONS, CORPUS, TASKS

from moee_hf.cli import main
from moee_hf.evaluation import Corpus, encoders, evaluate, local_tasks, table

# what another prompt changes is the same in every embedding
OF_PROMPT = {"none": COMBINATIONS, "prompteol": ("sum",)}


@pytest.fixture(scope="module", params=OF_PROMPT)
def evaluated(request, loaded, data, tmp_path_factory):
    """Six types of tasks, four embeddings, raw and calibrated, and a control: the prompt, scores and kept vectors."""
    folder, prompt = tmp_path_factory.mktemp(request.param), request.param
    control = prompt == "prompteol"  # one prompt's will do
    grid = encoders(
        loaded,
        [prompt],
        combinations=OF_PROMPT[prompt],
        corpus=Corpus(CORPUS),
        control=control,
        store=folder / "vectors",
    )
    return prompt, list(evaluate(grid, local_tasks(data), folder / "results")), folder / "vectors"


@pytest.mark.parametrize("calibrated", [False, True], ids=["raw", "calibrated"])
def test_every_score_is_the_judges(model, evaluated, calibrated):
    """From vectors of texts alone: 1e-4 as in the table's last digit."""
    prompt, found, _ = evaluated
    scores = {
        (score.task, score.choices["combination"]): score.value
        for score in found
        if ("statistics" in score.choices) == calibrated and "weights" not in score.choices
    }
    assert scores.keys() == {(task, combination) for task in TASKS for combination in OF_PROMPT[prompt]}
    rows = evaluation_data.rows()
    texts = list(dict.fromkeys(text for lines in rows.values() for text in recompute.texts_of(lines)))
    if calibrated:
        model.config.router_activation = "clr"
    hidden, routing = judge.raw_vectors(model, texts, prompt)
    parts = hidden, routing.reshape(len(routing), -1), 1.0
    if calibrated:
        parts = judge.calibrated((hidden, routing), judge.raw_vectors(model, CORPUS, prompt))
    for combination in OF_PROMPT[prompt]:
        vector = dict(zip(texts, metrics.embedding(*parts[:2], combination, parts[2]), strict=True))
        for task in TASKS:
            assert scores[task, combination] == pytest.approx(100 * judge.score(task, vector), abs=1e-2), combination


def test_every_score_follows_from_the_kept_vectors(evaluated, data):
    """They are the raw ones, from which a script that knows nothing of us computes the whole table."""
    prompt, scores, vectors = evaluated
    found_table = table(scores)
    cells = [dict(zip(found_table.header, row, strict=True)) | {"prompt": prompt} for row in found_table.rows]
    assert all(recompute.file_of(data, task) == TASKS[task] for task in ("topics", "questions", "twins"))
    found = list(recompute.recompute(cells, data, vectors, CORPUS))
    assert len(found) == len(scores) == len(TASKS) * 2 * (4 if prompt == "none" else 2)
    for cell, theirs, ours in found:
        assert theirs == pytest.approx(ours, abs=1e-2), cell


@pytest.mark.parametrize(
    ("pooling", "choices"),
    [
        ("lasttoken", {"hidden_sources": ("state", "attention"), "router_activations": ("softmax", "clr")}),
        ("mean", {"hidden_sources": ("values",), "layer_weights": ("equal", "agreement")}),
    ],
)
def test_every_choice_follows_from_the_kept_vectors(model, data, tmp_path, pooling, choices):
    corpus, store = Corpus(CORPUS), tmp_path / "vectors"
    smaller = {"dimensions": (0, 20), "precisions": ("float32", "int8", "binary")}
    prompts, options = ["none+prompteol"], {"corpus": corpus, "store": store} | smaller | choices
    grid = encoders(model, prompts, [pooling], combinations=("sum",), **options)
    found_table = table(list(evaluate(grid, local_tasks(data, ["stsb"]), tmp_path / "out")))
    columns = [name for name in found_table.header if name.startswith("sum")]
    assert columns == ["sum", "sum int8", "sum binary", "sum 20", "sum 20 int8", "sum 20 binary"]
    cells = [dict(zip(found_table.header, row, strict=True)) | {"pooling": pooling} for row in found_table.rows]
    found = list(recompute.recompute(cells, data, tmp_path / "vectors", CORPUS))
    assert len(found) == sum(isinstance(cell, float) for row in found_table.rows for cell in row)
    for cell, theirs, ours in found:
        assert theirs == pytest.approx(ours, abs=1e-2), cell


def test_kept_vectors_of_several_readings_are_told_apart(model, data, tmp_path):
    grid = encoders(model, ["none"], ("lasttoken", "mean"), (-1, 1), ("hs",), store=tmp_path / "vectors")
    found_table = table(list(evaluate(grid, local_tasks(data, ["stsb"]), tmp_path / "out")))
    cells = [dict(zip(found_table.header, row, strict=True)) for row in found_table.rows]
    found = list(recompute.recompute(cells, data, tmp_path / "vectors", None))
    assert len({theirs for _, theirs, _ in found}) == len({cell for cell, *_ in found}) == 4
    for cell, theirs, ours in found:
        assert theirs == pytest.approx(ours, abs=1e-2), cell


def test_what_is_asked_for_twice_is_done_once(model, data, tmp_path):
    prompts = ("none", "none", "{text}")
    grid = encoders(model, prompts, ("lasttoken", None), combinations=("sum", "sum"), alphas=(0.1234567, 0.12345678))
    tasks = local_tasks(data, ["stsb", "stsb", "STSBenchmark"])
    scores = list(evaluate(grid, tasks, tmp_path))
    assert len(tasks) == 1
    assert len(scores) == 2
    assert table(scores).header[-2:] == ["sum 0.1234567", "sum 0.12345678"]


class Sampled(AbsTaskClustering):
    """A task that draws its texts anew, as the newer clustering tasks of mteb do."""

    max_document_to_embed = 60
    max_fraction_of_documents_to_embed = None
    n_clusters = 5
    metadata = TaskMetadata(
        name="Sampled",
        description="",
        type="Clustering",
        dataset={"path": "x", "revision": "1"},
        eval_langs=["eng-Latn"],
        eval_splits=["test"],
        main_score="v_measure",
    )


def test_every_encoder_gets_the_same_sample(model, tmp_path):
    def scores(combinations, output):
        task = Sampled()
        texts, labels = zip(*((text, topic) for topic, text in evaluation_data.TEXTS), strict=True)
        task.dataset = DatasetDict(test=Dataset.from_dict({"sentences": texts, "labels": labels}))
        task.data_loaded = True
        found = evaluate(encoders(model, combinations=combinations), [task], output)
        return {score.choices["combination"]: score.value for score in found}

    assert scores(("hs", "rw"), tmp_path / "a") == scores(("rw", "hs"), tmp_path / "b")


def test_command_prints_and_saves_the_table(data, tmp_path, capsys):
    (tmp_path / "corpus.txt").write_text("\n".join(line.replace("\n", " ") for line in CORPUS))
    command = ["evaluate", "--data", str(data), "--tasks", "stsb", "twins", "--prompt", "none", "prompteol"]
    command += ["--combination", "hs", "sum", "--alpha", "0.5", "2", "--calibrate", str(tmp_path / "corpus.txt")]
    command += ["--model", str(CHECKPOINT), "--control", "random", "--output", str(tmp_path / "out")]
    assert main(command) == 0
    out, err = capsys.readouterr()
    header, *lines = out.splitlines()
    assert header.split("  ")[0] == "task"
    for column in ("hs", "sum 0.5", "sum 2", "random hs", "random sum 0.5", "random sum 2"):
        assert column in header
    assert len(lines) == (2 + 1) * 2 * 2  # tasks and their average, prompts, raw and calibrated
    assert all(len(line.split()) == 5 + 6 for line in lines)
    markdown = (tmp_path / "out" / "scores.md").read_text().splitlines()
    assert markdown[0].startswith(
        "| task | prompt | statistics | router_activation | layer_weights | hs | sum 0.5 | sum 2 | random hs |"
    )
    words = [line.replace("*", "").split() for line in lines]
    assert words == [line.replace("*", "").replace("|", " ").split() for line in markdown[2:]]
    rows = (tmp_path / "out" / "scores.csv").read_text().splitlines()
    assert words[:8] == [row.split(",") for row in rows[1:]]
    numbers = np.array([[float(word) for word in line[5:]] for line in words]).reshape(3, 4, 6)
    assert [line[0] for line in words[8:]] == ["average"] * 4
    assert numbers[2] == pytest.approx(numbers[:2].mean(axis=0), abs=0.011)
    # the best of each task, and of the averages
    for task, printed, saved in zip(numbers, np.reshape(lines, (3, 4)), np.reshape(markdown[2:], (3, 4)), strict=True):
        assert {float(number) for line in printed for number in re.findall(r"(\S+)\*", line)} == {task.max()}
        assert {float(number) for line in saved for number in re.findall(r"\*\*(.+?)\*\*", line)} == {task.max()}
    assert "STSBenchmark" in err
    assert "statistics=calibrated" in err
    assert not re.search(r"=[0-9a-f]{8}", err)  # digests are for files of results


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--dimensions", "8"], "dimensions: expected texts to calibrate on"),
        (["--precision", "int8"], "precision: expected texts to calibrate on"),
        (["--precision", "binary"], "expected standardized embeddings for 'binary'"),
        (["--layer-weights", "agreement"], "layer-weights: expected texts to calibrate on"),
    ],
)
def test_command_says_what_takes_a_corpus(data, tmp_path, capsys, flags, problem):
    command = ["evaluate", "--data", str(data), "--model", str(CHECKPOINT), "--output", str(tmp_path)]
    assert main([*command, *flags]) == 1
    assert problem in capsys.readouterr().err
