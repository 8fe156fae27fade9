"""`moee embed INPUT... --output FOLDER/`: every text of many files once, whatever ended a run."""

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
from support.common import CHECKPOINT, MANY
from support.folders import LINES, embed, outputs, states
from support.killed import left_by_a_killed_process

from moee_hf import MoEEModel
from moee_hf.bulk import embed_file
from moee_hf.bulk.folder import Folder
from moee_hf.cli import progress


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


def test_an_output_inside_the_input_is_no_input(folder, capsys):
    for source, output in ((".", "v/"), ("in", "in/v/")):
        for _ in range(2):
            embed(source, output=output)
    assert [name for name in outputs("in/v") if name.endswith(".parquet")] == ["a.parquet", "sub/b.parquet"]
    assert "in/v/v" not in {path.as_posix() for path in Path("in").rglob("*")}
    memory = fsspec.filesystem("memory")
    memory.pipe("/inside/a.txt", b"one\n")
    for _ in range(2):
        embed("memory://inside", output="memory://inside/v/")
    assert [name for name in memory.find("/inside/v") if name.endswith(".parquet")] == ["/inside/v/a.parquet"]


def test_kept_columns_stay_the_same_though_they_have_names_of_ours():
    for name in ("a", "b"):
        pq.write_table(pa.table({"body": ["x"], "text": ["y"], "id": [1]}), f"in/{name}.parquet")
    arguments = ["in/*.parquet", "--column", "body", "--keep", "text,id", "--no-text"]
    embed(*arguments)
    Path("out/b.parquet").unlink()
    embed(*arguments)
    assert [pq.read_schema(path).names for path in sorted(states())] == [["text", "id", "embedding"]] * 2


def test_columns_are_known_though_the_first_file_is_empty():
    Path("in/e.jsonl").write_text("")
    embed("in/e.jsonl", "--keep", "id")
    embed("in/a.jsonl", "--keep", "id")
    assert pq.read_table("out/a.parquet").column("id").to_pylist() == list(range(len(MANY)))


def test_formats_take_what_they_have_a_use_for(capsys):
    """A delimiter that one file wants is none of the others' business, and may come later."""
    Path("in/c.csv").write_text("id;body\n1;one\n")
    Path("in/d.txt").write_text("two\n")
    for path in ("in/a.jsonl", "in/sub/b.jsonl"):
        Path(path).write_text(Path(path).read_text().replace('"text"', '"body"'))
    embed("in", "--column", "body", code=1)
    assert "in/c.csv: expected fields separated by ','; got 'id;body'" in capsys.readouterr().err
    embed("in", "--column", "body", "--delimiter", ";")
    assert pq.read_table("out/c.parquet").column("text").to_pylist() == ["one"]
    Path("in/c.csv").unlink()
    embed("in", "--column", "body")
    printed = capsys.readouterr().err
    assert "out/: has c.parquet of inputs that are not named now" in printed
    assert "3 of 3 files are there" in printed


def test_odd_names(small):
    memory = fsspec.filesystem("memory")
    for name in ("a[1].txt", "b*c.txt", "d e.txt"):
        memory.pipe(f"/odd/{name}", b"one\n")
        (Path("in") / name).write_text("one\n")
    Path("in/a.jsonl").unlink()
    Path("in/sub/b.jsonl").unlink()
    embed("memory://odd", output="memory://odd-vectors/")
    embed("in")
    names = ["a[1].parquet", "b*c.parquet", "d e.parquet"]
    assert [name for name in outputs() if name.endswith(".parquet")] == names
    found = sorted(name.removeprefix("/odd-vectors/") for name in memory.find("/odd-vectors"))
    assert found == sorted([*names, "README.md", "manifest.json"])
    embed("memory://odd/a[1].txt", output="memory://odd-one/")
    assert memory.exists("/odd-one/a[1].parquet")


def test_columns_of_all_files_have_one_type():
    Path("in/a.jsonl").write_text('{"text": "a", "id": 1, "more": null}\n{"text": "b", "id": 2, "more": "x"}\n')
    Path("in/sub/b.jsonl").write_text('{"more": "y", "text": "c", "id": 2.5}\n')
    pq.write_table(pa.table({"id": [1], "more": ["z"], "text": ["d"]}), "in/c.parquet")
    embed("in", "--keep", "*", "--rows-per-file", "1")
    tables = [pq.read_table(f"out/{name}") for name in outputs() if name.endswith(".parquet")]
    assert len({table.schema.remove_metadata() for table in tables}) == 1
    assert [table.column("id").to_pylist() for table in tables] == [[1.0], [2.0], [1.0], [2.5]]
    assert [table.column("more").to_pylist() for table in tables] == [[None], ["x"], ["z"], ["y"]]


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
