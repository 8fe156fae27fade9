"""What is a text, at every door: tables, empty texts, very long ones, and what a tokenizer puts behind them."""

import copy
import json
import random

import numpy as np
import pandas
import pyarrow
import pytest
import torch
from datasets import Dataset, DatasetDict
from sentence_transformers import SentenceTransformer
from support.common import TEXTS, assert_same
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast, pipeline

from moee_hf import MoEEModel
from moee_hf.evaluation import Corpus, MoEEEncoder
from moee_hf.model import inputs_moee, prompts_moee
from moee_hf.model.handler import EndpointHandler
from moee_hf.model.prompts_moee import tokenize

COLUMNS = {"label": [1, 2], "text": TEXTS[:2]}
FRAME = pandas.DataFrame(COLUMNS)
TABLES = {
    "data frame": (FRAME, r"a table of type DataFrame.*texts\['text'\]"),
    "mapping": ({"text": TEXTS[:2]}, r"a table of type dict.*texts\['text'\]"),
    "data set": (Dataset.from_dict(COLUMNS), r"a table of type Dataset.*texts\['text'\]"),
    "data sets": (DatasetDict(train=Dataset.from_dict(COLUMNS)), "a table of type DatasetDict"),
    "data stream": (Dataset.from_dict(COLUMNS).to_iterable_dataset(), "a table of type IterableDataset"),
    "arrow": (pyarrow.table(COLUMNS), r"a table of type Table.*texts\['text'\]"),
    "empty frame": (pandas.DataFrame(), "a table of type DataFrame"),
    "two dimensions": (FRAME.to_numpy(), "ndarray and 2 dimensions"),
    "no dimension": (np.array("text"), "ndarray and 0 dimensions"),
    "set": (set(TEXTS), "a set, which has no order"),
    "records": (FRAME.to_records(), r"texts\[0\]: expected a string; got .* of type record"),
    "pairs": (
        [("a", "b")],
        r"texts\[0\]: expected a string; got \('a', 'b'\) of type tuple. Pass all texts in one list",
    ),
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
        "pipe": pipe,
        "pipeline": lambda texts: np.array(pipe(texts)),
        "encoder": lambda texts: MoEEEncoder(model).embed(texts).numpy(),
        "handler": lambda texts: np.array(EndpointHandler.__call__(_handler(model), {"inputs": texts})),
    }


@pytest.fixture(scope="module")
def sentences(saved):
    return SentenceTransformer(str(saved), trust_remote_code=True, device="cpu")


def _handler(model):
    handler = EndpointHandler.__new__(EndpointHandler)
    handler.model = model
    return handler


DOORS = ["encode", "encode_stream", "forward", "calibrate", "pipeline", "encoder"]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("texts", "message"), TABLES.values(), ids=TABLES)
def test_tables_are_refused(doors, door, texts, message):
    with pytest.raises(TypeError, match=message):
        doors[door](texts)


@pytest.mark.parametrize("name", [name for name in TABLES if name not in ("empty frame", "no dimension")])
def test_tables_are_refused_by_sentence_transformers(sentences, name):
    """It takes some of them for one text, or for sound, or for rows of text."""
    with pytest.raises((TypeError, ValueError), match=r"^text: expected a string; got |'audio' is not supported"):
        sentences.encode(TABLES[name][0])


