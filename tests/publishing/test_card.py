"""The model card: metadata that the Hub takes, examples that are true, usages that run."""

import re

import pytest
from huggingface_hub import ModelCard
from support.common import CHECKPOINT
from support.hub import card_errors
from support.publishing import run

from moee_hf import MoEEModel
from moee_hf.publishing import push


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


def test_the_validator_can_refuse():
    card = "---\nlicense: none-of-these\npipeline_tag: embed\nbase_model: ../x\nwidget:\n- txt: a\n---\n"
    assert len(card_errors(card)) == 5


def test_a_card_that_the_hub_refuses(hub, built):
    card = built / "README.md"
    card.write_text(card.read_text().replace("license: apache-2.0", "license: my-own"))
    with pytest.raises(ValueError, match='"license" must be one of the known identifiers'):
        push(built)
