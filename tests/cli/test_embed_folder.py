"""`moee embed INPUT... --output FOLDER/`: many files, in parts, gone on with by what is there."""

import json
import re
from pathlib import Path

import datasets
import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.common import CHECKPOINT, MANY, TEXTS
from support.killed import left_by_a_killed_process

from moee_hf import MoEEModel
from moee_hf.bulk import embed_file, work
from moee_hf.bulk.folder import Folder
from moee_hf.cli import main, progress

MODEL = ["--model", str(CHECKPOINT), "--dtype", "float32"]
LINES = [text for text in TEXTS if "\n" not in text]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working directory, with some files of texts in a folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in/sub").mkdir(parents=True)
    write_lines("in/a.jsonl", MANY, 0)
    write_lines("in/sub/b.jsonl", LINES, 100)
    (tmp_path / "in/notes.pdf").write_text("no texts")
    return tmp_path


@pytest.fixture(autouse=True)
def small(monkeypatch, model):
    """The model that is loaded, whatever is asked for."""
    monkeypatch.setattr(MoEEModel, "from_pretrained", lambda *args, **kwargs: model)
    return model


def write_lines(path, texts, first):
    lines = (json.dumps({"id": first + number, "text": text}) for number, text in enumerate(texts))
    Path(path).write_text("\n".join(lines) + "\n")


def embed(*arguments, output="out/", code=0):
    assert main(["embed", *map(str, arguments), "--output", str(output), *MODEL]) == code


def outputs(folder="out"):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def states(folder="out"):
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in Path(folder).rglob("*.parquet")}


def test_every_file_in_parts(small, capsys):
    embed("in", "--keep", "id", "--rows-per-file", "30")
    assert outputs() == [
        *("README.md", "a-00000.parquet", "a-00001.parquet", "a-00002.parquet"),
        *("manifest.json", "sub/b.parquet"),
    ]
    tables = [pq.read_table(f"out/{name}") for name in outputs() if name.endswith(".parquet")]
    assert [len(table) for table in tables] == [30, 30, 20, len(LINES)]
    whole = pa.concat_tables(table.replace_schema_metadata(None) for table in tables)
    assert whole.column("text").to_pylist() == [*MANY, *LINES]
    assert whole.column("id").to_pylist() == [*range(len(MANY)), *range(100, 100 + len(LINES))]
    expected = small.encode([*MANY, *LINES])
    assert whole.schema.field("embedding").type == pa.list_(pa.float32(), expected.shape[1])
    assert np.stack(whole.column("embedding").to_numpy()) == pytest.approx(expected, abs=1e-6)
    metadata = {name.decode(): value.decode() for name, value in tables[3].schema.metadata.items()}
    assert (metadata["source"], metadata["prompt"], metadata["combination"]) == ("sub/b.jsonl", "prompteol", "sum")
    assert capsys.readouterr().err.endswith(
        f"{len(MANY) + len(LINES)} embeddings in 4 files; 4 of 4 files are there: out/\n"
    )


def test_what_is_there_stays(small, capsys, monkeypatch):
    embed("in", "--rows-per-file", "30")
    before = states()
    Path("out/a-00001.parquet").unlink()
    capsys.readouterr()
    embed("in", "--rows-per-file", "30")
    assert "30 embeddings in 1 files; 4 of 4 files are there" in capsys.readouterr().err
    after = states()
    assert {path for path in before if before[path] != after[path]} == {Path("out/a-00001.parquet")}
    assert pq.read_table("out/a-00001.parquet").column("text").to_pylist() == MANY[30:60]
    monkeypatch.setattr(MoEEModel, "from_pretrained", lambda *args, **kwargs: pytest.fail("the model was loaded"))
    manifest = Path("out/manifest.json").stat().st_mtime_ns
    embed("in", "--rows-per-file", "30")
    assert (states(), Path("out/manifest.json").stat().st_mtime_ns) == (after, manifest)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "none"], r"prompt \['This sentence"),
        (["--combination", "rw"], "choices {"),
        (["--normalize"], "normalize False"),
        (["--rows-per-file", "7"], "rows_per_file 50000"),
        (["--no-text"], "no_text False"),
        (["--keep", "id"], r"keep \[\]"),
        (["--column", "body"], "column None"),
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


