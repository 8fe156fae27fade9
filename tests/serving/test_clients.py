"""Clients that know nothing of this package get the vectors of `encode`."""

import asyncio
import base64
import struct

import huggingface_hub
import numpy as np
import openai
import pytest
from huggingface_hub import InferenceClient
from support.common import TEXTS, assert_same


def client_of(url, **arguments):
    return openai.OpenAI(base_url=f"{url}/v1", max_retries=0, **{"api_key": "none"} | arguments)


def vectors_of(answer):
    assert [item.index for item in answer.data] == list(range(len(answer.data)))
    return np.array([item.embedding for item in answer.data])


def test_openai(serving, model):
    client, expected = client_of(serving()), model.encode(TEXTS)
    for encoding in ({}, {"encoding_format": "base64"}, {"encoding_format": "float"}):
        answer = client.embeddings.create(model="small", input=TEXTS, **encoding)
        if encoding.get("encoding_format") == "base64":  # as it came
            rows = [base64.b64decode(item.embedding) for item in answer.data]
            assert all(len(row) == 4 * expected.shape[1] for row in rows)
            got = np.array([struct.unpack(f"<{expected.shape[1]}f", row) for row in rows])
        else:
            got = vectors_of(answer)
        assert_same(got, expected)
    assert answer.object == "list"
    assert (answer.model, answer.prompt) == ("small", "prompteol")
    tokens = int(model.tokenize(TEXTS)["attention_mask"].sum())
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == tokens
    assert_same(vectors_of(client.embeddings.create(model="small", input=TEXTS[0])), expected[:1])
    assert [entry.id for entry in client.models.list()] == ["small"]
    assert client.models.retrieve("small").embedding_size == expected.shape[1]


def test_base64_is_float32_to_the_bit_and_json_says_the_same_numbers(serving, monkeypatch, model):
    client, size = client_of(serving()), model.config.embedding_size
    generator = np.random.default_rng(0)
    # every exponent that a float32 has, and its extremes
    exact = (generator.standard_normal((2, size)) * 10.0 ** generator.integers(-44, 38, (2, size))).astype(np.float32)
    exact[0, :4] = [0, -0.0, np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal]
    monkeypatch.setattr(model, "encode", lambda texts, **options: exact)
    answer = client.embeddings.create(model="small", input=["a", "b"])  # the client asks for base64 by itself
    assert np.array([item.embedding for item in answer.data], np.float32).tobytes() == exact.tobytes()
    answer = client.embeddings.create(model="small", input=["a", "b"], encoding_format="float")
    assert (np.array([item.embedding for item in answer.data]).astype(np.float32) == exact).all()


@pytest.mark.parametrize(
    ("extra", "options", "prompt"),
    [
        ({"prompt_name": "none"}, {"prompt_name": "none"}, "none"),
        ({"prompt_name": ["none", "knowledge"]}, {"prompt_name": ["none", "knowledge"]}, ["none", "knowledge"]),
        ({"prompt": "Say {text}"}, {"prompt": "Say {text}"}, "Say {text}"),
        ({"combination": "hs", "normalize": True}, {"combination": "hs", "normalize_embeddings": True}, "prompteol"),
        ({"alpha": 0.25, "prompt": None}, {"alpha": 0.25}, "prompteol"),
        ({"input_type": "query"}, {"prompt": "Q {text}"}, "query"),
        ({"input_type": "document"}, {"prompt": "P {text}"}, "passage"),
    ],
)
def test_options_are_those_of_encode(serving, model, extra, options, prompt):
    model.config.prompts = {"query": "Q {text}", "passage": "P {text}"}
    answer = client_of(serving()).embeddings.create(model="small", input=TEXTS, extra_body=extra)
    assert_same(vectors_of(answer), model.encode(TEXTS, **options))
    assert answer.prompt == prompt


def test_input_type_without_such_a_prompt_takes_that_of_the_server(serving, model):
    client = client_of(serving(prompt="none+knowledge"))
    for extra in ({"input_type": "query"}, {}):
        answer = client.embeddings.create(model="small", input=TEXTS, extra_body=extra)
        assert answer.prompt == ["none", "knowledge"]
        assert_same(vectors_of(answer), model.encode(TEXTS, ["none", "knowledge"]))


