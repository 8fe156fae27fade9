"""The benchmarks run: what is for a GPU in miniature, on the processor."""

import gzip
import importlib.util
import json
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from support.common import ROOT, TEXTS
from torch.autograd import DeviceType

from moee_hf.model.experts_moee import OWN_IMPLEMENTATION

FOLDER = ROOT / "tests" / "benchmarks"


@pytest.fixture(scope="module")
def benchmarks():
    """Modules of the folder by name; `python tests/benchmarks` imports them as the fixture does."""
    names = [path.stem for path in FOLDER.glob("*.py") if path.stem != "__main__"]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(FOLDER)
        modules = {name: importlib.import_module(name) for name in names}
        spec = importlib.util.spec_from_file_location("run_benchmarks", FOLDER / "__main__.py")
        modules["__main__"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(modules["__main__"])
        yield SimpleNamespace(**modules)
    for name in names:
        del sys.modules[name]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A folder with as many sentences and articles as the miniature reads."""
    folder = tmp_path_factory.mktemp("texts")
    rows = {
        "sts/stsb.test": [{"sentence1": f"{number} cats sleep" + " at home" * (number % 4)} for number in range(20)],
        "summarization/summeval.public": [{"text": f"News {number}. {' '.join(TEXTS)}"} for number in range(2)],
    }
    for name, of_file in rows.items():
        path = folder / f"{name}.jsonl.gz"
        path.parent.mkdir()
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in of_file).encode()))
    return folder


@pytest.fixture
def run(benchmarks, texts, capsys):
    """Run the command with arguments; return how much failed, and the rows of each table, after the peak's line."""

    def command(*arguments):
        dry_run = ["--data", str(texts), "--dry-run", "--dtype", "float32", "--rounds", "1", *arguments]
        failed = vars(benchmarks)["__main__"].main(dry_run)
        output = capsys.readouterr().out
        tables = re.split(r"^(ways|batch|experts|profile)$", output, flags=re.MULTILINE)[1:]
        rows = {
            name: [line[2:-2].split(" | ") for line in table.split("\n") if line.startswith("| ")]
            for name, table in zip(tables[::2], tables[1::2], strict=True)
        }
        return failed, rows, output

    return command


def test_dry_run(run, benchmarks):
    failed, tables, output = run()
    assert "error" not in output
    assert failed == 0
    assert list(tables) == ["ways", "batch", "experts", "profile"]
    heads, rows = zip(
        *((rows[0], [row for row in rows[1:] if row[0] != "---"]) for rows in tables.values()), strict=True
    )
    ways, batch, experts, kernels = rows
    assert [tuple(row[:2]) for row in ways] == benchmarks.cases.CASES
    num_ways = len(benchmarks.ways.WAYS)
    for row in ways:
        assert len(row) == len(heads[0])
        *numbers, memory, padding = row[2:]
        assert all(float(number) >= 0 for number in numbers)
        assert len(memory.split(", ")) == len(padding.split(", ")) == num_ways
        assert float(row[2]) > 0
    # more tokens are read than those of the text, unless there is no prompt
    assert [row[3] == row[4] for row in ways] == [row[1] == "none" for row in ways]
    assert [row[:2] for row in batch] == [["8 x 8", "lean"], ["8 x 8", "plain"]]
    assert [row[0] for row in experts] == [benchmarks.layer.EXPERTS_IMPLEMENTATION, "grouped_mm"]
    assert all(float(row[-1]) > 0 for row in batch + experts)
    assert len(re.findall(r"wall [\d.]+ s, device busy [\d.]+ s, \d+%", output)) == 2
    assert len([row for row in kernels if row[0] != "ms"]) == 20


def test_errors_are_told_and_the_rest_is_measured(run, benchmarks, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("out of order")

    monkeypatch.setattr(benchmarks.ways.Official, "__call__", fail)
    monkeypatch.setitem(benchmarks.accelerator.TABLES, "batch", fail)
    monkeypatch.setattr(benchmarks.accelerator, "CASES", [("short", "none")])
    failed, tables, output = run("--tables", "ways", "batch", "experts")
    assert failed == 2
    errors = ["short, none, official", "batch"]
    assert re.findall("^error: (.*)", output, re.MULTILINE) == [
        f"{what}: RuntimeError: out of order" for what in errors
    ]
    (row,) = (row for row in tables["ways"] if row[0] == "short")
    assert [cell.split(", ").count("-") for cell in row[5:]] == [0, 0, 0, 1, 1, 1]
    assert len(tables["experts"]) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tables", "growth"], "--tables: expected some of ways, batch, experts, profile; got growth."),
        (["--model", "embedded"], "--model: expected none on a GPU"),
        (["--device", "cuda:99"], "--device: expected a device of this machine; got 'cuda:99'"),
    ],
)
def test_arguments_that_cannot_be(benchmarks, capsys, arguments, message):
    with pytest.raises(SystemExit):
        vars(benchmarks)["__main__"].main(["--data", ".", "--dry-run", *arguments])
    assert message in capsys.readouterr().err


