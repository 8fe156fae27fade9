"""`moee atlas`: what its page holds. tests/demo opens one in a browser."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from support.common import CHECKPOINT, MANY, TEXTS

from moee_hf.cli import main
from moee_hf.routing.atlas import Atlas, Expert, ExpertGroup, TextGroup, atlas
from moee_hf.routing.atlas_page import write_page

SMALL = ["--model", str(CHECKPOINT), "--dtype", "float32"]
HOSTILE = "</script><img src=x onerror=alert(1)><!--"
CORPUS = [HOSTILE, *(text for text in TEXTS if "\n" not in text), *MANY[:20], TEXTS[0]]


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("corpus.txt").write_text("\n".join(CORPUS), encoding="utf-8")


def data_of(path):
    text = Path(path).read_text(encoding="utf-8")
    assert text.count("</script>") == 1
    return json.loads(re.search(r"<script>const data = (.*);$", text, re.MULTILINE)[1])


@pytest.mark.usefixtures("corpus")
def test_page_is_of_the_atlas(loaded, capsys):
    assert main(["atlas", "corpus.txt", "--output", "atlas.html", *SMALL, "--top", "2"]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[-1] == f"{len(CORPUS)} texts, 80 experts: atlas.html"
    data, expected = data_of("atlas.html"), atlas(loaded, CORPUS, top=2)
    assert (data["numTexts"], data["numTokens"]) == (len(CORPUS), expected.num_tokens)
    assert (data["layers"], data["numExperts"], data["chosen"]) == ([0, 1, 2, 3, 4], 16, 4)
    assert data["command"].startswith("moee atlas corpus.txt --output atlas.html --top 2 --model backbone")
    assert str(CHECKPOINT.parent) not in Path("atlas.html").read_text(encoding="utf-8")
    assert data["map"]["texts"] == expected.texts
    assert HOSTILE in expected.texts
    assert data["map"]["group"] == expected.text_group.tolist()
    np.testing.assert_allclose(np.reshape(data["map"]["places"], (-1, 2)) / 1000, expected.places, atol=1e-3)
    experts = data["experts"]
    for number, expert in enumerate(expected.experts):
        for name, table in (("words", data["words"]), ("tokens", data["words"]), ("texts", data["texts"])):
            flat = experts[name][number]
            assert [table[index] for index in flat[::2]] == [string for string, _ in getattr(expert, name)]
            np.testing.assert_allclose(flat[1::2], [100 * v for _, v in getattr(expert, name)], atol=0.6)
        partners = [divmod(other, 16) for other in experts["partners"][number][::2]]
        assert partners == [(layer, other) for layer, other, _ in expert.partners]
        assert experts["withWords"][number] == expert.num_texts_with_words
        assert experts["share"][number] == pytest.approx(1000 * expert.share, abs=0.5)
    assert [[divmod(expert, 16) for expert in group["experts"]] for group in data["expertGroups"]] == [
        group.experts for group in expected.expert_groups
    ]
    assert [group["between"] for group in data["textGroups"]] == [
        [list(pair) for pair in group.between] for group in expected.text_groups
    ]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["corpus.txt", "--output", "atlas.png"], "--output: expected a name ending in .html; got 'atlas.png'"),
        (["corpus.txt", "--output", "no/atlas.html"], "expected a folder to write to"),
        (["corpus.txt", "--output", "atlas.html", "--prompt", "prompteol+none"], "--prompt: expected one"),
        (["few.txt", "--output", "atlas.html"], "expected 10 different ones or more, to compare; got 1"),
        (["no.txt", "--output", "atlas.html"], "no.txt"),
    ],
)
@pytest.mark.usefixtures("corpus")
def test_refused(arguments, problem, capsys):
    Path("few.txt").write_text("one\none\n")
    assert main(["atlas", *arguments, *SMALL]) == 1
    assert problem in capsys.readouterr().err
    assert not Path("atlas.html").exists()


@pytest.mark.parametrize(("layers", "text"), [(60, "<" * 240), (8, "語" * 240)])
def test_ten_megabytes_at_most(text, layers, tmp_path):
    """Of 256 experts a layer, whatever the texts."""
    write_page(wide_atlas(layers, 256, 16_384 // (256 * layers) or 2, text), tmp_path / "atlas.html")
    assert 2e6 < (tmp_path / "atlas.html").stat().st_size <= 10e6
    data = data_of(tmp_path / "atlas.html")
    assert len(data["experts"]["words"]) == 256 * layers
    assert len(data["map"]["texts"]) == 20_000
    assert all(len(part) > 20 for part in data["map"]["texts"][:5])


def wide_atlas(layers, width, top, text):
    """An atlas of so many experts, in which all texts and words differ and are as long as they can be."""
    places = [(layer, expert) for layer in range(layers) for expert in range(width)]
    experts = [
        Expert(
            *place,
            share=0.03125,
            words=[(f"{number} {rank} {text[:20]}", 12.345) for rank in range(8)],
            tokens=[(f"{number} {rank} {text[:20]}.", 12.345) for rank in range(8)],
            texts=[(f"{number} {rank} {text}", 12.345) for rank in range(top)],
            partners=[(*places[-1], 0.987)] * 4,
            group=13,
        )
        for number, place in enumerate(places)
    ]
    return Atlas(
        *("wide", 10**9, 10**11, 10**10, width, 8, experts),
        [ExpertGroup(places, [text[:20]] * 8, [19_999] * 5)],
        [f"{number} {text}" for number in range(20_000)],
        *(np.full((20_000, 2), 0.999), "PCA", np.full(20_000, 13)),
        [TextGroup(20_000, [text] * 5, [19_999] * 5, [(19_999, 13, 10, 19_999)] * 10)] * 14,
    )


def test_half_a_page_is_never_there(tmp_path, full_disk):
    path = tmp_path / "atlas.html"
    path.write_text("whole")
    with pytest.raises(OSError, match=r"atlas\.html"):
        write_page(wide_atlas(1, 2, 2, "text"), path)
    assert path.read_text() == "whole"
    assert os.listdir(tmp_path) == ["atlas.html"]
