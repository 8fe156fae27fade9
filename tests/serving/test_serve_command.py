"""`moee serve`, from its first line to the signal that ends it."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from support.common import CHECKPOINT, TEXTS, assert_same
from support.serving import ask, free_port

from moee_hf.cli import listening, main


def wait_until_healthy(url):
    end = time.monotonic() + 120
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if ask(f"{url}/health")[0] == 200:
                return
        time.sleep(0.05)
    raise TimeoutError(url)


def test_serves_the_model_that_flags_choose_until_a_signal(model, capsys, monkeypatch):
    port, answers = free_port(), []
    url = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MOEE_API_KEY", "secret")

    def client():
        try:
            wait_until_healthy(url)
            key = {"Authorization": "Bearer secret"}
            answers.extend(ask(f"{url}/v1/embeddings", {"input": TEXTS, "model": "backbone"}, h) for h in (key, {}))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=client)
    thread.start()
    flags = ["--port", str(port), "--prompt", "none", "--combination", "hs", "--normalize", "--dtype", "float32"]
    assert main(["serve", str(CHECKPOINT), *flags]) == 0
    thread.join()
    (status, _, content), (without_key, _, _) = answers
    assert (status, without_key) == (200, 401)
    answer = json.loads(content)
    expected = model.encode(TEXTS, "none", combination="hs", normalize_embeddings=True)
    assert_same(np.array([item["embedding"] for item in answer["data"]]), expected)
    assert (answer["model"], answer["prompt"]) == ("backbone", "none")
    assert capsys.readouterr().err == f"backbone: vectors of 64 numbers at {url}/v1/embeddings\n"


def test_a_port_that_is_none_is_wrong_usage(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["serve", "--port", "70000"])
    assert "argument --port: expected a number from 0 to 65535; got 70000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["nosuch/folder/at/all"], "nosuch/folder/at/all"),
        (["--api-key", " "], "--api-key: expected a key; got an empty one."),
        (["--max-texts", "9", "--max-waiting", "8"], "--max-waiting: expected at least max_texts, which is 9; got 8."),
        (["--host", "no.such.host.invalid"], "--port: expected an address that is free; got no.such.host.invalid"),
        ([str(CHECKPOINT), "--prompt", "nosuch", "--port", "0"], "--prompt: expected one of 'prompteol'"),
        ([str(CHECKPOINT), "--dimensions", "5", "--port", "0"], "expected a model that was fitted to a corpus"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(capsys, flags, message):
    assert main(["serve", *flags]) == 1
    error = capsys.readouterr().err
    assert error.startswith("moee: ")
    assert error.count("\n") == 1
    assert message in error


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(capsys):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert main(["serve", "nosuch/folder/at/all", "--port", str(port)]) == 1
    assert f"--port: expected an address that is free; got 127.0.0.1:{port}" in capsys.readouterr().err


def test_a_name_with_several_addresses_is_its_first_of_ipv4(monkeypatch):
    def addresses(host, port, type):
        first = (socket.AF_INET6, type, 0, "", ("::1", port, 0, 0))
        return [first, *((socket.AF_INET, type, 0, "", (address, port)) for address in ("127.0.0.1", "127.0.0.2"))]

    monkeypatch.setattr(socket, "getaddrinfo", addresses)
    with listening.listening("localhost", 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


@pytest.mark.slow
def test_sigterm_drains_and_a_second_one_ends_at_once():
    text = " ".join(TEXTS)
    # requests take turns: none is done long before the others
    for signals, count, status in ((1, 15, 200), (2, 100, 503)):
        port = free_port()
        command = [sys.executable, "-m", "moee_hf.cli", "serve", str(CHECKPOINT), "--port", str(port)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            url = f"http://127.0.0.1:{port}"
            wait_until_healthy(url)
            got = []

            def client(number, count=count, got=got, url=url):
                body = {"input": [f"{number} {index} {text}" for index in range(count)]}
                got.append(ask(f"{url}/v1/embeddings", body)[0])

            threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
            for thread in threads:
                thread.start()
            admitted = b"moee_admitted_texts %d\n" % (8 * count)
            while admitted not in ask(f"{url}/metrics")[2]:
                time.sleep(0.02)
            for _ in range(signals):
                process.send_signal(signal.SIGTERM)
                time.sleep(0.3)
            assert process.wait(120) == 0
            for thread in threads:
                thread.join()
            assert set(got) == {status}
            with pytest.raises(ConnectionRefusedError):
                ask(f"{url}/health")
            output = process.stderr.read()
            # torchao, where it is installed, says things of its own
            assert re.search(r"^backbone: vectors of \d+ numbers at \S+$", output, re.MULTILINE)
            assert "Traceback" not in output
