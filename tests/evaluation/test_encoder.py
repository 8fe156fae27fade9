"""A model as mteb takes one: its vectors, what it says about itself, and the choices that it is made with."""

import mteb
import numpy as np
import pytest
import torch
from datasets import Dataset
from mteb.models import EncoderProtocol
from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper
from mteb.types import PromptType
from sentence_transformers import SentenceTransformer
from support import evaluation_data, metrics
from support.common import CHECKPOINT, TEXTS
from support.judge import CORPUS
from torch.utils.data import DataLoader

from moee_hf import MoEEModel
from moee_hf.evaluation import Corpus, Features, MoEEEncoder, encoders, evaluate, local_tasks
from moee_hf.evaluation.features import random_weights


def test_mteb_takes_the_encoder(model, data):
    encoder = MoEEEncoder(model, combination="rw")
    assert isinstance(encoder, EncoderProtocol)
    (task,) = local_tasks(data, ["stsb"])
    result = mteb.evaluate(encoder, task, cache=None, show_progress_bar=False).task_results[0]
    rows = evaluation_data.rows()["sts/stsb.test"]
    first, second = (
        model.encode([row[side] for row in rows], combination="rw") for side in ("sentence1", "sentence2")
    )
    expected = metrics.spearmanr(metrics.cosines(first, second), [row["score"] for row in rows]).statistic
    assert result.get_score() == pytest.approx(expected, abs=1e-4)
    assert result.task_name == "STSBenchmark"


def test_vectors_are_those_of_encode(model):
    model.calibrate(CORPUS, prompt_name="none")
    texts = [*TEXTS, TEXTS[0]]
    for options in ({}, {"combination": "concat"}, {"alpha": 0.3}, {"standardize": False}):
        vectors = MoEEEncoder(model, prompt="none", **options).embed(texts)
        np.testing.assert_allclose(vectors, model.encode(texts, prompt_name="none", **options), atol=1e-4)


@pytest.mark.parametrize("prompts", [["prompteol"], ["none", "prompteol"]])
@pytest.mark.parametrize("choices", [{}, {"hidden_source": "values", "pooling": "mean"}, {"dimensions": 12}])
def test_corpus_is_what_calibrate_takes(model, prompts, choices):
    """An encoder with a corpus embeds as a model that was calibrated on it."""
    encoder = MoEEEncoder(model, prompt="+".join(prompts), corpus=Corpus(CORPUS), **choices)
    precisions = ("float32", "int8", "binary")
    found = {precision: encoder.variant(precision=precision).embed(TEXTS).numpy() for precision in precisions}
    dimensions = choices.pop("dimensions", None)
    model.config.choose(**choices)
    model.calibrate(CORPUS, prompt_name=prompts, dimensions=dimensions)
    expected = model.encode(TEXTS, prompt_name=prompts)
    np.testing.assert_allclose(found["float32"], expected, atol=1e-5 * abs(expected).max())
    np.testing.assert_allclose(found["int8"], model.encode(TEXTS, prompt_name=prompts, precision="int8"), atol=1)
    bits = np.unpackbits(model.encode(TEXTS, prompt_name=prompts, precision="ubinary"), axis=1)
    assert (found["binary"][:, : expected.shape[1]] == 2.0 * bits[:, : expected.shape[1]] - 1).mean() > 0.999


def test_explicit_choices_win_over_those_of_a_calibration(model):
    encoder = MoEEEncoder(model, corpus=Corpus(CORPUS), router_activation="softmax", alpha=0.7, dimensions=10)
    found = encoder.variant(layer_weights="equal").embed(TEXTS)
    model.calibrate(CORPUS, keep_routing=True)
    model.config.alpha = 0.7
    model.compress(CORPUS, dimensions=10)
    np.testing.assert_allclose(found, model.encode(TEXTS), atol=1e-5)