def test_columns_of_all_files_have_one_type():
    Path("in/a.jsonl").write_text('{"text": "a", "id": 1, "more": null}\n{"text": "b", "id": 2, "more": "x"}\n')
    Path("in/sub/b.jsonl").write_text('{"more": "y", "text": "c", "id": 2.5}\n')
    pq.write_table(pa.table({"id": [1], "more": ["z"], "text": ["d"]}), "in/c.parquet")
    embed("in", "--keep", "*", "--rows-per-file", "1")
    tables = [pq.read_table(f"out/{name}") for name in outputs() if name.endswith(".parquet")]
    assert len({table.schema.remove_metadata() for table in tables}) == 1
    assert [table.column("id").to_pylist() for table in tables] == [[1.0], [2.0], [1.0], [2.5]]
    assert [table.column("more").to_pylist() for table in tables] == [[None], ["x"], ["z"], ["y"]]


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


def test_shards_are_disjoint_and_whole(capsys):
    shards = []
    for shard in range(3):
        before = set(outputs("out")) if Path("out").exists() else set()
        embed("in", "--rows-per-file", "20", "--num-shards", 3, "--shard", shard)
        shards.append(set(outputs()) - before)
    parquet = [name for shard in shards for name in shard if name.endswith(".parquet")]
    assert sorted(parquet) == [*(f"a-{number:05}.parquet" for number in range(4)), "sub/b.parquet"]
    assert [sum(name.endswith(".parquet") for name in shard) for shard in shards] == [2, 2, 1]


def test_parts_without_a_text(small, capsys):
    Path("in/a.jsonl").write_text('{"text": "a"}\n' + '{"text": " "}\n' * 4)
    Path("in/empty.csv").write_text("text\n")
    embed("in", "--rows-per-file", "2")
    tables = {name: pq.read_table(f"out/{name}") for name in outputs() if name.endswith(".parquet")}
    lengths = {"a-00000.parquet": 1, "a-00001.parquet": 0, "a-00002.parquet": 0, "empty.parquet": 0}
    assert {name: len(tables[name]) for name in lengths} == lengths
    assert len({table.schema.remove_metadata() for table in tables.values()}) == 1
    assert "4 empty texts were skipped" in capsys.readouterr().err
    assert len(datasets.load_dataset("out", split="train", cache_dir="cache")) == 1 + len(LINES)


def test_the_folder_is_a_data_set(small):
    embed("in", "--keep", "id", "--rows-per-file", "30", "--precision", "float32")
    rows = datasets.load_dataset("out", split="train", cache_dir="cache").with_format("numpy")
    expected = small.encode([*MANY, *LINES])
    assert rows["embedding"][:] == pytest.approx(expected, abs=1e-6)
    frame = pd.read_parquet("out/sub/b.parquet")
    assert frame["text"].tolist() == LINES
    assert np.stack(frame["embedding"]) == pytest.approx(expected[len(MANY) :], abs=1e-6)


def test_inputs_and_outputs_at_addresses(small, capsys):
    memory = fsspec.filesystem("memory")
    memory.pipe("/corpus/x/a.txt", "\n".join(LINES).encode())
    memory.pipe("/corpus/x/b.txt", b"one\ntwo\n")
    embed("memory://corpus/x", "--rows-per-file", "4", output="memory://vectors/v")
    names = sorted(name.removeprefix("/vectors/v/") for name in memory.find("/vectors/v"))
    assert names == ["README.md", "a-00000.parquet", "a-00001.parquet", "b.parquet", "manifest.json"]
    with memory.open("/vectors/v/a-00001.parquet") as file:
        table = pq.read_table(file)
    assert table.column("text").to_pylist() == LINES[4:]
    assert np.stack(table.column("embedding").to_numpy()) == pytest.approx(small.encode(LINES[4:]), abs=1e-6)
    capsys.readouterr()
    embed("memory://corpus/x", "--rows-per-file", "4", output="memory://vectors/v")
    assert "0 embeddings in 0 files; 3 of 3 files are there" in capsys.readouterr().err
    embed("memory://corpus/x/b.txt", output="one.jsonl")
    assert [json.loads(line)["text"] for line in Path("one.jsonl").read_text().splitlines()] == ["one", "two"]


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
        (["in/a.jsonl", "in/sub/a.csv"], "x/", "in/sub/a.csv: expected names of inputs that differ; in/a.jsonl would"),
        (["in/a.jsonl"], "hf://datasets/a/b", "--output: expected a folder that files are written to one by one"),
        (["in/a.jsonl"], "in/", "in: expected a new folder, or one that `moee embed` wrote"),
        (["in/a.jsonl"], "in/a.jsonl/", "in/a.jsonl/: expected a folder to write to; there is a file"),
        (
            ["in/a.jsonl", "--push-to-hub", "a/b"],
            "memory://v",
            "--push-to-hub: expected an output that is a folder of",
        ),
        (["in/a.jsonl", "--keep", "title"], "x/", "in/a.jsonl: expected a field 'title' to keep"),
        (["in/a.jsonl", "--keep", "*"], "x/", "--keep: expected other columns than 'embedding'"),
    ],
)
def test_what_cannot_be_done_is_said_before_the_work(folder, capsys, monkeypatch, arguments, output, message):
    (folder / "in/sub/a.csv").write_text("text\na\n")
    if "*" in arguments[-1]:
        (folder / "in/a.jsonl").write_text('{"text": "a", "embedding": 1}\n')
    monkeypatch.setattr(MoEEModel, "from_pretrained", lambda *args, **kwargs: pytest.fail("the model was loaded"))
    before = set(folder.rglob("*.jsonl"))
    embed(*arguments, output=output, code=1)
    assert re.search(f"^(moee: )?{message}", capsys.readouterr().err, re.MULTILINE)
    assert not list(folder.rglob("*.parquet"))
    assert before == set(folder.rglob("*.jsonl"))


