"""sentence-transformers: its interface on a MoEE repository, with prompts that go on after the text."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from support.common import CHECKPOINT, TEXTS, assert_same, set_random_statistics

from moee_hf import MoEEModel

LONG = "one two three four five six seven eight nine ten " * 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model = MoEEModel.from_pretrained(CHECKPOINT, dtype=torch.float32)
    model.config.prompts = {"query": 'The question "{text}" in one word:"', "words-before": "About: {text}"}
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sentences(folder) -> SentenceTransformer:
    return SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")


@pytest.fixture(scope="module")
def reference(folder) -> MoEEModel:
    return MoEEModel.from_pretrained(folder)


def test_encode(sentences, reference):
    assert_same(sentences.encode(TEXTS), reference.encode(TEXTS))
    assert_same(sentences.encode(TEXTS[0]), reference.encode(TEXTS[0]))


@pytest.mark.parametrize("combination", ["hs", "rw", "concat", "sum"])
def test_combinations(folder, reference, combination):
    sentences = SentenceTransformer(
        str(folder), trust_remote_code=True, device="cpu", config_kwargs={"combination": combination}
    )
    assert_same(sentences.encode(TEXTS), reference.encode(TEXTS, combination=combination))
    assert sentences.get_embedding_dimension() == reference.config.embedding_size_for(combination)


@pytest.mark.parametrize("name", ["prompteol", "none", "query", "words-before"])
def test_prompts_by_name(sentences, reference, name):
    assert_same(sentences.encode(TEXTS, prompt_name=name), reference.encode(TEXTS, prompt_name=name))


@pytest.mark.parametrize(
    ("prompt", "template"), [("", "{text}"), ("About: ", "About: {text}"), ("<{text}>", "<{text}>")]
)
def test_prompts_by_text(sentences, reference, prompt, template):
    assert_same(sentences.encode(TEXTS, prompt=prompt), reference.encode(TEXTS, prompt=template))


def test_queries_and_documents(sentences, reference):
    assert_same(sentences.encode_query(TEXTS), reference.encode(TEXTS, prompt_name="query"))
    assert_same(sentences.encode_document(TEXTS), reference.encode(TEXTS))


def test_similarity(sentences, reference):
    embeddings = sentences.encode(TEXTS)
    got = sentences.similarity(embeddings, embeddings)
    torch.testing.assert_close(got, reference.similarity(embeddings, embeddings))


def test_a_long_text_loses_its_end_and_the_prompt_nothing(folder, reference):
    sentences = SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
    reference = reference.with_config(max_length=24)
    sentences.max_seq_length = 24
    assert sentences.max_seq_length == 24
    assert_same(sentences.encode([LONG, "short"]), reference.encode([LONG, "short"]))
    ids = sentences.preprocess([LONG], prompt=reference.config.prompt_template("prompteol"))["input_ids"][0]
    assert len(ids) <= 24
    assert sentences.tokenizer.decode(ids).endswith('" means in one word:"')


def test_truncated_dimensions(folder, reference):
    sentences = SentenceTransformer(str(folder), trust_remote_code=True, device="cpu", truncate_dim=64)
    assert_same(sentences.encode(TEXTS), reference.encode(TEXTS)[:, :64])


@pytest.mark.slow
def test_several_processes(folder, reference, tmp_path):
    script = tmp_path / "pool.py"
    script.write_text(
        "import sys\n"
        "import numpy as np\n"
        "from sentence_transformers import SentenceTransformer\n"
        "if __name__ == '__main__':\n"
        "    sys.modules['moee_hf'] = None\n"
        "    model = SentenceTransformer(sys.argv[1], trust_remote_code=True, device='cpu')\n"
        "    np.save(sys.argv[2], model.encode(sys.argv[3:], device=['cpu', 'cpu'], chunk_size=3, batch_size=1))\n"
    )
    subprocess.run([sys.executable, "-P", script, folder, tmp_path / "x.npy", *TEXTS], check=True, timeout=300)
    expected = np.stack([reference.encode(text) for text in TEXTS])
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), expected, atol=1e-6)


def test_what_it_saves_is_a_whole_repository(sentences, reference, tmp_path):
    sentences.save_pretrained(str(tmp_path))
    again = SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu")
    assert_same(again.encode(TEXTS), reference.encode(TEXTS))
    assert_same(MoEEModel.from_pretrained(tmp_path).encode(TEXTS), reference.encode(TEXTS))


def test_standardized(folder, reference, tmp_path):
    reference = reference.with_config()
    set_random_statistics(reference)
    reference.config.standardize = True
    reference.save_pretrained(tmp_path)
    sentences = SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu")
    assert_same(sentences.encode(TEXTS), reference.encode(TEXTS))


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A model of several prompts, calibrated in each of them, and the same of sentence-transformers."""
    folder, names = tmp_path_factory.mktemp("several"), ["prompteol", "knowledge"]
    model = MoEEModel.from_pretrained(CHECKPOINT, dtype=torch.float32, default_prompt_name=names)
    model.calibrate(TEXTS, prompt_name=names, dimensions=3)
    model.config.dimensions = None
    model.save_pretrained(folder)
    return model, folder, SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")


def test_several_prompts(several):
    model, _, sentences = several
    expected = model.encode(TEXTS)
    for got in (sentences.encode(TEXTS), sentences.encode(TEXTS, prompt_name="prompteol+knowledge")):
        assert_same(got, expected)
    assert_same(sentences.encode_query(TEXTS), expected)
    assert_same(sentences.encode_document(TEXTS), expected)
    assert_same(sentences.encode(TEXTS, truncate_dim=5), expected[:, :5])
    assert not np.allclose(expected, model.encode(TEXTS, prompt_name="prompteol"), atol=1e-3)


def test_each_of_several_prompts_has_its_own_statistics(several):
    model, _, sentences = several
    for name in ("prompteol", "knowledge"):
        assert_same(sentences.encode(TEXTS, prompt_name=name), model.encode(TEXTS, prompt_name=name))
    names = ["knowledge", "prompteol"]  # not in the order that the model was calibrated in
    prompt = json.dumps([model.config.prompt_template(name) for name in names])
    assert_same(sentences.encode(TEXTS, prompt=prompt), model.encode(TEXTS, prompt_name=names))


def test_a_list_of_prompts_is_told_from_a_template_with_brackets(several):
    model, _, sentences = several
    template = '["{text}"]'
    assert_same(sentences.encode(TEXTS, prompt=template), model.encode(TEXTS, prompt=template))
    with pytest.raises(ValueError, match=r"expected a template with \{text\} exactly once"):
        sentences.encode(TEXTS, prompt="[{text} {text}]")


def test_principal_components(several):
    model, folder, _ = several
    choice = {"config_kwargs": {"dimensions": 3}, "trust_remote_code": True, "device": "cpu"}
    sentences = SentenceTransformer(str(folder), **choice)
    assert_same(sentences.encode(TEXTS), model.with_config(dimensions=3).encode(TEXTS))
    assert sentences.get_embedding_dimension() == 3
    assert sentences.encode(TEXTS, precision="ubinary").dtype == np.uint8