def test_choices_of_a_calibrated_model_without_a_corpus(model):
    model.calibrate(CORPUS, dimensions=12)
    for options in ({}, {"dimensions": 5}, {"precision": "int8"}):
        found = MoEEEncoder(model, **options).embed(TEXTS)
        expected = model.with_config(dimensions=options.pop("dimensions", 12)).encode(TEXTS, **options)
        np.testing.assert_allclose(found, expected, atol=1.0 if options else 1e-5)
    whole = model.with_config(dimensions=None)
    np.testing.assert_allclose(MoEEEncoder(model, dimensions=0).embed(TEXTS), whole.encode(TEXTS), atol=1e-5)
    equal = model.with_config(dimensions=None, router_layer_weights=None)
    found = MoEEEncoder(model, dimensions=0, layer_weights="equal").embed(TEXTS)
    np.testing.assert_allclose(found, equal.encode(TEXTS), atol=1e-5)
    weighed = MoEEEncoder(equal, layer_weights="agreement").embed(TEXTS)
    np.testing.assert_allclose(weighed, whole.encode(TEXTS), atol=2e-4)
    with pytest.raises(
        ValueError, match="dimensions: expected at most 12 dimensions, as the model was fitted to; got 13"
    ):
        MoEEEncoder(model, dimensions=13)
    with pytest.raises(ValueError, match="expected embeddings as the model was fitted to"):
        MoEEEncoder(model, alpha=3.0)


@pytest.mark.parametrize("options", [{"dimensions": 4}, {"precision": "int8"}, {"layer_weights": "agreement"}])
def test_what_takes_a_corpus_says_so(model, options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name}: expected texts to calibrate on, a corpus, for {value!r}"):
        MoEEEncoder(model, **options)


def test_experiment_holds_only_what_an_embedding_depends_on(model):
    def differ(name, values, **options):
        return len({str(MoEEEncoder(model, **options, **{name: value}).experiment) for value in values}) > 1

    corpus = Corpus(CORPUS)
    activations, sources, layers = ("softmax", "clr"), ("state", "attention"), (-1, 1)
    assert not differ("router_activation", activations, combination="hs", corpus=corpus)
    assert not differ("layer_weights", ("equal", "agreement"), combination="hs", corpus=corpus)
    assert not differ("router_layers", ([0], [1]), combination="hs")
    assert not differ("hidden_source", sources, combination="rw")
    assert not differ("hidden_layer", layers, combination="rw")
    assert not differ("hidden_layer", layers, combination="sum", hidden_source="attention")
    assert not differ("attention_layers", ([0], [1]), combination="sum")
    assert not differ("alpha", (1, 2), combination="concat")
    # layers are weighed by their agreement with HS
    assert differ("hidden_source", sources, combination="rw", corpus=corpus)
    assert differ("hidden_layer", layers, combination="rw", corpus=corpus)
    assert differ("attention_layers", ([0], [1]), combination="hs", hidden_source="values")
    for name, values in {"dimensions": (0, 4, 5), "precision": (None, "int8", "binary"), "alpha": (None, 1)}.items():
        assert differ(name, values, corpus=corpus)


def test_an_empty_text_without_a_token_is_a_space(model):
    vectors = MoEEEncoder(model, prompt="none").embed(["", " "])
    np.testing.assert_array_equal(vectors[0], vectors[1])
    np.testing.assert_allclose(MoEEEncoder(model).embed([""]), model.encode([""]), atol=1e-4)


OWN_PROMPTS = {
    "query": "The question {text} :",
    "STS": "Two sentences, {text} :",
    "NanoBEIR-query": "Nothing {text}",
    "Retrieval-document": "A passage, {text} :",
}


@pytest.mark.parametrize("prompts", [{}, {"query": OWN_PROMPTS["query"]}, OWN_PROMPTS])
@pytest.mark.parametrize(
    ("task", "prompt_type"), [("STSBenchmark", None), ("NFCorpus", "query"), ("NFCorpus", "document")]
)
def test_prompts_by_name_are_those_of_sentence_transformers(model, tmp_path, prompts, task, prompt_type):
    model = model.with_config(prompts=model.config.prompts | prompts)
    model.save_pretrained(tmp_path)
    sentences = SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu")
    batches = DataLoader(Dataset.from_dict({"text": TEXTS}), batch_size=4)
    call = {"task_metadata": mteb.get_task(task).metadata, "hf_split": "test", "hf_subset": "default"}
    call["prompt_type"] = prompt_type and PromptType(prompt_type)
    expected = SentenceTransformerEncoderWrapper(sentences).encode(batches, **call)
    np.testing.assert_allclose(MoEEEncoder(model).encode(batches, **call), expected, rtol=1e-4, atol=1e-5)
    # a prompt that is asked for is that of all texts
    asked = MoEEEncoder(model, prompt="prompteol").encode(batches, **call)
    np.testing.assert_allclose(asked, model.encode(TEXTS, prompt_name="prompteol"), rtol=1e-4, atol=1e-5)


