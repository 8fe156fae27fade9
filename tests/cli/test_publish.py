"""`moee publish`: from a recipe or a saved model to a repository, and to the Hub; and `moee examples`."""

import json

import pytest
from huggingface_hub import ModelCard
from safetensors.numpy import save_file
from support.common import BACKBONE, CHECKPOINT, TEXTS, assert_same
from support.publishing import recipe_file

from moee_hf import MoEEModel
from moee_hf.cli import main

CORPUS = TEXTS[:3] + [f"The number {number} is a number." for number in range(9)]


@pytest.fixture
def calibrated(tmp_path) -> MoEEModel:
    model = MoEEModel.from_pretrained(CHECKPOINT)
    model.calibrate(CORPUS)
    model.save_pretrained(tmp_path / "calibrated")
    return model


@pytest.fixture
def unverified(monkeypatch):
    """The process that verifies takes seconds; one test is enough."""
    monkeypatch.setattr("moee_hf.cli.publish._verify", lambda folder, device: None)


def test_a_calibrated_model_is_published_with_a_card(hub, calibrated, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    publish = ["publish", "calibrated", "--repo-id", "trial", "--license", "mit"]
    assert main([*publish, "--output", "out", "--dry-run"]) == 0
    printed = capsys.readouterr()
    assert "verified: max difference 0.0e+00" in printed.err
    listed = dict(reversed(line.split()) for line in printed.out.splitlines())
    sizes = {path.name: f"{path.stat().st_size:,}" for path in (tmp_path / "out").iterdir()}
    assert {name: size for name, size in listed.items() if name != "total"} == sizes
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data["license"] == "mit"
    assert "HS is standardized, and RW are centred, with the statistics of a corpus" in card.text
    assert "narrow cone" not in card.text
    assert not hub.repositories
    monkeypatch.setattr("moee_hf.cli.publish._verify", lambda folder, device: None)
    assert main([*publish, "--push", "--private"]) == 0
    assert "author/trial/commit/" in capsys.readouterr().out
    assert hub.repositories["author/trial"].private
    assert_same(MoEEModel.from_pretrained("author/trial").encode(TEXTS), calibrated.encode(TEXTS))
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["cache", "calibrated", "out"]


def test_weights_that_are_on_the_hub_stay_there(hub, unverified, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hub.add("lab/backbone", BACKBONE)
    recipe = str(recipe_file(tmp_path))
    assert main(["publish", recipe, "--repo-id", "author/one", "--output", "one"]) == 0
    assert main(["publish", recipe, "--repo-id", "author/two", "--output", "two", "--full"]) == 0
    assert not (tmp_path / "one" / "model.safetensors").exists()
    assert (tmp_path / "two" / "model.safetensors").exists()
    MoEEModel.from_pretrained("one").save_reference(tmp_path / "saved")
    assert main(["publish", "saved", "--repo-id", "author/three", "--output", "three", "--license", "mit"]) == 0
    assert not (tmp_path / "three" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["calibrated"], "publish: expected --output FOLDER, --push or --dry-run; got none of them"),
        (["calibrated", "--output", "out"], "repo_id: expected the repository for a folder"),
        (
            ["nothing", "--output", "out"],
            "nothing: expected a folder with a saved model, a recipe in YAML, or the name",
        ),
        (["calibrated", "--output", "out", "--private"], "private: expected --push beside it"),
        (["calibrated", "--repo-id", "trial", "--push"], "expected a licence, that of the backbone"),
        (["calibrated", "--repo-id", "a b", "--push"], "repo_id: expected 'namespace/name' or 'name'"),
    ],
)
def test_what_cannot_be_published(hub, calibrated, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["publish", *arguments]) == 1
    assert message.replace("repo_id:", "--repo-id:") in capsys.readouterr().err.replace("repo_id:", "--repo-id:")
    assert not hub.repositories
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_model_that_comes_out_otherwise_is_not_pushed(hub, calibrated, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def save_others(vectors, *arguments, **options):
        save_file({name: -vector for name, vector in vectors.items()}, *arguments, **options)

    monkeypatch.setattr("moee_hf.publishing.building.save_file", save_others)
    assert main(["publish", "calibrated", "--repo-id", "trial", "--license", "mit", "--push"]) == 1
    error = capsys.readouterr().err
    assert "NOT the same: max difference" in error
    assert "Nothing was pushed." in error.splitlines()[-1]
    assert not hub.repositories


def test_recipes_come_with_the_package(tmp_path, capsys):
    assert main(["publish", "olmoe", "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "olmoe-1b-7b" in error
    assert "qwen1.5-moe-a2.7b" in error


def test_examples(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["examples", "examples"]) == 0
    small = ["--model", str(CHECKPOINT)]
    assert main(["embed", "examples/texts.jsonl", "--output", "v.parquet", "--keep", "id", *small]) == 0
    files = ["examples/corpus.txt", "--output", "out", "--fit-alpha", "examples/dev.jsonl"]
    assert main(["calibrate", *files, *small]) == 0
    assert main(["evaluate", "--data", "examples", "--output", "scores", "--combination", "hs", *small]) == 0
    assert "examples" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "examples" / "dev.jsonl").read_text().splitlines()]
    assert {row["sentence1"] for row in rows} <= set((tmp_path / "examples" / "corpus.txt").read_text().splitlines())
    assert main(["examples", "examples"]) == 1
