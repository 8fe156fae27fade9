"""What is a text, at every door: tables, empty texts, very long ones, and what a tokenizer puts behind them."""

import copy

import numpy as np
import pandas
import pyarrow
import pytest
import torch
from datasets import Dataset, DatasetDict
from sentence_transformers import SentenceTransformer
from support.common import TEXTS, assert_same
from tokenizers import processors
from transformers import AutoTokenizer, pipeline

from moee_hf import MoEEModel
from moee_hf.model import prompts_moee
from moee_hf.model.handler import EndpointHandler
from moee_hf.model.prompts_moee import tokenize

COLUMNS = {"label": [1, 2], "text": TEXTS[:2]}
FRAME = pandas.DataFrame(COLUMNS)
TABLES = {
    "data frame": (FRAME, r"a table of type DataFrame.*texts\['label'\]"),
    "mapping": ({"text": TEXTS[:2]}, r"a table of type dict.*texts\['text'\]"),
    "data set": (Dataset.from_dict(COLUMNS), r"a table of type Dataset.*texts\['label'\]"),
    "data sets": (DatasetDict(train=Dataset.from_dict(COLUMNS)), "a table of type DatasetDict"),
    "arrow": (pyarrow.table(COLUMNS), r"a table of type Table.*texts\['label'\]"),
    "empty frame": (pandas.DataFrame(), "a table of type DataFrame"),
    "two dimensions": (FRAME.to_numpy(), "a ndarray of 2 dimensions"),
    "no dimension": (np.array("text"), "a ndarray of 0 dimensions"),
    "set": (set(TEXTS), "a set, which has no order"),
    "rows": ([{"text": "a"}], r"texts\[0\]: expected a string; got {'text': 'a'} of type dict. Take the text out"),
    "numbers": (np.array([1.0]), r"texts\[0\]: expected a string; got .*1.0.* of type float64"),
    "missing": (pandas.Series(["a", None]), r"texts\[1\]: expected a string; got (None|nan)"),
}


@pytest.fixture(scope="module")
def doors(saved):
    """Everything that takes texts, as one function of texts each."""
    model = MoEEModel.from_pretrained(saved)
    pipe = pipeline("moee-embedding", model=str(saved), trust_remote_code=True)
    return {
        "encode": model.encode,
        "encode_stream": lambda texts: np.concatenate(list(model.encode_stream(texts))),
        "forward": lambda texts: model(**model.tokenize(texts)).embeddings.detach().numpy(),
        "calibrate": copy.deepcopy(model).calibrate,
        "pipeline": lambda texts: np.array(pipe(texts)),
        "handler": lambda texts: np.array(EndpointHandler.__call__(_handler(model), {"inputs": texts})),
    }


def _handler(model):
    handler = EndpointHandler.__new__(EndpointHandler)
    handler.model = model
    return handler


@pytest.mark.parametrize("door", ["encode", "encode_stream", "forward", "calibrate"])
@pytest.mark.parametrize(("texts", "message"), TABLES.values(), ids=TABLES)
def test_tables_are_refused(doors, door, texts, message):
    with pytest.raises(TypeError, match=message):
        doors[door](texts)


def test_tables_are_refused_by_doors_of_others(doors):
    with pytest.raises(TypeError, match="DataFrame"):
        doors["pipeline"](FRAME)


@pytest.mark.parametrize(
    "texts",
    [
        FRAME["text"],
        FRAME["text"].to_numpy(),
        np.array(TEXTS[:2]),
        Dataset.from_dict(COLUMNS)["text"],
        pyarrow.table(COLUMNS)["text"],
        tuple(TEXTS[:2]),
        dict.fromkeys(TEXTS[:2]).keys(),
        (text for text in TEXTS[:2]),
    ],
    ids=["series", "objects", "strings", "column", "chunked array", "tuple", "keys", "generator"],
)
def test_columns_are_texts(doors, model, texts):
    assert_same(doors["encode"](texts), model.encode(TEXTS[:2]))


@pytest.mark.parametrize("door", ["encode", "encode_stream", "forward", "pipeline", "handler"])
def test_an_empty_text_is_a_text_where_its_prompt_has_words(doors, model, door):
    expected = model(**model.tokenizer('This sentence : "" means in one word:"', return_tensors="pt"))
    got = doors[door](["A text.", "", " "])
    np.testing.assert_allclose(got[1], expected.embeddings.detach()[0], rtol=1e-4, atol=1e-5)
    assert not np.allclose(got[1], got[2], atol=1e-4)


def test_an_empty_text_without_a_token_is_named(model, saved):
    with pytest.raises(
        ValueError, match=r"texts\[1030\]: expected a text with tokens; the tokenizer finds none in ''"
    ):
        model.encode(["a"] * 1030 + [""], prompt_name="none")
    sentences = SentenceTransformer(str(saved), trust_remote_code=True, device="cpu")
    assert_same(sentences.encode(["A text.", ""]), model.encode(["A text.", ""]))
    # it sorts texts by length before the model sees them, so a number would be that of another text
    with pytest.raises(ValueError, match=r"^text '': expected a text with tokens"):
        sentences.encode(["A text.", ""], prompt_name="none")


