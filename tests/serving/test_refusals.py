"""What a server does not do is refused with 4xx, in a sentence that says where, and does it no harm."""

import json
import random

import pytest
from support.common import TEXTS
from support.serving import ask, serving

from moee_hf.serving.limits import Limits

OPENAI, EMBED, SIMILARITY = "/v1/embeddings", "/embed", "/similarity"


@pytest.fixture(scope="module")
def server(loaded):
    """One that takes little in, for all tests of this file."""
    with serving(loaded, limits=Limits(8, 16, 2**16)) as url:
        yield url


@pytest.mark.parametrize(
    ("route", "body", "status", "message"),
    [
        (OPENAI, b"{", 400, "body: expected JSON"),
        (OPENAI, b"", 400, "body: expected JSON"),
        (OPENAI, b"\xff\xfe\xfd", 400, "body: expected JSON"),
        (OPENAI, b"[" * 60_000, 400, "body: expected JSON"),
        (OPENAI, b'{"input": 1' + b"0" * 5000 + b"}", 400, "body: expected JSON"),
        (OPENAI, [], 400, "body: expected a JSON object; got a list of 0."),
        (OPENAI, {}, 400, "input: expected a string, or several in a list; got nothing."),
        (OPENAI, {"input": []}, 400, "input: expected a string, or several in a list; got a list of 0."),
        (OPENAI, {"input": {"text": "x"}}, 400, "input: expected a string, or several in a list; got an object."),
        (OPENAI, {"input": ["x", None]}, 400, "input[1]: expected a string; got nothing."),
        (OPENAI, {"input": ["x", ["y"]]}, 400, "input[1]: expected a string; got a list of 1."),
        (OPENAI, {"input": [1, 2]}, 400, "input: expected text; got token ids"),
        (OPENAI, {"input": [[1, 2], [3]]}, 400, "check_embedding_ctx_length=False"),
        (OPENAI, {"input": ["x", "\ud800"]}, 400, "input[1]: expected valid Unicode"),
        (OPENAI, {"input": "\ud800"}, 400, "input: expected valid Unicode"),
        (OPENAI, {"input": ["x", ""], "prompt_name": "none"}, 400, "input[1]: expected a text with tokens"),
        (OPENAI, {"input": "x", "imput": "y"}, 400, "imput: unknown field; expected among model, input"),
        (OPENAI, {"input": "x", "dimension": 5}, 400, "Did you mean 'dimensions'?"),
        (OPENAI, {"": 1, "input": "x"}, 400, ": unknown field; expected among model, input"),
        (OPENAI, {"input": "x", "model": "large"}, 404, "model: expected 'small', which is served here; got 'large'."),
        (OPENAI, {"input": "x", "model": 5}, 404, "model: expected 'small'"),
        (OPENAI, {"input": "x", "encoding_format": "int8"}, 400, "encoding_format: expected one of 'float', 'base64'"),
        (OPENAI, {"input": "x", "dimensions": 5}, 400, "dimensions: expected 144, all of them, as this model is not"),
        (OPENAI, {"input": "x", "dimensions": 10**30}, 400, "dimensions: expected at most 144"),
        (OPENAI, {"input": "x", "dimensions": True}, 400, "dimensions: expected a number >= 1"),
        (OPENAI, {"input": "x", "prompt_name": "eol"}, 400, "prompt_name: expected one of 'prompteol', 'none'"),
        (OPENAI, {"input": "x", "prompt_name": [["none"]]}, 400, "prompt_name: expected one of"),
        (OPENAI, {"input": "x", "prompt": "no place"}, 400, "prompt: expected a template with {text} exactly once"),
        (OPENAI, {"input": "x", "prompt": "{text}\ud800"}, 400, "prompt: expected valid Unicode"),
        (OPENAI, {"input": "x", "prompt": ["{text}", "{text}"]}, 400, "prompt: expected one template, or several"),
        (OPENAI, {"input": "x", "prompt": 5}, 400, "prompt: expected a string, or several in a list; got 5."),
        (
            OPENAI,
            {"input": "x", "prompt": "long " * 600 + "{text}"},
            400,
            "prompt: expected room for the prompt and some text",
        ),
        (OPENAI, {"input": "x", "prompt": "long " * 6000 + "{text}"}, 400, "prompt: expected a template of at most"),
        (OPENAI, {"input": "x", "prompt": "{text}", "prompt_name": "none"}, 400, "got prompt_name and prompt"),
        (OPENAI, {"input": "x", "input_type": "passage"}, 400, "input_type: expected one of 'query', 'document'"),
        (OPENAI, {"input": "x", "combination": ["hs"]}, 400, "combination: expected one of 'hs', 'rw'"),
        (OPENAI, {"input": "x", "alpha": -1}, 400, "alpha: expected a finite number >= 0"),
        (OPENAI, b'{"input": "x", "alpha": NaN}', 400, "alpha: expected a finite number >= 0"),
        (OPENAI, b'{"input": "x", "alpha": 1' + b"0" * 400 + b"}", 400, "alpha: expected a finite number >= 0"),
        (OPENAI, {"input": "x", "normalize": "yes"}, 400, "normalize: expected true or false; got 'yes'."),
        (OPENAI, {"input": ["x"] * 9}, 413, "input: expected at most 8 texts; got 9. Send several requests."),
        (OPENAI, {"input": ["x"] * 5, "prompt_name": ["none", "style"]}, 413, "got 5 in 2 prompts each (10)."),
        (OPENAI, {"input": "x" * 70_000}, 413, "body: expected at most 65536 bytes; got more."),
        (EMBED, {"inputs": ["x", 5]}, 400, "inputs[1]: expected a string; got 5."),
        (EMBED, {"inputs": "x", "truncate": False}, 400, "truncate: expected true; got false."),
        (EMBED, {"inputs": "x", "truncation_direction": "Left"}, 400, "truncation_direction: expected 'right'"),
        (EMBED, {"inputs": "x", "encoding_format": "base64"}, 400, "encoding_format: expected one of 'float'"),
        (EMBED, {"inputs": {"source_sentence": "x", "sentences": ["y"]}}, 400, "inputs: expected texts"),
        (EMBED, {"inputs": "x", "parameters": {"nrmalize": True}}, 400, "Did you mean 'normalize'?"),
        (EMBED, {"inputs": "x", "parameters": []}, 400, "parameters: expected an object"),
        (SIMILARITY, {"inputs": ["x"]}, 400, "inputs: expected 'source_sentence' and 'sentences'"),
        (SIMILARITY, {"inputs": {"source_sentence": "x", "sentences": []}}, 400, "inputs: expected 'source_sentence'"),
        (SIMILARITY, {"inputs": {"source_sentence": 1, "sentences": ["y"]}}, 400, "inputs.source_sentence: expected"),
        (
            SIMILARITY,
            {"inputs": {"source_sentence": "x", "sentences": ["y", 1]}},
            400,
            "inputs.sentences[1]: expected",
        ),
        ("/v1/models/large", None, 404, "model: expected 'small'"),
        ("/v1/nothing", {"input": "x"}, 404, "path: expected a route of this server; got POST /v1/nothing."),
        (OPENAI, None, 405, "method: expected another; got GET /v1/embeddings."),
    ],
)
def test_refused(server, route, body, status, message):
    got, _, content = ask(f"{server}{route}", body)
    assert got == status, content
    error = json.loads(content)["error"]
    if route in (EMBED, SIMILARITY):  # as text-embeddings-inference has it
        assert message in error
    else:
        assert message in error["message"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["param"] is None or error["message"].startswith(f"{error['param']}: ")


def malformed(generator: random.Random) -> bytes:
    """A body that is nearly right: damaged JSON, or JSON with a value in the wrong place."""
    body = {"model": "small", "input": generator.sample(TEXTS, 2), "encoding_format": "float"}
    content = json.dumps(body).encode()
    kind = generator.randrange(4)
    if kind == 0:  # cut
        return content[: generator.randrange(len(content))]
    if kind == 1:  # bytes that no UTF-8 has
        place = generator.randrange(len(content))
        return content[:place] + bytes([generator.randrange(0xF8, 0x100)]) + content[place:]
    wrong = generator.choice([5, 1.5, True, {}, [], {"a": 1}, [[]], [None], "\ud800", [-1], [["x"]], [{}]])
    if kind == 2:
        # what is false for each of these fields
        name = generator.choice(["model", "input", "encoding_format", "normalize", "alpha", "dimensions", "prompt"])
        if (name, wrong) in (("normalize", True), ("alpha", 5), ("alpha", 1.5)):
            wrong = "no"
        return json.dumps(body | {name: wrong if wrong not in (5, 1.5) or name != "dimensions" else -5}).encode()
    return json.dumps(body | {f"unknown{generator.randrange(100)}": wrong}).encode()


def test_a_thousand_malformed_bodies(server):
    generator = random.Random(0)
    for _ in range(1000):
        body = malformed(generator)
        status, _, content = ask(f"{server}{OPENAI}", body)
        assert 400 <= status < 500, (body, content)
        assert json.loads(content)["error"]["message"], body
    assert ask(f"{server}{OPENAI}", {"input": "x"})[0] == 200
