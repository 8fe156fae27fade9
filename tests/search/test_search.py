"""The texts that are found are those that numpy finds, and what is kept is never of something else."""

import gzip
import json
import os
import re
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from support.common import CHECKPOINT, MANY, TEXTS
from support.killed import left_by_a_killed_process

from moee_hf.model.prompts_moee import PROMPTS
from moee_hf.search import corpus, index, open_index
from moee_hf.search.recipe import cache_folder

LINES = [*(text for text in TEXTS if "\n" not in text), *MANY[:8], "x"]
QUERIES = ["Somebody plays the guitar.", "7 dogs", "x"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setattr(index, "cache_folder", lambda: folder)
    monkeypatch.chdir(tmp_path)
    return folder


def test_indexes_are_kept_where_the_hub_keeps_assets():
    folder = cache_folder()
    assert folder.is_dir()
    assert folder.relative_to(huggingface_hub.constants.HF_ASSETS_CACHE).parts[:2] == ("moee_hf", "search")


def nearest(model, texts, queries, top, prompt=None, query_prompt=None):
    """The numbers of the most similar texts of each query, and how similar they are."""
    vectors, asked = (
        np.asarray(model.encode(list(of), prompt=template), np.float64)
        for of, template in ((texts, prompt), (queries, query_prompt or prompt))
    )
    cosines = (asked @ vectors.T) / np.linalg.norm(asked, axis=1)[:, None] / np.linalg.norm(vectors, axis=1)
    order = np.argsort(-cosines.round(6), axis=1, kind="stable")[:, :top]
    return order.tolist(), np.take_along_axis(cosines, order, axis=1)


def write(name: str, rows: list[str]) -> list[str]:
    """Write a file with empty texts between others; return where each row stands."""
    path = Path(name)
    if name.endswith(".csv"):
        path.write_text("id,body\n" + "".join(f'{number},"{row}"\n' for number, row in enumerate(rows)))
        return [f"line {number}" for number in range(2, len(rows) + 2)]
    lines = rows if ".txt" in name else [json.dumps({"body": row}) for row in rows]
    content = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return [f"line {number}" for number in range(1, len(rows) + 1)]


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.jsonl", "a.csv"])
def test_what_is_found_is_what_numpy_finds(name, loaded, monkeypatch):
    monkeypatch.setattr(corpus, "LINES_PER_BLOCK", 4)
    monkeypatch.setattr(index, "CHUNK", 4 * 3 * loaded.config.embedding_size)  # three vectors
    rows = [text for number, line in enumerate(LINES) for text in (["", line] if number % 5 == 4 else [line])]
    rows = [*(5 * [""]), *(row.replace('"', "'") for row in rows)]
    places = write(name, rows)
    texts = [(place, row) for place, row in zip(places, rows, strict=True) if row]
    opened = open_index(loaded, name, column=None if ".txt" in name else "body")
    assert (len(opened), opened.corpus.skipped) == (len(texts), len(rows) - len(texts))
    for top in (1, 5, 99):
        order, cosines = nearest(loaded, [text for _, text in texts], QUERIES, top)
        for hits, numbers, values in zip(opened.search(QUERIES, top), order, cosines, strict=True):
            assert [(hit.where, hit.text) for hit in hits] == [texts[number] for number in numbers]
            assert [hit.rank for hit in hits] == list(range(1, len(numbers) + 1))
            assert [hit.similarity for hit in hits] == pytest.approx(values, abs=2e-6)
    assert opened.search([], 3) == []


def test_equal_texts_come_in_the_order_of_the_file(loaded):
    write("a.txt", [*(9 * ["x"]), "Two dogs run in the snow.", *(9 * ["x"])])
    (hits,) = open_index(loaded, "a.txt").search(["x"], 12)
    assert [hit.where for hit in hits] == [f"line {number}" for number in (*range(1, 10), 11, 12, 13)]


def test_embeddings_are_made_again_only_where_they_would_be_others(model, cache):
    def is_new(**arguments):
        return open_index(model, "a.txt", **arguments).is_new

    write("a.txt", LINES)
    assert is_new()
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]
    assert not is_new()
    assert not is_new(query_prompt="none", batch_size=2)
    write("a.jsonl", LINES)  # the same texts
    assert not open_index(model, "a.jsonl", column="body").is_new
    for arguments in ({"prompt": "none"}, {"index": "own.safetensors"}):
        assert [is_new(**arguments) for _ in range(2)] == [True, False]
    model.config.choose(alpha=0.25)
    assert [is_new(), is_new()] == [True, False]
    model.calibrate(MANY)
    assert [is_new(), is_new()] == [True, False]
    with pytest.raises(ValueError, match=r"own\.safetensors, which is of other texts, or another model"):
        is_new(index="own.safetensors")
    write("a.txt", [*LINES[:-1], "y"])
    assert [is_new(), is_new()] == [True, False]


