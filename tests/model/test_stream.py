"""Texts are read as they come, equal ones once."""

import contextlib
import gc
import weakref

import numpy as np
import pytest
import torch
from support.common import MANY, TEXTS

from moee_hf.model import batching_moee, stream_moee


def test_equal_texts_are_read_once(model, tokens_read):
    texts = [TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[0]]
    embeddings = model.encode(texts)
    assert {rows for _, rows, _ in tokens_read} == {2}
    assert np.array_equal(embeddings, embeddings[[0, 1, 0, 0]])
    assert np.array_equal(embeddings[:2], model.encode(texts[:2]))


def test_streams_are_read_as_they_come(model, monkeypatch):
    monkeypatch.setattr(batching_moee, "WINDOW_TEXTS", 16)
    read = []
    parts = model.encode_stream(read.append(text) or text for text in MANY)
    assert read == []
    first = next(parts)
    assert (len(first), len(read)) == (16, 16)
    embeddings = np.concatenate([first, *parts])
    assert embeddings.dtype == np.float32
    assert np.abs(embeddings - model.encode(MANY, batch_size=1)).max() < 1e-5
    with pytest.raises(ValueError, match=r"texts\[20\]: expected a text with tokens"):
        list(model.encode_stream([*MANY[:20], ""], prompt_name="none"))
    with pytest.raises(ValueError, match="combination: expected one of"):
        model.encode_stream(MANY, combination="both")


@pytest.fixture
def ahead(monkeypatch):
    """As on a device that works on its own: a window is tokenised, and one started, before the last is waited for."""
    monkeypatch.setattr(batching_moee, "WINDOW_TEXTS", 16)
    monkeypatch.setattr(stream_moee, "is_asynchronous", lambda device: True)


def test_a_device_never_waits_for_a_window(model, ahead):
    read, expected = [], model.encode(MANY, batch_size=1)
    parts = model.encode_stream(read.append(text) or text for text in MANY)
    sizes = [(len(part), len(read)) for part in parts]
    assert sizes == [(16, 48), (16, 64), (16, 80), (16, 80), (16, 80)]
    assert np.abs(np.concatenate(list(model.encode_stream(iter(MANY)))) - expected).max() < 1e-5


MESSAGES = {
    "text": r"texts\[40\]: expected a text with tokens",
    "source": "the disk is gone",
    "weights": r"texts\[40\]: expected finite numbers",
}


@pytest.mark.parametrize("fault", MESSAGES)
def test_what_came_before_an_error_is_not_lost(model, ahead, fault):
    def texts():
        yield from MANY[:40]
        if fault == "source":
            raise OSError("the disk is gone")
        yield "" if fault == "text" else "§"
        yield from MANY

    token = model.tokenizer("§")["input_ids"][0]
    weight = model.get_input_embeddings().weight
    before, parts = weight[token].clone(), []
    stream = model.encode_stream(texts(), prompt_name="none")
    if fault == "weights":
        weight.data[token] = torch.nan
    try:
        with pytest.raises((ValueError, OSError), match=MESSAGES[fault]):
            parts.extend(stream)
    finally:
        weight.data[token] = before
    assert [len(part) for part in parts] == [16, 16]
    assert np.abs(np.concatenate(parts) - model.encode(MANY[:32], prompt_name="none")).max() < 1e-5


def test_progress_counts_every_text(model, monkeypatch):
    """Equal ones too, which are read once."""
    bars = []

    class Bar(contextlib.nullcontext):
        def __init__(self, total, **kwargs):
            super().__init__(self)
            self.total, self.done = total, 0
            bars.append(self)

        def update(self, number):
            self.done += number

    monkeypatch.setattr(stream_moee.logging, "tqdm", lambda **kwargs: Bar(**kwargs))
    model.encode(["a", "a", "b", "a"], show_progress_bar=True)
    model.encode(["a", "b", "b"], prompt=["{text}", "{text}!"], show_progress_bar=True)
    assert [(bar.done, bar.total) for bar in bars] == [(4, 4), (6, 6)]


def test_an_error_keeps_nothing_alive(model):
    """What a pass that failed holds is free for the next try, before the garbage collector comes."""

    class Held:
        pass

    def items():
        held = Held()
        alive.append(weakref.ref(held))
        yield held
        raise MemoryError

    alive = []
    gc.disable()
    try:
        with contextlib.suppress(MemoryError):
            list(stream_moee.delayed(items(), 1))
        assert alive[0]() is None
    finally:
        gc.enable()
