"""How figures look: colours, fonts, sizes. They are drawn without pyplot, which would open windows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.partial import written_aside
from ..model.choices_moee import check_choice

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

# those of Okabe and Ito, which the colour-blind can tell apart: https://jfly.uni-koeln.de/color/
CATEGORIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")


@dataclass(frozen=True)
class Theme:
    """Colours on one background.

    Args:
        background: Of the figure.
        text: Words and numbers.
        faint: Lines, and what is less important.
        hidden: HS, wherever it is drawn.
        routing: RW, wherever they are drawn.
        positive: What makes texts alike; the other end of a scale from `negative`.
        negative: What makes them differ.
    """

    background: str
    text: str
    faint: str
    hidden: str
    routing: str
    positive: str
    negative: str

    def diverging(self) -> Colormap:
        """Return a scale with the background in its middle, for numbers around 0."""
        from matplotlib.colors import LinearSegmentedColormap

        return LinearSegmentedColormap.from_list("moee", [self.negative, self.background, self.positive])

    def sequential(self) -> Colormap:
        """Return a scale from the background on, for numbers from 0."""
        from matplotlib.colors import LinearSegmentedColormap

        return LinearSegmentedColormap.from_list("moee", [self.background, self.routing, self.text])


THEMES = {
    "light": Theme("#FFFFFF", "#1F2328", "#8C959F", "#0072B2", "#D55E00", "#0072B2", "#D55E00"),
    "dark": Theme("#0D1117", "#E6EDF3", "#6E7681", "#56B4E9", "#E69F00", "#56B4E9", "#E69F00"),
}

# inches: in the column of a README, letters are then about as large as the text beside them
WIDTH = 9.0
DOTS_PER_INCH = 160

# matplotlib's settings are those of the process
_lock = threading.Lock()


@contextmanager
def drawing(name: str = "light") -> Iterator[Theme]:
    """A context in which new figures have the style of this package.

    Args:
        name: `"light"` or `"dark"`.

    Raises:
        ValueError: If there is no such theme.
        ImportError: If matplotlib is not installed.
    """
    check_choice("theme", name, tuple(THEMES))
    try:
        import matplotlib
        from cycler import cycler
    except ImportError as error:
        raise ImportError('Figures need matplotlib: pip install "moee_hf[figures]".') from error
    theme = THEMES[name]
    colors = dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.labelcolor"), theme.text)
    colors |= dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), theme.faint)
    colors |= dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), theme.background)
    style: dict[Any, Any] = {
        **colors,
        "ytick.labelcolor": theme.text,
        "font.family": "sans-serif",
        "font.size": 11,
        "axes.titlesize": 12,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": cycler(color=CATEGORIES),
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
        "svg.fonttype": "none",
    }
    with _lock, matplotlib.rc_context(style):
        yield theme


def save(figure: Figure, path: Path) -> None:
    """Write a figure, in the format that the end of its name says; the file is complete, or not there.

    Raises:
        ValueError: If there is no such format.
        OSError: If it cannot be written.
    """
    kind = path.suffix.removeprefix(".").lower()
    check_choice(f"{path}: format", kind, tuple(figure.canvas.get_supported_filetypes()))
    with written_aside(path) as partial:
        figure.savefig(partial, format=kind, dpi=DOTS_PER_INCH)
