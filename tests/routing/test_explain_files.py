"""Figures, pages and JSON of an explanation: any text, any size, complete or not there."""

import json
import re
import warnings
from html.parser import HTMLParser

import numpy as np
import pytest
from support.common import TEXTS

from moee_hf.figures import style
from moee_hf.figures.style import drawing
from moee_hf.routing.explain import Explanation, explain
from moee_hf.routing.explain_figure import draw_pair
from moee_hf.routing.explain_files import write_explanation
from moee_hf.routing.tokens import ChosenExperts

HOSTILE = [
    '</script><script>document.title = "owned"</script><img src=x onerror="document.title=1">',
    "$\\frac{1}{0}$ costs $5\nand <b>bold</b> \u202e 日本語 🎸🙂 العربية \x1b[31m &amp; " + "long " * 300,
    "<!-- --><svg onload=alert(1)>",
]


def drawn(texts, num_layers=3, num_experts=8, is_signed=True, with_tokens=False):
    """An explanation of random vectors, and of random choices."""
    random = np.random.default_rng(0)
    hidden, routing = random.normal(size=(len(texts), 5)), random.normal(size=(len(texts), num_layers, num_experts))
    whole = np.concatenate([hidden, (routing if is_signed else abs(routing)).reshape(len(texts), -1)], axis=1)
    whole /= np.linalg.norm(whole, axis=1, keepdims=True)
    layers = [2 * layer + 1 for layer in range(num_layers)]
    chosen = [
        ChosenExperts(
            [(i, i + 1) for i in range(len(text))], random.integers(num_experts, size=(len(text), num_layers, 2))
        )
        for text in texts
    ]
    routing = whole[:, 5:].reshape(routing.shape)
    return Explanation(texts, layers, whole[:, :5], routing, chosen if with_tokens else None)


@pytest.mark.parametrize("is_signed", [True, False])
@pytest.mark.parametrize("shape", [(1, 2), (8, 32), (60, 384)], ids=str)
def test_figures_of_any_size_show_the_numbers(shape, is_signed):
    explanation = drawn(HOSTILE[:2], *shape, is_signed=is_signed, with_tokens=True)
    with drawing() as theme:
        figure = draw_pair(explanation, theme)
        parts, layers, *maps, strongest = figure.axes[1:7]
        figure.canvas.draw()
    width, height = figure.get_size_inches()
    assert (width, height < 18) == (style.WIDTH, True)
    bars = [(patch.get_x(), patch.get_width()) for patch in parts.patches]
    hidden, routing = explanation.of_hidden[0, 1], explanation.of_routing[0, 1]
    assert np.array(bars) == pytest.approx(np.array([[0, hidden], [hidden, routing]]))
    assert [patch.get_height() for patch in layers.patches] == pytest.approx(list(explanation.of_layers[0, 1]))
    expected = [*explanation.routing, explanation.routing[0] * explanation.routing[1]]
    for axis, values in zip(maps, expected, strict=True):
        assert np.array_equal(axis.images[0].get_array(), values)
        assert len(axis.get_yticks()) <= 18
    assert maps[0].images[0].get_clim() == maps[1].images[0].get_clim()
    amounts = sorted(expected[2].ravel())
    shown = [patch.get_width() for patch in strongest.patches]
    most, least = [x for x in amounts[::-1][:5] if x > 0], [x for x in amounts[:5] if x < 0]
    assert shown == pytest.approx([*most, *least[::-1]])
    # a mark on the product for each of them
    marked = [tuple(place) for points in maps[2].collections for place in points.get_offsets().tolist()]
    assert sorted(expected[2][int(layer), int(expert)] for expert, layer in marked) == pytest.approx(sorted(shown))


@pytest.mark.parametrize(
    ("kind", "count", "theme"), [("png", 2, "dark"), ("svg", 2, None), ("svg", 3, "dark"), ("pdf", 3, None)]
)
def test_figures_are_written_without_a_warning(kind, count, theme, tmp_path):
    path = tmp_path / f"pair.{kind.upper()}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_explanation(drawn(HOSTILE[:count]), path, theme)
    content = path.read_bytes()
    assert content.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[kind])
    if kind == "svg":
        assert style.THEMES[theme or "light"].background.lower().encode() in content.lower()
        assert b"costs $5 and" in content
    assert list(tmp_path.iterdir()) == [path]


