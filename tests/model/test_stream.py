"""Texts are read as they come, equal ones once."""

import numpy as np
import pytest
from support.common import MANY, TEXTS

from moee_hf.model import batching_moee


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
