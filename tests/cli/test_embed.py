"""`moee embed`: from file to file, and what it says meanwhile."""

import io
import json
import os
import re
import signal
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.common import CHECKPOINT, TEXTS
from support.killed import left_by_a_killed_process

from moee_hf import MoEEModel
from moee_hf.bulk.file import with_rows
from moee_hf.cli import main, progress
from moee_hf.files import embeddings as writing
from moee_hf.files.texts import TextFile
from moee_hf.model.prompts_moee import TextError

MODEL = ["--model", str(CHECKPOINT), "--dtype", "float32"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_model(monkeypatch):
    """Loading one fails the test."""
    monkeypatch.setattr(MoEEModel, "from_pretrained", lambda *args, **kwargs: pytest.fail("the model was loaded"))


@pytest.fixture
def small(monkeypatch, model):
    """The model that is loaded, whatever is asked for."""
    monkeypatch.setattr(MoEEModel, "from_pretrained", lambda *args, **kwargs: model)
    return model


def embed(*arguments):
    assert main(["embed", *arguments, *MODEL]) == 0


def write_table(path="in.parquet"):
    """Texts with columns beside, one of the texts empty; in the order of the rows."""
    texts = [*TEXTS[:3], "", *TEXTS[3:]]
    table = pa.table({"id": range(len(texts)), "body": texts, "kind": pa.array(["a", "b"] * 4).dictionary_encode()})
    pq.write_table(table, path)
    return table


def test_kept_columns_stay_beside_their_texts(small, capsys):
    table, expected = write_table(), small.encode(TEXTS)
    embed("in.parquet", "--column", "body", "--keep", "*", "--output", "out.parquet")
    got, rows = pq.read_table("out.parquet"), table.take([0, 1, 2, 4, 5, 6, 7])
    assert got.column_names == ["text", "id", "kind", "embedding"]
    assert got.column("text").to_pylist() == rows.column("body").to_pylist() == TEXTS
    assert got.select(["id", "kind"]).equals(rows.select(["id", "kind"]))
    assert np.stack(got.column("embedding").to_numpy()) == pytest.approx(expected, abs=1e-6)
    assert capsys.readouterr().err.splitlines() == [
        "in.parquet: 1 empty text was skipped",
        f"{len(TEXTS)} embeddings of width {expected.shape[1]}: out.parquet",
    ]


def test_empty_texts_are_kept_in_their_places(small):
    table = write_table()
    embed("in.parquet", "--column", "body", "--keep", "id", "--no-text", "--keep-empty", "--output", "out.parquet")
    got = pq.read_table("out.parquet")
    assert got.column_names == ["id", "embedding"]
    assert got.column("id").equals(table.column("id"))
    expected = small.encode(table.column("body").to_pylist())
    assert np.stack(got.column("embedding").to_numpy()) == pytest.approx(expected, abs=1e-6)


def test_standard_output(folder, small, capfdbinary):
    (folder / "in.csv").write_text("id;text\n01;Naïve café\n02;b\n", encoding="utf-8")
    embed("in.csv", "--delimiter", ";", "--keep", "id", "--output", "-")
    printed = capfdbinary.readouterr()
    assert printed.err.endswith(b": standard output\n")
    rows = [json.loads(line) for line in printed.out.splitlines()]
    assert [(row["text"], row["id"]) for row in rows] == [("Naïve café", "01"), ("b", "02")]
    got = np.array([row["embedding"] for row in rows], np.float32)
    assert got == pytest.approx(small.encode(["Naïve café", "b"]), abs=1e-6)


FILES = {
    "a.txt": "one\ntwo\n",
    "a.csv": "id,text\n1,one\n",
    "b.csv": "id;text\n1;one\n",
    "a.jsonl": '{"text": "one", "embedding": [1]}\n' * 20 + '{"text": "\\ud800"}',
    "b.jsonl": '{"text": "one", "embedding": [1]}\n',
    "inch.csv": "text\n" + "one\n" * 4 + '"an inch\n' + "two\n" * 100,
}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.csv", "--output", "nowhere/x.npy"], "nowhere/x.npy: expected a folder to write to"),
        (["b.jsonl", "--output", "link.jsonl"], "link.jsonl: expected another file than the one with the texts"),
        (["b.jsonl", "--output", "./b.jsonl"], "./b.jsonl: expected another file than the one with the texts"),
        (["a.jsonl", "--output", "x.npy"], "a.jsonl, line 21: expected valid Unicode"),
        (["inch.csv", "--output", "x.npy"], "inch.csv, line 6: expected a quotation mark"),
        (["b.csv", "--output", "x.npy"], "b.csv: expected fields separated by ','; .* --delimiter ';'"),
        (["a.txt", "--output", "x.npy", "--column", "text"], "--column: expected none of lines of text"),
        (["-", "--output", "x.npy", "--keep", "id"], "--keep: expected none of lines of text"),
        (["a.jsonl", "--output", "x.npy", "--delimiter", ";"], "--delimiter: expected none but for .csv and .tsv"),
        (["a.csv", "--output", "x.npy", "--keep", "id"], "--keep: expected an output in .parquet or .jsonl"),
        (["a.csv", "--output", "x.npy", "--no-text"], "--no-text: expected an output in .parquet or .jsonl"),
        (["b.jsonl", "--output", "-", "--keep", "*"], "--keep: expected other columns than 'embedding'"),
        (["a.csv", "--output", "-", "--keep", "title"], "a.csv: expected one column 'title'; got 'id', 'text'"),
    ],
)
@pytest.mark.usefixtures("no_model")
def test_what_cannot_be_done_is_said_before_the_work(folder, capsys, arguments, message):
    for name, content in FILES.items():
        (folder / name).write_text(content)
    (folder / "link.jsonl").symlink_to("b.jsonl")
    assert main(["embed", *arguments, *MODEL]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.match(f"moee: {message}", printed.err)
    assert {path.name for path in folder.iterdir()} == {*FILES, "link.jsonl"}
    assert all((folder / name).read_text() == content for name, content in FILES.items())


def test_an_empty_name_of_a_model_is_refused(folder, capsys):
    (folder / "a.txt").write_text("a\n")
    assert main(["embed", "a.txt", "--output", "x.npy", "--model", ""]) == 1
    assert capsys.readouterr().err.startswith("moee: --model: expected a folder, or the id")


def test_a_text_that_cannot_be_embedded_is_named_by_its_line(folder):
    """Though an empty line was skipped, and texts before it are embedded."""

    def encode(texts):
        assert list(texts) == ["a", "b", "c"]
        yield np.zeros((1, 2), np.float32)
        raise TextError(2, "expected; got.")

    (folder / "a.txt").write_text("a\n\nb\nc\n")
    with pytest.raises(ValueError, match=r"^a.txt, line 4: expected; got.$"):
        list(with_rows(encode, TextFile("a.txt")))


def test_an_empty_text_without_a_token_is_said_before_the_work(folder, small, capsys, monkeypatch):
    (folder / "a.txt").write_text("a\n\nb\n")
    monkeypatch.setattr(MoEEModel, "encode_stream", lambda *args, **kwargs: pytest.fail("texts were embedded"))
    assert main(["embed", "a.txt", "--output", "x.npy", "--keep-empty", "--prompt", "none", *MODEL]) == 1
    assert capsys.readouterr().err.startswith("moee: a.txt, line 2: expected ")


def test_texts_are_read_no_further_than_embeddings(folder):
    read, ahead = [], []

    def encode(texts):
        assert len(texts) == len(TEXTS)
        for text in texts:
            read.append(text)
            yield np.zeros((1, 2), np.float32)

    (folder / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    file = TextFile("a.jsonl")
    file.check()
    for rows, embeddings in with_rows(encode, file):
        assert ([row.text for row in rows], embeddings.shape) == ([TEXTS[len(ahead)]], (1, 2))
        ahead.append(len(read))
    assert ahead == list(range(1, len(TEXTS) + 1))


@pytest.fixture(params=[signal.SIGTERM, signal.SIGHUP])
def number(request):
    """A signal that ends this process, as in a terminal; under nohup SIGHUP is ignored, by the command as well."""
    before = signal.signal(request.param, signal.SIG_DFL)
    yield request.param
    signal.signal(request.param, before)


@pytest.mark.usefixtures("small")
def test_signals_leave_nothing(folder, monkeypatch, number):
    def killed(writer, *args):
        os.kill(os.getpid(), number)

    (folder / "a.txt").write_text("a\n")
    (folder / "x.npy").write_text("before")
    monkeypatch.setattr(writing.EmbeddingWriter, "write", killed)
    with pytest.raises(SystemExit) as error:
        main(["embed", "a.txt", "--output", "x.npy", *MODEL])
    assert error.value.code == 128 + number
    assert signal.getsignal(number) == signal.SIG_DFL
    assert {path.name for path in folder.iterdir()} == {"a.txt", "x.npy"}
    assert (folder / "x.npy").read_text() == "before"


@pytest.mark.usefixtures("small")
def test_what_a_killed_run_left_is_said_and_removed(folder, capsys):
    (folder / "a.txt").write_text("a\n")
    left = left_by_a_killed_process(folder / "x.npy")
    embed("a.txt", "--output", "x.npy")
    assert f"{left}: the beginning of a file, from a run that was killed; removed\n" in capsys.readouterr().err
    assert {path.name for path in folder.iterdir()} == {"a.txt", "x.npy"}


@pytest.mark.usefixtures("small")
def test_progress_is_said_in_lines_where_no_terminal_is(folder, capsys, monkeypatch):
    def lines(*arguments):
        assert main([*arguments, "--batch-size", "2", *MODEL]) == 0
        return [line for line in capsys.readouterr().err.splitlines() if "texts/s" in line]

    (folder / "a.txt").write_text("\n".join(f"Text number {number}." for number in range(7)))
    assert lines("embed", "a.txt", "--output", "x.npy") == []
    monkeypatch.setattr(progress, "SECONDS", 0)
    line = re.compile(r"(\d) of 7 texts, [\d.,e+]+ texts/s, 0:00:\d\d left")
    for arguments in (["embed", "a.txt", "--output", "x.npy"], ["calibrate", "a.txt", "--output", "out"]):
        assert [line.fullmatch(printed)[1] for printed in lines(*arguments)] == ["2", "4", "6", "7"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\nb\nc\n")))
    assert [line.split(",")[0] for line in lines("embed", "-", "--output", "x.npy")] == ["2 texts", "3 texts"]