def test_the_palette_of_a_png_has_every_colour_nearly(tmp_path):
    image = pytest.importorskip("PIL.Image")
    explanation = drawn(["a", "b"], 8, 32)
    with drawing() as theme:
        figure = draw_pair(explanation, theme)
        style.save(figure, tmp_path / "few.png")
        figure.savefig(tmp_path / "all.png", dpi=style.DOTS_PER_INCH)
    few, all_ = (np.asarray(image.open(tmp_path / f"{name}.png").convert("RGB"), int) for name in ("few", "all"))
    assert abs(few - all_).max() <= 8  # of 255
    assert (tmp_path / "few.png").stat().st_size < (tmp_path / "all.png").stat().st_size / 2


def test_other_embeddings_and_many_texts(model, tmp_path):
    same = explain(model, "A text.", "A text.", tokens=True)
    assert same.strongest(0, 1)[1] == []
    explanations = [
        explain(model, *TEXTS[:2], combination="hs"),
        drawn([f"text {number}" for number in range(40)], 1, 2),
        same,
    ]
    for number, explanation in enumerate(explanations):
        write_explanation(explanation, tmp_path / f"{number}.svg")
        expected = f"{explanation.similarity[explanation.nearest()]:.3f}".replace("-", "−")
        assert f" are: {expected}".encode() in (tmp_path / f"{number}.svg").read_bytes()


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.script = [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script":
            self.script += data


@pytest.mark.parametrize("texts", [HOSTILE[:2], HOSTILE], ids=["two", "three"])
def test_a_page_has_all_of_it_and_no_tag_of_a_text(texts, tmp_path):
    explanation = drawn(texts, with_tokens=True)
    write_explanation(explanation, tmp_path / "pair.html")
    content = (tmp_path / "pair.html").read_text(encoding="utf-8")
    assert content.count("</script") == 1
    page = Tags()
    page.feed(content)
    names = [tag for tag, _ in page.tags]
    assert names.count("script") == 1
    assert not {"img", "svg", "b"} & set(names)
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on") or a in ("src", "action")]
    assert re.findall(r"https?://", content) == []  # it needs no network
    assert "innerHTML" not in page.script
    data = json.loads(page.script[len("const data = ") :].partition(";\n")[0])
    expected = explanation.to_dict()
    assert data["texts"] == texts
    assert data["tokens"] == expected["tokens"]
    assert data["shown"] == list(explanation.nearest())
    for name in ("similarity", "experts", "hidden_weight", "routing_cosine"):
        np.testing.assert_allclose(data[name], expected[name], rtol=1e-5)


def test_json_is_to_dict(model, tmp_path):
    explanation = explain(model, *TEXTS[:3], tokens=True)
    write_explanation(explanation, tmp_path / "three.json")
    assert json.loads((tmp_path / "three.json").read_text(encoding="utf-8")) == explanation.to_dict()


@pytest.mark.parametrize("kind", ["html", "png"])
def test_a_file_is_complete_or_not_there(kind, tmp_path, full_disk):
    path = tmp_path / f"pair.{kind}"
    path.write_text("before")
    with pytest.raises(OSError, match=f"pair.{kind}: expected a place that takes the file"):
        write_explanation(drawn(HOSTILE[:2]), path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"output: expected a file that ends in .* or \.json; got 'pair\.gif'"):
        write_explanation(drawn(HOSTILE), "pair.gif")
    with pytest.raises(ValueError, match=r"theme: expected a figure .* got \.html, which is light or dark as the"):
        write_explanation(drawn(HOSTILE), tmp_path / "pair.html", "dark")
    with pytest.raises(ValueError, match="theme: expected one of 'light', 'dark'; got 'blue'"):
        write_explanation(drawn(HOSTILE), tmp_path / "pair.png", "blue")
    with pytest.raises(OSError, match=r"nowhere/pair\.json"):
        write_explanation(drawn(HOSTILE), tmp_path / "nowhere" / "pair.json")
    assert list(tmp_path.iterdir()) == []
