"""Three ways to embed the same texts with the same weights, paired.

- official: as the paper's released code: the causal LM, texts in the order given, batches of 128 padded on the left,
  all hidden states and the routers' logits of every token.
- sentence-transformers: its own model of the same backbone, HS alone, in its batches of 32, or larger ones.
- moee_hf: `MoEEModel.encode`, HS and RW, or HS alone.

The table has a row for each: its time over that of moee_hf, tokens of text per second, share of padding in what
the backbone reads, and growth of memory beyond the model. Then what RW costs: moee_hf beside itself, HS alone.
"""

import copy
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cases import CASES, PROCESSOR, PROMPTS, texts_of
from measuring import PeakMemory, in_new_process, seconds
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoModelForCausalLM, AutoTokenizer, OlmoeConfig, OlmoeForCausalLM, PreTrainedModel

from moee_hf import MoEEConfig, MoEEModel
from moee_hf.model.experts_moee import use_fast_experts
from moee_hf.model.hub_moee import resolve_source

FILLERS = torch.tensor([0, 1, 2])  # ids of what the ways fill batches up with; no text has these


def random_model(size: dict[str, Any], dtype: torch.dtype, device: torch.device) -> OlmoeForCausalLM:
    """An OLMoE with random weights, built where it will run."""
    torch.manual_seed(0)
    with device:
        return OlmoeForCausalLM._from_config(OlmoeConfig(**size, pad_token_id=1), dtype=dtype).eval()


def save_tokenizer(folder: Path, source: str | None) -> None:
    """Save the tokenizer of a checkpoint, or that of the embedded backbone."""
    AutoTokenizer.from_pretrained(resolve_source(source or "embedded")).save_pretrained(folder)


def make_checkpoint(folder: Path, source: str | None, dtype: torch.dtype) -> None:
    """Save the backbone as a plain checkpoint."""
    if source is None:
        model = random_model(PROCESSOR.backbone, dtype, torch.device("cpu"))
    else:
        model = MoEEModel.from_pretrained(source).model.to(dtype)
    model.save_pretrained(folder)
    save_tokenizer(folder, source)


def share_weights(model: PreTrainedModel) -> Any:
    """A second model of the same weights: hooks and choices of the one do nothing to the other."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


class Official:
    """Arguments are those of all ways.

    Args:
        model: The causal LM, which stays as it is.
        folder: Where its configuration and tokenizer lie.
        max_length: The most tokens of a text with its prompt.
        batch_size: Texts of a batch.
    """

    def __init__(self, model: PreTrainedModel, folder: str, max_length: int, batch_size: int = 128):
        self.model = share_weights(model)
        self.backbone = self.model.model
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.max_length, self.batch_size = max_length, batch_size

    @torch.inference_mode()
    def __call__(self, texts: list[str], prompt: str) -> torch.Tensor:
        vectors = []
        for start in range(0, len(texts), self.batch_size):
            filled = [prompt.replace("{text}", text) for text in texts[start : start + self.batch_size]]
            batch = self.tokenizer(
                filled, padding=True, return_tensors="pt", max_length=self.max_length, truncation=True
            )
            batch = {name: batch[name].to(self.model.device) for name in ("input_ids", "attention_mask")}
            output = self.model(**batch, output_hidden_states=True, output_router_logits=True)
            routing = [logits.view(len(filled), -1, logits.shape[-1])[:, -1] for logits in output.router_logits]
            vectors.append(torch.cat([output.hidden_states[-1][:, -1], *routing], dim=1).float().cpu())
        return torch.cat(vectors)


class SentenceTransformers:
    def __init__(self, model: PreTrainedModel, folder: str, max_length: int, batch_size: int = 32):
        self.backbone = share_weights(model.model)

        class Loaded(Transformer):
            def _load_model(_, path: str, task: str, config: Any, *args: Any, **kwargs: Any) -> PreTrainedModel:
                self.backbone.config.use_cache = config.use_cache  # which it has chosen by now
                return self.backbone

        transformer = Loaded(folder)
        transformer.max_seq_length = max_length
        pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="lasttoken")
        self.model = SentenceTransformer(modules=[transformer, pooling], device=str(model.device))
        self.batch_size = batch_size

    def __call__(self, texts: list[str], prompt: str) -> Any:
        filled = [prompt.replace("{text}", text) for text in texts]
        return self.model.encode(filled, batch_size=self.batch_size, show_progress_bar=False)


class Ours:
    def __init__(self, model: PreTrainedModel, folder: str, max_length: int, combination: str = "concat"):
        backbone = share_weights(model.model)
        use_fast_experts(backbone)
        config = MoEEConfig(backbone_config=backbone.config, max_length=max_length)
        self.model = MoEEModel(config, backbone).eval()
        self.model.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.backbone, self.combination = backbone, combination

    def __call__(self, texts: list[str], prompt: str) -> Any:
        return self.model.encode(texts, prompt=prompt, combination=self.combination, show_progress_bar=False)


WAYS = {
    "moee_hf": Ours,
    "moee_hf, HS alone": partial(Ours, combination="hs"),
    "sentence-transformers": SentenceTransformers,
    "sentence-transformers, 256": partial(SentenceTransformers, batch_size=256),
    "official": Official,
}


def load(folder: str, *names: str) -> dict[str, Any]:
    """The ways of these names, with the weights of a checkpoint."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    return {name: WAYS[name](model, folder, PROCESSOR.max_length) for name in names}