def test_model_is_left_as_it_was(model, data, tmp_path):
    before, config = model.encode(TEXTS), model.config.to_dict()
    grid = encoders(model, poolings=("mean",), hidden_layers=(-2,), corpus=Corpus(CORPUS), control=True)
    assert len(list(evaluate(grid, local_tasks(data, ["stsb"]), tmp_path))) == 4
    assert model.config.to_dict() == config
    np.testing.assert_array_equal(model.encode(TEXTS), before)


def test_control_has_the_architecture_and_not_the_weights(model):
    trained, random = model.state_dict(), random_weights(model).state_dict()
    assert {name: weight.shape for name, weight in random.items()} == {n: w.shape for n, w in trained.items()}
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.allclose(trained[name], random[name])
    torch.testing.assert_close(random, random_weights(model).state_dict(), atol=0, rtol=0)  # the same one each time
    (trained,), (random,) = encoders(model, control=True)
    assert random.experiment == trained.experiment | {"weights": "random"}
    assert random.features.identity == trained.features.identity
    model.calibrate(CORPUS)
    with pytest.raises(ValueError, match="control: expected texts to calibrate on beside it"):
        next(encoders(model, control=True))


def test_meta_is_honest(monkeypatch):
    model = MoEEModel.from_pretrained(CHECKPOINT)
    encoder = MoEEEncoder(model, prompt="none", combination="sum", alpha=0.5)
    meta = encoder.mteb_model_meta
    assert meta.name == f"local/{CHECKPOINT.name}"
    assert len(meta.revision) == 40
    assert meta.n_parameters == sum(weight.numel() for weight in model.model.parameters())
    assert meta.n_active_parameters < meta.n_parameters
    assert meta.embed_dim == model.config.embedding_size_for("sum")
    assert meta.training_datasets == set()
    assert meta.experiment_kwargs["alpha"] == 0.5
    variants = [
        {},
        {"combination": "rw"},
        {"alpha": 2.0},
        {"standardize": True},
        {"corpus": Corpus(["a"])},
        {"corpus": Corpus(["b"])},
        {"prompt": "none"},
        {"prompt": "a {text}:"},
        {"prompt": "a {text}?"},
        {"pooling": "mean"},
        {"hidden_layer": -2},
        {"router_layers": [0]},
        {"router_activation": "logits"},
    ]
    names = {MoEEEncoder(model, **options).mteb_model_meta.experiment_name for options in variants}
    assert len(names) == len(variants)  # each has a folder for its results
    assert MoEEEncoder(model, alpha=2).experiment == MoEEEncoder(model, alpha=2.0).experiment
    template = model.config.prompt_template("prompteol")
    assert MoEEEncoder(model, prompt=template).experiment == MoEEEncoder(model, prompt="prompteol").experiment
    before = MoEEEncoder(model).experiment
    monkeypatch.setattr(model.config.backbone_config, "num_experts_per_tok", 1)
    assert MoEEEncoder(model).experiment != before
    model.calibrate(CORPUS)
    first = MoEEEncoder(model).experiment["statistics"]
    model.calibrate(CORPUS[1:])
    assert MoEEEncoder(model).experiment["statistics"] != first


def test_what_is_no_option_says_so(model):
    with pytest.raises(ValueError, match=r"MoEEConfig: expected fields that can be chosen .*; got 'poolin'"):
        MoEEEncoder(model, poolin="mean")
    with pytest.raises(TypeError, match="MoEEEncoder: expected prompt with a model; got features"):
        MoEEEncoder(Features(model), prompt="none")
    with pytest.raises(ValueError, match="hidden_layer"):
        MoEEEncoder(model, hidden_layer=99)
    with pytest.raises(ValueError, match="prompt: expected a template"):
        MoEEEncoder(model, prompt="{text} {text}")
    raw, calibrated = next(encoders(model, corpus=Corpus(CORPUS)))
    assert (raw.standardize, calibrated.standardize) == (False, True)
    assert raw.variant(corpus=Corpus(CORPUS), standardize=None).standardize


def test_corpus_of_one_text_is_none(model):
    with pytest.raises(ValueError, match="texts: expected two or more to calibrate on; got 1"):
        MoEEEncoder(model, corpus=Corpus(["One text."])).embed(TEXTS)