def test_a_part_of_a_file_that_a_killed_run_left_is_removed(capsys):
    embed("in")
    left = left_by_a_killed_process(Path("out/sub/b.parquet"))
    capsys.readouterr()
    embed("in")
    assert f"{left}: the beginning of a file, from a run that was killed; removed" in capsys.readouterr().err
    assert not left.exists()


def test_embed_file_is_the_same(small):
    embed("in/a.jsonl", "--keep", "id")
    assert embed_file(small, "in/a.jsonl", "one.parquet", keep=("id",)) == len(MANY)
    one, same = pq.read_table("one.parquet"), pq.read_table("out/a.parquet")
    assert one.schema.remove_metadata() == same.schema.remove_metadata()
    assert one.select(["text", "id"]).equals(same.select(["text", "id"]))
    assert np.stack(one["embedding"].to_numpy()) == pytest.approx(np.stack(same["embedding"].to_numpy()), abs=1e-6)


def test_a_complete_folder_is_pushed_as_a_data_set(hub, small, capsys):
    embed("in", "--num-shards", "2", "--shard", "0", "--push-to-hub", "author/vectors", code=1)
    assert "--push-to-hub: expected all files of the data set; 1 are not there yet" in capsys.readouterr().err
    assert not hub.repositories
    embed("in", "--push-to-hub", "author/vectors", "--private")
    files = hub.files("datasets/author/vectors")
    assert {name for name in files if name != ".gitattributes"} == set(outputs())
    assert hub.repositories["datasets/author/vectors"].private
    card = Path("out/README.md").read_text()
    assert 'load_dataset("author/vectors"' in card
    assert str(CHECKPOINT) not in card
    head = hub.head("datasets/author/vectors")
    embed("in", "--prompt", "none", "--push-to-hub", "author/vectors", output="other/", code=1)
    assert (
        "author/vectors: expected an empty repository, or one with embeddings of the same" in capsys.readouterr().err
    )
    assert hub.head("datasets/author/vectors") == head


def test_progress_says_how_many_files_are_done(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0)
    embed("in", "--rows-per-file", "30")
    lines = [line for line in capsys.readouterr().err.splitlines() if "texts/s" in line]
    total = len(MANY) + len(LINES)
    line = re.compile(rf"(\d+) of {total} texts, [\d.,e+]+ texts/s, 0:00:\d\d left(, (\d) of 4 files)?")
    found = [line.fullmatch(printed).group(1, 3) for printed in lines]
    assert found == [("30", None), ("60", "1"), ("80", "2"), (str(total), "3")]


def test_a_data_set_on_the_hub_is_an_input(hub, small):
    hub.add("datasets/author/texts", {"data/a.jsonl": b'{"text": "one"}\n' * 3, "README.md": b"none", "b.txt": b"two"})
    embed("hf://datasets/author/texts", "--rows-per-file", "2")
    assert [name for name in outputs() if name.endswith(".parquet")] == [
        *("b.parquet", "data/a-00000.parquet", "data/a-00001.parquet")
    ]
    assert pq.read_table("out/data/a-00001.parquet").column("text").to_pylist() == ["one"]
    embed("hf://datasets/author/nothing", output="other/", code=1)


def test_a_folder_is_listed_without_what_is_hidden(folder):
    (folder / "out").mkdir()
    for name in ("a.parquet", ".a.parquet.partial"):
        (folder / "out" / name).touch()
    assert Folder("out/").files() == {"a.parquet"}
