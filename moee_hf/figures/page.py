"""Pages of HTML in the style of the figures: one file, which needs no network, light or dark as the browser is."""

from __future__ import annotations

import html
import json
from importlib import resources
from typing import Any

from .style import CATEGORIES, THEMES


def page(title: str, body: str, script: str = "", data: Any = None, style: str = "") -> str:
    """Return a whole page of HTML.

    Args:
        title: Of the page, as plain text.
        body: What it shows, as HTML. It may use the variables of colours that `THEMES` has the values of, such as
            `var(--routing)`.
        script: JavaScript that runs at the end, behind that of all pages, in which `data` is what is given here.
        data: Anything that JSON can say. None: none.
        style: CSS of this page, besides that of all.
    """
    shared_style, shared_script = (
        resources.files(__package__).joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js")
    )
    light, dark = (variables(name) for name in THEMES)
    # </script> inside a string would end the script, and <!-- would begin a comment
    values = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    scripts = f"<script>const data = {values};\n{shared_script}{script}</script>" if script else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n:root {{ color-scheme: light dark; {light} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n{shared_style}{style}</style>\n</head>\n"
        f"<body>\n{body}\n{scripts}\n</body>\n</html>\n"
    )


def variables(name: str) -> str:
    """Return the colours of a theme as variables of CSS."""
    colors = {**vars(THEMES[name]), **{f"category-{number}": color for number, color in enumerate(CATEGORIES)}}
    return " ".join(f"--{variable}: {color};" for variable, color in colors.items())
