"""How far the routing of each layer agrees with HS: the bars, and the flags that draw them."""

from pathlib import Path

import pytest
from matplotlib.colors import to_hex
from PIL import Image
from support.common import CHECKPOINT, MANY

from moee_hf import MoEEConfig
from moee_hf.cli import main
from moee_hf.figures.agreement import draw_agreement
from moee_hf.figures.style import THEMES, drawing

SMALL = ["--model", str(CHECKPOINT)]


@pytest.mark.parametrize("name", THEMES)
def test_bars_are_as_high_as_the_agreement_and_rw_has_its_colour(name):
    agreement, layers = [0.25, -0.125, 0.5, 0.0], [3, 0]
    with drawing(name) as theme:
        (axis,) = draw_agreement(agreement, layers, theme).axes
    bars = {round(bar.get_x() + bar.get_width() / 2): bar for bar in axis.patches}
    assert [bars[layer].get_height() for layer in range(4)] == agreement
    colors = [to_hex(bars[layer].get_facecolor()).upper() for layer in range(4)]
    assert colors == [theme.routing, theme.faint, theme.faint, theme.routing]
    assert "2 of 4 layers" in axis.get_legend().get_texts()[0].get_text()


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("corpus.txt").write_text("\n".join(MANY))
    return ["calibrate", "corpus.txt", "--output", "out", *SMALL]


@pytest.mark.parametrize("theme", [None, "light", "dark"])
def test_calibrate_draws_it(corpus, theme):
    flags = [] if theme is None else ["--theme", theme]
    assert main([*corpus, "--figure", "agreement.png", *flags]) == 0
    assert MoEEConfig.from_pretrained("out").router_agreement is not None
    with Image.open("agreement.png") as image:
        assert image.width > 1000
        assert (
            "#{:02X}{:02X}{:02X}".format(*image.convert("RGB").getpixel((0, 0))) == THEMES[theme or "light"].background
        )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--theme", "dark"], "--theme: expected --figure beside it"),
        (["--figure", "a.gif2"], "a.gif2: format: expected one of"),
        (["--figure", "nowhere/a.png"], "nowhere/a.png: expected a folder to write to"),
        (["--figure", "folder.png"], "folder.png: expected a file to write; there is a folder"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_the_work(corpus, flags, message, capsys):
    Path("folder.png").mkdir()
    assert main([*corpus, *flags]) == 1
    assert capsys.readouterr().err.startswith(f"moee: {message}")
    assert {path.name for path in Path().iterdir()} == {"corpus.txt", "folder.png"}
