"""Explanations as files: a figure, a page or JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ..figures.style import check_figure, drawing, save
from ..files.partial import check_place, written_aside
from .explain import Explanation
from .explain_figure import draw_pair
from .explain_matrix import draw_matrix
from .explain_page import page_of

FIGURES, TEXTS = (".png", ".svg", ".pdf"), (".html", ".json")


def check_explanation_file(path: str | os.PathLike[str], theme: str | None = None) -> None:
    """Raise unless an explanation can be written here, as far as that is known before there is one.

    Args:
        path: A file that ends in .png, .svg, .pdf, .html or .json.
        theme: As in `write_explanation`.

    Raises:
        ValueError: If the name ends otherwise, or there is no such theme, or the file has none.
        ImportError: If it is a figure and matplotlib is not installed.
        OSError: If no file can be written there.
    """
    kind = Path(path).suffix.lower()
    if kind not in FIGURES + TEXTS:
        raise ValueError(
            f"output: expected a file that ends in {', '.join((FIGURES + TEXTS)[:-1])} or {TEXTS[-1]}; got "
            f"{os.fspath(path)!r}. Choose one of these."
        )
    if kind in FIGURES:
        check_figure(Path(path), theme or "light")
        return
    if theme is not None:
        why = "which is light or dark as the browser is" if kind == ".html" else "which has no colours"
        raise ValueError(
            f"theme: expected a figure ({', '.join(FIGURES)}) as output; got {kind}, {why}. Leave the theme out."
        )
    check_place(os.fspath(path))


def write_explanation(explanation: Explanation, path: str | os.PathLike[str], theme: str | None = None) -> None:
    """Write an explanation into a file, which is complete, or not there.

    Args:
        explanation: What `explain` returns.
        path: .png, .svg or .pdf for a figure: of two texts with its experts, of more texts with all similarities.
            .html for a page, .json for all numbers.
        theme: Of a figure: `"light"`, as for None, or `"dark"`.

    Raises:
        ValueError: As `check_explanation_file`, and the other errors too.
    """
    check_explanation_file(path, theme)
    path = Path(path)
    if path.suffix.lower() in FIGURES:
        with drawing(theme or "light") as colors:
            draw = draw_pair if len(explanation.texts) == 2 else draw_matrix
            save(draw(explanation, colors), path)
        return
    content = page_of(explanation) if path.suffix.lower() == ".html" else to_json(explanation)
    with written_aside(path) as partial:
        partial.write_text(content, encoding="utf-8")


def to_json(explanation: Explanation) -> str:
    """Return an explanation as JSON, which ends a line."""
    return json.dumps(explanation.to_dict(), ensure_ascii=False) + "\n"
