import pytest
from support.common import MANY
from support.folders import LINES, write_lines

from moee_hf import MoEEModel


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working directory, with some files of texts in a folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in/sub").mkdir(parents=True)
    write_lines("in/a.jsonl", MANY, 0)
    write_lines("in/sub/b.jsonl", LINES, 100)
    (tmp_path / "in/notes.pdf").write_text("no texts")
    return tmp_path


@pytest.fixture(autouse=True)
def small(monkeypatch, model):
    """The model that is loaded, whatever is asked for."""
    monkeypatch.setattr(MoEEModel, "from_pretrained", lambda *args, **kwargs: model)
    return model
