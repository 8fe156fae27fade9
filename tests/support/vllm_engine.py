"""Models small enough for vLLM on a processor, and its engine in this process or behind HTTP."""

import contextlib
import gc
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

# read when vLLM is imported: no process of its own, a gigabyte for keys and values, no pinning of threads
os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}

import numpy as np
import torch
import vllm
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from vllm.distributed import cleanup_dist_env_and_memory

from support.common import TEXTS
from support.small_model import LICENCE, byte_level_tokenizer
from support.tiny_backbones import redraw, tiny_config

# its attention on a processor has heads of 32 dimensions or more, and latent ones of 576
SIZES = {
    **dict(hidden_size=128, num_attention_heads=4, num_key_value_heads=2, head_dim=32, max_position_embeddings=512),
    **dict(intermediate_size=64, moe_intermediate_size=32, shared_expert_intermediate_size=32),
    # of Granite as it is trained; with its defaults, attention is so sharp that rounding shows in float32
    **dict(attention_multiplier=1 / 32, embedding_multiplier=12.0, residual_multiplier=0.22),
}
LATENT = {
    **dict(hidden_size=128, num_attention_heads=4, num_key_value_heads=4, kv_lora_rank=512, q_lora_rank=None),
    **dict(qk_nope_head_dim=64, qk_rope_head_dim=64, v_head_dim=64, max_position_embeddings=512),
}
PLAIN = {"architectures": ["MoEEForEmbedding"]}


def write_checkpoint(folder: Path, model_type: str, **fields) -> Path:
    """Write a plain checkpoint of random weights, with a head and a tokenizer, and return its folder."""
    tokenizer = byte_level_tokenizer([LICENCE.read_text(encoding="utf-8"), *TEXTS], 1500)
    tokens = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    known = CONFIG_MAPPING[model_type]().to_dict()
    sizes = {name: size for name, size in (LATENT if "kv_lora_rank" in known else SIZES).items() if name in known}
    config = tiny_config(model_type, vocab_size=len(tokenizer), **tokens, **sizes | fields)
    torch.manual_seed(0)
    redraw(AutoModelForCausalLM.from_config(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@contextlib.contextmanager
def engine(folder: Path | str, **options):
    """vLLM's engine of a folder, in float32; what it holds is given back at the end."""
    defaults = dict(runner="pooling", dtype="float32", enforce_eager=True, max_num_batched_tokens=2048, seed=0)
    llm = vllm.LLM(str(folder), **defaults | options)
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()
        cleanup_dist_env_and_memory()


def embed(
    llm, texts: list[str], dimensions: int | None = None, normalize: bool | None = None, **choices
) -> np.ndarray:
    params = vllm.PoolingParams(dimensions=dimensions, use_activation=normalize, extra_kwargs=choices)
    return np.array([item.outputs.embedding for item in llm.embed(texts, pooling_params=params, use_tqdm=False)])


def difference(got: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference of two sets of vectors, in parts of the largest value."""
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / np.abs(expected).max())


@contextlib.contextmanager
def server(folder: Path | str, *options: str):
    """The address of vLLM's own server of a folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # the command `vllm` is not there where the distribution has another name
    module = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    fixed = [
        "--runner",
        "pooling",
        "--dtype",
        "float32",
        "--enforce-eager",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    process = subprocess.Popen([*module, *fixed, *options])
    try:
        for _ in range(300):
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            assert process.poll() is None, "the server ended before it was ready"
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(60)
