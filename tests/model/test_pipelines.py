"""The pipelines of transformers: `moee-embedding`, ours, and `feature-extraction`, theirs."""

import numpy as np
import pytest
import torch
from support.common import CHECKPOINT, TEXTS, set_random_statistics
from transformers import AutoModel, AutoTokenizer, pipeline

from moee_hf.model.pipeline_moee import MoEEPipeline


def moee_pipeline(folder, **options):
    return pipeline("moee-embedding", model=folder, trust_remote_code=True, dtype=torch.float32, **options)


@pytest.fixture(scope="module")
def pipe(saved):
    return moee_pipeline(saved)


def close(got, expected):
    np.testing.assert_allclose(np.array(got), expected, atol=1e-5, rtol=1e-5)


def test_one_text_and_several(pipe, model):
    assert pipe(TEXTS[0]) == model.encode(TEXTS[0]).tolist()
    close(pipe(TEXTS), model.encode(TEXTS))


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_batches_and_streams(pipe, model, batch_size):
    close(pipe(TEXTS, batch_size=batch_size), model.encode(TEXTS))
    close(list(pipe((text for text in TEXTS), batch_size=batch_size)), model.encode(TEXTS))


@pytest.mark.parametrize(
    "options",
    [
        {"prompt_name": "none"},
        {"prompt": "About {text}:"},
        {"prompt_name": ["prompteol", "none"]},
        {"prompt": ["About {text}:", "{text}!"]},
        {"combination": "rw"},
        {"combination": "sum", "alpha": 0.0},
        {"normalize_embeddings": True},
    ],
    ids=str,
)
def test_options_of_the_call_and_of_the_pipeline(pipe, saved, model, options):
    expected = model.encode(TEXTS, **options)
    close(pipe(TEXTS, **options), expected)
    close(moee_pipeline(saved, **options)(TEXTS), expected)


def test_tensors(pipe):
    tensor = pipe(TEXTS[0], return_tensors=True)
    assert isinstance(tensor, torch.Tensor)
    assert tensor.shape == (144,)


def test_the_task_is_found_from_the_repository(saved, model):
    pipe = pipeline(model=saved, trust_remote_code=True, dtype=torch.float32)
    assert pipe.task == "moee-embedding"
    close(pipe(TEXTS), model.encode(TEXTS))


def test_long_texts_are_cut_as_encode_cuts_them(saved, model):
    model.config.max_length = 20
    pipe = moee_pipeline(saved, model_kwargs={"max_length": 20})
    close(pipe("word " * 50), model.encode("word " * 50))


def test_a_tokenizer_without_padding(saved, model):
    tokenizer = AutoTokenizer.from_pretrained(saved)
    tokenizer.pad_token = None
    pipe = moee_pipeline(saved, tokenizer=tokenizer)
    close(pipe(TEXTS, batch_size=4), model.encode(TEXTS))


def test_feature_extraction(saved, model):
    pipe = pipeline("feature-extraction", model=saved, dtype=torch.float32)
    got = pipe(TEXTS, batch_size=4)
    close([rows[0] for rows in got], model.encode(TEXTS, prompt_name="none"))


def test_a_saved_pipeline_is_a_whole_repository(pipe, model, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = moee_pipeline(tmp_path)
    close(again(TEXTS), model.encode(TEXTS))
    assert (tmp_path / "modules.json").is_file()


def test_a_model_in_memory(model):
    close(pipeline("moee-embedding", model=model)(TEXTS), model.encode(TEXTS))
    close(MoEEPipeline(model=model)(TEXTS), model.encode(TEXTS))


def test_unknown_options(pipe):
    with pytest.raises(TypeError, match="prompt_nmae"):
        pipe(TEXTS, prompt_nmae="none")


def test_a_model_that_is_not_ours(saved):
    backbone = AutoModel.from_pretrained(CHECKPOINT)
    with pytest.raises(ValueError, match="expected a MoEE model; got the type 'olmoe'"):
        pipeline("moee-embedding", model=backbone, tokenizer=AutoTokenizer.from_pretrained(saved))


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("text", [7, ["A text.", "Another."]], ids=str)
def test_no_text(pipe, text, batch_size):
    with pytest.raises(TypeError, match=r"texts\[0\]: expected a string; got "):
        pipe([text, "A text."], batch_size=batch_size)
    with pytest.raises(TypeError, match=r"texts\[0\]: expected a string; got 7"):
        pipe(7)


def test_a_dataset_and_workers(pipe, model):
    class Texts(torch.utils.data.Dataset):
        def __len__(self):
            return len(TEXTS)

        def __getitem__(self, index):
            return TEXTS[index]

    close(list(pipe(Texts(), batch_size=2, num_workers=1)), model.encode(TEXTS))


def test_an_embedding_that_is_not_finite_is_refused(model):
    pipe = MoEEPipeline(model=model)
    set_random_statistics(model)
    model.statistics.hidden_mean[:] = torch.nan
    model.config.standardize = True
    with pytest.raises(ValueError, match="expected finite numbers; got nan or infinity"):
        pipe("A text.")
