"""What waits is embedded together, in turns; what goes wrong with one request is nothing to the others."""

import asyncio
import json
import math
import socket
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import numpy as np
import pytest
from support.common import TEXTS, assert_same
from support.serving import ask, metrics, wait_for

from moee_hf.model.prompts_moee import TextError
from moee_hf.serving import limits, worker
from moee_hf.serving.limits import Admission, Limits, Visit
from moee_hf.serving.metrics import Metrics
from moee_hf.serving.requests import Options

ROUTE = "/v1/embeddings"


@pytest.fixture
def clients():
    with ThreadPoolExecutor(16) as pool:
        yield pool


def vectors_of(answer):
    status, _, content = answer.result()
    assert status == 200, content
    return np.array([item["embedding"] for item in json.loads(content)["data"]])


def send(clients, url, texts, **options):
    return clients.submit(ask, url + ROUTE, {"input": texts, **options})


def test_what_waits_with_the_same_options_is_one_call(serving, held, clients):
    url = serving()
    first = send(clients, url, ["first"])
    assert held.is_held.wait(60)
    waiting = []
    for count, text in enumerate(TEXTS, 1):
        waiting.append(send(clients, url, [text], **({"prompt_name": "none"} if count % 2 else {})))
        wait_for(url, moee_queued_texts=count)  # one after the other
    held.go.set()
    vectors = [vectors_of(answer)[0] for answer in waiting]
    vectors_of(first)
    assert [texts for texts, _ in held.calls] == [["first"], TEXTS[::2], TEXTS[1::2]]
    assert_same(vectors[::2], held.encode(TEXTS[::2], "none"))
    assert_same(vectors[1::2], held.encode(TEXTS[1::2]))
    got = metrics(url)
    assert got[f'moee_requests_total{{route="{ROUTE}",code="200"}}'] == 1 + len(TEXTS)
    assert got["moee_texts_total"] == 1 + len(TEXTS)
    assert (got['moee_batch_texts_bucket{le="1"}'], got['moee_batch_texts_bucket{le="+Inf"}']) == (1, 3)
    assert got[f'moee_request_seconds_count{{route="{ROUTE}"}}'] == 1 + len(TEXTS)
    assert (got["moee_admitted_texts"], got["moee_queued_texts"]) == (0, 0)


def test_a_small_request_does_not_wait_for_all_of_a_large_one(serving, held, clients, monkeypatch):
    monkeypatch.setattr(worker, "LARGEST_BATCH", 100)
    url, many = serving(), [f"{number} of many texts" for number in range(60)]
    large = send(clients, url, many)
    assert held.is_held.wait(60)
    small = send(clients, url, ["small", "one"])
    wait_for(url, moee_queued_texts=62 - len(held.calls[0][0]))
    held.go.set()
    got = vectors_of(large)
    vectors_of(small)
    batches = [texts for texts, _ in held.calls]
    assert {"small", "one"} < set(batches[1])
    assert len(batches) > 5
    assert [text for batch in batches for text in batch if text not in ("small", "one")] == many
    assert_same(got, held.encode(many))


def test_a_text_without_a_finite_vector_fails_its_own_request_alone(serving, held, clients):
    def fail(texts):
        if "bad" in texts:
            raise TextError(texts.index("bad"), "expected finite numbers; got nan.")

    held.fail = fail
    url = serving()
    first = send(clients, url, ["first"])
    assert held.is_held.wait(60)
    bodies = [["good"], ["fine", "bad"], ["well", "done"]]
    answers = [send(clients, url, texts) for texts in bodies]
    wait_for(url, moee_queued_texts=5)
    held.go.set()
    status, _, content = answers[1].result()
    assert status == 400
    assert json.loads(content)["error"]["message"] == "input[1]: expected finite numbers; got nan."
    for texts, answer in zip([["first"], bodies[0], bodies[2]], [first, answers[0], answers[2]], strict=True):
        assert_same(vectors_of(answer), held.encode(texts))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory"),
        TextError(7, "CUDA: of no text of the batch"),
        TextError(-1, "CUDA: the same"),
    ],
)
@pytest.mark.parametrize("where", ["in encode", "after it"])
def test_a_batch_that_fails_is_the_end_of_it_alone(serving, held, monkeypatch, where, error):
    def fail(*arguments):
        raise error

    held.go.set()
    url = serving()
    with monkeypatch.context() as patched:
        if where == "in encode":
            patched.setattr(held, "fail", fail)
        else:
            patched.setattr(worker, "_hand_out", fail)
        status, _, content = ask(url + ROUTE, {"input": "x"})
    assert status == 500
    assert "goes on" in json.loads(content)["error"]["message"]
    assert "CUDA" not in content.decode()
    assert ask(url + ROUTE, {"input": "x"})[0] == 200


