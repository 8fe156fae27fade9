"""`moee demo`, from its flags to Ctrl-C, as a program asks it."""

import os
import signal
import sys
import threading
import time
import urllib.request

import numpy as np
import pytest
import torch
from support.common import CHECKPOINT, TEXTS, backbone_alone
from support.serving import free_port

from moee_hf.cli import main
from moee_hf.demo.answers import Answers

pytest.importorskip("gradio")


def test_answers_are_the_models_own_until_ctrl_c(model, tmp_path, capsys):
    corpus, port, got = tmp_path / "corpus.txt", free_port(), {}
    lines = [f"{number} {word}" for number in range(8) for word in ("cats", "dogs and rain")]
    corpus.write_text("\n".join(lines))

    def client():
        try:
            from gradio_client import Client

            url, end = f"http://127.0.0.1:{port}", time.monotonic() + 120
            while time.monotonic() < end:
                try:
                    urllib.request.urlopen(f"{url}/config").close()
                    break
                except OSError:
                    time.sleep(0.05)
            asking = Client(url, verbose=False)
            got["compare"] = asking.predict(*TEXTS[:2], api_name="/compare")
            got["search"] = asking.predict(TEXTS[6], api_name="/search")
            got["route"] = asking.predict(TEXTS[0], api_name="/route")
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=client)
    thread.start()
    flags = ["--corpus", str(corpus), "--port", str(port), "--no-browser", "--dtype", "float32", "--alpha", "0.5"]
    assert main(["demo", "--model", str(CHECKPOINT), *flags]) == 0
    thread.join()
    assert capsys.readouterr().err == f"http://127.0.0.1:{port}  (Ctrl-C ends it)\n"

    vectors = model.encode([*TEXTS[:2], TEXTS[6], *lines], alpha=0.5, normalize_embeddings=True)
    assert got["compare"]["similarity"][0][1] == pytest.approx(vectors[0] @ vectors[1], abs=1e-6)
    similarities = vectors[3:] @ vectors[2]
    order = np.argsort(-similarities, kind="stable")[:10]
    assert [hit["text"] for hit in got["search"]] == [lines[index] for index in order]
    np.testing.assert_allclose([hit["similarity"] for hit in got["search"]], similarities[order], atol=1e-5)

    ids = model.tokenizer(model.config.prompt_template("prompteol").replace("{text}", TEXTS[0]))["input_ids"]
    logits = backbone_alone()(torch.tensor([ids]), output_router_logits=True).router_logits
    head = len(model.tokenizer(model.config.prompt_template("prompteol").partition("{text}")[0])["input_ids"])
    for position, token in enumerate(got["route"]["tokens"], head):
        for layer, experts in zip(got["route"]["layers"], token["experts"], strict=True):
            assert experts == logits[layer][position].topk(4).indices.tolist()
    assert "".join(TEXTS[0][token["begin"] : token["end"]] for token in got["route"]["tokens"]) == TEXTS[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--column", "text"], "--column: expected --corpus beside it"),
        (["--corpus", "nosuch.txt"], "nosuch.txt: expected a file to read"),
        (["--prompt", "nosuch"], "--prompt: expected one of 'prompteol'"),
        (["--host", "no.such.host.invalid"], "--port: expected an address that is free; got no.such.host.invalid"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(capsys, flags, message):
    assert main(["demo", "--model", str(CHECKPOINT), "--port", "0", "--no-browser", *flags]) == 1
    error = capsys.readouterr().err
    assert error.startswith("moee: ")
    assert error.count("\n") == 1
    assert message in error


def test_without_gradio_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo", "--no-browser"]) == 1
    assert capsys.readouterr().err == "moee: demo: expected gradio; it is not installed. pip install 'moee_hf[demo]'\n"


def test_what_a_visitor_cannot_ask_is_a_sentence(model):
    answers = Answers(model)
    for ask, message in (
        (lambda: answers.compare("", "x"), "Text 1 is empty"),
        (lambda: answers.compare("x", "\n"), "Text 2 is empty"),
        (lambda: answers.compare("x", "cat " * 900), "Text 2 is too long: this model reads 512 tokens"),
        (lambda: answers.route("x" * 20_001), "Text has 20,001 characters, where 20,000 can be"),
        (lambda: answers.check_query(" ", answers.templates), "Query is empty"),
        (lambda: Answers(model, "prompteol+none").route("x"), "this model has 2"),
    ):
        with pytest.raises(ValueError, match=message):
            ask()
    several = Answers(model, "prompteol+none").compare(*TEXTS[:2])
    assert several.tokens is None


def test_an_embedding_without_routing_is_compared_and_routed(model):
    model.config.combination = "hs"
    answers = Answers(model)
    assert answers.compare(*TEXTS[:2]).layers == []
    assert answers.route(TEXTS[0]).shares.sum(axis=1) == pytest.approx([4] * 5)


def test_every_question_waits_in_the_queue(model):
    """Those of programs too: each is asked of the model alone."""
    from moee_hf.demo import create_demo

    demo = create_demo(model)
    events = [event for event in demo.fns.values() if event.api_name in ("compare", "search", "route")]
    assert len(events) >= 3
    assert not demo.api_open
    assert {event.concurrency_id for event in events} == {events[0].concurrency_id}
    assert demo._queue.default_concurrency_limit == 1
