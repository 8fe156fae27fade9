"""How figures look: colours, fonts, sizes. They are drawn without pyplot, which would open windows."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.partial import check_place, written_aside
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

    def sequential(self, color: str | None = None) -> Colormap:
        """Return a scale from the background on over a colour, that of RW if none is named, for numbers from 0."""
        from matplotlib.colors import LinearSegmentedColormap

        return LinearSegmentedColormap.from_list("moee", [self.background, color or self.routing, self.text])


THEMES = {
    "light": Theme("#FFFFFF", "#1F2328", "#8C959F", "#0072B2", "#D55E00", "#00805C", "#B5478B"),
    "dark": Theme("#0D1117", "#E6EDF3", "#6E7681", "#56B4E9", "#E69F00", "#2FC79A", "#E58CC0"),
}

# fonts that have what the one of matplotlib has not: Chinese, Japanese, Korean, emoji; those of a machine are used
_OTHER_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei"),
    *("Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "PingFang SC", "Hiragino Sans", "Arial Unicode MS"),
    *("Noto Sans Devanagari", "Noto Sans Thai", "Noto Emoji", "Segoe UI Emoji", "Symbola"),
)

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
        from matplotlib.font_manager import get_font_names
    except ImportError as error:
        raise ImportError('Figures need matplotlib: pip install "moee_hf[figures]".') from error
    theme, installed = THEMES[name], set(get_font_names())
    colors = dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.labelcolor"), theme.text)
    colors |= dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), theme.faint)
    colors |= dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), theme.background)
    style: dict[Any, Any] = {
        **colors,
        "ytick.labelcolor": theme.text,
        "font.family": ["DejaVu Sans", *(name for name in _OTHER_FONTS if name in installed)],
        "text.parse_math": False,  # in texts of others, $ is no formula
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


def check_figure(path: Path, theme: str = "light") -> None:
    """Raise unless a figure can be written to this file: asked before the work, not after.

    Raises:
        ValueError: If matplotlib has no such format, or there is no such theme.
        OSError: As `check_place`.
        ImportError: If matplotlib is not installed.
    """
    with drawing(theme):
        from matplotlib.figure import Figure

        _format_of(Figure(), path)
    check_place(str(path))


def save(figure: Figure, path: Path) -> None:
    """Write a figure, in the format that the end of its name says; the file is complete, or not there.

    A character that no font of this machine has is a box.

    Raises:
        ValueError: If there is no such format.
        OSError: If it cannot be written.
    """
    kind = _format_of(figure, path)
    with written_aside(path) as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(partial, format=kind, dpi=DOTS_PER_INCH)
        if kind == "png":
            _use_palette(partial)


def _format_of(figure: Figure, path: Path) -> str:
    kind = path.suffix.removeprefix(".").lower()
    check_choice(f"{path}: format", kind, tuple(figure.canvas.get_supported_filetypes()))
    return kind


def _use_palette(path: Path) -> None:
    """Let a PNG have 256 colours, which are enough here: it takes a third of the room."""
    from PIL import Image  # matplotlib brings it

    with Image.open(path) as image:
        # the method that keeps rare colours, such as those at the ends of a scale
        whole = image.convert("RGB")
    few = whole.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    # the background, exactly, as it lies on that of a page
    colors: Any = few.getpalette()
    place: Any = few.getpixel((0, 0))
    colors[3 * place : 3 * place + 3] = whole.getpixel((0, 0))
    few.putpalette(colors)
    few.save(path, format="png", optimize=True)
