"""Name and revision of a model: others whenever its vectors may be."""

import json
import shutil

import torch
from support.common import CHECKPOINT

from moee_hf import MoEEModel
from moee_hf.evaluation import Features, MoEEEncoder
from moee_hf.evaluation.features import random_weights
from moee_hf.model import hub_moee


def test_revision_is_that_of_the_weights(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "copy")
    one, same = (Features(MoEEModel.from_pretrained(folder)).identity for folder in (saved, tmp_path / "copy"))
    assert one[1] == same[1]
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config | {"alpha": 3.0, "digests": None}))
    assert Features(MoEEModel.from_pretrained(tmp_path / "copy")).identity[1] != one[1]


def test_folder_with_a_name_of_the_package_is_known_by_it(monkeypatch):
    by_path = Features(MoEEModel.from_pretrained(CHECKPOINT)).identity
    monkeypatch.setitem(hub_moee._ALIASES, "small", str(CHECKPOINT))
    assert by_path[0] == f"local/{CHECKPOINT.name}"
    assert Features(MoEEModel.from_pretrained("small")).identity == ("moee_hf/small", by_path[1])


def test_model_changed_in_memory_has_another_revision(saved):
    model = MoEEModel.from_pretrained(saved)
    before = Features(model).identity
    with torch.no_grad():
        model.get_input_embeddings().weight[0, 0] += 1
    changed = Features(model).identity
    assert changed[0] == f"memory/{saved.name}"
    assert changed[1] != before[1]
    with torch.no_grad():
        model.get_input_embeddings().weight[0, 0] += 1
    assert Features(model).identity[1] != changed[1]
    replaced = MoEEModel.from_pretrained(saved)
    replaced.set_input_embeddings(torch.nn.Embedding.from_pretrained(torch.randn(1500, 64)))
    assert Features(replaced).identity[1] != before[1]
    assert Features(MoEEModel(model.config)).identity[1] != Features(MoEEModel(model.config)).identity[1]


def test_hub_id_and_commit_are_name_and_revision(hub, loaded):
    loaded.push_to_hub("author/model")
    model = MoEEModel.from_pretrained("author/model")
    meta = MoEEEncoder(model).mteb_model_meta
    assert meta.name == "author/model"
    assert meta.revision == hub.head("author/model")


def test_control_of_a_model_made_in_memory_is_known_by_its_weights(model):
    name, revision = Features(random_weights(MoEEModel(model.config)), random=True).identity
    assert name == "memory/olmoe"
    assert len(revision) == 40
