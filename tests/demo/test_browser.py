"""The demo and the pages that commands write, in a real browser, as a visitor has them."""

import re
import socket
from contextlib import closing

import numpy as np
import pytest
from support.browser import chromium, keep, press_until, watched
from support.common import CHECKPOINT, TEXTS
from support.hub import serve

from moee_hf.cli import main

pytest.importorskip("gradio")

HOSTILE = "<img src=x onerror=alert(1)></iframe></script><script>alert(2)</script> ${alert(3)} {{alert(4)}} &amp;"


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def demo(loaded):
    """The address of the demo of the small model; whoever it asks must be on this machine."""
    from moee_hf.demo import create_app

    asked, connect = [], socket.socket.connect

    def watched_connect(self, address):
        asked.append(address)
        return connect(self, address)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(socket.socket, "connect", watched_connect)
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        with closing(listener), serve(create_app(loaded), listener) as url:
            yield url
    others = [address for address in asked if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1")]
    assert others == []


@pytest.fixture
def similarity(loaded):
    """What the model makes of two texts, in three decimals."""
    first, second = np.asarray(loaded.encode(TEXTS[:2]), np.float64)
    return f"{first @ second / np.linalg.norm(first) / np.linalg.norm(second):.3f}"


def answer(page):
    return page.frame_locator("#explanation iframe").locator("#headline")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_two_texts_are_compared_by_mouse(browser, demo, similarity, scheme):
    with watched(browser, demo, color_scheme=scheme) as page:
        for number in (1, 2):
            page.fill(f"#text-{number} textarea", TEXTS[number - 1])
        page.click("#compare")
        answer(page).filter(has_text=similarity).wait_for()
        frame = page.frame_locator("#explanation iframe")
        assert frame.locator("#maps canvas").count() == 3
        assert TEXTS[0] in frame.locator("#texts").inner_text()
        assert page.evaluate("document.body.classList.contains('dark')") == (scheme == "dark")
        keep(page, f"demo-compare-{scheme}")


def test_a_keyboard_is_enough(browser, demo, similarity):
    with watched(browser, demo) as page:
        for number in (1, 2):
            press_until(page, "Tab", f"#text-{number} textarea")
            page.keyboard.press("Control+A")
            page.keyboard.type(TEXTS[number - 1])
        press_until(page, "Tab", "#compare")
        page.keyboard.press("Enter")
        answer(page).filter(has_text=similarity).wait_for()
        for tab, box, found in (("search", "#query", "#hits .hits"), ("routing", "#text", "#routing .heat")):
            press_until(page, "Shift+Tab", f"#{tab}-tab-button")
            page.keyboard.press("Enter")
            press_until(page, "Tab", f"{box} textarea")
            page.keyboard.press("Enter")
            page.wait_for_selector(found)
            keep(page, f"demo-{tab}")


def test_hostile_and_empty_texts(browser, demo):
    with watched(browser, demo) as page:
        page.fill("#text-1 textarea", HOSTILE)
        page.click("#compare")
        answer(page).wait_for()
        texts = page.frame_locator("#explanation iframe").locator("#texts").inner_text()
        assert HOSTILE in texts
        page.fill("#text-2 textarea", " ")
        page.click("#compare")
        page.get_by_text("Text 2 is empty. Write some words.").wait_for()
        page.get_by_role("tab", name="Routing").click()
        page.fill("#text textarea", HOSTILE)
        page.click("#route")
        page.wait_for_selector("#routing .heat")
        shown = page.locator("#routing details[open] code").all_text_contents()
        assert "".join(shown) in HOSTILE
        assert "<script>" in "".join(shown)
        page.fill("#text textarea", f"{HOSTILE} " * 400)
        page.click("#route")
        page.get_by_text(re.compile("Text has 4.,... characters, where 20,000 can be")).wait_for()


@pytest.mark.parametrize("kind", ["explain", "atlas"])
def test_pages_that_commands_write(browser, kind, tmp_path):
    path, corpus = tmp_path / f"{kind}.html", tmp_path / "corpus.txt"
    corpus.write_text("\n".join([*(f"{number} dogs" for number in range(20)), HOSTILE]))
    command = ["explain", HOSTILE, TEXTS[0], "--tokens"] if kind == "explain" else ["atlas", str(corpus)]
    assert main([*command, "--model", str(CHECKPOINT), "--output", str(path)]) == 0
    for scheme in ("light", "dark"):
        with watched(browser, path.as_uri(), color_scheme=scheme) as page:
            page.get_by_text("onerror=alert(1)").first.wait_for()
            keep(page, f"{kind}-{scheme}")