COLUMNS_OF_TEXTS = {
    "series": FRAME["text"],
    "series with a name of a table's": pandas.Series(TEXTS[:2], index=["columns", "column_names"]),
    "categories": FRAME["text"].astype("category"),
    "objects": FRAME["text"].to_numpy(),
    "strings": np.array(TEXTS[:2]),
    "column": Dataset.from_dict(COLUMNS)["text"],
    "chunked array": pyarrow.table(COLUMNS)["text"],
    "array": pyarrow.array(TEXTS[:2]),
    "tuple": tuple(TEXTS[:2]),
    "keys": dict.fromkeys(TEXTS[:2]).keys(),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("texts", COLUMNS_OF_TEXTS.values(), ids=COLUMNS_OF_TEXTS)
def test_columns_are_texts(doors, model, door, texts):
    if door == "calibrate":
        doors[door](texts)
    else:
        np.testing.assert_allclose(doors[door](texts), model.encode(TEXTS[:2]), rtol=1e-4, atol=1e-5)


def test_streams_and_strings_of_numpy_are_texts(doors, model):
    expected = model.encode(TEXTS[:2])
    for door in ("encode", "encode_stream", "forward", "encoder"):
        np.testing.assert_allclose(doors[door](iter(TEXTS[:2])), expected, rtol=1e-4, atol=1e-5)
    assert_same(doors["encode"](np.str_(TEXTS[0])), model.encode(TEXTS[0]))
    assert doors["encoder"]([]).shape == (0, expected.shape[1])


@pytest.mark.parametrize("door", ["encode", "encode_stream", "forward", "pipeline", "handler", "encoder"])
def test_an_empty_text_is_a_text_where_its_prompt_has_words(doors, model, door):
    expected = model(**model.tokenizer('This sentence : "" means in one word:"', return_tensors="pt"))
    got = doors[door](["A text.", "", " "])
    np.testing.assert_allclose(got[1], expected.embeddings.detach()[0], rtol=1e-4, atol=1e-5)
    assert not np.allclose(got[1], got[2], atol=1e-4)


def test_an_empty_text_without_a_token_is_named(model, sentences, doors, saved):
    problem = "expected a text with tokens; the tokenizer finds none in ''"
    with pytest.raises(ValueError, match=rf"texts\[1030\]: {problem}"):
        model.encode(["a"] * 1030 + [""], prompt_name="none")
    assert_same(sentences.encode(["A text.", ""]), model.encode(["A text.", ""]))
    # it sorts texts by length before the model sees them, and pipelines pass them one by one: a number would be that
    # of another text
    with pytest.raises(ValueError, match=rf"^text '': {problem}"):
        sentences.encode(["A text.", ""], prompt_name="none")
    for batch_size in (1, 2):
        pipe = pipeline("moee-embedding", model=str(saved), trust_remote_code=True, prompt_name="none")
        with pytest.raises(ValueError, match=rf"^text '': {problem}"):
            pipe(["A text.", ""], batch_size=batch_size)


@pytest.mark.parametrize("text", [None, 7, b"b", {"text": "b"}, ["b"], ("b", "c"), "\ud800"], ids=ascii)
def test_sentence_transformers_names_a_text_by_itself(sentences, text):
    expected = "text '.ud800': expected valid Unicode" if isinstance(text, str) else "text: expected a string; got "
    with pytest.raises((TypeError, ValueError), match=f"^{expected}"):
        sentences.encode(["A text that is longer.", text])


@pytest.mark.parametrize("prompt", [7, b"{text}", {"a": "{text}"}, [], ["{text}", 7]], ids=str)
def test_prompts_that_are_none_are_refused_at_every_door(model, sentences, doors, prompt):
    calls = [model.encode, model.tokenize, sentences.encode, doors["pipe"]]
    for call in calls:
        with pytest.raises(ValueError, match=r"^prompt: expected (a template with|one template, or several)"):
            call(TEXTS[:2], prompt=prompt)
    with pytest.raises(ValueError, match=r"^prompt_name: expected one of|^prompt: expected one template"):
        model.encode(TEXTS[:2], prompt_name=prompt)
    with pytest.raises(ValueError, match=r"^prompt: expected"):
        MoEEEncoder(model, prompt=prompt)


BOOK = " ".join(TEXTS) * 400
LONG = {
    "book": BOOK,
    "spaces": " " * 5000,
    "one word": "x" * 5000,
    "ideographs": "一二三" * 2000,
    "a gap": "a" + " " * 4000 + "b",
    "combining": "e\u0301" * 3000,
    "nothing": "\u200b\u00ad" * 3000 + "end",
    "drawn": "".join(random.Random(0).choices("aé \n\t一\U0001f600.#'\u0301Ａ", k=6000)),
}


def _tokenizers(own):
    """Of bytes, of words and of characters; with normalisers that merge, drop and add characters."""
    yield own
    for model, normalizer in (
        (models.Unigram([("a", -1.0), ("▁", -1.5), ("aa", -1.2), ("xxxx", -2.0), ("?", -9.0)], unk_id=4), "NFKC"),
        (models.WordLevel({"?": 0, "a": 1, "b": 2}, unk_token="?"), "NFC"),
    ):
        tokenizer = Tokenizer(model)
        tokenizer.normalizer = normalizers.Sequence(
            [getattr(normalizers, normalizer)(), normalizers.Replace("\u200b", ""), normalizers.Replace("\u00ad", "")]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace() if normalizer == "NFC" else pre_tokenizers.Metaspace()
        yield PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("template", ["a {text}", 'a "{text}" in a word:'])
@pytest.mark.parametrize("max_length", [15, 40])
def test_long_texts_are_cut_before_they_are_tokenised(loaded, monkeypatch, number, template, max_length):
    """To the tokens of the longest beginning that fits, as short ones are; no more than that is tokenised."""
    tokenizer = list(_tokenizers(loaded.tokenizer))[number]
    texts = [*LONG.values(), *(text[:700] for text in LONG.values()), *TEXTS]
    monkeypatch.setattr(prompts_moee, "CHARACTERS_PER_TOKEN", 10**6)
    expected = tokenize(tokenizer, texts, template, max_length)
    monkeypatch.undo()
    assert tokenize(tokenizer, texts, template, max_length) == expected
    lengths = []

    def counting(texts, **options):
        lengths.extend(map(len, texts))
        return tokenizer(texts, **options)

    ids, (part,) = tokenize(counting, [BOOK], template, max_length)
    assert ids == expected[0][:1]
    assert part
    assert part != BOOK
    assert BOOK.startswith(part)
    assert max(lengths) < len(BOOK) / 10


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


@pytest.mark.parametrize("ending", [True, False])
def test_forward_warns_of_a_token_that_ends_texts(model, monkeypatch, ending):
    """As a pipeline for feature extraction passes it, which calls the tokenizer itself."""
    warnings = []
    monkeypatch.setattr(inputs_moee.logger, "warning_once", warnings.append)
    end = model.config.get_text_config().eos_token_id
    model(input_ids=[[5, 6, end if ending else 7, 0], [end, 8, 9, 7]], attention_mask=[[1, 1, 1, 0], [1] * 4])
    model(input_ids=[[end]])
    assert [warning[:30] for warning in warnings] == ["input_ids: expected texts that"] * ending


def test_tokens_behind_the_template_are_not_pooled_by_other_doors(ends, loaded, tmp_path):
    ends.save_pretrained(tmp_path)
    sentences = SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu")
    pipe = pipeline("moee-embedding", model=str(tmp_path), trust_remote_code=True)
    ids = loaded.tokenizer(f'This sentence : "{TEXTS[0]}" means in one word:"')["input_ids"]
    expected = loaded(input_ids=[[loaded.tokenizer.bos_token_id, *ids]]).embeddings.detach()
    for embed in (sentences.encode, pipe, lambda texts: MoEEEncoder(ends).embed(texts).numpy()):
        np.testing.assert_allclose(np.array(embed(TEXTS[:1])), expected, rtol=1e-4, atol=1e-5)


def test_means_are_of_all_tokens(ends):
    model = ends.with_config(pooling="mean")
    (ids,) = model.tokenize("a", prompt="{text}")["input_ids"].tolist()
    assert ids == ends.tokenizer("a")["input_ids"]


def test_cut_texts_leave_no_room_for_what_is_left_out(ends):
    model = ends.with_config(max_length=20)
    assert model.tokenize(TEXTS[4] * 3, prompt="{text}")["input_ids"].shape == (1, 20)


def test_tokens_are_not_embedded(sentences):
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


@pytest.mark.parametrize("dimensions", [True, np.True_, 2.0, "2", 0, np.int64(-1)])
def test_what_is_no_number_of_dimensions(model, dimensions):
    for call in (model.calibrate, model.compress):
        with pytest.raises(ValueError, match=r"^dimensions: expected a number of dimensions >= 1, or None; got"):
            call(TEXTS, dimensions=dimensions)
    assert not model.config.calibrated


def test_dimensions_of_numpy(model, tmp_path):
    model.calibrate(TEXTS, dimensions=np.int64(3))
    model.save_pretrained(tmp_path)
    assert_same(MoEEModel.from_pretrained(tmp_path).encode(TEXTS), model.encode(TEXTS))
    encoder = MoEEEncoder(model, corpus=Corpus(TEXTS), dimensions=np.int64(2), batch_size=np.int64(2))
    assert json.loads(json.dumps(encoder.experiment))["dimensions"] == 2
    assert encoder.embed(TEXTS).shape == (len(TEXTS), 2)


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
