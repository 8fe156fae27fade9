"""`encode` as users of sentence-transformers know it, and what it refuses."""

import inspect

import numpy as np
import pytest
import torch
from support.common import TEXTS

import moee_hf
from moee_hf import MoEEModel


def test_public_names():
    assert set(moee_hf.__all__) == {
        *("ExpertsNF4Config", "MoEEConfig", "MoEEModel", "MoEEModelOutput", "UnsupportedBackboneError"),
    }
    assert list(inspect.signature(MoEEModel.encode).parameters) == [
        *("self", "texts", "prompt_name", "prompt", "batch_size", "show_progress_bar", "normalize_embeddings"),
        *("convert_to_numpy", "convert_to_tensor", "combination", "alpha", "standardize", "precision", "devices"),
    ]


def test_one_text_and_several(model):
    one, several = model.encode(TEXTS[0]), model.encode(TEXTS)
    assert one.shape == (144,)
    assert several.shape == (len(TEXTS), 144)
    assert one == pytest.approx(several[0], abs=1e-5)
    assert np.array_equal(model.encode(tuple(TEXTS)), several)
    assert np.array_equal(model.encode(iter(TEXTS)), several)
    assert np.array_equal(model.encode(np.array(TEXTS)), several)


def test_no_texts(model):
    assert model.encode([]).shape == (0, 144)
    assert model.encode([], combination="hs").shape == (0, 64)


def test_kinds_of_result(model):
    array = model.encode(TEXTS)
    tensor = model.encode(TEXTS, convert_to_tensor=True)
    assert (array.dtype, tensor.dtype) == (np.float32, torch.float32)
    assert np.array_equal(array, tensor.numpy())
    tensors = model.encode(TEXTS, convert_to_numpy=False)
    assert isinstance(tensors, list)
    assert torch.equal(torch.stack(tensors), tensor)
    assert isinstance(model.encode(TEXTS[0], convert_to_numpy=False), torch.Tensor)
    assert not tensor.is_inference()


def test_normalized_embeddings_have_length_1(model):
    embeddings = model.encode(TEXTS, normalize_embeddings=True, alpha=3.0)
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-6)
    raw = model.encode(TEXTS, alpha=3.0)
    assert model.similarity(embeddings, embeddings).numpy() == pytest.approx(
        model.similarity(raw, raw).numpy(), abs=1e-6
    )


def test_prompts_by_name_by_template_and_by_default(model):
    template = 'This sentence : "{text}" means in one word:"'
    assert np.array_equal(model.encode(TEXTS), model.encode(TEXTS, prompt_name="prompteol"))
    assert np.array_equal(model.encode(TEXTS), model.encode(TEXTS, prompt=template))
    assert np.array_equal(model.encode(TEXTS, prompt_name="none"), model.encode(TEXTS, prompt="{text}"))
    assert not np.array_equal(model.encode(TEXTS), model.encode(TEXTS, prompt_name="none"))
    model.config.prompts = {"query": "Query: {text}"}
    model.config.default_prompt_name = "query"
    assert np.array_equal(model.encode(TEXTS), model.encode(TEXTS, prompt="Query: {text}"))
    assert np.array_equal(model.encode(TEXTS, prompt_name="none"), model.encode(TEXTS, prompt="{text}"))
    model.config.default_prompt_name = None
    assert np.array_equal(model.encode(TEXTS), model.encode(TEXTS, prompt="{text}"))


def test_output_fields(model):
    with torch.no_grad():
        output = model(input_ids=torch.tensor([[5, 6, 7], [8, 9, 10]]))
        as_tuple = model(input_ids=torch.tensor([[5, 6, 7], [8, 9, 10]]), return_dict=False)
    assert list(output) == ["embeddings", "pooled_hidden_state", "router_weights"]
    assert [tuple(value.shape) for value in output.to_tuple()] == [(2, 144), (2, 64), (2, 5, 16)]
    assert all(value.dtype == torch.float32 for value in output.to_tuple())
    torch.testing.assert_close(output.router_weights.sum(-1), torch.ones(2, 5))
    assert torch.equal(as_tuple[0], output.embeddings)


def test_input_embeddings_in_place_of_ids(model):
    ids, mask = torch.tensor([[0, 5, 6], [7, 8, 9]]), torch.tensor([[0, 1, 1], [1, 1, 1]])
    with torch.no_grad():
        embeds = model.get_input_embeddings()(ids)
        expected = model(input_ids=ids, attention_mask=mask).embeddings
        torch.testing.assert_close(model(inputs_embeds=embeds, attention_mask=mask).embeddings, expected)


