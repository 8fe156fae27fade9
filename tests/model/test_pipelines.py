"""The pipelines of transformers: `moee-embedding`, ours, and `feature-extraction`, theirs."""

import numpy as np
import pytest
import torch
from support.common import CHECKPOINT, TEXTS, set_random_statistics
from transformers import AutoModel, AutoTokenizer, pipeline
from transformers.pipelines.pt_utils import KeyDataset

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


class Rows(torch.utils.data.Dataset):
    """A data set of torch, of rows with a text each."""

    def __init__(self, texts):
        self.texts = texts

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, index):
        return {"text": self.texts[index]}


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("text", [7, ["A text.", "Another."], {"text": "A text."}], ids=str)
def test_no_text(pipe, text, batch_size):
    texts = ["A text.", "A text.", text]
    with pytest.raises(TypeError, match=r"^texts\[2\]: expected a string; got "):
        pipe(texts, batch_size=batch_size)
    with pytest.raises(TypeError, match=r"^texts\[2\]: expected a string; got "):
        list(pipe((text for text in texts), batch_size=batch_size))
    with pytest.raises(TypeError, match=r"^text: expected a string; got "):
        list(pipe(KeyDataset(Rows(texts), "text"), batch_size=batch_size))


def test_no_texts(pipe):
    with pytest.raises(TypeError, match=r"^texts: expected a string or several; got 7 of type int"):
        pipe(7)
    assert pipe([]) == []


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_dataset_and_workers(pipe, model, num_workers):
    rows = KeyDataset(Rows(TEXTS), "text")
    close(list(pipe(rows, batch_size=2, num_workers=num_workers)), model.encode(TEXTS))


def test_an_embedding_that_is_not_finite_is_refused(model):
    pipe = MoEEPipeline(model=model)
    set_random_statistics(model)
    model.statistics.hidden_mean[:] = torch.nan
    model.config.standardize = True
    with pytest.raises(ValueError, match="expected finite numbers; got nan or infinity"):
        pipe("A text.")
