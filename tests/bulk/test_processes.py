"""Parts of files in processes of their own: on devices of this machine, and on Ray."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.common import CHECKPOINT, MANY
from support.loading import load

from moee_hf.bulk.folder import Folder
from moee_hf.bulk.inputs import Input, find_inputs
from moee_hf.bulk.job import run
from moee_hf.bulk.processes import Processes
from moee_hf.bulk.work import Work
from moee_hf.cli import main
from moee_hf.files.readers import measure
from moee_hf.files.rows import Request

pytestmark = pytest.mark.slow


@pytest.fixture
def work(tmp_path):
    return Work(functools.partial(load, str(CHECKPOINT)), Folder(f"{tmp_path}/out"), Request(""))


@pytest.fixture
def parts(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(MANY))
    (tmp_path / "broken.jsonl").write_text("no json\n")
    files = find_inputs([str(tmp_path / "a.txt"), str(tmp_path / "broken.jsonl")], f"{tmp_path}/out")
    inputs = [Input(file, measure(Request(file.location), 20)[0]) for file in files]
    return [part for input_ in inputs for part in input_.parts(20)]


def texts_and_vectors(folder):
    tables = [pq.read_table(path) for path in sorted(folder.glob("a-*.parquet"))]
    texts = [text for table in tables for text in table.column("text").to_pylist()]
    return texts, np.concatenate([np.stack(table.column("embedding").to_numpy()) for table in tables])


def kill(processes, number):
    process = processes._workers[number]._process
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def test_processes_make_every_file_though_some_are_killed(work, parts, loaded, tmp_path):
    done = []
    with Processes(work, ["cpu", "cpu"]) as processes:
        results = {}
        kill(processes, 0)  # while it waits for work
        for result in run(parts, processes, done.append):
            if not results:  # while one works, and one may
                kill(processes, 1)
            results[result.output] = result
        ended = [worker._process for worker in processes._workers]
    assert not any(process.is_alive() for process in ended)
    assert set(results) == {part.output for part in parts}
    assert {name for name, result in results.items() if result.error} == {"broken.parquet"}
    assert "line 1: expected a JSON object" in results["broken.parquet"].error
    assert sum(done) == len(MANY)
    texts, vectors = texts_and_vectors(tmp_path / "out")
    assert texts == MANY
    assert vectors == pytest.approx(loaded.encode(MANY), abs=1e-6)


def test_a_model_that_cannot_be_loaded_is_said(tmp_path, parts):
    work = Work(functools.partial(load, str(tmp_path / "nowhere")), Folder(f"{tmp_path}/out"), Request(""))
    with pytest.raises(RuntimeError, match=r"devices: expected a model on cpu; .*nowhere"), Processes(work, ["cpu"]):
        pytest.fail("there is no model")


def embed(folder, *arguments):
    return ["embed", f"{folder}/in", "--output", f"{folder}/out/", "--model", str(CHECKPOINT), *arguments]


def test_a_killed_command_leaves_whole_files_and_no_process(tmp_path, loaded):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("\n".join(MANY * 15))
    flags = ["--dtype", "float32", "--rows-per-file", "40", "--batch-size", "1", "--devices", "cpu,cpu"]
    command = [sys.executable, "-m", "moee_hf.cli", *embed(tmp_path, *flags)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"})
    while not (before := list((tmp_path / "out").glob("a-*.parquet"))):
        assert process.poll() is None
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) >= 2
    process.kill()
    process.wait()
    process.stderr.close()
    for path in before:
        assert len(pq.read_table(path)) == 40
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{child}/stat").exists() for child in children):
        assert time.monotonic() < deadline, "a process goes on though its caller is gone"
        time.sleep(0.05)
    states = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("a-*.parquet")}
    assert len(states) < 30
    assert main(embed(tmp_path, *flags[:4])) == 0
    assert all(path.stat().st_mtime_ns == state for path, state in states.items())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        ["README.md", "manifest.json", *(f"a-{number:05}.parquet" for number in range(30))]
    )
    texts, vectors = texts_and_vectors(tmp_path / "out")
    assert texts == MANY * 15
    assert vectors[:80] == pytest.approx(loaded.encode(MANY), abs=1e-6)


def test_ray_makes_the_same_folder(tmp_path, loaded, capsys):
    pytest.importorskip("ray")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("\n".join(MANY))
    (tmp_path / "in/broken.jsonl").write_text("no json\n")
    flags = ["--dtype", "float32", "--rows-per-file", "20", "--ray", "--actors", "2"]
    assert main(embed(tmp_path, *flags)) == 1
    printed = capsys.readouterr().err
    assert "broken.jsonl, line 1: expected a JSON object" in printed
    assert f"{len(MANY)} embeddings in 4 files; 4 of 5 files are there" in printed
    texts, vectors = texts_and_vectors(tmp_path / "out")
    assert texts == MANY
    assert vectors == pytest.approx(loaded.encode(MANY), abs=1e-6)
    (tmp_path / "in/broken.jsonl").unlink()
    assert main(embed(tmp_path, *flags[:4])) == 0  # without Ray, in the same folder
    assert "0 embeddings in 0 files; 4 of 4 files are there" in capsys.readouterr().err
