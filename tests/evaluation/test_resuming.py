"""Resuming: what was computed before is taken as it is, and what is damaged or of other data is computed again."""

import errno
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from mteb.results import TaskResult
from support import evaluation_data, judge
from support.common import CHECKPOINT, ROOT
from support.judge import COMBINATIONS, TASKS, results

from moee_hf.cli import main
from moee_hf.evaluation import encoders, evaluate, get_tasks, local_tasks, table


def test_second_run_computes_nothing(model, data, tmp_path, monkeypatch):
    def run():
        return table(list(evaluate(encoders(model, combinations=("hs", "sum")), local_tasks(data), tmp_path))).csv()

    first, files = run(), results(tmp_path)
    assert len(files) == 2 * len(TASKS)
    judge.texts_read(monkeypatch, pytest.fail)
    assert run() == first
    assert results(tmp_path) == files


def test_data_of_mteb_are_loaded_once_and_only_if_needed(model, data, tmp_path, monkeypatch):
    """A task of mteb's own, as the Hub would fill it."""
    (local,) = local_tasks(data, ["stsb"])
    (task,) = get_tasks(["STS12"])
    loads = []

    def load_data(**kwargs):
        loads.append(task.metadata.name)
        task.dataset, task.data_loaded = local.dataset, True

    monkeypatch.setattr(task, "load_data", load_data)

    def run(task):
        return list(evaluate(encoders(model, ["none", "prompteol"], combinations=COMBINATIONS), [task], tmp_path))

    scores = run(task)
    assert len(scores) == 8
    assert loads == ["STS12"]
    (again,) = get_tasks(["STS12"])
    monkeypatch.setattr(again, "load_data", lambda **kwargs: pytest.fail("data were loaded"))
    assert run(again) == scores


def scores_of_hs(model, data, output):
    tasks = local_tasks(data, ["stsb", "topics"])
    return {score.task: score.value for score in evaluate(encoders(model, combinations=("hs",)), tasks, output)}


@pytest.fixture(scope="module")
def finished(loaded, data, tmp_path_factory):
    """A folder with the results of two tasks, and their scores."""
    output = tmp_path_factory.mktemp("finished")
    return output, scores_of_hs(loaded, data, output)


@pytest.mark.parametrize("damage", ["", "{", '{"task_name": "STSBenchmark"}', "null", "\x00\xff"])
def test_damaged_result_is_reported_and_computed_again_alone(model, data, finished, tmp_path, caplog, damage):
    output, first = shutil.copytree(finished[0], tmp_path / "out"), finished[1]
    files = results(output)
    (path,) = (path for path in files if path.name == "STSBenchmark.json")
    path.write_text(damage, encoding="latin-1")
    caplog.set_level(logging.WARNING, "moee_hf")
    assert scores_of_hs(model, data, output) == first
    assert f"{path}: expected a result of mteb" in caplog.text
    assert json.loads(path.read_text())["task_name"] == "STSBenchmark"
    again = results(output)
    assert {p: t for p, t in again.items() if p != path} == {p: t for p, t in files.items() if p != path}


def test_changed_data_are_evaluated_again(model, data, tmp_path, caplog):
    folder = shutil.copytree(data, tmp_path / "data")
    output = tmp_path / "out"

    def run(split=None):
        (score,) = evaluate(encoders(model), local_tasks(folder, ["stsb"], split), output)
        return score.value

    test, dev = run(), run("dev")
    assert test != dev
    assert (run(), run("dev")) == (test, dev)  # splits have one file of results, side by side
    path = next((folder / "sts").glob("stsb.test*"))
    lines = evaluation_data.rows()["sts/stsb.test"][:40]
    path.with_name("stsb.test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    caplog.set_level(logging.WARNING, "moee_hf")
    assert run() != test
    assert "the data of STSBenchmark were changed since" in caplog.text


@pytest.mark.slow
def test_killed_evaluation_resumes(data, tmp_path):
    """A process killed after its first results; the second leaves those as they are and adds the rest."""
    command = [sys.executable, "-m", "moee_hf.cli", "evaluate", "--data", str(data), "--output", str(tmp_path)]
    command += ["--model", str(CHECKPOINT), "--combination", *COMBINATIONS]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(ROOT)}) as process:
        while process.poll() is None and len(results(tmp_path)) < 3:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    killed = results(tmp_path)
    assert 3 <= len(killed) < len(COMBINATIONS) * len(TASKS)
    assert main(command[3:]) == 0
    finished = results(tmp_path)
    assert len(finished) == len(COMBINATIONS) * len(TASKS)
    assert {path: finished[path] for path in killed} == killed


def test_a_result_that_cannot_be_written_is_not_there(model, data, tmp_path, monkeypatch):
    """Whoever reads meanwhile sees none of it, and what stands there already stays as it is."""

    def fill_the_disk(result, path):
        path.write_text('{"task_name": "STSBench')
        places.append([p.name for p in tmp_path.rglob("STSBenchmark.json")])
        raise OSError(errno.ENOSPC, "No space left on device")

    places = []
    monkeypatch.setattr(TaskResult, "to_disk", fill_the_disk)
    with pytest.raises(OSError, match=r"STSBenchmark.json: expected a place that takes the file; got: No space left"):
        list(evaluate(encoders(model), local_tasks(data, ["stsb"]), tmp_path))
    assert places == [[]]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_files_beside_results_grow(model, data, tmp_path):
    """Of every task, in every order, mteb keeps there how it was run."""
    for task in ("stsb", "topics"):
        list(evaluate(encoders(model, combinations=("hs",)), local_tasks(data, [task]), tmp_path))
    (settings,) = tmp_path.rglob("run_settings.jsonl")
    assert len(settings.read_text().splitlines()) == 2
    assert len(list(tmp_path.rglob("model_meta.json"))) == 1
