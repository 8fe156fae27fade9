"""What a save writes: whole repositories that need no package, for every class that loads one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.common import CHECKPOINT, GOLDEN, ROOT, TEXTS, assert_same
from support.tiny_backbones import redraw, tiny_config
from transformers import AutoConfig, AutoModel

import moee_hf
from moee_hf import MoEEConfig, MoEEModel

IDS = torch.tensor([[5, 6, 7, 8]])


def embeddings(model):
    with torch.no_grad():
        return model(input_ids=IDS).embeddings


STRANGER = f"""
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("moee_hf", "sentence_transformers"):
            raise ModuleNotFoundError(f"No module named {{name!r}}")

sys.meta_path.insert(0, Hidden())
import numpy as np, torch
from transformers import AutoModel

for folder in sys.argv[1:]:
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert "moee_hf" not in sys.modules and type(model).__module__.startswith("transformers_modules")
    with torch.no_grad():
        vectors = [model(input_ids=torch.tensor({IDS.tolist()})).embeddings.numpy()]
    if model.config.backbone_config.model_type == "olmoe":  # the other has no tokenizer
        vectors.append(model.encode({TEXTS!r}))
    np.savez(f"{{folder}}.npz", *vectors)
"""


@pytest.fixture(scope="module")
def read_by_a_stranger(tmp_path_factory):
    """Models, and the files of what a process without the package computes with the folders they were saved in."""
    root = tmp_path_factory.mktemp("stranger")
    sources = {"olmoe": CHECKPOINT, "deepseek": GOLDEN / "deepseek"}
    models = {name: MoEEModel.from_pretrained(source, alpha=0.5, pooling="mean") for name, source in sources.items()}
    for name, model in models.items():
        model.save_pretrained(root / name)
    environment = os.environ | {"HF_HOME": str(root / "cache")}
    folders = [root / name for name in models]
    subprocess.run([sys.executable, "-I", "-c", STRANGER, *folders], check=True, env=environment, cwd=root)
    return {name: (model, np.load(root / f"{name}.npz")) for name, model in models.items()}


@pytest.mark.parametrize("source", ["olmoe", "deepseek"])
def test_folder_loads_in_a_process_without_the_package(read_by_a_stranger, source):
    model, vectors = read_by_a_stranger[source]
    assert np.array_equal(vectors["arr_0"], embeddings(model).numpy())
    if source == "olmoe":
        assert np.array_equal(vectors["arr_1"], model.encode(TEXTS))


def test_auto_classes_know_the_package(tmp_path):
    """With the package imported, no remote code is asked for."""
    MoEEModel.from_pretrained(CHECKPOINT).save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is MoEEConfig
    model = AutoModel.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager", combination="hs")
    assert type(model) is MoEEModel
    assert (model.dtype, model.model.config._attn_implementation) == (torch.float32, "eager")
    assert model.encode("text").shape == (model.config.hidden_size,)


def test_shipped_files_import_each_other_only(tmp_path):
    """What reaches the Hub is flat, complete, and free of machine paths."""
    MoEEModel.from_pretrained(CHECKPOINT).save_pretrained(tmp_path)
    shipped = {path.name for path in tmp_path.glob("*.py")}
    assert shipped == {path.name for path in Path(moee_hf.__file__).parent.glob("model/*_moee.py")} | {
        "configuration_deepseek.py",
        "modeling_deepseek.py",
        "handler.py",
    }
    for name in shipped:
        source = (tmp_path / name).read_text()
        assert not re.findall(r"^\s*from \.(?:\.| )", source, re.MULTILINE)
        assert "moee_hf" not in re.findall(r"^\s*(?:from|import) (\w+)", source, re.MULTILINE)
        for module in re.findall(r"^\s*from \.(\w*) import", source, re.MULTILINE):
            assert f"{module}.py" in shipped
    assert str(ROOT) not in (tmp_path / "config.json").read_text()


def test_saving_as_trainers_do(tmp_path):
    """Trainers gather the weights first, under their names in this model, and save from one process."""
    model = redraw(MoEEModel(MoEEConfig(backbone_config=tiny_config("dbrx"))))
    model.save_pretrained(tmp_path / "gathered", state_dict=model.state_dict())
    assert_same(embeddings(MoEEModel.from_pretrained(tmp_path / "gathered")), embeddings(model))
    model.save_pretrained(tmp_path / "other", is_main_process=False)
    assert not list((tmp_path / "other").glob("*.py"))


def test_saving_pushes_on_request(hub, tmp_path):
    """As every `save_pretrained` of transformers: the files of the folder, and a card, in one commit."""
    model = MoEEModel.from_pretrained(CHECKPOINT, alpha=0.5)
    (tmp_path / "pushed").mkdir()
    (tmp_path / "pushed" / "notes.txt").write_text("of before")
    model.save_pretrained(
        tmp_path / "pushed", push_to_hub=True, repo_id="author/saved", private=True, token="hf_author"
    )
    files = {path.name for path in (tmp_path / "pushed").iterdir()}
    assert hub.files("author/saved").keys() - {".gitattributes"} == files - {"notes.txt"}
    assert {"model.safetensors", "handler.py", "modeling_moee.py", "tokenizer.json", "README.md"} <= files
    assert hub.repositories["author/saved"].private
    again = MoEEModel.from_pretrained("author/saved")
    assert again.config.alpha == 0.5
    assert_same(again.encode(TEXTS), model.encode(TEXTS))
    model.save_pretrained(tmp_path / "named", push_to_hub=True)
    assert "model.safetensors" in hub.files("author/named")