def test_texts_are_different_and_articles_whole(benchmarks, texts):
    scale = benchmarks.cases.MINIATURE
    found = benchmarks.cases.texts_of(texts, scale)
    assert [len(set(found[name])) for name in ("short", "mixed")] == [scale.short, sum(scale.mixed)]
    words = [sorted(text.split()) for text in found["mixed"] if "News" in text]
    assert [sum(number in of_text for of_text in words) for number in ("0.", "1.")] == [2, 2]
    assert len({tuple(of_text) for of_text in words}) == 2
    with pytest.raises(ValueError, match=r"--data: expected 99 different articles; got 8\."):
        benchmarks.cases.texts_of(texts, replace(scale, mixed=(16, 99)))


def test_ways_read_the_same_weights_each_with_its_own_experts(benchmarks, tmp_path):
    ways, scale = benchmarks.ways, benchmarks.cases.MINIATURE
    model = ways.random_model(scale.backbone, torch.float32, torch.device("cpu"))
    model.config.save_pretrained(tmp_path)
    ways.save_tokenizer(tmp_path, None)
    built = {name: way(model, str(tmp_path), scale.max_length) for name, way in ways.WAYS.items()}
    vectors = {name: torch.as_tensor(way(TEXTS, 'Say: "{text}"')) for name, way in built.items()}
    size = scale.backbone["hidden_size"]
    for name, of_way in vectors.items():
        torch.testing.assert_close(of_way[:, :size], vectors["official"][:, :size], msg=name)
        assert next(built[name].backbone.parameters()) is next(model.model.parameters())
        own = name.startswith("moee_hf")
        expected = OWN_IMPLEMENTATION if own else "grouped_mm"
        assert built[name].backbone.config._experts_implementation == expected


def test_busy_time_is_that_of_the_device(benchmarks):
    def event(name, start, end, kind=DeviceType.CUDA, annotation=False):
        time = SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start)
        return SimpleNamespace(name=name, device_type=kind, time_range=time, is_user_annotation=annotation)

    events = [
        event("void at::native::add(float)", 100.0, 200.0),
        event("void at::native::add(float)", 300.0, 350.0),
        event("copy", 150.0, 250.0),  # beside the first
        event("cudaLaunchKernel", 0.0, 90.0, DeviceType.CPU),
        event("Context Sync", 0.0, 1000.0),
        event("region", 0.0, 1000.0, annotation=True),
    ]
    busy, kernels = benchmarks.accelerator._of_events(events, torch.device("cuda"))
    assert busy == pytest.approx(200e-6)
    assert [(name, pytest.approx(time), calls) for name, (time, calls) in kernels] == [
        ("add(float)", 150e-6, 2),
        ("copy", 100e-6, 1),
    ]


def test_devices_are_waited_for_and_count_their_own_memory(benchmarks, monkeypatch):
    done = []
    names = ("synchronize", "empty_cache", "reset_peak_memory_stats")
    module = SimpleNamespace(**{name: lambda name=name: done.append(name) for name in names})
    module.memory_allocated, module.max_memory_allocated = lambda: 5 << 20, lambda: 12 << 20
    monkeypatch.setattr(torch, "get_device_module", {torch.device("xpu"): module}.__getitem__)
    with benchmarks.measuring.PeakMemory(torch.device("xpu")) as memory:
        assert done.pop() == "reset_peak_memory_stats"
    assert (memory.peak, memory.growth) == (12, 7)
    done.clear()
    assert benchmarks.measuring.seconds(lambda: done.append("run"), torch.device("xpu")) > 0
    assert done == ["synchronize", "run", "synchronize"]
