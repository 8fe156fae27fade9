"""One layer of OLMoE-1B-7B's shape, 1,500 tokens: how near its time is to the least its arithmetic can take."""

import statistics
import time
from collections.abc import Callable

import torch
from transformers import OlmoeConfig, OlmoeModel

from moee_hf.model.experts_moee import EXPERTS_IMPLEMENTATION

TEXTS, TOKENS = 60, 25


def print_table(rounds: int) -> None:
    print("| dtype | experts | time / (floating-point work / matmul peak) |\n| --- | --- | --- |")
    for dtype in (torch.bfloat16, torch.float32):
        for experts, ratio in ratios(dtype, rounds).items():
            print(f"| {str(dtype).removeprefix('torch.')} | {experts} | {ratio:.2f} |", flush=True)


@torch.inference_mode()
def ratios(dtype: torch.dtype, rounds: int) -> dict[str, float]:
    """Time over the least time, median of paired rounds, by implementation of the experts."""
    config = OlmoeConfig(intermediate_size=1024, num_hidden_layers=1)  # the other defaults are OLMoE-1B-7B's
    model = OlmoeModel._from_config(config).to(dtype).eval()
    size = config.hidden_size
    states = torch.randn(TEXTS, TOKENS, size, dtype=dtype)
    rotary = model.rotary_emb(states, torch.arange(TOKENS)[None])
    a, b = torch.randn(2, 2048, 2048, dtype=dtype)
    attention = 4 * size**2 + 2 * TOKENS * size
    experts = config.num_experts * size + config.num_experts_per_tok * 3 * size * config.intermediate_size
    work = 2 * TEXTS * TOKENS * (attention + experts)
    found: dict[str, list[float]] = {"grouped_mm": [], "eager": [], EXPERTS_IMPLEMENTATION: []}
    for number in range(rounds + 1):
        for name, measured in found.items():
            model.set_experts_implementation(name)
            peak = 2 * 2048**3 / seconds(lambda: a @ b)
            time = seconds(lambda: model.layers[0](states, position_embeddings=rotary))
            if number:  # the first round warms up
                measured.append(time / (work / peak))
    return {name: statistics.median(measured) for name, measured in found.items()}


def seconds(run: Callable[[], object]) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
