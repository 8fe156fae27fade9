"""The handler of Inference Endpoints, asked over HTTP by the client of huggingface_hub."""

import json
import socket

import numpy as np
import pytest
from api_inference_community.validation import check_inputs, normalize_payload
from huggingface_hub import FeatureExtractionInput, InferenceClient, SentenceSimilarityInput
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from support.common import TEXTS
from support.hub import serve

from moee_hf.model.handler import EndpointHandler


@pytest.fixture(scope="module")
def handler(saved) -> EndpointHandler:
    return EndpointHandler(str(saved))


@pytest.fixture(scope="module")
def endpoint(handler):
    """An Inference Endpoint, as its toolkit calls a handler, and the bodies that it was asked."""
    bodies = []

    async def predict(request):
        bodies.append(await request.body())
        try:
            return JSONResponse(handler(json.loads(bodies[-1])))
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        with serve(Starlette(routes=[Route("/", predict, methods=["POST"])]), listener) as url:
            yield f"{url}/", bodies


@pytest.fixture
def client(endpoint, monkeypatch) -> InferenceClient:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return InferenceClient(base_url=endpoint[0])


def test_feature_extraction(client, endpoint, model):
    np.testing.assert_allclose(client.feature_extraction(TEXTS[0]), model.encode(TEXTS[:1]), atol=1e-6)
    np.testing.assert_allclose(client.feature_extraction(TEXTS), model.encode(TEXTS), atol=1e-6)
    got = client.feature_extraction(TEXTS, normalize=True, prompt_name="none", truncate=True)
    expected = model.encode(TEXTS, normalize_embeddings=True, prompt_name="none")
    np.testing.assert_allclose(got, expected, atol=1e-6)
    got = client.feature_extraction(TEXTS, prompt_name=["prompteol", "none"])
    np.testing.assert_allclose(got, model.encode(TEXTS, prompt_name=["prompteol", "none"]), atol=1e-6)
    inputs, _ = normalize_payload(endpoint[1][-1], "feature-extraction", sampling_rate=None)
    assert check_inputs(inputs, "feature-extraction")


def test_sentence_similarity(client, endpoint, model):
    got = client.sentence_similarity(TEXTS[0], other_sentences=TEXTS[1:])
    embeddings = model.encode(TEXTS)
    np.testing.assert_allclose(got, model.similarity(embeddings[:1], embeddings[1:])[0], atol=1e-6)
    inputs, _ = normalize_payload(endpoint[1][-1], "sentence-similarity", sampling_rate=None)
    assert check_inputs(inputs, "sentence-similarity")


def test_the_formats_of_the_widgets(handler, model):
    request = FeatureExtractionInput(inputs=TEXTS[0], normalize=True)
    expected = model.encode(TEXTS[:1], normalize_embeddings=True)
    np.testing.assert_allclose(handler(dict(request)), expected, atol=1e-6)
    data = {"source_sentence": TEXTS[0], "sentences": TEXTS[1:3]}
    request = SentenceSimilarityInput.parse_obj_as_instance({"inputs": data, "parameters": {"prompt_name": "none"}})
    embeddings = model.encode(TEXTS[:3], prompt_name="none")
    expected = model.similarity(embeddings[:1], embeddings[1:])[0]
    np.testing.assert_allclose(handler(json.loads(json.dumps(request))), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"input": "a"}, "expected 'inputs'"),
        ({"inputs": {"source_sentence": "a"}}, "expected 'source_sentence', a text, and 'sentences'"),
        (
            {"inputs": {"source_sentence": "a", "sentences": "b"}},
            "expected 'source_sentence', a text, and 'sentences'",
        ),
        ({"inputs": {"source_sentence": "a", "sentences": None}}, "expected 'source_sentence', a text, and"),
        ({"inputs": {"source_sentence": "a", "sentences": ["a", 7]}}, r"texts\[1\]: expected a string; got 7"),
        ({"inputs": {"source_sentence": ["a"], "sentences": ["b"]}}, "expected 'source_sentence', a text, and"),
        ({"inputs": 7}, "texts: expected a string or several; got 7"),
        ({"inputs": None}, "texts: expected a string or several; got None"),
        ({"inputs": [["a"]]}, r"texts\[0\]: expected a string"),
        ({"inputs": "a", "normalize": "false"}, "normalize: expected true or false; got 'false'"),
        ({"inputs": "a", "parameters": [1]}, "parameters: expected a mapping"),
        ({"inputs": "a", "parameters": {"top_k": 1}}, r"got \['top_k'\]"),
        ({"inputs": "a", "truncate": False}, "long texts lose their end"),
        ({"inputs": "a", "truncation_direction": "left"}, "long texts lose their end"),
        ({"inputs": "a", "prompt_name": "nope"}, "prompt_name: expected one of"),
        ({"inputs": "a", "prompt_name": ["prompteol", 7]}, "prompt_name: expected one of .*; got 7"),
        ({"inputs": "a", "prompt": 7}, "prompt: expected a template with {text} exactly once.*; got 7"),
        ({"inputs": "a", "precision": "int8"}, r"got \['precision'\]"),
    ],
)
def test_other_requests(handler, request_, message):
    with pytest.raises(ValueError, match=message):
        handler(request_)
