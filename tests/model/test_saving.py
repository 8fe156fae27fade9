"""Saving over an earlier save, killed at any moment, on a full disk, with damage, and to the Hub."""

import contextlib
import copy
import errno
import json
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from filelock import FileLock
from support.common import CHECKPOINT, TEXTS, assert_same, set_random_statistics
from transformers import AutoModel, AutoTokenizer

from moee_hf import MoEEConfig, MoEEModel


@pytest.fixture
def other(model):
    """Another model: other weights, statistics, and a choice of its own."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.model.parameters():
            weight.mul_(1.5)
    set_random_statistics(other)
    other.config.alpha = 2.0
    return other


class KilledError(BaseException):
    pass


def kill_at(monkeypatch, number: int | None) -> list[Path]:
    """Let the process die before so many changes of the folder are done; nothing runs after that, as with SIGKILL.

    The changes are noted in the list that is returned.
    """
    changes = []

    def noted(change):
        def changed(path, *args, **kwargs):
            if len(changes) == number:
                raise KilledError
            changes.append(path)
            return change(path, *args, **kwargs)

        return changed

    for name in ("replace", "unlink"):
        monkeypatch.setattr(Path, name, noted(getattr(Path, name)))
    monkeypatch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
    return changes


@pytest.mark.parametrize("sharded", [False, True])
def test_a_save_over_a_save_is_one_of_them_whole(model, other, tmp_path, monkeypatch, sharded):
    expected = [model.encode(TEXTS), other.encode(TEXTS)]
    options = {"max_shard_size": "200KB"} if sharded else {}
    original, seen = tmp_path / "original", set()
    model.save_pretrained(original, **{} if sharded else {"max_shard_size": "200KB"})
    shutil.copytree(original, tmp_path / "counted")
    with monkeypatch.context() as context:
        changes = kill_at(context, None)
        other.save_pretrained(tmp_path / "counted", **options)
    last = len(changes)
    for number in (0, 1, 2, last // 2, last - 2, last - 1, last):
        folder = tmp_path / str(number)
        shutil.copytree(original, folder)
        with monkeypatch.context() as context, contextlib.suppress(KilledError):
            kill_at(context, number)
            other.save_pretrained(folder, **options)
        if not (folder / "config.json").exists():
            with pytest.raises(OSError, match="a save has left that was interrupted"):
                MoEEModel.from_pretrained(folder)
            seen.add("refused")
        else:
            vectors = MoEEModel.from_pretrained(folder, verify_weights=True).encode(TEXTS)
            is_new = not np.allclose(vectors, expected[0], atol=1e-3)
            assert_same(vectors, expected[is_new])
            seen.add("new" if is_new else "old")
    assert seen == {"old", "refused", "new"}
    # the next save goes on from any of these, and leaves nothing of them
    model.save_pretrained(tmp_path / "2")
    model.save_pretrained(tmp_path / "fresh")
    assert {path.name for path in (tmp_path / "2").iterdir()} == {path.name for path in (tmp_path / "fresh").iterdir()}


def test_what_another_process_writes_is_left(model, tmp_path):
    staging = tmp_path / ".moee-saving-other"
    staging.mkdir()
    with FileLock(staging / "lock"):
        model.save_pretrained(tmp_path)
        assert staging.is_dir()
    model.save_pretrained(tmp_path)
    assert not staging.exists()


def test_the_last_save_is_what_loads(model, other, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for saved, options in [(other, {}), (model, {"max_shard_size": "200KB"}), (other, {}), (model, {})]:
        saved.save_pretrained(tmp_path, **options)
        assert_same(MoEEModel.from_pretrained(tmp_path).encode(TEXTS), saved.encode(TEXTS))
        assert (tmp_path / "statistics.safetensors").exists() == saved.config.calibrated
    assert not list(tmp_path.glob("model-*"))
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_reference_over_a_model_has_no_weights(hub, reference, model, tmp_path):
    model.save_pretrained(tmp_path)
    MoEEModel.from_pretrained(reference).save_reference(tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
    assert MoEEModel.from_pretrained(tmp_path).config.alpha == 0.5


@pytest.mark.parametrize("failing", ["save_file", "write_text", "tokenizer"])
def test_a_full_disk(model, other, tmp_path, monkeypatch, failing):
    other.save_pretrained(tmp_path)
    full = OSError(errno.ENOSPC, "No space left on device")

    def fail(*args, **kwargs):
        raise Exception(str(full)) if failing == "tokenizer" else full

    set_random_statistics(model)
    with monkeypatch.context() as context:
        if failing == "tokenizer":
            context.setattr(type(model.tokenizer), "save_pretrained", fail)
        else:
            place = {"save_file": "moee_hf.model.repository_moee.save_file", "write_text": "pathlib.Path.write_text"}
            context.setattr(place[failing], fail)
        with pytest.raises(OSError, match=f"{tmp_path}: expected a folder with room.*No space left on device"):
            model.save_pretrained(tmp_path)
    assert_same(MoEEModel.from_pretrained(tmp_path).encode(TEXTS), other.encode(TEXTS))
    assert not list(tmp_path.glob(".*"))


def test_a_file_is_no_folder(model, tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in ("file", "file/inside"):
        with pytest.raises(OSError, match="expected a folder, or the name of a new one; got a file"):
            model.save_pretrained(tmp_path / folder)


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_damage_is_found(other, tmp_path):
    other.save_pretrained(tmp_path)
    digests = json.loads((tmp_path / "config.json").read_text())["digests"]
    assert digests.keys() == {
        *("model.safetensors", "statistics.safetensors", "tokenizer.json", "tokenizer_config.json"),
        *("config.json", "config_sentence_transformers.json"),
    }
    for name in digests:
        content = (tmp_path / name).read_bytes()
        place = content.index(b'"alpha": 2') + 9 if name == "config.json" else len(content) - 3
        flip(tmp_path / name, place)
        options = {"verify_weights": True} if name == "model.safetensors" else {}
        for load in (MoEEModel.from_pretrained, AutoModel.from_pretrained):
            with pytest.raises(OSError, match=f"expected {name} as it was saved"):
                load(tmp_path, **options)
        (tmp_path / name).write_bytes(content)
    assert_same(MoEEModel.from_pretrained(tmp_path, verify_weights=True).encode(TEXTS), other.encode(TEXTS))


def test_a_configuration_may_be_changed_on_purpose(model, tmp_path):
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"alpha": 3.0}))
    with pytest.raises(OSError, match=r"config.json as it was saved.*remove its entry under digests"):
        MoEEConfig.from_pretrained(tmp_path)
    del fields["digests"]["config.json"]
    path.write_text(json.dumps(fields | {"alpha": 3.0}))
    assert MoEEModel.from_pretrained(tmp_path).config.alpha == 3
    config = MoEEConfig.from_pretrained(tmp_path)
    config.alpha = 4.0
    config.save_pretrained(tmp_path)
    assert MoEEModel.from_pretrained(tmp_path).config.alpha == 4


def test_ends_of_lines_are_no_damage(model, tmp_path):
    model.save_pretrained(tmp_path)
    for path in tmp_path.glob("*.json"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert_same(MoEEModel.from_pretrained(tmp_path).encode(TEXTS), model.encode(TEXTS))


def test_a_tokenizer_written_beside_the_model_as_trainers_do(model, saved, tmp_path):
    """They pad and cut as they like; texts that are neither have the same ids."""
    tokenizer = AutoTokenizer.from_pretrained(saved, padding_side="left", model_max_length=99)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    tokenizer(TEXTS, padding=True, truncation=True, max_length=9)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() != (saved / "tokenizer.json").read_bytes()
    assert_same(MoEEModel.from_pretrained(tmp_path).encode(TEXTS), model.encode(TEXTS))
    tokenizer.add_tokens(["guitar"])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(OSError, match=r"expected tokenizer\.json as it was saved"):
        MoEEModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["../notes.txt", "/etc/hosts"])
def test_digests_are_of_the_repository(model, tmp_path, name):
    model.save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(fields | {"digests": {name: "0"}}))
    with pytest.raises(ValueError, match=r"MoEEConfig.digests: expected files of the repository"):
        MoEEModel.from_pretrained(tmp_path)


def test_weights_without_digests_cannot_be_verified():
    with pytest.raises(ValueError, match=r"verify_weights: expected digests in the config.json"):
        MoEEModel.from_pretrained(CHECKPOINT, verify_weights=True)


@pytest.mark.parametrize(
    ("repo_id", "options", "problem"),
    [
        ("author/new", {"reference": True}, "save_reference: expected a model whose weights are those in the root"),
        ("author/new/inside", {}, "repo_id: expected the id of a repository"),
        ("author/new", {"token": "hf_mistyped"}, "push_to_hub: the Hub refuses the token"),
    ],
)
def test_what_cannot_be_pushed_makes_no_repository(hub, model, repo_id, options, problem):
    with pytest.raises((ValueError, OSError), match=problem):
        model.push_to_hub(repo_id, **options)
    assert not hub.requests("repos/create")


def test_no_network_no_save(hub, model, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="push_to_hub: the Hub cannot be reached"):
        model.save_pretrained(tmp_path / "new", push_to_hub=True, repo_id="author/new")
    assert not (tmp_path / "new").exists()


def test_the_last_push_is_what_loads(hub, model, other, backbone):
    name = "author/pushed"
    referring = MoEEModel.from_pretrained(backbone, dtype=torch.float32)
    for pushed, options in [
        (other, {}),
        (model, {"max_shard_size": "200KB"}),
        (referring, {"reference": True}),
    ]:
        pushed.push_to_hub(name, **options)
        vectors = MoEEModel.from_pretrained(name, dtype=torch.float32).encode(TEXTS)
        np.testing.assert_allclose(vectors, pushed.encode(TEXTS), rtol=1e-3, atol=1e-5)
    assert not [file for file in hub.files(name) if file.endswith(".safetensors")]


def test_weights_of_a_reference_are_verified_too(hub, reference):
    MoEEModel.from_pretrained(reference, verify_weights=True)
    (weights,) = Path(huggingface_hub.constants.HF_HUB_CACHE).glob("models--lab--backbone/snapshots/*/*.safetensors")
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content)
    flip(weights, len(content) - 3)
    with pytest.raises(OSError, match=r"lab/backbone: expected model\.safetensors as it is on the Hub"):
        MoEEModel.from_pretrained(reference, verify_weights=True)


def test_a_reference_needs_weights_that_it_can_read(hub, model, tmp_path):
    hub.add("lab/packed", {"config.json": b"{}", "model.gguf": b""})
    hub.add("lab/adapter", {"adapter_config.json": b"{}", "adapter_model.safetensors": b""})
    for name in ("lab/packed", "lab/adapter"):
        with pytest.raises(ValueError, match="save_reference: expected a repository with the weights of a backbone"):
            model.save_reference(tmp_path / "saved", name)
    assert not (tmp_path / "saved").exists()
