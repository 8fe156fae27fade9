"""The figure of robustness: each prompt a dot, and every two prompts a square."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from moee_hf.evaluation.paper.robustness import LABELS, NINE_PROMPTS, Robustness
from moee_hf.figures.style import THEMES


@pytest.mark.parametrize("theme", THEMES)
def test_every_score_and_every_correlation_is_drawn(theme, tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    scores = {
        (task, name): {prompt: float(random.uniform(20, 80)) for prompt in NINE_PROMPTS}
        for task in ("STS12", "topics")
        for name in ("hs", "rw", "random hs")
    }
    ranks = np.corrcoef(random.standard_normal((len(LABELS), 40)))
    made, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **kwargs: made.append(self) or save(self, *args, **kwargs)
    )
    path = tmp_path / "robustness.png"
    Robustness(scores, {("STS12", "trained"): ranks}).figure(path, theme)
    axes = made[0].axes
    dots = [dots.get_offsets().tolist() for axis in (axes[0], axes[2]) for dots in axis.collections]
    expected = [[[place % 3, score] for score in by.values()] for place, by in enumerate(scores.values())]
    assert dots == expected
    assert np.array_equal(axes[1].images[0].get_array(), ranks)
    assert [label.get_text() for label in axes[1].get_yticklabels()] == 2 * list(NINE_PROMPTS)
    with Image.open(path) as image:
        assert "#{:02X}{:02X}{:02X}".format(*image.convert("RGB").getpixel((0, 0))) == THEMES[theme].background
