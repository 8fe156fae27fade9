"""`moee embed INPUT... --output FOLDER/`: what would mix embeddings, and what fails."""

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.common import MANY
from support.folders import MODEL, embed, outputs, states, write_lines

from moee_hf import MoEEModel
from moee_hf.bulk import work
from moee_hf.cli import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "none"], r"prompt \['This sentence"),
        (["--combination", "rw"], "choices {"),
        (["--normalize"], "normalize False"),
        (["--rows-per-file", "7"], "rows_per_file 50000"),
        (["--no-text"], "no_text False"),
        (["--keep", "id"], r"keep \[\]"),
        (["--column", "body"], "column 'text'"),
        (["--keep-empty"], "keep_empty False"),
        (["--dtype", "bfloat16"], "dtype 'float32'"),
    ],
)
def test_a_folder_of_another_recipe_is_refused(capsys, arguments, message):
    embed("in")
    before, manifest = states(), Path("out/manifest.json").read_text()
    capsys.readouterr()
    assert main(["embed", "in", "--output", "out/", *MODEL, *arguments]) == 1
    assert re.search(
        f"manifest.json: expected the recipe that the folder was made by, with {message}", capsys.readouterr().err
    )
    assert (states(), Path("out/manifest.json").read_text()) == (before, manifest)


def test_another_model_is_refused(saved, capsys, monkeypatch):
    embed("in")
    assert main(["embed", "in", "--output", "out/", "--model", str(saved), "--dtype", "float32"]) == 1
    assert "expected the recipe that the folder was made by, with model" in capsys.readouterr().err


def test_changed_and_new_files(small, capsys):
    embed("in", "--keep", "id")
    write_lines("in/c.jsonl", ["A new text."], 5)
    embed("in", "--keep", "id")
    assert pq.read_table("out/c.parquet").column("text").to_pylist() == ["A new text."]
    Path("in/d.jsonl").write_text('{"text": "a", "id": "no number"}\n')
    embed("in", "--keep", "id", code=1)
    assert "in/d.jsonl: expected the types of the files before it" in capsys.readouterr().err
    Path("in/d.jsonl").unlink()
    write_lines("in/c.jsonl", ["Another text."], 5)
    embed("in", "--keep", "id", code=1)
    assert re.search(r"in/c.jsonl: expected [\d,]+ bytes, as when the folder out was begun", capsys.readouterr().err)


def test_names_that_would_be_one_are_refused_whenever_they_come(capsys):
    write_lines("in/a-00000.jsonl", ["Another text."], 0)
    embed("in", "--rows-per-file", "30", code=1)
    assert re.search("in/a.jsonl: expected names of inputs that differ; .*a-00000.jsonl is", capsys.readouterr().err)
    embed("in/a.jsonl", "--rows-per-file", "30")
    embed("in/a-00000.jsonl", "--rows-per-file", "30", code=1)
    assert "a-00000.jsonl: expected names of inputs that differ; a.jsonl is written to" in capsys.readouterr().err
    assert pq.read_table("out/a-00000.parquet").column("text").to_pylist() == MANY[:30]


def test_two_recipes_that_begin_at_once_do_not_mix(capsys, monkeypatch):
    """One has written what it will do, and no file yet, when the other comes."""

    def other_run(*args, **options):
        monkeypatch.setattr(work, "write_embeddings", real)
        assert main(["embed", "in", "--output", "out/", *MODEL, "--prompt", "none"]) == 1
        return real(*args, **options)

    real = work.write_embeddings
    monkeypatch.setattr(work, "write_embeddings", other_run)
    embed("in", "--normalize")
    assert "manifest.json: expected the recipe" in capsys.readouterr().err
    assert {pq.read_schema(path).metadata[b"normalized"] for path in states()} == {b"True"}
    assert "| normalize | `true` |" in Path("out/README.md").read_text()


def test_files_that_fail_are_named_and_the_others_are_made(capsys):
    Path("in/broken.jsonl").write_text('{"text": "a"}\n' * 40 + "no json\n")
    Path("in/damaged.parquet").write_text("no parquet")
    embed("in", "--rows-per-file", "30", code=1)
    printed = capsys.readouterr().err
    assert "broken-00001.parquet: in/broken.jsonl, line 41: expected a JSON object" in printed
    assert "in/damaged.parquet: expected a Parquet file" in printed
    assert printed.splitlines()[-1].startswith("moee: out/: expected embeddings of every file; 2 failed")
    assert {"a-00000.parquet", "broken-00000.parquet", "sub/b.parquet"} < set(outputs())
    assert "broken-00001.parquet" not in outputs()