def test_other_weights_of_one_folder_have_an_index_of_their_own(model, cache, tmp_path):
    for name, scale in (("model", 1), ("model.fp16", 2)):
        (tmp_path / "both").mkdir(exist_ok=True)
        for file in CHECKPOINT.iterdir():
            if file.suffix != ".safetensors":
                (tmp_path / "both" / file.name).write_bytes(file.read_bytes())
        weights = load_file(CHECKPOINT / "model.safetensors")
        save_file({key: scale * value for key, value in weights.items()}, tmp_path / "both" / f"{name}.safetensors")
    write("a.txt", LINES)
    for variant in (None, "fp16"):
        loaded = type(model).from_pretrained(tmp_path / "both", variant=variant)
        assert open_index(loaded, "a.txt").is_new
        assert not open_index(loaded, "a.txt").is_new


def test_an_open_index_stays_what_it_was(model, cache):
    write("a.txt", LINES)
    opened = open_index(model, "a.txt", index="own.safetensors")
    before = opened.search(["dogs"])
    model.config.choose(combination="hs")
    assert opened.search(["dogs"]) == before
    os.replace(open_index(model, "a.txt").path, "own.safetensors")
    with pytest.raises(ValueError, match=r"own\.safetensors: expected the index as it was opened; it was replaced"):
        opened.search(["dogs"])


def test_an_empty_query_is_refused(model, cache):
    write("a.txt", LINES)
    with pytest.raises(ValueError, match=r"queries\[1\]: expected some words; got ' '"):
        open_index(model, "a.txt").search(["dogs", " "])


def test_nothing_half_is_ever_read(model, cache, monkeypatch):
    write("a.txt", LINES)
    stream = type(model).encode_stream

    def half(self, *arguments, **options):
        yield next(stream(self, *arguments, **options))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(type(model), "encode_stream", half)
        with pytest.raises(KeyboardInterrupt):
            open_index(model, "a.txt")
    assert list(cache.iterdir()) == []
    opened = open_index(model, "a.txt")
    assert opened.is_new
    content = opened.path.read_bytes()
    left = left_by_a_killed_process(opened.path)
    opened.path.write_bytes(content[:-4])  # as a disk does that is full
    assert open_index(model, "a.txt").is_new
    assert opened.path.read_bytes() == content
    assert not left.exists()


@pytest.mark.parametrize(
    ("own", "arguments", "templates"),
    [
        ({"query": "q: {text}", "document": "d: {text}"}, {}, ("d: {text}", "q: {text}")),
        ({"query": "q: {text}", "corpus": "c: {text}", "passage": "p: {text}"}, {}, ("p: {text}", "q: {text}")),
        ({"query": "q: {text}"}, {}, (PROMPTS["prompteol"], "q: {text}")),
        ({"query": "q: {text}"}, {"prompt": "none"}, ("{text}", "{text}")),
        ({}, {"prompt": "none", "query_prompt": "{text}?"}, ("{text}", "{text}?")),
        ({}, {"query_prompt": "none+tone"}, (PROMPTS["prompteol"], ["{text}", PROMPTS["tone"]])),
    ],
)
def test_prompts_of_queries_and_texts_are_those_of_sentence_transformers(model, own, arguments, templates):
    model.config.choose(prompts=model.config.prompts | own)
    write("a.txt", LINES)
    order, cosines = nearest(model, LINES, QUERIES, 5, *templates)
    for hits, numbers, values in zip(
        open_index(model, "a.txt", **arguments).search(QUERIES, 5), order, cosines, strict=True
    ):
        assert [hit.where for hit in hits] == [f"line {number + 1}" for number in numbers]
        assert [hit.similarity for hit in hits] == pytest.approx(values, abs=2e-6)


@pytest.mark.parametrize(
    ("corpus", "arguments", "message"),
    [
        ("-", {}, "standard input: expected a file, which is read again"),
        ("empty.txt", {}, "empty.txt: expected texts; got 2 empty ones"),
        ("a.txt", {"index": "b.npy"}, "index: expected a file ending in .safetensors; got b.npy"),
        (
            "a.txt",
            {"index": "other.safetensors"},
            "index: expected the embeddings of these texts, or no file yet; got other.safetensors",
        ),
        ("a.txt", {"prompt": "eol"}, "prompt_name: expected one of"),
        ("a.txt", {"column": "body"}, "column: expected none of lines of text"),
    ],
)
def test_what_cannot_be_searched_is_refused(corpus, arguments, message, loaded, cache):
    write("a.txt", LINES)
    write("empty.txt", ["", " "])
    Path("other.safetensors").write_bytes(b"precious")
    with pytest.raises(ValueError, match=re.escape(message)):
        open_index(loaded, corpus, **arguments)
    assert Path("other.safetensors").read_bytes() == b"precious"
    assert list(cache.iterdir()) == []


def test_a_corpus_that_changes_meanwhile_is_not_shown(loaded):
    write("a.txt", LINES)
    opened = open_index(loaded, "a.txt")
    for top in (0, 1.5, "3"):
        with pytest.raises(ValueError, match="top: expected a number of texts >= 1"):
            opened.search(["x"], top)
    write("a.txt", ["others", *LINES])
    with pytest.raises(ValueError, match=r"a.txt: expected the file as it was read; it was changed since"):
        opened.search(["x"])
