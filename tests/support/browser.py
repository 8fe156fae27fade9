"""Chromium, as the system has it, and pages that are watched: what they log, and whom they ask."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.common import ROOT

# where screenshots are kept
ARTIFACTS = Path(os.environ.get("CI_ARTIFACTS", ROOT / "artifacts"))
_NAMES = ("chromium", "chromium-browser", "google-chrome")
# milliseconds that a page may take for anything: processors may be busy
_PATIENCE = 60_000


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Run the browser; without one, tests are skipped, but where everything is to be tested they fail."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        message = f"no browser: expected one of {', '.join(_NAMES)} on the path. Install chromium."
        (pytest.fail if "CI" in os.environ else pytest.skip)(message)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextlib.contextmanager
def watched(browser: Any, url: str, **options: Any) -> Iterator[Any]:
    """Open a page, and see when the context ends that nothing was wrong in it, and no other server was asked."""
    page = browser.new_page(**options)
    page.set_default_timeout(_PATIENCE)
    problems: list[str] = []
    page.on("console", lambda said: problems.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: problems.append(f"dialog {dialog.message}"))
    asked: set[str] = set()
    page.on("request", lambda request: asked.add(request.url))
    page.goto(url)
    yield page
    page.close()
    assert problems == []
    assert [other for other in asked if not other.startswith((url, "data:", "about:", "blob:"))] == []


def keep(page: Any, name: str) -> None:
    """Keep what a page shows, wide and narrow."""
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(200)  # until all has its new place
        page.screenshot(path=ARTIFACTS / f"{name}-{width}.png", full_page=True)


def press_until(page: Any, key: str, selector: str) -> None:
    """Press a key until what has the focus is what a selector names."""
    for _ in range(60):
        page.keyboard.press(key)
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"{key} does not lead to {selector}")