def test_what_may_pass_is_tried_again(capsys, monkeypatch):
    calls, real = [], work.write_embeddings

    def failing(model, file, output, *args, **options):
        calls.append(output)
        if len(calls) == 1:
            raise ConnectionError("the network is away")
        return real(model, file, output, *args, **options)

    monkeypatch.setattr(work, "write_embeddings", failing)
    embed("in")
    assert calls == ["out/a.parquet", "out/sub/b.parquet", "out/a.parquet"]
    monkeypatch.setattr(work, "write_embeddings", lambda *args, **options: (_ for _ in ()).throw(OSError("no disk")))
    embed("in", output="other/", code=1)
    assert "a.parquet: no disk" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "output", "message"),
    [
        (["in"], "x.npy", "--output: expected a folder, with / at its end, for embeddings of several files"),
        (["in/a.jsonl", "in/sub/b.jsonl"], "x.npy", "--output: expected a folder"),
        (["in/a.jsonl", "--ray"], "x.npy", "--ray: expected an output that is a folder"),
        (["in/a.jsonl", "--push-to-hub", "a/b"], "x.npy", "--push-to-hub: expected an output that is a folder"),
        (["in/a.jsonl", "--num-shards", "2"], "x/", "--num-shards: expected --shard beside it"),
        (["in/a.jsonl", "--num-shards", "2", "--shard", "2"], "x/", "--shard: expected a number below 2; got 2"),
        (["in/a.jsonl", "--actors", "2"], "x/", "--actors: expected --ray beside it"),
        (["in/a.jsonl", "--ray", "--devices", "cpu,cpu"], "x/", "--devices: expected none beside --ray"),
        (["in/notes.pdf"], "x/", "in/notes.pdf: expected a file ending in .txt"),
        (["in/*.pdf"], "x/", r"in/\*.pdf: expected files ending in .txt"),
        (["nowhere"], "x/", "nowhere: expected a file, or a folder or pattern with some; there is none"),
        (["in/a.jsonl", "in/sub/a.csv"], "x/", "in/sub/a.csv: expected names of inputs that differ; in/a.jsonl is"),
        (["in/a.jsonl"], "hf://datasets/a/b", "--output: expected a folder that files are written to one by one"),
        (["in/a.jsonl"], "in/", "in: expected a new folder, or one that `moee embed` wrote"),
        (["in/a.jsonl"], "in/a.jsonl/", "in/a.jsonl/: expected a folder to write to; there is a file"),
        (
            ["in/a.jsonl", "--push-to-hub", "a/b"],
            "memory://v",
            "--push-to-hub: expected an output that is a folder of",
        ),
        (
            ["in/a.jsonl"],
            "memory://v.parquet",
            "memory://v.parquet: expected a folder at an address, with / at its end",
        ),
        (["in/a.jsonl", "--delimiter", ";"], "x/", "--delimiter: expected an input that has a use for it; got ';'"),
        (["in/sub/l.txt", "--column", "body"], "x/", "--column: expected an input that has a use for it; got 'body'"),
        (
            ["in/a.jsonl", "in/sub/l.txt", "--keep", "id"],
            "x/",
            "--keep: expected inputs with columns; got in/sub/l.txt",
        ),
        (["in/nothing"], "x/", "in/nothing: expected a file, or a folder or pattern with some; there is none"),
        (["in/a.jsonl", "--keep", "title"], "x/", "in/a.jsonl: expected a field 'title' to keep"),
        (["in/a.jsonl", "--keep", "*"], "x/", "--keep: expected other columns than 'embedding'"),
    ],
)
def test_what_cannot_be_done_is_said_before_the_work(folder, capsys, monkeypatch, arguments, output, message):
    (folder / "in/sub/a.csv").write_text("text\na\n")
    (folder / "in/sub/l.txt").write_text("a\n")
    (folder / "in/nothing").mkdir()
    (folder / "in/nothing/.hidden").touch()
    if "*" in arguments[-1]:
        (folder / "in/a.jsonl").write_text('{"text": "a", "embedding": 1}\n')
    monkeypatch.setattr(MoEEModel, "from_pretrained", lambda *args, **kwargs: pytest.fail("the model was loaded"))
    before = set(folder.rglob("*.jsonl"))
    embed(*arguments, output=output, code=1)
    assert re.search(f"^(moee: )?{message}", capsys.readouterr().err, re.MULTILINE)
    assert not list(folder.rglob("*.parquet"))
    assert before == set(folder.rglob("*.jsonl"))