def memory_growth(name: str, folder: str, texts: list[str], prompt: str) -> int:
    """MiB by which the peak of a process's memory outgrows what it held before it embeds the texts."""
    way = load(folder, name)[name]
    way(texts[:1], prompt)
    with PeakMemory() as memory:
        way(texts, prompt)
    return memory.growth


def time_paired(ways: dict[str, Any], texts: list[str], prompt: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of each way, round by round; in turn from the first and from the last."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            way = ways[name]
            found[name].append(seconds(partial(way, texts, prompt), way.backbone.device))
    return found


def num_tokens(tokenizer: Any, texts: list[str], max_length: int, prompt: str = "{text}") -> int:
    """Number of tokens of texts inside a prompt, in all."""
    filled = [prompt.replace("{text}", text) for text in texts]
    return sum(min(len(ids), max_length) for ids in tokenizer(filled)["input_ids"])


def print_table(folder: str, data: Path, rounds: int) -> None:
    ways = load(folder, "official", "sentence-transformers", "moee_hf")
    texts = texts_of(data, PROCESSOR)
    print("| texts | prompt | way | time | tokens of text/s | padding | memory, MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, prompt_name in CASES:
        of_case, prompt = texts[name], PROMPTS[prompt_name]
        tokens = num_tokens(ways["official"].tokenizer, of_case, PROCESSOR.max_length)
        padding = {way: padded_share(model, of_case, prompt) for way, model in ways.items()}  # warms up, too
        found = time_paired(ways, of_case, prompt, rounds)
        for way, of_way in found.items():
            ratio, rate = median_ratio(of_way, found["moee_hf"]), tokens / statistics.median(of_way)
            memory = in_new_process(memory_growth, way, folder, of_case, prompt)
            print(f"| {name} | {prompt_name} | {way} | {ratio:.2f} | {rate:.0f} ", end="")
            print(f"| {padding[way]:.0%} | {memory} |", flush=True)
    # two passes through the same arithmetic, in more rounds, as their difference is small
    pair = load(folder, "moee_hf", "moee_hf, HS alone")
    both, alone = time_paired(pair, texts["short"], PROMPTS["prompteol"], 6 * rounds).values()
    print(f"\nHS and RW / HS alone, short texts with prompteol: {median_ratio(both, alone):.3f}", flush=True)


def median_ratio(seconds: list[float], others: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(seconds, others, strict=True))


def padded_share(model: Any, texts: list[str], prompt: str) -> float:
    """Share of padding in what the backbone reads."""
    padding = read = 0
    forward = model.backbone.forward

    def counting(input_ids: torch.Tensor, **kwargs: Any) -> Any:
        nonlocal padding, read
        read += input_ids.numel()
        padding += int(torch.isin(input_ids, FILLERS.to(input_ids.device)).sum())
        return forward(input_ids=input_ids, **kwargs)

    model.backbone.forward = counting  # sentence-transformers calls it, past hooks
    try:
        model(texts, prompt)
    finally:
        del model.backbone.forward
    return padding / read