@pytest.mark.parametrize("template", ["{text}", 'This sentence : "{text}" means in one word:"'])
@pytest.mark.parametrize("max_length", [15, 40])
def test_long_texts_are_cut_before_they_are_tokenised(loaded, monkeypatch, template, max_length):
    """To the tokens of the longest beginning that fits, as short ones are; no more than that is tokenised."""
    book = " ".join(TEXTS) * 400
    texts = [book, " " * 5000, "x" * 5000, "一二三" * 2000, "a" + " " * 4000 + "b", book[:30], *TEXTS]
    monkeypatch.setattr(prompts_moee, "MOST_CHARACTERS_PER_TOKEN", 10**6)
    expected = tokenize(loaded.tokenizer, texts, template, max_length)
    monkeypatch.undo()
    lengths = []

    def counting(texts, **options):
        lengths.extend(map(len, texts))
        return loaded.tokenizer(texts, **options)

    assert tokenize(counting, texts, template, max_length) == expected
    assert max(lengths) < len(book) / 10


@pytest.fixture
def ends(loaded):
    """The model with a tokenizer that puts two special tokens behind a text, and one before."""
    tokenizer = copy.deepcopy(loaded.tokenizer)
    end, pad = "<|endoftext|>", "<|pad|>"
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{end} $A {pad} {end}",
        special_tokens=[(token, tokenizer.convert_tokens_to_ids(token)) for token in (end, pad)],
    )
    model = copy.copy(loaded)
    model.tokenizer = tokenizer
    return model


@pytest.mark.parametrize("template", ["{text}", 'This sentence : "{text}" means in one word:"'])
def test_tokens_behind_the_template_are_not_pooled(ends, loaded, template):
    begin = loaded.tokenizer.bos_token_id
    rows = [[begin, *row] for row in tokenize(loaded.tokenizer, TEXTS, template, 512)[0]]
    got = ends.encode(TEXTS, prompt=template)
    for text, row in zip(got, rows, strict=True):
        expected = loaded(input_ids=[row]).embeddings[0].detach()
        np.testing.assert_allclose(text, expected, rtol=1e-4, atol=1e-5)
    # a text that spells out such a token keeps it
    (ids,) = ends.tokenize("a<|endoftext|>", prompt="{text}")["input_ids"].tolist()
    assert ids == [begin, *loaded.tokenizer("a<|endoftext|>")["input_ids"]]


def test_means_are_of_all_tokens(ends):
    model = ends.with_config(pooling="mean")
    (ids,) = model.tokenize("a", prompt="{text}")["input_ids"].tolist()
    assert ids == ends.tokenizer("a")["input_ids"]


def test_cut_texts_leave_no_room_for_what_is_left_out(ends):
    model = ends.with_config(max_length=20)
    assert model.tokenize(TEXTS[4] * 3, prompt="{text}")["input_ids"].shape == (1, 20)


def test_tokens_are_not_embedded(saved):
    sentences = SentenceTransformer(str(saved), trust_remote_code=True, device="cpu")
    with pytest.raises(ValueError, match=r"output_value: expected 'sentence_embedding'.*got 'token_embeddings'"):
        sentences.encode(TEXTS, output_value="token_embeddings")


FLAGS = {
    "encode": ["normalize_embeddings", "convert_to_numpy", "convert_to_tensor", "standardize", "show_progress_bar"],
    "calibrate": ["keep_routing", "show_progress_bar"],
}


@pytest.mark.parametrize(("method", "flag"), [(method, flag) for method in FLAGS for flag in FLAGS[method]])
@pytest.mark.parametrize("value", ["False", "no", 0, 1.0, []])
def test_words_are_not_flags(model, method, flag, value):
    with pytest.raises(TypeError, match=f"^{flag}: expected True or False; got"):
        getattr(model, method)(TEXTS, **{flag: value})


def test_words_are_not_flags_of_pipelines(saved, model):
    pipe = pipeline("moee-embedding", model=str(saved), trust_remote_code=True)
    for flag in ("normalize_embeddings", "return_tensors"):
        with pytest.raises(TypeError, match=f"{flag}: expected True or False; got 'False'"):
            pipe(TEXTS, **{flag: "False"})
    with pytest.raises(TypeError, match="standardize: expected True or False"):
        model(**model.tokenize(TEXTS), standardize="False")


def test_numbers_of_numpy(model):
    expected = model.encode(TEXTS, batch_size=2, normalize_embeddings=True, alpha=2.0)
    options = {"batch_size": np.int64(2), "normalize_embeddings": np.True_, "alpha": np.float32(2)}
    assert np.array_equal(model.encode(TEXTS, **options), expected)
    for batch_size in (True, np.True_, 2.0, np.float64(2), 0, np.int64(0), "2"):
        with pytest.raises(ValueError, match="batch_size: expected a number of texts >= 1, or None"):
            model.encode(TEXTS, batch_size=batch_size)


def test_overflow_is_an_error_at_every_door(model, tmp_path):
    half = copy.deepcopy(model).half()
    with torch.no_grad():
        half.model.norm.weight.fill_(6e4)
    half.save_pretrained(tmp_path)
    options = {"trust_remote_code": True}
    sentences = SentenceTransformer(str(tmp_path), device="cpu", model_kwargs={"dtype": torch.float16}, **options)
    own = pipeline("moee-embedding", model=str(tmp_path), **options)
    theirs = pipeline(
        "feature-extraction", model=str(tmp_path), tokenizer=AutoTokenizer.from_pretrained(tmp_path), **options
    )
    for embed in (half.encode, sentences.encode, own, theirs, lambda texts: half(**half.tokenize(texts))):
        with pytest.raises(ValueError, match=r"expected finite numbers; got nan or infinity.*float16 overflows"):
            embed([TEXTS[0]])
