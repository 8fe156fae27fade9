"""Three ways to embed the same texts with the same weights, paired.

- official: as the paper's released code: the causal LM, texts in the order given, batches of 128 padded on the left,
  all hidden states and the routers' logits of every token.
- sentence-transformers: its own model of the same backbone, HS alone, in its batches of 32.
- moee_hf: `MoEEModel.encode`, HS and RW.

The table has a row for each: its time over that of the last way, tokens of text per second, share of padding in what
the backbone reads, and growth of memory beyond the model. Then what RW costs: the last way beside itself, HS alone.
"""

import gzip
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from processes import PeakMemory, in_new_process
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoModelForCausalLM, AutoTokenizer, OlmoeConfig, OlmoeForCausalLM

from moee_hf import MoEEModel
from moee_hf.model.hub_moee import resolve_source

MAX_LENGTH = 512
PROMPTS = {
    "none": "{text}",
    "prompteol": 'This sentence : "{text}" means in one word:"',
    # 40 tokens; of "Simple Techniques for Enhancing Sentence Embeddings in Generative Language Models" (2404.03921)
    "knowledge": (
        "The essence of a sentence is often captured by its main subjects and actions, while descriptive terms "
        "provide additional but less central details. With this in mind , this sentence : "
        '"{text}" means in one word:"'
    ),
}
FILLERS = torch.tensor([0, 1, 2])  # ids of what the ways fill batches up with; no text has these
CASES = [
    *(("short", "none"), ("short", "prompteol"), ("short", "knowledge")),
    *(("mixed", "none"), ("mixed", "prompteol")),
]


def texts_of(data: Path) -> dict[str, list[str]]:
    """Short texts: 384 sentences. Mixed lengths: 56 sentences and 8 news articles, in one fixed disorder."""
    sentences = list(dict.fromkeys(row["sentence1"] for row in _rows(data / "sts" / "stsb.test.jsonl.gz")))
    articles = [row["text"] for row in _rows(data / "summarization" / "summeval.public.jsonl.gz")]
    mixed = sentences[:56] + articles[:8]
    shuffled = torch.randperm(len(mixed), generator=torch.Generator().manual_seed(0)).tolist()
    return {"short": sentences[:384], "mixed": [mixed[i] for i in shuffled]}


