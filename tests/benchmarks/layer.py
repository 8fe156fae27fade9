"""One layer of OLMoE-1B-7B's shape, 1,500 tokens: how near its time is to the least its arithmetic can take."""

import statistics
from collections.abc import Callable, Iterable

import torch
from cases import PROCESSOR
from measuring import matmul_peak, median_seconds
from transformers import OlmoeConfig, OlmoeModel

from moee_hf.model.experts_moee import EXPERTS_IMPLEMENTATION


def print_table(rounds: int) -> None:
    print("| dtype | experts | time / (floating-point work / matmul peak) |\n| --- | --- | --- |")
    for dtype in (torch.bfloat16, torch.float32):
        for experts, (_, ratio) in of_layer(dtype, rounds).items():
            print(f"| {str(dtype).removeprefix('torch.')} | {experts} | {ratio:.2f} |", flush=True)


def of_layer(dtype: torch.dtype, rounds: int) -> dict[str, tuple[float, float]]:
    config = OlmoeConfig(intermediate_size=1024, num_hidden_layers=1)  # the other defaults are OLMoE-1B-7B's
    model = OlmoeModel._from_config(config).to(dtype).eval()
    texts, tokens = PROCESSOR.batch
    states = torch.randn(texts, tokens, config.hidden_size, dtype=dtype)
    rotary = model.rotary_emb(states, torch.arange(tokens)[None])
    work = texts * tokens * (attention_work(config, tokens) + experts_work(config))
    names = ("grouped_mm", "eager", EXPERTS_IMPLEMENTATION)
    layer = model.layers[0]
    return by_implementation(
        model, names, lambda: layer(states, position_embeddings=rotary), work, PROCESSOR.matmul, rounds
    )


@torch.inference_mode()
def by_implementation(
    model: OlmoeModel,
    names: Iterable[str],
    run: Callable[[], object],
    work: int,
    matmul: int,
    rounds: int,
) -> dict[str, tuple[float, float]]:
    """Seconds of a part of a model, and their ratio to the least time, by implementation of the experts.

    Args:
        model: The model.
        names: The implementations.
        run: Runs the part.
        work: Its floating-point operations.
        matmul: Rows and columns of the matrices whose product gives the peak.
        rounds: Number of paired rounds, of which medians are taken.
    """
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name, measured in found.items():
            model.set_experts_implementation(name)
            peak = matmul_peak(model.device, model.dtype, matmul)
            time = median_seconds(run, model.device)
            if number:  # the first round warms up
                measured.append((time, time * peak / work))
    return {
        name: tuple(statistics.median(column) for column in zip(*measured, strict=True))
        for name, measured in found.items()
    }


def attention_work(config: OlmoeConfig, context: int = 0) -> int:
    """Floating-point operations of the attention of a token in one layer, which sees so many positions."""
    return 2 * (4 * config.hidden_size**2 + 2 * context * config.hidden_size)


def experts_work(config: OlmoeConfig) -> int:
    """Floating-point operations of router and experts for a token in one layer."""
    expert = 3 * config.hidden_size * config.intermediate_size
    return 2 * (config.num_experts * config.hidden_size + config.num_experts_per_tok * expert)
