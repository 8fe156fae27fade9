"""The ways on a GPU, or another device that torch has: how much of its peak each reaches, and where the time goes.

Four tables: the ways (`ways.py`) on short and mixed texts; one full batch; the experts of a layer by implementation;
and a profile of `encode`. "work / peak / time" is the floating-point work of the tokens, padding left out, over what
products of large matrices reach on this device, over the time: 1 is the least time that the arithmetic can take.
"""

import statistics
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from cases import CASES, PROMPTS, Scale, texts_of
from layer import attention_work, by_implementation, experts_work
from measuring import Failures, PeakMemory, matmul_peak, median_seconds, seconds
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, supported_activities
from transformers import PreTrainedModel
from transformers.integrations.sonicmoe import is_sonicmoe_loadable
from ways import WAYS, median_ratio, num_tokens, padded_share, random_model, save_tokenizer, share_weights, time_paired

from moee_hf.model.experts_moee import EXPERTS_IMPLEMENTATION
from moee_hf.model.inference_moee import pad, run_batch, wanted_of

OTHERS = [name for name in WAYS if name != "moee_hf"]
PROFILED = (("short", "prompteol"), ("mixed", "none"))
KERNELS = 10


@dataclass
class Setting:
    """What all tables are measured with.

    Args:
        model: The causal LM.
        ways: The ways by name, those that could be built.
        texts: Short and mixed texts.
        scale: How much is measured.
        rounds: Rounds of the first table.
        peak: Floating-point operations per second of the device.
        failures: What could not be measured.
    """

    model: PreTrainedModel
    ways: dict[str, Any]
    texts: dict[str, list[str]]
    scale: Scale
    rounds: int
    peak: float
    failures: Failures

    @property
    def device(self) -> torch.device:
        return self.model.device

    def share_of_peak(self, tokens: int, seconds: float) -> float:
        """Work / peak / time of the whole backbone; products of attention scores, which are few, are left out."""
        config = self.model.config
        work = config.num_hidden_layers * (attention_work(config) + experts_work(config))
        return tokens * work / self.peak / seconds


def print_tables(
    tables: list[str], data: Path, scale: Scale, dtype: torch.dtype, device: torch.device, rounds: int
) -> Failures:
    """Print tables one by one; return what could not be measured."""
    failures, texts = Failures(), texts_of(data, scale)
    model, peak = random_model(scale.backbone, dtype, device), matmul_peak(device, dtype, scale.matmul)
    print(f"{_name(device)}; torch {torch.__version__}, transformers {transformers.__version__}", end="; ")
    print(f"{model.num_parameters() / 1e9:.1f} B parameters in {dtype}; peak {peak / 1e12:.3g} TFLOP/s", flush=True)
    ways = {}
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        save_tokenizer(Path(folder), None)
        for name, way in WAYS.items():
            with failures.reported(name):
                ways[name] = way(model, folder, scale.max_length)
    setting = Setting(model, ways, texts, scale, rounds, peak, failures)
    for table in tables:
        print(f"\n{table}\n", flush=True)
        with failures.reported(table):
            TABLES[table](setting)
    if failures:
        print(f"\nnot measured: {'; '.join(failures)}", file=sys.stderr)
    return failures


def _name(device: torch.device) -> str:
    module = torch.get_device_module(device)
    return module.get_device_name(device) if hasattr(module, "get_device_name") else str(device)


def print_ways(setting: Setting) -> None:
    columns = ["texts", "prompt", "texts/s", "work / peak / time, text", "with prompt"]
    columns += [*(f"time, {name}" for name in OTHERS), "memory, MiB", "padding"]
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}", flush=True)
    for name, prompt_name in CASES:
        with setting.failures.reported(f"{name}, {prompt_name}"):
            cells = [name, prompt_name, *_row(setting, name, prompt_name)]
            print(f"| {' | '.join(cells)} |", flush=True)


def _row(setting: Setting, name: str, prompt_name: str) -> list[str]:
    """The cells of a case: figures of moee_hf, times over its own, then memory and padding of all ways."""
    texts, prompt = setting.texts[name], PROMPTS[prompt_name]
    memory, padding = {}, {}
    for way, model in setting.ways.items():
        with setting.failures.reported(f"{name}, {prompt_name}, {way}"):
            with PeakMemory(setting.device) as peak:
                share = padded_share(model, texts, prompt)  # warms up, too
            memory[way], padding[way] = f"{peak.growth}", f"{share:.0%}"
    found = time_paired({way: setting.ways[way] for way in padding}, texts, prompt, setting.rounds)
    ours, (tokenizer, length) = found["moee_hf"], (setting.ways["moee_hf"].model.tokenizer, setting.scale.max_length)
    time = statistics.median(ours)
    counts = [num_tokens(tokenizer, texts, length), num_tokens(tokenizer, texts, length, prompt)]
    ratios = {way: f"{median_ratio(of_way, ours):.2f}" for way, of_way in found.items()}
    in_order = ["moee_hf", *OTHERS]
    return [
        f"{len(texts) / time:.0f}",
        *(f"{setting.share_of_peak(count, time):.2g}" for count in counts),
        *(ratios.get(way, "-") for way in OTHERS),
        *(", ".join(cells.get(way, "-") for way in in_order) for cells in (memory, padding)),
    ]