def _rows(path: Path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def make_checkpoint(folder: Path, source: str | None, dtype: torch.dtype) -> None:
    """Save the backbone as a plain checkpoint, with the tokenizer of the embedded one."""
    if source is None:
        torch.manual_seed(0)
        size = dict(hidden_size=512, intermediate_size=256, num_attention_heads=8, num_key_value_heads=8)
        model = OlmoeForCausalLM(OlmoeConfig(**size, num_hidden_layers=8, pad_token_id=1))
    else:
        model = MoEEModel.from_pretrained(source).model
    model.to(dtype).save_pretrained(folder)
    AutoTokenizer.from_pretrained(resolve_source(source or "embedded")).save_pretrained(folder)


class Official:
    def __init__(self, folder: str):
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.backbone = self.model.model
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")

    @torch.inference_mode()
    def __call__(self, texts: list[str], prompt: str) -> torch.Tensor:
        vectors = []
        for start in range(0, len(texts), 128):
            filled = [prompt.replace("{text}", text) for text in texts[start : start + 128]]
            batch = self.tokenizer(filled, padding=True, return_tensors="pt", max_length=MAX_LENGTH, truncation=True)
            batch = {name: batch[name] for name in ("input_ids", "attention_mask")}
            output = self.model(**batch, output_hidden_states=True, output_router_logits=True)
            routing = [logits.view(len(filled), -1, logits.shape[-1])[:, -1] for logits in output.router_logits]
            vectors.append(torch.cat([output.hidden_states[-1][:, -1], *routing], dim=1).float())
        return torch.cat(vectors)


class SentenceTransformers:
    def __init__(self, folder: str):
        transformer = Transformer(folder)
        transformer.max_seq_length = MAX_LENGTH
        self.model = SentenceTransformer(
            modules=[transformer, Pooling(transformer.get_embedding_dimension(), pooling_mode="lasttoken")],
            device="cpu",
        )
        self.backbone = transformer.model

    def __call__(self, texts: list[str], prompt: str) -> torch.Tensor:
        return self.model.encode([prompt.replace("{text}", text) for text in texts], show_progress_bar=False)


class Ours:
    def __init__(self, folder: str):
        self.model = MoEEModel.from_pretrained(folder, max_length=MAX_LENGTH)
        self.backbone = self.model.model

    def __call__(self, texts: list[str], prompt: str, combination: str = "concat") -> torch.Tensor:
        return self.model.encode(texts, prompt=prompt, combination=combination, show_progress_bar=False)


class OursHidden(Ours):
    def __call__(self, texts: list[str], prompt: str) -> torch.Tensor:
        return super().__call__(texts, prompt, "hs")


WAYS = {"official": Official, "sentence-transformers": SentenceTransformers, "moee_hf": Ours}


def memory_growth(way: type, folder: str, texts: list[str], prompt: str) -> int:
    """MiB by which the peak of a process's memory outgrows what it held before it embeds the texts."""
    model = way(folder)
    model(texts[:1], prompt)
    with PeakMemory() as memory:
        model(texts, prompt)
    return memory.growth


def time_paired(ways: list, texts: list[str], prompt: str, rounds: int) -> list[list[float]]:
    """Seconds of each way, round by round; in turn from the first and from the last."""
    seconds: list[list[float]] = [[] for _ in ways]
    pairs = list(zip(ways, seconds, strict=True))
    for number in range(rounds):
        for way, of_way in pairs[:: -1 if number % 2 else 1]:
            start = time.perf_counter()
            way(texts, prompt)
            of_way.append(time.perf_counter() - start)
    return seconds


def print_table(folder: str, data: Path, rounds: int) -> None:
    models = {name: way(folder) for name, way in WAYS.items()}
    ours, texts = models["moee_hf"], texts_of(data)
    print("| texts | prompt | way | time | tokens of text/s | padding | memory, MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, prompt_name in CASES:
        of_case, prompt = texts[name], PROMPTS[prompt_name]
        tokens = sum(min(len(ids), MAX_LENGTH) for ids in models["official"].tokenizer(of_case)["input_ids"])
        padding = [padded_share(model, of_case, prompt) for model in models.values()]  # warms up, too
        seconds = time_paired(list(models.values()), of_case, prompt, rounds)
        for way, share, of_way in zip(WAYS, padding, seconds, strict=True):
            ratio, rate = _median_ratio(of_way, seconds[-1]), tokens / statistics.median(of_way)
            memory = in_new_process(memory_growth, WAYS[way], folder, of_case, prompt)
            print(f"| {name} | {prompt_name} | {way} | {ratio:.2f} | {rate:.0f} ", end="")
            print(f"| {share:.0%} | {memory} |", flush=True)
    # two passes through the same arithmetic, in more rounds, as their difference is small
    pair = [ours, OursHidden(folder)]
    seconds = time_paired(pair, texts["short"], PROMPTS["prompteol"], 6 * rounds)
    print(f"\nHS and RW / HS alone, short texts with prompteol: {_median_ratio(*seconds):.3f}", flush=True)


def _median_ratio(seconds: list[float], others: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(seconds, others, strict=True))


def padded_share(model: Any, texts: list[str], prompt: str) -> float:
    """Share of padding in what the backbone reads."""
    padding = read = 0
    forward = model.backbone.forward

    def counting(input_ids: torch.Tensor, **kwargs: Any) -> Any:
        nonlocal padding, read
        read += input_ids.numel()
        padding += int(torch.isin(input_ids, FILLERS).sum())
        return forward(input_ids=input_ids, **kwargs)

    model.backbone.forward = counting  # sentence-transformers calls it, past hooks
    model(texts, prompt)
    del model.backbone.forward
    return padding / read