def test_dimensions_are_principal_components(serving, model):
    corpus = [f"{text} {number}" for text in TEXTS for number in range(4)]
    model.calibrate(corpus, dimensions=12)
    client = client_of(serving())
    for normalize in (True, False):
        for dimensions in (5, 12):
            answer = client.embeddings.create(
                model="small", input=TEXTS, dimensions=dimensions, extra_body={"normalize": normalize}
            )
            fewer = model.with_config(dimensions=dimensions)
            assert_same(vectors_of(answer), fewer.encode(TEXTS, normalize_embeddings=normalize), atol=1e-5)
    with pytest.raises(openai.BadRequestError, match="dimensions: expected at most 12"):
        client.embeddings.create(model="small", input=TEXTS, dimensions=13)


def test_asynchronous_openai_and_many_at_once(serving, model):
    url = serving()
    expected = model.encode(TEXTS)

    async def run():
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            calls = [client.embeddings.create(model="small", input=text) for text in TEXTS for _ in range(5)]
            return await asyncio.gather(*calls)

    answers = asyncio.run(run())
    got = np.array([answer.data[0].embedding for answer in answers])
    assert_same(got, np.repeat(expected, 5, axis=0))


def test_errors_are_read_by_openai(serving):
    client = client_of(serving(api_key="sécret", limits=None), api_key="wrong")
    with pytest.raises(openai.AuthenticationError, match="Bearer"):
        client.embeddings.create(model="small", input="x")
    client = client_of(serving(api_key="secret"), api_key="secret")
    client.embeddings.create(model="small", input="x")
    with pytest.raises(openai.NotFoundError, match="expected 'small', which is served here; got 'text-embedding-3'"):
        client.embeddings.create(model="text-embedding-3", input="x")
    with pytest.raises(openai.BadRequestError, match=r"input\[1\]: expected a string; got 5") as raised:
        client.embeddings.create(model="small", input=["x", 5])
    assert (raised.value.param, raised.value.type) == ("input[1]", "invalid_request_error")


def test_inference_client(serving, model, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    url, expected = serving(), model.encode(TEXTS, normalize_embeddings=True)
    for address in (url, f"{url}/embed"):
        client = InferenceClient(model=address)
        assert_same(client.feature_extraction(TEXTS), expected)
        assert_same(
            client.feature_extraction(TEXTS[0], prompt_name="none", normalize=False), model.encode(TEXTS[:1], "none")
        )
    for address in (url, f"{url}/similarity"):
        client = InferenceClient(base_url=address)
        got = client.sentence_similarity(TEXTS[0], TEXTS[1:])
        assert_same(got, model.similarity(expected[0], expected[1:])[0])
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError, match="truncate: expected true; got false"):
        InferenceClient(model=url).feature_extraction("x", truncate=False)


def test_langchain(serving, model):
    classes = pytest.importorskip("langchain_openai")
    arguments = {"model": "small", "base_url": f"{serving()}/v1", "api_key": "none", "max_retries": 0}
    embeddings = classes.OpenAIEmbeddings(check_embedding_ctx_length=False, **arguments)
    expected = model.encode(TEXTS)
    assert_same(embeddings.embed_documents(TEXTS), expected)
    assert_same(embeddings.embed_query(TEXTS[0]), expected[0])
    assert_same(asyncio.run(embeddings.aembed_documents(TEXTS)), expected)


def test_llama_index(serving, model):
    classes = pytest.importorskip("llama_index.embeddings.openai")
    embedding = classes.OpenAIEmbedding(
        model_name="small", api_base=f"{serving()}/v1", api_key="none", max_retries=0, embed_batch_size=3
    )
    # which puts spaces in place of the ends of lines
    expected = model.encode([text.replace("\n", " ") for text in TEXTS])
    assert_same(embedding.get_text_embedding_batch(TEXTS), expected)
    assert_same(embedding.get_query_embedding(TEXTS[0]), expected[0])
    assert_same(asyncio.run(embedding.aget_text_embedding_batch(TEXTS)), expected)
