"""Pushing over HTTP: one commit or none, on top of nothing but what these scripts made."""

import hashlib
import json
import signal
import subprocess
import sys

import pytest
from huggingface_hub import HfApi
from support.common import BACKBONE
from support.publishing import SCRIPTS, recipe_file

from moee_hf.publishing import build, files_to_push, push, read_recipe


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


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_damaged_record_or_card(built, content):
    (built / "README.md").write_text("---\n{[\n---\n")
    with pytest.raises(ValueError, match=r"README\.md: expected a model card with YAML at its head"):
        files_to_push(built)
    (built / "moee_build.json").write_text(content)
    with pytest.raises(ValueError, match="expected the record of a build"):
        files_to_push(built)


def test_files_to_push_needs_no_network(built, monkeypatch):
    monkeypatch.setattr(HfApi, "__init__", None)
    assert files_to_push(built)["config.json"] == (built / "config.json").stat().st_size


def test_another_model_is_not_replaced(hub, built):
    hub.add("author/published", BACKBONE)
    with pytest.raises(
        ValueError, match=r"it holds config\.json, generation_config\.json, model\.safetensors, which are not replaced"
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


def test_weights_of_an_earlier_build_are_removed(hub, recipe, tmp_path):
    push(build(read_recipe(recipe), tmp_path / "full", reference=False))
    assert "model.safetensors" in hub.files("author/published")
    push(build(read_recipe(recipe), tmp_path / "reference", reference=True))
    assert "model.safetensors" not in hub.files("author/published")


def test_a_new_repository_can_be_private(hub, built):
    push(built, private=True)
    assert hub.repositories["author/published"].private


@pytest.mark.parametrize(
    ("token", "message"),
    [("hf_mistyped", "the Hub refuses the token"), ("hf_stranger", "has no right to this")],
)
def test_whoever_may_not_push(hub, built, token, message):
    with pytest.raises(OSError, match=f"author/published: .*{message}"):
        push(built, token=token)
    assert "author/published" not in hub.repositories