@torch.inference_mode()
def print_batch(setting: Setting) -> None:
    (texts, tokens), model = setting.scale.batch, setting.ways["moee_hf"].model
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(5, model.config.backbone_config.vocab_size, (texts, tokens), generator=draw).tolist()
    batch, wanted = pad(ids), wanted_of(model)
    print("| batch | pass | ms | work / peak / time |\n| --- | --- | --- | --- |", flush=True)
    for name, lean in (("lean", True), ("plain", False)):
        with setting.failures.reported(f"batch, {name}"):
            time = median_seconds(partial(run_batch, model, batch, wanted, lean=lean), setting.device, 5)
            share = setting.share_of_peak(texts * tokens, time)
            print(f"| {texts} x {tokens} | {name} | {1000 * time:.1f} | {share:.2g} |", flush=True)


def print_experts(setting: Setting) -> None:
    """The MoE block of the first layer, with a full batch."""
    backbone, (texts, tokens) = share_weights(setting.model.model), setting.scale.batch
    states = torch.randn(texts, tokens, backbone.config.hidden_size, dtype=backbone.dtype, device=backbone.device)
    run, work = partial(backbone.layers[0].mlp, states), texts * tokens * experts_work(backbone.config)
    print("| experts | ms | work / peak / time |\n| --- | --- | --- |", flush=True)
    for name in (EXPERTS_IMPLEMENTATION, "grouped_mm", *(["sonicmoe"] if is_sonicmoe_loadable() else [])):
        with setting.failures.reported(f"experts, {name}"):
            found = by_implementation(backbone, [name], run, work, setting.scale.matmul, 5)
            time, ratio = found[name]
            print(f"| {name} | {1000 * time:.2f} | {1 / ratio:.2g} |", flush=True)
    try:
        is_sonicmoe_loadable(raise_error=True)
    except ImportError as reason:
        print(f"\nsonicmoe is not measured: {reason}", flush=True)


def print_profile(setting: Setting) -> None:
    for name, prompt_name in PROFILED:
        with setting.failures.reported(f"profile, {name}, {prompt_name}"):
            way, texts, prompt = setting.ways["moee_hf"], setting.texts[name], PROMPTS[prompt_name]
            way(texts, prompt)
            # the processor's own operations are not recorded beside a device's, as that would slow it down
            activities = supported_activities() - {ProfilerActivity.CPU} or {ProfilerActivity.CPU}
            with profile(activities=activities) as recorded:
                wall = seconds(partial(way, texts, prompt), setting.device)
            busy, kernels = _of_events(recorded.events(), setting.device)
            print(f"{name}, {prompt_name}: wall {wall:.2f} s, device busy {busy:.2f} s, {busy / wall:.0%}\n")
            print("| ms | calls | kernel |\n| --- | --- | --- |")
            for kernel, (time, calls) in kernels:
                print(f"| {1000 * time:.1f} | {calls} | `{kernel[:100]}` |")
            print(flush=True)


def _of_events(events: Any, device: torch.device) -> tuple[float, list[tuple[str, tuple[float, int]]]]:
    """Seconds for which the device is busy; seconds and number of calls of the kernels that take most of them."""
    on_processor = device.type == "cpu"  # where operations call each other
    # launches run on the processor, and waiting for the device is no work of its own
    kernels = [
        event
        for event in events
        if (event.device_type == DeviceType.CPU) == on_processor
        and not event.is_user_annotation
        and event.name != "Context Sync"
    ]
    times: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    busy = end = 0.0
    for event in sorted(kernels, key=lambda event: event.time_range.start):
        name = event.name.removeprefix("void ").replace("at::native::", "")
        times[name] += event.self_cpu_time_total if on_processor else event.time_range.elapsed_us()
        calls[name] += 1
        busy += max(0.0, event.time_range.end - max(end, event.time_range.start))  # some run beside each other
        end = max(end, event.time_range.end)
    return busy / 1e6, [(name, (time / 1e6, calls[name])) for name, time in times.most_common(KERNELS)]


TABLES = {"ways": print_ways, "batch": print_batch, "experts": print_experts, "profile": print_profile}
