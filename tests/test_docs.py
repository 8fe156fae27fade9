"""Every claim of the documents is a command that works, and every link leads somewhere."""

import doctest
import fnmatch
import logging
import os
import re
import shlex
import subprocess
import sys
from functools import partial

import pytest
import transformers
from support import update_docs
from support.common import BACKBONE, CHECKPOINT, MANY, ROOT, TEXTS

from moee_hf import MoEEModel
from moee_hf.cli import build_parser, main
from moee_hf.model import hub_moee
from moee_hf.model.choices_moee import COMBINATIONS
from moee_hf.model.configuration_moee import CHOICE_FIELDS
from moee_hf.publishing import Recipe

DOCS = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in (
        "README.md",
        "BACKBONES.md",
        "CONTRIBUTING.md",
        "configs/README.md",
        "moee_hf/bulk/README.md",
        "moee_hf/demo/README.md",
        "moee_hf/embedded/README.md",
        "moee_hf/evaluation/README.md",
        "moee_hf/search/README.md",
        "moee_hf/routing/README.md",
        "moee_hf/serving/README.md",
        "moee_hf/vllm/README.md",
        "tests/benchmarks/README.md",
        "tests/golden/README.md",
        "upload_scripts/README.md",
    )
}
CONSTRAINTS = (ROOT / "constraints.txt").read_text()


def blocks(language, *names):
    """The code of the documents in this language, each with the document that it is in."""
    found = ((name, re.findall(rf"```{language}\n(.*?)\n```", DOCS[name], re.DOTALL)) for name in names or DOCS)
    return [(name, code) for name, codes in found for code in codes]


def lines_of_bash(*names):
    return [line for _, code in blocks("bash", *names) for line in code.replace("\\\n", "").split("\n")]


FIRST, TESTS = (code for _, code in blocks("bash", "README.md")[:2])


def test_the_first_command_prints_what_the_readme_shows():
    install, command = FIRST.replace("\\\n", "").split(" && ")
    assert install == "pip install -c constraints.txt ."
    moee, *arguments = shlex.split(command)
    assert moee == "moee"
    run = [sys.executable, "-m", "moee_hf.cli", *arguments]
    result = subprocess.run(run, capture_output=True, encoding="utf-8", check=True)
    assert result.stderr == ""  # nothing of what loading does
    number, (_, text) = r"\d\.\d{3}", blocks("text", "README.md")[0]
    assert re.sub(number, "", result.stdout).strip("\n") == re.sub(number, "", text)
    shown, values = ([float(value) for value in re.findall(number, matrix)] for matrix in (text, result.stdout))
    assert values == pytest.approx(shown, abs=2e-3)  # processors round differently


def test_continuous_integration_runs_the_test_command():
    assert TESTS in (ROOT / ".ci" / "run").read_text()


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """How many examples of the README fail, the folder that they ran in, and what was logged that it does not show."""
    folder, records = tmp_path_factory.mktemp("examples"), []
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        for name in (None, "transformers"):  # whose records go no further
            monkeypatch.setattr(logging.getLogger(name), "handlers", [handler])
        readme = str(ROOT / "README.md")
        failed = doctest.testfile(readme, module_relative=False, extraglobs={"texts": TEXTS}).failed
    return failed, folder, [record.getMessage() for record in records]


def test_python_examples(examples):
    failed, _, logged = examples
    assert failed == 0
    assert logged == []


def test_save_example_runs(examples):
    """In the package's own process no remote code is loaded; the other process is tested with the checkpoints."""
    _, folder, _ = examples
    assert (folder / "my-moee-model" / "model.safetensors").is_file()


def test_layouts_name_every_file_of_a_saved_model(examples):
    _, folder, _ = examples
    saved = {path.name for path in (folder / "my-moee-model").iterdir()}
    assert {"handler.py", "statistics.safetensors"} <= saved
    section = DOCS["upload_scripts/README.md"].partition("## What lies where")[2].partition("\n## ")[0]
    named = re.findall(r"`([\w.*]+)`", section)
    assert [name for name in saved if not any(fnmatch.fnmatch(name, pattern) for pattern in named)] == []


EVALUATION, BULK = "moee_hf/evaluation/README.md", "moee_hf/bulk/README.md"
VLLM = "moee_hf/vllm/README.md"  # whose examples need vLLM; tests/vllm does what they do
OTHERS = [name for name in DOCS if name not in (EVALUATION, BULK, VLLM)]


def without_output(*names):
    return [code for _, code in blocks("python", *names) if not code.startswith(">>>")]


@pytest.mark.parametrize("code", without_output(*OTHERS))
def test_python_examples_with_the_hub(code, hub, monkeypatch, tmp_path):
    """With a Hub of our own, and a small model in place of the one that is named."""
    monkeypatch.chdir(tmp_path)
    hub.add("allenai/OLMoE-1B-7B-0924", BACKBONE)
    model = MoEEModel.from_pretrained("allenai/OLMoE-1B-7B-0924")
    exec(code.replace("you/", "author/"), {"MoEEModel": MoEEModel, "model": model, "texts": [*TEXTS, *MANY]})


