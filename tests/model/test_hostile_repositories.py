"""Repositories that are broken, or meant to do harm: nothing is run that should not be, and errors are clear."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.common import CHECKPOINT, set_random_statistics, without_digests
from transformers import AutoModel

from moee_hf import MoEEModel


class Bomb:
    """Whatever unpickles this makes a folder named `harm`."""

    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.fixture(autouse=True)
def no_harm(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("torch.load was called"))
    yield
    assert not Path("harm").exists()


@pytest.fixture(params=["plain", "moee"])
def folder(request, saved, tmp_path) -> Path:
    """A plain checkpoint, and a MoEE repository, to be spoilt."""
    folder = shutil.copytree(CHECKPOINT if request.param == "plain" else saved, tmp_path / "model")
    spoil(folder)
    return folder


def spoil(folder: Path) -> None:
    """Take the digests out, which who means harm would put right."""
    path = folder / "config.json"
    path.write_bytes(without_digests(path.read_bytes()))


def with_config(hub, **fields) -> None:
    config = json.loads(hub.files("author/reference")["config.json"].content)
    hub.add("author/reference", {"config.json": json.dumps(config | {"digests": None} | fields).encode()})


def on_hub(hub, folder: Path) -> str:
    hub.add("author/model", {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()})
    return "author/model"


def test_the_bomb_works():
    pickle.loads(pickle.dumps(Bomb()))
    assert Path("harm").is_dir()
    Path("harm").rmdir()


@pytest.mark.parametrize("index", [False, True], ids=["one-file", "shards"])
@pytest.mark.parametrize("place", ["folder", "hub"])
def test_pickled_weights_are_not_read(hub, folder, index, place):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    if index:
        shard_map = {"weight_map": {"embed_tokens.weight": "pytorch_model.bin"}}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(shard_map))
    source = folder if place == "folder" else on_hub(hub, folder)
    for load in (MoEEModel.from_pretrained, AutoModel.from_pretrained):
        if load == MoEEModel.from_pretrained or (folder / "modules.json").exists():
            with pytest.raises(OSError, match="Pickled weights are never read"):
                load(source)


def test_pickled_weights_are_not_read_when_asked_for(folder):
    with pytest.raises(ValueError, match="expected True, as pickled weights are never read; got False"):
        MoEEModel.from_pretrained(folder, use_safetensors=False)


@pytest.mark.parametrize("shard", ["weights.bin", "../outside.safetensors", "/outside.safetensors"])
@pytest.mark.parametrize("place", ["folder", "hub"])
def test_an_index_of_shards_that_names_something_else(hub, folder, shard, place):
    (folder / "model.safetensors").unlink()
    (folder / "weights.bin").write_bytes(pickle.dumps(Bomb()))
    index = {"metadata": {}, "weight_map": {"embed_tokens.weight": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"expected model\S* to name .safetensors files beside it; it names"):
        MoEEModel.from_pretrained(folder if place == "folder" else on_hub(hub, folder))


@pytest.mark.parametrize("name", ["../../model.safetensors", "/tmp/model.safetensors", "adapter_model.bin"])
def test_a_configuration_that_names_other_weights(hub, reference, name):
    config = json.loads(hub.files(reference)["config.json"].content)["backbone_config"]
    with_config(hub, backbone_config=config | {"transformers_weights": name})
    with pytest.raises(
        ValueError, match=r"expected config\.json to name .safetensors or \S+ files beside it; it names"
    ):
        MoEEModel.from_pretrained(reference)


@pytest.mark.parametrize("path", ["/etc/passwd", "../secrets", "lab/../../secrets", "~/model", "C:\\model", "", 7])
def test_a_path_in_place_of_the_backbone(hub, reference, path):
    with_config(hub, base_model_name_or_path=path)
    with pytest.raises(ValueError, match="expected the id of a repository on the Hub"):
        MoEEModel.from_pretrained(reference)


def test_a_folder_of_the_same_name_as_the_backbone(reference):
    os.makedirs("lab/backbone")
    with pytest.raises(ValueError, match="is also a folder here"):
        MoEEModel.from_pretrained(reference)


def test_code_of_the_backbones_repository_is_not_run(hub, reference):
    config = json.loads(hub.files(reference)["config.json"].content)["backbone_config"]
    auto_map = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    with_config(hub, backbone_config=config | {"auto_map": auto_map})
    hub.add("lab/backbone", {"evil.py": b"import os\nos.mkdir('harm')\n"})
    MoEEModel.from_pretrained(reference, trust_remote_code=True)


@pytest.mark.parametrize("place", ["folder", "hub"])
def test_weights_of_another_shape(hub, folder, place):
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("layers.0.mlp.gate.weight"))
    weights[name] = torch.zeros(5, 32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    source = folder if place == "folder" else on_hub(hub, folder)
    with pytest.raises(ValueError, match=r"1 have another shape, the first .*gate\.weight.*\(5, 32\) in place of"):
        MoEEModel.from_pretrained(source)


@pytest.mark.parametrize("size", [0, 7, 1000, 500_000])
@pytest.mark.parametrize("place", ["folder", "hub"])
def test_truncated_weights(hub, folder, size, place):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    source = folder if place == "folder" else on_hub(hub, folder)
    with pytest.raises(ValueError, match="expected whole safetensors files; got one that cannot be read"):
        MoEEModel.from_pretrained(source)


@pytest.fixture
def calibrated(tmp_path) -> Path:
    model = MoEEModel.from_pretrained(CHECKPOINT)
    set_random_statistics(model)
    model.save_pretrained(tmp_path / "calibrated")
    spoil(tmp_path / "calibrated")
    return tmp_path / "calibrated"


def test_missing_statistics(hub, calibrated):
    (calibrated / "statistics.safetensors").unlink()
    for source in (calibrated, on_hub(hub, calibrated)):
        with pytest.raises(ValueError, match=r"in statistics\.safetensors; there is no such file"):
            MoEEModel.from_pretrained(source)


def test_truncated_statistics(calibrated):
    statistics = calibrated / "statistics.safetensors"
    statistics.write_bytes(statistics.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"in statistics\.safetensors; it cannot be read"):
        MoEEModel.from_pretrained(calibrated)


def test_statistics_of_another_model(calibrated):
    save_file({"hidden_mean": torch.ones(7)}, calibrated / "statistics.safetensors")
    with pytest.raises(ValueError, match="statistics: expected tensors of the shapes"):
        MoEEModel.from_pretrained(calibrated)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_configuration_that_is_none(folder, content):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(OSError, match=r"not a valid JSON file|expected a mapping in its config\.json; got \[\]"):
        MoEEModel.from_pretrained(folder)


@pytest.mark.parametrize("backbone", [None, [], "olmoe"])
def test_a_model_without_a_backbone(folder, backbone):
    (folder / "config.json").write_text(json.dumps({"model_type": "moee", "backbone_config": backbone}))
    with pytest.raises(OSError, match=r"expected a backbone_config in the config\.json of a MoEE model"):
        MoEEModel.from_pretrained(folder)


def test_weights_that_are_no_numbers(folder):
    weights = {
        name: torch.full_like(weight, torch.nan) for name, weight in load_file(folder / "model.safetensors").items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"texts\[0\]: expected finite numbers; got nan or infinity"):
        MoEEModel.from_pretrained(folder).encode("A text.")


@pytest.mark.parametrize("content", ["[]", "5", "null", "{"])
def test_a_damaged_tokenizer(folder, content):
    (folder / "tokenizer_config.json").write_text(content)
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(OSError, match="expected a tokenizer that can be read; its files are damaged"):
        MoEEModel.from_pretrained(folder)


def test_a_tokenizer_that_is_damaged_inside(folder):
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model"]["fuse_unk"] = {}
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(OSError, match="expected a tokenizer that can be read; its files are damaged"):
        MoEEModel.from_pretrained(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[]", b'{"weight_map": 7}', b'{"weight_map": {}}'])
def test_an_index_of_shards_that_is_none(folder, content):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_bytes(content)
    with pytest.raises(ValueError, match="expected an index of shards with a weight_map"):
        MoEEModel.from_pretrained(folder)


@pytest.mark.parametrize("place", ["folder", "hub"])
def test_an_adapter_does_not_bring_another_model(hub, folder, place):
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "evil/model"}))
    with pytest.raises(ValueError, match=r"there is an adapter_config\.json"):
        MoEEModel.from_pretrained(folder if place == "folder" else on_hub(hub, folder))
