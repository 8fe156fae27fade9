"""Embed texts by every way into a repository, without this package: stranger.py REPO TEXTS OUT."""

import json
import os
import sys

sys.modules["moee_hf"] = None

import numpy as np
import torch
import transformers
from sentence_transformers import SentenceTransformer
from transformers import AutoConfig, AutoModel, AutoTokenizer, pipeline
from transformers.utils import cached_file

COMBINATIONS = ("hs", "rw", "concat", "sum")


def main(repo: str, texts: list[str], out: str) -> None:
    trust = {"trust_remote_code": True, "dtype": torch.float32}
    model = AutoModel.from_pretrained(repo, **trust)
    assert model.__module__.startswith("transformers_modules")
    prompt = AutoConfig.from_pretrained(repo, trust_remote_code=True).prompt_template("prompteol")
    tokenizer = AutoTokenizer.from_pretrained(repo, trust_remote_code=True)
    assert tokenizer(texts)["input_ids"] == model.tokenizer(texts)["input_ids"]
    vectors, own_pipe = {}, pipeline("moee-embedding", model=repo, **trust)
    for combination in COMBINATIONS:
        vectors[f"AutoModel {combination}"] = [model.encode(text, combination=combination) for text in texts]
        vectors[f"moee-embedding {combination}"] = own_pipe(texts, combination=combination)
        choice = {"combination": combination}
        pipe = pipeline("feature-extraction", model=repo, model_kwargs=choice, **trust)
        vectors[f"feature-extraction {combination}"] = [pipe(prompt.replace("{text}", text))[0] for text in texts]
        options = {"model_kwargs": {"dtype": torch.float32}, "config_kwargs": choice}
        sentence_model = SentenceTransformer(repo, trust_remote_code=True, **options)
        vectors[f"SentenceTransformer {combination}"] = sentence_model.encode(texts, batch_size=1)
    sys.path.insert(0, os.path.dirname(cached_file(repo, "handler.py")))
    from handler import EndpointHandler

    handler = EndpointHandler(repo)
    vectors["EndpointHandler sum"] = [handler({"inputs": text})[0] for text in texts]
    np.savez(out, **vectors)


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main(sys.argv[1], json.loads(sys.argv[2]), sys.argv[3])
