"""Kept vectors: read in place of texts, as long as they are those of the same choices and can be read."""

import numpy as np
import pytest
from support import judge
from support.judge import CORPUS

from moee_hf.evaluation import Corpus, encoders, evaluate, local_tasks, table
from moee_hf.evaluation.store import write_vectors
from moee_hf.evaluation.tables import Table


def test_kept_vectors_are_read_in_place_of_texts(model, data, tmp_path, monkeypatch, caplog):
    def run(output):
        store = tmp_path / "vectors"
        grid = encoders(model, combinations=("hs", "rw"), corpus=Corpus(CORPUS), control=True, store=store)
        return table(list(evaluate(grid, local_tasks(data, ["stsb"]), tmp_path / output)))

    first = run("first")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "vectors").rglob("*.safetensors")}
    assert kept
    judge.texts_read(monkeypatch, pytest.fail)
    assert run("second").csv() == first.csv()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "vectors").rglob("*.safetensors")} == kept
    monkeypatch.undo()
    damaged = sorted(kept)[0]
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert run("third").csv() == first.csv()
    assert f"{damaged}: expected kept vectors" in caplog.text
    model.config.pooling = "mean"  # other vectors, in another folder
    assert run("fourth").csv() != first.csv()


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match=r"\.safetensors: expected a place that takes the file; got: .*too large"):
        write_vectors(tmp_path, ["a"], {"state": np.zeros((1, 2000), np.float32)}, {})
    with pytest.raises(OSError, match=r"scores\.md: expected a place that takes the file; got: .*too large"):
        Table(["task"], [["a" * 9000]]).save(tmp_path, "scores")
    assert list(tmp_path.iterdir()) == []
