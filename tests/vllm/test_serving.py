"""vLLM's own server with the plugin, and the unmodified client of OpenAI."""

import base64

import numpy as np
import openai
import pytest
import torch
from support.common import TEXTS

from moee_hf import MoEEModel

pytest.importorskip("vllm.config", reason="vLLM is not installed; moee_hf/vllm/README.md says how to run these tests")

from support.vllm_engine import difference, server, write_checkpoint

pytestmark = pytest.mark.by_hand


def test_bare_texts_give_the_vectors_of_encode(tmp_path, record_property):
    model = MoEEModel.from_pretrained(write_checkpoint(tmp_path / "plain", "qwen3_moe"), dtype=torch.float32)
    model.calibrate(f"{number} {word}" for number in range(40) for word in ("cats", "rain"))
    model.save_pretrained(tmp_path / "model")
    texts = [*TEXTS, "", "word " * 9000]
    expected = model.encode(texts)
    with server(tmp_path / "model", "--served-model-name", "moee") as address:
        client = openai.OpenAI(base_url=address, api_key="none", max_retries=0)
        for encoding in ("base64", "float"):
            data = client.embeddings.create(model="moee", input=texts, encoding_format=encoding).data
            # of base64 that was asked for by name, the client gives the string
            vectors = [
                item.embedding if encoding == "float" else np.frombuffer(base64.b64decode(item.embedding), np.float32)
                for item in data
            ]
            record_property(encoding, difference(np.array(vectors), expected))
            assert difference(np.array(vectors), expected) < 1e-5
        answer = client.embeddings.create(model="moee", input=TEXTS[0])
        assert difference(np.array(answer.data[0].embedding), expected[0]) < 1e-5
        assert answer.usage.prompt_tokens == model.tokenize(TEXTS[0])["input_ids"].numel()
        ids = model.tokenize(TEXTS[1])["input_ids"][0].tolist()
        of_ids = client.embeddings.create(model="moee", input=ids).data[0].embedding
        assert difference(np.array(of_ids), expected[1]) < 1e-5
        unit = client.embeddings.create(model="moee", input=TEXTS[0], extra_body={"use_activation": True})
        assert np.linalg.norm(unit.data[0].embedding) == pytest.approx(1, abs=1e-5)
        refused = [
            {"input": "a", "extra_body": {"truncate_prompt_tokens": 5}},
            {"input": "a", "extra_body": {"padding": "max_length"}},
            {"input": "a", "dimensions": 3},
            {"input": [], "extra_body": {"messages": [{"role": "user", "content": "a"}]}},
        ]
        for request in refused:
            with pytest.raises(openai.BadRequestError):
                client.embeddings.create(model="moee", **request)
        assert client.embeddings.create(model="moee", input="still there").data
