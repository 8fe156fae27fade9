"""Building, pushing and verifying over HTTP, and opening what was pushed in processes without this package."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import HfApi, ModelCard
from support.common import BACKBONE, CHECKPOINT, ROOT, TEXTS
from support.hub import card_errors

from moee_hf import MoEEModel
from moee_hf.publishing import build, files_to_push, push, read_recipe

SCRIPTS = ROOT / "upload_scripts"


@pytest.fixture(params=["lfs", "xet"])
def storage(request, monkeypatch) -> str:
    disabled = request.param == "lfs"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", disabled)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", str(int(disabled)))
    return request.param


def recipe_file(folder: Path, **changes) -> Path:
    recipe = {
        "repo_id": "published",
        "base_model_name_or_path": "lab/backbone",
        "base_model_revision": "main",
        "license": "apache-2.0",
        "language": "en",
        "alpha": 0.5,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in (recipe | changes).items() if value is not None}))
    return path


@pytest.fixture
def recipe(hub, tmp_path) -> Path:
    """A recipe whose backbone is in a repository of the Hub."""
    hub.add("lab/backbone", BACKBONE)
    return recipe_file(tmp_path)


@pytest.fixture
def built(recipe, tmp_path) -> Path:
    return build(read_recipe(recipe), tmp_path / "built", reference=True)


def run(*command: object, **environment: str) -> subprocess.CompletedProcess:
    """Run a Python script in a process of its own, away from this checkout."""
    environment = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONWARNINGS": "ignore"} | environment
    return subprocess.run(
        [sys.executable, "-P", *map(str, command)],
        cwd=os.path.expanduser("~"),
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("kind", ["reference", "full"])
def test_build_push_verify_and_push_again(hub, recipe, storage, kind, tmp_path):
    folder = tmp_path / "built"
    done = run(SCRIPTS / "build.py", recipe, folder, *(["--full"] if kind == "full" else []))
    assert done.returncode == 0, done.stderr
    done = run(SCRIPTS / "push.py", folder)
    assert done.returncode == 0, done.stderr
    assert f"/author/published/commit/{hub.head('author/published')}" in done.stdout
    assert hub.requests("xet-write-token") if storage == "xet" else hub.requests("^PUT /lfs/")
    pushed = hub.files("author/published")
    assert set(pushed) == {".gitattributes"} | {path.name for path in folder.iterdir()}
    assert ("model.safetensors" in pushed) == (kind == "full")

    done = run(SCRIPTS / "verify.py", "author/published", "--tolerance", "0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("max difference 0.0e+00") == 5
    assert "\nverified: " in done.stdout
    assert hub.head("author/published") in done.stdout

    del hub.log[:]
    head = hub.head("author/published")
    push(folder)
    assert hub.head("author/published") == head
    assert not hub.requests("^PUT|/commit/")


@pytest.mark.parametrize(("kind", "place"), [("reference", "hub"), ("full", "hub"), ("full", "folder")])
def test_every_way_in_gives_the_same_vectors(hub, recipe, kind, place, tmp_path):
    folder = build(read_recipe(recipe), tmp_path / "built", reference=kind == "reference")
    if place == "hub":
        push(folder)
    repo = "author/published" if place == "hub" else folder
    stranger = [ROOT / "tests" / "support" / "stranger.py", repo, json.dumps(TEXTS), tmp_path / "vectors.npz"]
    done = run(*stranger)
    assert done.returncode == 0, done.stderr
    if kind == "reference":  # all of it is in the cache now
        done = run(*stranger, HF_HUB_OFFLINE="1")
        assert done.returncode == 0, done.stderr
    models = {
        dtype: MoEEModel.from_pretrained(CHECKPOINT, dtype=dtype, alpha=0.5) for dtype in ("float32", "bfloat16")
    }
    with np.load(tmp_path / "vectors.npz") as vectors:
        assert len(vectors) == 17
        for name, got in vectors.items():
            # an endpoint serves the weights in their own dtype
            model = models["bfloat16" if name.startswith("EndpointHandler") else "float32"]
            expected = np.stack([model.encode(text, combination=name.split()[-1]) for text in TEXTS])
            assert np.abs(got - expected).max() < 1e-6, name


def test_an_interrupted_push_leaves_the_repository_as_it_was(hub, recipe, storage, tmp_path):
    first = build(read_recipe(recipe), tmp_path / "first", reference=True)
    push(first)
    head, files = hub.head("author/published"), hub.files("author/published")
    second = build(read_recipe(recipe_file(tmp_path, alpha=0.9)), tmp_path / "second", reference=False)

    process = subprocess.Popen([sys.executable, SCRIPTS / "push.py", second], stderr=subprocess.DEVNULL)
    fatal = r"^PUT /lfs/" if storage == "lfs" else r"^POST /api/models/author/published/commit/"
    count = 2 if storage == "lfs" else 1
    del hub.log[:]

    def kill(request):
        if len(hub.requests(fatal)) == count:
            hub.before = lambda request: None
            process.send_signal(signal.SIGKILL)
            process.wait()
            raise ConnectionAbortedError

    hub.before = kill
    assert process.wait(timeout=120) == -signal.SIGKILL
    assert hub.head("author/published") == head
    assert hub.files("author/published") == files

    del hub.log[:]
    push(second)
    assert hub.files("author/published")["model.safetensors"].size == (second / "model.safetensors").stat().st_size
    if storage == "lfs":  # the first file of the interrupted push is there already
        assert len(hub.requests("^PUT /lfs/")) == 1


def test_errors_are_one_line(tmp_path):
    done = run(SCRIPTS / "push.py", tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(r"push: .*expected a folder made by build; .*\n", done.stderr)


def test_dry_run(built):
    done = run(SCRIPTS / "push.py", "--dry-run", built, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    for path in built.iterdir():
        assert re.search(rf"{path.stat().st_size:,}  {re.escape(path.name)}$", done.stdout, re.MULTILINE)
    assert done.stdout.rstrip().endswith(f"{sum(path.stat().st_size for path in built.iterdir()):,}  total")


def test_the_card_may_be_edited_and_nothing_else(hub, built):
    card = built / "README.md"
    card.write_text(card.read_text() + "\nMore about it.\n")
    push(built)
    assert b"More about it." in hub.files("author/published")["README.md"].content
    (built / "notes.txt").write_text("private")
    config = built / "config.json"
    config.write_text(config.read_text().replace('"alpha": 0.5', '"alpha": 0.7'))
    (built / "handler.py").unlink()
    head = hub.head("author/published")
    with pytest.raises(ValueError, match=r"removed since: config\.json, handler\.py, notes\.txt"):
        push(built)
    assert hub.head("author/published") == head


def test_no_licence_no_push(recipe, tmp_path):
    folder = build(read_recipe(recipe_file(tmp_path, license=None)), tmp_path / "built")
    with pytest.raises(ValueError, match="expected a licence"):
        push(folder)


def test_no_pinned_backbone_no_push(built):
    config = json.loads((built / "config.json").read_text())
    (built / "config.json").write_text(json.dumps(config | {"base_model_revision": "main"}))
    record = json.loads((built / "moee_build.json").read_text())
    record["sha256"]["config.json"] = hashlib.sha256((built / "config.json").read_bytes()).hexdigest()
    (built / "moee_build.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="pinned to a commit; got 'main'"):
        push(built)


def test_a_folder_of_another_make(tmp_path):
    with pytest.raises(ValueError, match=r"expected a folder made by build; it has no moee_build\.json"):
        push(tmp_path)


def test_another_model_is_not_replaced(hub, built):
    hub.add("author/published", BACKBONE)
    with pytest.raises(
        ValueError, match=r"it holds config\.json, model\.safetensors, tokenizer\.json, which are not replaced"
    ):
        push(built)
    assert hub.files("author/published").keys() == BACKBONE.keys()


def test_files_that_no_build_made_stay(hub, built):
    hub.add("author/published", {"adapter_model.safetensors": b"0", "unet/weights.safetensors": b"1"})
    with pytest.raises(ValueError, match="which are not replaced"):
        push(built)
    hub.repositories.clear()
    push(built)
    hub.add("author/published", {"figure.png": b"2"})
    push(built)
    assert "figure.png" in hub.files("author/published")


def test_a_commit_by_someone_else_in_between_is_not_overrun(hub, built):
    push(built)
    (built / "README.md").write_text((built / "README.md").read_text() + "More.")

    def someone(request):
        if "/preupload/" in request.url.path:
            hub.before = lambda request: None
            hub.add("author/published", {"figure.png": b"2"})

    hub.before = someone
    with pytest.raises(OSError, match="author/published: the Hub answers with status 412"):
        push(built)
    push(built)
    assert "figure.png" in hub.files("author/published")


def test_a_new_repository_can_be_private(hub, built):
    push(built, private=True)
    assert hub.repositories["author/published"].private


def test_weights_of_an_earlier_build_are_removed(hub, recipe, tmp_path):
    push(build(read_recipe(recipe), tmp_path / "full", reference=False))
    assert "model.safetensors" in hub.files("author/published")
    push(build(read_recipe(recipe), tmp_path / "reference", reference=True))
    assert "model.safetensors" not in hub.files("author/published")


@pytest.mark.parametrize(
    ("token", "message"),
    [("hf_mistyped", "the Hub refuses the token"), ("hf_stranger", "has no right to this")],
)
def test_whoever_may_not_push(hub, built, token, message):
    with pytest.raises(OSError, match=f"author/published: .*{message}"):
        push(built, token=token)
    assert "author/published" not in hub.repositories


def test_builds_are_equal_to_the_byte(recipe, tmp_path):
    one, two = (build(read_recipe(recipe), tmp_path / name) for name in ("one", "two"))
    for path in one.iterdir():
        assert path.read_bytes() == (two / path.name).read_bytes(), path.name


def test_no_reference_to_a_backbone_that_is_not_on_the_hub(tmp_path):
    with pytest.raises(ValueError, match="save_reference: expected a model whose weights are those in the root"):
        build(read_recipe(ROOT / "configs" / "embedded.yaml"), tmp_path / "built", repo_id="me/trial")


def test_build_does_not_write_over_anything(built, recipe):
    before = {path.name: path.read_bytes() for path in built.iterdir()}
    with pytest.raises(ValueError, match="expected a new or empty folder"):
        build(read_recipe(recipe), built)
    assert {path.name: path.read_bytes() for path in built.iterdir()} == before


def test_no_name_without_a_namespace(recipe, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match="expected 'namespace/published'"):
        build(read_recipe(recipe), tmp_path / "b")


def test_verify_notices(built, tmp_path):
    config = built / "config.json"
    config.write_text(config.read_text().replace('"alpha": 0.5', '"alpha": 0.7'))
    done = run(SCRIPTS / "verify.py", built)
    assert done.returncode == 1
    assert re.search(r"sum +8 texts, max difference [1-9]", done.stdout)


# ---------------------------------------------------------------------- the card


def test_card(hub, built):
    text = (built / "README.md").read_text()
    assert card_errors(text) == []
    card = ModelCard(text)
    card.validate()  # asks the Hub
    assert hub.requests("POST /api/validate-yaml")
    metadata = card.data.to_dict()
    expected = {
        "license": "apache-2.0",
        "base_model": "lab/backbone",
        "language": "en",
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
    }
    assert expected.items() <= metadata.items()
    model = MoEEModel.from_pretrained(CHECKPOINT, alpha=0.5)
    for example in metadata["widget"]:
        embeddings = model.encode([example["source_sentence"], *example["sentences"]])
        expected = model.similarity(embeddings[:1], embeddings[1:])[0].tolist()
        assert [label["label"] for label in example["output"]] == example["sentences"]
        assert [label["score"] for label in example["output"]] == pytest.approx(expected, abs=1e-4)


def test_usages_of_the_card_run(hub, built, tmp_path):
    push(built)
    usages = re.findall(r"```python\n(.*?)```", (built / "README.md").read_text(), re.DOTALL)
    assert len(usages) == 3
    script = tmp_path / "usages.py"
    script.write_text("import sys\nsys.modules['moee_hf'] = None\n" + "\n".join(usages) + "print(len(embedding))\n")
    done = run(script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("576")


def test_the_validator_can_refuse():
    card = "---\nlicense: none-of-these\npipeline_tag: embed\nbase_model: ../x\nwidget:\n- txt: a\n---\n"
    assert len(card_errors(card)) == 5


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes(path):
    recipe = read_recipe(path)
    assert recipe.license
    fields = {key: getattr(recipe, key) for key in ("license", "license_name", "license_link", "language")}
    metadata = {key: value for key, value in fields.items() if value is not None}
    assert card_errors(f"---\n{yaml.safe_dump(metadata)}\n---\n") == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alhpa": 1.0}, "expected keys among .*; got 'alhpa'"),
        ({"alpha": -1.0}, r"recipe\.yaml: MoEEConfig\.alpha"),
        ({"backbone_config": {}}, "got 'backbone_config'"),
        ({"repo_id": None}, "expected repo_id, the id of a repository; got None"),
        ({"base_model_name_or_path": "../x"}, "expected the id of a repository on the Hub"),
        ({"repo_id": "a b"}, "repo_id: expected 'namespace/name' or 'name'"),
        ({"license": ["mit"]}, "expected a string for license"),
        ({"language": False}, "expected a string for language; got False"),
        ({"prompts": {1: "{text}"}}, "prompts: a name: expected a string; got 1"),
        ({"default_prompt_name": 1}, "default_prompt_name: expected a string; got 1"),
    ],
)
def test_recipes_that_are_wrong(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_recipe(recipe_file(tmp_path, **changes))


@pytest.mark.parametrize("content", ["", "\t- x", "[]", "5"])
def test_recipes_that_are_none(tmp_path, content):
    (tmp_path / "recipe.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"recipe\.yaml: expected (a mapping|YAML)"):
        read_recipe(tmp_path / "recipe.yaml")


def test_files_to_push_needs_no_network(built, monkeypatch):
    monkeypatch.setattr(HfApi, "__init__", None)
    assert files_to_push(built)["config.json"] == (built / "config.json").stat().st_size


def test_changed_weights_are_not_lost_in_a_reference(hub, recipe, tmp_path):
    model = MoEEModel.from_pretrained("lab/backbone")
    model.encode("A text.")
    model.save_reference(tmp_path / "one")
    with torch.no_grad():
        model.model.layers[0].mlp.gate.weight.mul_(2)
    with pytest.raises(ValueError, match="they were changed since, which a reference cannot hold"):
        model.save_reference(tmp_path / "two")
    assert not (tmp_path / "two").exists()


def test_a_reference_to_a_reference_names_the_weights(hub, recipe, tmp_path):
    MoEEModel.from_pretrained("lab/backbone").push_to_hub("author/first", reference=True)
    recipe = recipe_file(tmp_path, base_model_name_or_path="author/first")
    folder = build(read_recipe(recipe), tmp_path / "built")
    assert ModelCard.load(folder / "README.md").data.base_model == "lab/backbone"
    record = json.loads((folder / "moee_build.json").read_text())
    assert (record["base_model"], record["base_model_revision"]) == ("lab/backbone", hub.head("lab/backbone"))


def test_a_build_that_fails_leaves_nothing(hub, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("moee_hf.publishing.building.model_card", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build(read_recipe(recipe), tmp_path / "built")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("built")] == []


@pytest.mark.parametrize("repo_id", ["a b/c", "/", "x/", "a/b/c", "author/a--b", "../x", ""])
def test_names_that_no_repository_can_have(recipe, tmp_path, repo_id):
    with pytest.raises(ValueError, match="repo_id: expected 'namespace/name' or 'name'"):
        build(read_recipe(recipe), tmp_path / "built", repo_id=repo_id)


def test_a_card_that_the_hub_refuses(hub, built):
    card = built / "README.md"
    card.write_text(card.read_text().replace("license: apache-2.0", "license: my-own"))
    with pytest.raises(ValueError, match='"license" must be one of the known identifiers'):
        push(built)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_damaged_record_or_card(built, content):
    (built / "README.md").write_text("---\n{[\n---\n")
    with pytest.raises(ValueError, match=r"README\.md: expected a model card with YAML at its head"):
        files_to_push(built)
    (built / "moee_build.json").write_text(content)
    with pytest.raises(ValueError, match="expected the record of a build"):
        files_to_push(built)


def test_no_network_is_a_sentence(built):
    done = run(SCRIPTS / "push.py", built, HF_ENDPOINT="http://127.0.0.1:9")
    assert re.fullmatch(r"push: author/published: the Hub cannot be reached .*\n", done.stderr)
    done = run(SCRIPTS / "verify.py", "author/published", HF_ENDPOINT="http://127.0.0.1:9")
    assert re.fullmatch(r"verify: .*\n", done.stderr)