@pytest.mark.parametrize("code", without_output(EVALUATION))
def test_python_examples_with_mteb(code, model, data, monkeypatch, tmp_path):
    """With a file of our own in place of the data that mteb would fetch, and results that are not kept."""
    import mteb

    from moee_hf.evaluation import local_tasks

    (task,) = local_tasks(str(data), ["STSBenchmark"])
    monkeypatch.setattr(mteb, "get_task", {"STSBenchmark": task}.__getitem__)
    monkeypatch.setattr(mteb, "evaluate", partial(mteb.evaluate, cache=mteb.ResultCache(tmp_path)))
    exec(code, {"model": model})
    assert len(list(tmp_path.rglob("STSBenchmark.json"))) == len(COMBINATIONS)


def test_commands_run_as_written(tmp_path, monkeypatch):
    """Those of three documents that need no network, in a new folder, without packages that are not installed first.

    A small model is in place of the embedded one, and the process that verifies it is tested with `moee publish`.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(hub_moee._ALIASES, "embedded", str(CHECKPOINT))
    monkeypatch.setattr("moee_hf.cli.publish._verify", lambda folder, device: None)
    lines = lines_of_bash("README.md", BULK, "upload_scripts/README.md")
    offline = [line for line in lines if re.search(r"examples|trial|moee info my|moee backbones", line)]
    assert len(offline) == 9
    for line in offline:
        *installed, command = line.split(" && ")
        moee, *arguments = shlex.split(command)
        assert moee == "moee"
        with monkeypatch.context() as without:
            for package in {"pyarrow", "mteb"} - {line.removeprefix("pip install ") for line in installed}:
                without.setitem(sys.modules, package, None)
            assert main(arguments) == 0, command
    for code in without_output(BULK):  # of what these commands have made
        exec(code, {})


@pytest.mark.parametrize("document", DOCS)
def test_files_that_are_named_exist(document):
    for path in re.findall(r"\b(?:moee_hf|tests|upload_scripts|configs)/[\w./-]*\w", DOCS[document]):
        assert (ROOT / path).exists()


@pytest.mark.parametrize("document", DOCS)
def test_links_lead_somewhere(document):
    for link in re.findall(r"\]\(([^)\s]+)\)", DOCS[document]):
        if link.startswith("https://"):
            continue
        path, _, section = link.partition("#")
        target = (ROOT / document).parent / path if path else ROOT / document
        assert target.exists(), link
        if section:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert section in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, link


@pytest.mark.parametrize(("document", "name"), update_docs.GENERATED)
def test_lists_are_generated(document, name):
    pinned = f"transformers=={transformers.__version__}\n" in CONSTRAINTS
    if name == "backbones" and not pinned:
        pytest.skip(f"the list has the backbones of another transformers than {transformers.__version__}")
    generated = update_docs.GENERATED[document, name]()
    assert update_docs.block(document, name) == generated, "run tests/support/update_docs.py"
    assert name != "backbones" or f"transformers {transformers.__version__}" in DOCS[document]


GAIN = ("hs", "rw", "sum", "concat")


@pytest.mark.parametrize(
    ("name", "tasks", "rows_of_task", "columns"),
    [
        ("scores", 4, 8, [*GAIN, *(f"random {name}" for name in GAIN)]),
        ("sizes", 4, 2, ["sum", "sum int8", "sum binary", "sum 256", "sum 256 int8", "sum 256 binary"]),
    ],
)
def test_tables_of_scores_are_whole(name, tasks, rows_of_task, columns):
    """Each task has as many rows, no two alike; the first row of a task that may have a number has it."""
    header, _, *rows = (
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in update_docs.block(update_docs.CARD, name).splitlines()
    )
    assert header[-len(columns) :] == columns
    labels = len(header) - len(columns)
    assert len({tuple(row[:labels]) for row in rows}) == len(rows) == tasks * rows_of_task
    numbers = [row[labels:] for row in rows]
    assert all(-100 <= float(cell) <= 100 for row in numbers for cell in row if cell)
    for task in range(tasks):
        of_task = numbers[task * rows_of_task : (task + 1) * rows_of_task]
        assert all(any(column) for column in zip(*of_task, strict=True))


def test_table_of_fields_is_whole():
    """Every key of a recipe is in one of the two tables, and nothing else is."""
    rows = re.findall(r"^\| (`.*?) \|", DOCS["configs/README.md"], re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert len(named) == len(set(named))
    assert set(named) == (Recipe.__annotations__.keys() - {"config"}) | CHOICE_FIELDS


def test_commands_of_the_package_parse():
    """Every command `moee` of the documents has flags that exist."""
    commands = [part for line in lines_of_bash() for part in line.split(" && ") if part.startswith("moee ")]
    assert len(commands) >= 10
    for command in commands:
        build_parser().parse_args(shlex.split(command)[1:])


def test_scripts_have_the_flags_that_commands_give_them():
    commands = [part for line in lines_of_bash() for part in line.split(" && ") if part.startswith("python ")]
    assert len(commands) >= 7
    for command in commands:
        _, script, *arguments = shlex.split(command)
        path = ROOT / script
        source = (path / "__main__.py" if path.is_dir() else path).read_text(encoding="utf-8")
        flags = [argument for argument in arguments if argument.startswith("--")]
        assert [flag for flag in flags if f'"{flag}"' not in source] == []


def test_versions_of_the_constraints_are_the_tested_ones():
    if "CI" not in os.environ:
        pytest.skip("the environment is yours; CI makes its own from constraints.txt")
    from importlib.metadata import version

    for name, pinned in re.findall(r"^([\w-]+)==([\w.]+)$", CONSTRAINTS, re.MULTILINE):
        assert version(name).split("+")[0] == pinned
