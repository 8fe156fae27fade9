"""The benchmark of the server, in miniature."""

import asyncio
import importlib.util
import json
import socket
import sys
from urllib.parse import urlsplit

import pytest
from support.common import ROOT, TEXTS
from support.hub import serve
from support.serving import ask

from moee_hf.serving.limits import Limits

FOLDER = ROOT / "tests" / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_of_serving", FOLDER / "serving.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(FOLDER)
        monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look there
        spec.loader.exec_module(module)
        yield module


def test_both_servers_give_the_same_vectors_and_every_answer_is_counted(benchmark, serving, model):
    url, body = serving(), {"input": TEXTS, "encoding_format": "base64"}
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        with serve(benchmark.thread_per_request(model, 3), listener) as other:
            answers = [json.loads(ask(f"{address}{benchmark.ROUTE}", body)[2])["data"] for address in (url, other)]
            assert [row["embedding"] for row in answers[0]] == [row["embedding"] for row in answers[1]]
            for address in (url, other):
                load = asyncio.run(benchmark.send_requests(urlsplit(address).port, 3, 0.3))
                assert set(load.statuses) == {200}
                assert len(load.latencies) == load.statuses[200] >= 3
                assert load.seconds >= 0.3
                assert load.row().endswith("| none")


def test_what_is_refused_is_counted_apart(benchmark, serving):
    url = serving(limits=Limits(max_texts=1, max_waiting=1))
    load = asyncio.run(benchmark.send_requests(urlsplit(url).port, 4, 0.3, pause=0.001))
    assert set(load.statuses) == {200, 429}
    assert len(load.latencies) == load.statuses[200]
    assert f"{load.statuses[429]} x 429" in load.row()