def test_who_leaves_is_not_computed(serving, held, clients):
    url = serving()
    first = send(clients, url, ["first"])
    assert held.is_held.wait(60)
    stays = []
    for text in TEXTS[:2]:
        stays.append(send(clients, url, [text]))
        wait_for(url, moee_queued_texts=len(stays))
    content = json.dumps({"input": ["leaves"] * 3}).encode()
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        connection.sendall(
            b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (ROUTE.encode(), len(content))
        )
        connection.sendall(content)
        wait_for(url, moee_queued_texts=5)
    with socket.create_connection((parts.hostname, parts.port)) as connection:  # in the middle of a body
        connection.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{" % ROUTE.encode())
    wait_for(
        url, moee_queued_texts=2, moee_admitted_texts=3, **{f'moee_requests_total{{route="{ROUTE}",code="499"}}': 2}
    )
    held.go.set()
    assert_same(np.concatenate(list(map(vectors_of, stays))), held.encode(TEXTS[:2]))
    vectors_of(first)
    assert [texts for texts, _ in held.calls] == [["first"], TEXTS[:2]]


def test_too_much_is_refused_until_there_is_room(serving, held, clients):
    url = serving(limits=Limits(max_texts=4, max_waiting=5))
    answers = [send(clients, url, ["a", "b"])]
    assert held.is_held.wait(60)
    answers.append(send(clients, url, ["c", "d"]))
    wait_for(url, moee_admitted_texts=4)
    for texts in (["e", "f"], ["e"] * 4):
        status, headers, content = ask(url + ROUTE, {"input": texts})
        assert status == 429
        assert int(headers["retry-after"]) >= 1
        assert json.loads(content)["error"]["code"] == "overloaded"
    answers.append(send(clients, url, "e"))  # a smaller one fits
    wait_for(url, moee_admitted_texts=5)
    for body in ({"input": "f"}, {"input": ["f"]}):  # one is refused as several are
        assert ask(url + ROUTE, body)[0] == 429
    assert json.loads(ask(f"{url}/embed", {"inputs": "f"})[2])["error_type"] == "Overloaded"
    held.go.set()
    assert [len(vectors_of(answer)) for answer in answers] == [2, 2, 1]
    wait_for(url, moee_admitted_texts=0)
    assert ask(url + ROUTE, {"input": ["e", "f"]})[0] == 200
    assert metrics(url)[f'moee_requests_total{{route="{ROUTE}",code="429"}}'] == 4


def test_retry_after_is_how_long_the_waiting_tokens_take(model, held, monkeypatch):
    monkeypatch.setattr(worker, "SMALLEST_BATCH", 256)
    text, options = "many words " * 300, Options(("{text}",), "hs", 1.0, False)
    tokens = int(model.tokenize([text], "none")["attention_mask"].sum())
    speed = worker.SMALLEST_BATCH / worker.SECONDS  # until a batch is done

    def fail(texts):
        if text in texts:
            raise RuntimeError

    async def run():
        queue = worker.Worker(model, Metrics())
        embed = [asyncio.create_task(queue.embed(["first"], ["input"], options))]
        await asyncio.to_thread(held.is_held.wait, 60)
        embed += [asyncio.create_task(queue.embed([text] * 3, ["input"] * 3, options)) for _ in range(2)]
        while queue.queued < 6:
            await asyncio.sleep(0.01)
        assert queue.retry_after() == math.ceil(6 * tokens / speed) > 1
        embed[1].cancel()
        await asyncio.wait(embed[1:2])
        assert queue.retry_after() == math.ceil(3 * tokens / speed) > 1
        held.fail = fail  # with one of three texts in a batch
        held.go.set()
        await asyncio.wait(embed)
        assert isinstance(embed[2].exception(), RuntimeError)
        assert held.calls[1][0] == [text]
        assert queue.waiting_tokens == 0

    asyncio.run(run())


def test_bodies_that_are_in_memory_are_counted():
    admission = Admission(Limits(max_bytes=100))
    visits = [Visit(admission) for _ in range(limits.BODIES)]
    assert all(visit.add_bytes(100) for visit in visits)
    late = Visit(admission)
    assert not late.add_bytes(1)
    visits[0].leave()
    late.leave()
    assert Visit(admission).add_bytes(100)
    with pytest.raises(ValueError, match="max_waiting: expected at least max_texts, which is 9; got 8"):
        Limits(max_texts=9, max_waiting=8)


def test_the_key_is_asked_for_everywhere_but_at_health(serving):
    url = serving(api_key="söcret")
    good = {"Authorization": "Bearer söcret".encode()}
    assert ask(f"{url}/health")[0] == 200
    for path, body in ((ROUTE, {"input": "x"}), ("/embed", {"inputs": "x"}), ("/v1/models", None), ("/metrics", None)):
        assert ask(url + path, body, good)[0] == 200
        for header in ({}, {"Authorization": "Bearer socret"}, {"Authorization": "söcret".encode()}):
            status, headers, _ = ask(url + path, body, header)
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
