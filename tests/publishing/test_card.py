"""The model card: metadata that the Hub takes, examples that are true, usages that run."""

import re

import pytest
from huggingface_hub import ModelCard
from support.common import CHECKPOINT, TEXTS
from support.hub import card_errors
from support.publishing import recipe_file, run

from moee_hf import MoEEModel
from moee_hf.model import hub_moee
from moee_hf.publishing import build, push, read_recipe, verifying


def test_card(hub, built):
    text = (built / "README.md").read_text()
    assert card_errors(text) == []
    assert "narrow cone" in text
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


@pytest.mark.slow
def test_usages_of_the_card_run(hub, built, tmp_path):
    size = MoEEModel.from_pretrained(built).config.embedding_size
    push(built)
    usages = re.findall(r"```python\n(.*?)```", (built / "README.md").read_text(), re.DOTALL)
    assert len(usages) == 3
    script = tmp_path / "usages.py"
    script.write_text("import sys\nsys.modules['moee_hf'] = None\n" + "\n".join(usages) + "print(len(embedding))\n")
    done = run(script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(size) == "144"


def test_the_card_of_a_calibrated_model(tmp_path, monkeypatch):
    """It names what is not the paper's, and shows only the combination that principal components were fitted to."""
    choices = {"hidden_source": "values", "default_prompt_name": ["prompteol", "none"], "combination": "concat"}
    model = MoEEModel.from_pretrained(CHECKPOINT, **choices)
    model.calibrate(TEXTS)
    model.config.router_layer_weights = [0, 2, 1, 0, 0]
    model.compress(TEXTS, 3)
    model.save_pretrained(tmp_path / "calibrated")
    monkeypatch.setitem(hub_moee._ALIASES, "small", str(tmp_path / "calibrated"))
    recipe = recipe_file(tmp_path, base_model_name_or_path="small", base_model_revision=None, alpha=model.config.alpha)
    folder = build(read_recipe(recipe), tmp_path / "built", reference=False, repo_id="me/trial")
    text = " ".join((folder / "README.md").read_text().split())
    for part in (
        *("HS is the values of attention", "RW are the centred log-ratios", "2 of 5 MoE layers", "3 principal comp"),
        """Texts go into each of the prompts `This sentence : "{text}" means in one word:"`, `{text}`, and their""",
    ):
        assert part in text
    assert 'combination="' not in text
    assert '| `"concat"` |' in text
    assert '| `"hs"` |' not in text
    assert verifying.main([str(folder), "--tolerance", "0"]) == 0


def test_the_validator_can_refuse():
    card = "---\nlicense: none-of-these\npipeline_tag: embed\nbase_model: ../x\nwidget:\n- txt: a\n---\n"
    assert len(card_errors(card)) == 5


def test_a_card_that_the_hub_refuses(hub, built):
    card = built / "README.md"
    card.write_text(card.read_text().replace("license: apache-2.0", "license: my-own"))
    with pytest.raises(ValueError, match='"license" must be one of the known identifiers'):
        push(built)
