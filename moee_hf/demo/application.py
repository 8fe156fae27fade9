"""The page behind a server of its own, which asks nothing of any other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..figures.style import THEMES
from .blocks import create_demo

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ..model.modeling_moee import MoEEModel
    from ..search import Index


def create_app(model: MoEEModel, corpus: Index | None = None, prompt: str | None = None) -> FastAPI:
    """Return an application of the demo; any ASGI server runs it, in one process.

    The page asks no other server for anything, and nothing is counted or kept. Arguments and errors are those of
    `create_demo`.
    """
    demo = create_demo(model, corpus, prompt)
    import gradio
    from fastapi import FastAPI

    # fonts of the visitor's own system
    theme = gradio.themes.Base(
        primary_hue="blue",
        neutral_hue="slate",
        font=("system-ui", "sans-serif"),
        font_mono=("ui-monospace", "monospace"),
    ).set(
        body_background_fill=THEMES["light"].background,
        body_background_fill_dark=THEMES["dark"].background,
    )
    return gradio.mount_gradio_app(
        FastAPI(),
        demo,
        path="",
        theme=theme,
        footer_links=["api", "settings"],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
    )