def test_training_mode_ends(model):
    model.train()
    model.encode("text")
    assert not model.training


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        (["a", None], TypeError, r"texts\[1\]: expected a string; got None of type NoneType"),
        (["a", b"b"], TypeError, r"texts\[1\]: expected a string; got b'b' of type bytes"),
        (["a", ["b"]], TypeError, r"texts\[1\]: expected a string; got \['b'\]"),
        (["\ud800"], ValueError, r"texts\[0\]: expected valid Unicode; got a lone surrogate at character 0"),
        (7, TypeError, "texts: expected a string or several; got 7"),
        (b"a", TypeError, "texts: expected a string or several; got b'a'"),
    ],
)
def test_bad_texts_are_named(model, texts, error, message):
    with pytest.raises(error, match=message):
        model.encode(texts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_name": "eol"}, "prompt_name: expected one of 'prompteol', 'none', .*; got 'eol'"),
        ({"prompt": "no place"}, r"prompt: expected a template with \{text\} exactly once.*got 'no place'"),
        ({"prompt": "{text} {text}"}, r"prompt: expected a template with \{text\} exactly once"),
        ({"combination": "both"}, "combination: expected one of 'hs', 'rw', 'concat', 'sum'; got 'both'"),
        ({"alpha": -1}, "alpha: expected a finite number >= 0.*got -1"),
        ({"alpha": float("nan")}, "alpha: expected a finite number >= 0"),
        ({"batch_size": "8"}, "batch_size: expected a number of texts >= 1, or None; got '8'"),
        ({"prompt": "\ud800 {text}"}, "prompt: expected valid Unicode; got a lone surrogate at character 0"),
        ({"prompt_name": ""}, "prompt_name: expected one of 'prompteol', 'none', .*; got ''"),
        ({"batch_size": 0}, "batch_size: expected a number of texts >= 1, or None; got 0"),
    ],
)
def test_bad_options_are_named(model, options, message):
    for texts in (TEXTS, []):
        with pytest.raises(ValueError, match=message):
            model.encode(texts, **options)


def test_numbers_of_numpy_are_numbers(model):
    assert np.array_equal(model.encode(TEXTS, alpha=np.float32(0.5)), model.encode(TEXTS, alpha=0.5))
    model.config.alpha = np.float32(0.5)
    assert '"alpha": 0.5' in model.config.to_json_string()


def test_similarity_of_other_things_is_refused(model):
    with pytest.raises(ValueError, match="similarity: expected vectors of one size; got 3 and 2"):
        model.similarity(np.zeros((1, 3)), np.zeros((1, 2)))
    with pytest.raises(ValueError, match=r"expected one vector or a set of them; got the shape \(1, 1, 1\)"):
        model.similarity(np.zeros((1, 1, 1)), np.zeros((1, 1)))
    with pytest.raises(ValueError, match="expected two sets of the same shape"):
        model.similarity_pairwise(np.zeros((2, 3)), np.zeros((1, 3)))
    with pytest.raises(
        ValueError, match=r"similarity: expected vectors of one size; got the shapes \[\(2,\), \(3,\)\]"
    ):
        model.similarity([np.zeros(3), np.zeros(2)], np.zeros((1, 3)))


def test_unknown_options_raise(model):
    with pytest.raises(TypeError, match="normalise"):
        model.encode(TEXTS, normalise=True)
    with pytest.raises(TypeError, match="output_hidden_states"):
        model(input_ids=torch.tensor([[5]]), output_hidden_states=True)


def test_bad_batches_are_named(model):
    ids = torch.tensor([[5, 6], [7, 8]])
    with pytest.raises(ValueError, match="expected at least one token in every text; got none in text 1"):
        model(input_ids=ids, attention_mask=torch.tensor([[1, 1], [0, 0]]))
    with pytest.raises(ValueError, match=r"attention_mask: expected the shape \(2, 2\) of input_ids; got \(1, 2\)"):
        model(input_ids=ids, attention_mask=torch.tensor([[1, 1]]))
    with pytest.raises(
        ValueError, match=r"input_ids: expected the shape \(batch_size, sequence_length\), none of it 0; got \(2,\)"
    ):
        model(input_ids=ids[0])
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model(attention_mask=torch.tensor([[1, 1]]))


def test_progress_bar_on_request(model, capsys):
    import transformers

    transformers.logging.enable_progress_bar()
    try:
        model.encode(TEXTS)
        assert capsys.readouterr().err == ""
        model.encode(TEXTS, show_progress_bar=True)
        assert f"{len(TEXTS)}/{len(TEXTS)}" in capsys.readouterr().err
    finally:
        transformers.logging.disable_progress_bar()
