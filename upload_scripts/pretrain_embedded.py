"""Pretrain the small OLMoE that the package carries, as a language model, on a text file of one document a line.

Every other document is read in rows of consecutive tokens, the others in short rows that start with a sentence: short
texts are what people embed. With --warm-start, vocabulary and token embeddings come from another language model, and
the embeddings stay as they are. A run that was stopped goes on from its last checkpoint when it is started again; with
other --steps and --decay-steps, its decay starts earlier or later. The result is a plain OLMoE checkpoint in bfloat16.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pretraining_corpus import END, LONG, PAD, SHORT, Rows, first_merges, read_documents, rows_of, train_tokenizer
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, OlmoeConfig, OlmoeForCausalLM, PreTrainedTokenizerFast
from transformers.models.olmoe.modeling_olmoe import load_balancing_loss_func

from moee_hf.cli.flags import positive_int

HEAD_SIZE = 64
# what token embeddings that are given are multiplied by, at a step: their scale is small, 3, while the layers begin to
# learn; then 16 and 32, large beside what the layers add to them, so that what the words mean is not drowned
RAISES = {0: 3, 800: 16 / 3, 2000: 2}
MAX_BYTES = 20_000_000  # of the folder
# flags, with their defaults; like the other FIXED ones, a run cannot change them on its way
SIZES = {
    "vocabulary": (8192, "tokens"),
    "hidden-size": (256, "dimensions"),
    "layers": (5, "layers"),
    "experts": (64, "experts"),
    "experts-per-token": (8, "experts"),
    "expert-size": (16, "neurons"),
    "rows": (4, "long rows per step; of short ones, as many tokens again"),
}
FIXED = ("train", "valid", "warm_start", "seed", "learning_rate", *(name.replace("-", "_") for name in SIZES))
CHECKPOINT = "checkpoint.pt"


def load_donor(source: str) -> tuple[Tokenizer, torch.Tensor]:
    """Return tokenizer and token embeddings of a language model: a folder, a name on the Hub, or a GGUF file."""
    path = Path(source)
    where, gguf = (str(path.parent), {"gguf_file": path.name}) if path.suffix == ".gguf" else (source, {})
    model = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32, **gguf)
    return AutoTokenizer.from_pretrained(where, **gguf).backend_tokenizer, model.get_input_embeddings().weight.detach()


def project(embeddings: torch.Tensor, size: int) -> torch.Tensor:
    """Return the principal components of token embeddings, each row of length sqrt(size)."""
    centred = embeddings - embeddings.mean(dim=0)
    components = torch.linalg.svd(centred, full_matrices=False).Vh[:size]
    return F.normalize(centred @ components.T, dim=-1) * math.sqrt(size)


def batch(rows: np.ndarray, size: int, step: int, seed: int) -> torch.Tensor:
    """Return the rows of a step: the next of all in random order, in another one each time they are used up."""
    places = np.arange(step * size, (step + 1) * size)
    orders = {epoch: np.random.default_rng((seed, epoch)).permutation(len(rows)) for epoch in set(places // len(rows))}
    return torch.from_numpy(np.stack([rows[orders[i // len(rows)][i % len(rows)]] for i in places])).long()


def losses(model: OlmoeForCausalLM, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
    """Return the sum of next-token losses of a batch, their number, and the logits of each router."""
    out = model.model(input_ids=ids, output_router_logits=True, use_cache=False)
    logits, labels = model.lm_head(out.last_hidden_state[:, :-1]).float(), ids[:, 1:]
    pad = model.config.pad_token_id
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=pad, reduction="sum")
    return loss, (labels != pad).sum(), out.router_logits


def balance(routers: tuple[torch.Tensor, ...], ids: torch.Tensor, config: OlmoeConfig) -> torch.Tensor:
    """Return OLMoE's load-balancing loss, the mean over layers of each layer's own.

    The model's own output takes all layers together, where an expert that one layer neglects may be made up for by
    another layer.
    """
    mask = (ids != config.pad_token_id).long()
    each = [
        load_balancing_loss_func((x.float(),), config.num_experts, config.num_experts_per_tok, mask) for x in routers
    ]
    return torch.stack(each).mean()


def rate(step: int, arguments: argparse.Namespace) -> float:
    """Return the learning rate of a step: linear warm-up, constant, linear decay towards zero."""
    up, down = (step + 1) / arguments.warmup_steps, (arguments.steps - step) / arguments.decay_steps
    return arguments.learning_rate * min(1.0, up, down)


def train_step(
    model: OlmoeForCausalLM, optimizer: torch.optim.Optimizer, rows: Rows, step: int, arguments: argparse.Namespace
) -> float:
    """Take one step on as many tokens of long as of short rows; return the loss per token."""
    total, count = 0.0, 0
    for part, size in ((rows.long, arguments.rows), (rows.short, arguments.rows * LONG // SHORT)):
        ids = batch(part, size, step, arguments.seed).to(model.device)
        # not on a CPU: there, it takes longer than float32 at this size
        with torch.autocast(model.device.type, torch.bfloat16, enabled=model.device.type == "cuda"):
            loss, number, routers = losses(model, ids)
        aux = model.config.router_aux_loss_coef * balance(routers, ids, model.config)
        ((loss / number + aux) / 2).backward()
        total, count = total + loss.item(), count + number.item()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate(step, arguments)
    optimizer.step()
    optimizer.zero_grad()
    return total / count


@torch.no_grad()
def validate(model: OlmoeForCausalLM, rows: np.ndarray) -> dict[str, Any]:
    """Return the loss on rows, and per layer the share of experts that are used and how even their load is.

    The evenness is the entropy of the load divided by its largest value, the logarithm of the number of experts.
    """
    config = model.config
    total, count, load = 0.0, 0, torch.zeros(config.num_hidden_layers, config.num_experts)
    for start in range(0, len(rows), 8):
        loss, number, routers = losses(model, torch.from_numpy(rows[start : start + 8]).long().to(model.device))
        total, count = total + loss.item(), count + number.item()
        for layer, logits in zip(load, routers, strict=True):
            visited = logits.topk(config.num_experts_per_tok).indices.flatten().cpu()
            layer += torch.bincount(visited, minlength=config.num_experts)
    entropy = torch.special.entr(load / load.sum(dim=1, keepdim=True)).sum(dim=1)
    return {
        "valid_loss": total / count,
        "experts_used": (load > 0).float().mean(dim=1).tolist(),
        "load_evenness": (entropy / math.log(config.num_experts)).tolist(),
    }


def count_losses(train: np.ndarray, valid: np.ndarray, size: int) -> dict[str, float]:
    """Return the losses of a unigram and a bigram model of the training rows, on what the model has to predict.

    The unigram model adds one to each count; the bigram model takes 0.75 off each, for the unigram model to share out.
    """
    unigram = np.bincount(train.ravel(), minlength=size) + 1.0
    unigram /= unigram.sum()
    pairs, counts = np.unique(train[:, :-1].astype(np.int64) * size + train[:, 1:], return_counts=True)
    total, kinds = np.bincount(pairs // size, counts, minlength=size), np.bincount(pairs // size, minlength=size)
    before, after = valid[:, :-1].ravel().astype(np.int64), valid[:, 1:].ravel()
    places = np.searchsorted(pairs, before * size + after).clip(max=len(pairs) - 1)
    seen = np.where(pairs[places] == before * size + after, counts[places] - 0.75, 0.0)
    known, of_before = total[before] > 0, np.maximum(total[before], 1)
    bigram = np.where(known, (seen + 0.75 * kinds[before] * unigram[after]) / of_before, unigram[after])
    return {"unigram_loss": float(-np.log(unigram[after]).mean()), "bigram_loss": float(-np.log(bigram).mean())}


def new_model(arguments: argparse.Namespace, embeddings: torch.Tensor | None) -> OlmoeForCausalLM:
    """Return the model before its first step; embeddings that are given are those of its input and of its output.

    Raises:
        ValueError: If the sizes make no model, or too large a one.
    """
    if arguments.hidden_size % HEAD_SIZE or arguments.experts_per_token > arguments.experts:
        raise ValueError(
            f"--hidden-size, --experts-per-token: expected a multiple of {HEAD_SIZE}, and no more than there are "
            f"experts; got {arguments.hidden_size}, and {arguments.experts_per_token} of {arguments.experts}."
        )
    config = OlmoeConfig(
        vocab_size=arguments.vocabulary,
        hidden_size=arguments.hidden_size,
        intermediate_size=arguments.expert_size,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.hidden_size // HEAD_SIZE,
        num_experts=arguments.experts,
        num_experts_per_tok=arguments.experts_per_token,
        max_position_embeddings=2 * LONG,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )
    torch.manual_seed(arguments.seed)
    model = OlmoeForCausalLM(config)
    if (size := 2 * model.num_parameters()) > MAX_BYTES:
        raise ValueError(f"--expert-size: expected a model of {MAX_BYTES:,} bytes or less in bfloat16; got {size:,}.")
    if embeddings is not None:
        with torch.no_grad():
            model.model.embed_tokens.weight.copy_(embeddings)
            model.lm_head.weight.copy_(embeddings / arguments.hidden_size)
    return model


def train(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train until the last step, from the last checkpoint if there is one, and save; return the record of the run.

    Raises:
        ValueError: If a file or a flag is not as expected.
        OSError: If a file cannot be read or written.
    """
    work, device = Path(arguments.work), torch.device(arguments.device)
    settings = {name: getattr(arguments, name) for name in FIXED}
    state = _last_state(work / CHECKPOINT, settings, arguments.steps, device)
    tokenizer, embeddings = _vocabulary(arguments, work, goes_on="model" in state)
    rows, valid = (_kept_rows(tokenizer, Path(path), work) for path in (arguments.train, arguments.valid))
    model = new_model(arguments, embeddings).to(device)
    model.model.embed_tokens.weight.requires_grad_(arguments.warm_start is None)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [x for x in trained if x.ndim > 1], "weight_decay": 0.1},
            {"params": [x for x in trained if x.ndim == 1], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
    )
    if "model" in state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        _log(f"goes on from step {state['step']}")
    step_tokens = 2 * arguments.rows * LONG
    for step in range(state["step"], arguments.steps):
        started = time.process_time()
        if step in RAISES and arguments.warm_start is not None:
            model.model.embed_tokens.weight.data.mul_(RAISES[step])
        loss = train_step(model, optimizer, rows, step, arguments)
        state["running"] = loss if state["running"] is None else 0.98 * state["running"] + 0.02 * loss
        speed, done = step_tokens / (time.process_time() - started), step + 1
        if done % 20 == 0:
            _log(f"step {done} of {arguments.steps}: loss {state['running']:.3f}, {speed:.0f} tokens per CPU second")
        if done % arguments.every == 0 or done == arguments.steps:
            now = {"tokens": done * step_tokens, "train_loss": state["running"], **validate(model, valid.long[:128])}
            least = min(now["load_evenness"])
            _log(f"{now['tokens']:,} tokens: validation loss {now['valid_loss']:.3f}, load evenness {least:.3f}")
            state["curve"].append({name: now[name] for name in ("tokens", "train_loss", "valid_loss")})
            state |= {"step": done, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state, partial := work / "checkpoint.partial")
            partial.replace(work / CHECKPOINT)  # complete, or the one before
    _save(model, tokenizer, folder := Path(arguments.folder))
    schedule = {name: getattr(arguments, name) for name in ("steps", "warmup_steps", "decay_steps")}
    record = {"settings": settings | schedule, "tokens": arguments.steps * step_tokens}
    # of the weights as they were saved
    record |= validate(model.float(), valid.long) | count_losses(rows.long, valid.long, arguments.vocabulary)
    record["curve"] = state["curve"]
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", metavar="FOLDER", help="where the model is saved")
    parser.add_argument("--train", metavar="FILE", required=True, help="a document a line, .txt or .txt.zst")
    parser.add_argument("--valid", metavar="FILE", required=True, help="the same, of documents not in --train")
    parser.add_argument("--work", metavar="FOLDER", required=True, help="for the checkpoint and the corpus in tokens")
    parser.add_argument(
        "--warm-start",
        metavar="MODEL",
        help="take vocabulary and token embeddings from this model: folder, name on the Hub, or GGUF file",
    )
    for name, (default, what) in SIZES.items():
        parser.add_argument(f"--{name}", type=positive_int(what), default=default, help=f"{what} (default: {default})")
    parser.add_argument("--steps", type=positive_int("steps"), default=4000, help="in all (default: 4000)")
    parser.add_argument(
        "--warmup-steps", type=positive_int("steps"), default=100, help="the first ones (default: 100)"
    )
    parser.add_argument(
        "--decay-steps", type=positive_int("steps"), default=2000, help="the last ones (default: 2000)"
    )
    parser.add_argument("--learning-rate", type=float, default=1.5e-3, help="between them (default: 0.0015)")
    parser.add_argument("--every", type=positive_int("steps"), default=200, help="validate and save (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order (default: 0)")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda, which computes in bfloat16 (default: cpu)")
    try:
        record = train(parser.parse_args())
    except (OSError, ValueError) as error:
        print(f"pretrain_embedded: {error}", file=sys.stderr)
        return 1
    print(json.dumps(record, indent=2))
    return 0


def _last_state(checkpoint: Path, settings: dict[str, Any], steps: int, device: torch.device) -> dict[str, Any]:
    """What the run left at its last checkpoint, or what it starts from."""
    if not checkpoint.is_file():
        return {"settings": settings, "step": 0, "running": None, "curve": []}
    state = torch.load(checkpoint, map_location=device, weights_only=True)
    if changed := [name for name in settings if state["settings"][name] != settings[name]]:
        was, now = state["settings"][changed[0]], settings[changed[0]]
        raise ValueError(
            f"{checkpoint}: expected {changed[0]}={was!r}, as the run began; got {now!r}. Use another --work."
        )
    if state["step"] > steps:
        raise ValueError(f"--steps: expected {state['step']} or more, as the run is there; got {steps}.")
    return state


def _save(model: OlmoeForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    model.to(torch.bfloat16).save_pretrained(folder)
    names = {"bos_token": END, "eos_token": END, "pad_token": PAD}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=2 * LONG, **names).save_pretrained(folder)


def _vocabulary(arguments: argparse.Namespace, work: Path, goes_on: bool) -> tuple[Tokenizer, torch.Tensor | None]:
    """The tokenizer, and at the start of a run the token embeddings to start with."""
    path, embeddings = work / "tokenizer.json", None
    if goes_on:
        return Tokenizer.from_file(str(path)), None
    if arguments.warm_start is None:
        tokenizer = train_tokenizer(read_documents(Path(arguments.train)), arguments.vocabulary)
    else:
        donor, of_donor = load_donor(arguments.warm_start)
        tokenizer, ids = first_merges(donor, arguments.vocabulary)
        embeddings = project(of_donor[ids], arguments.hidden_size)
    if (size := tokenizer.get_vocab_size()) != arguments.vocabulary:
        raise ValueError(f"--vocabulary: expected no more tokens than there are, {size}; got {arguments.vocabulary}.")
    work.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    return tokenizer, embeddings


def _kept_rows(tokenizer: Tokenizer, path: Path, work: Path) -> Rows:
    """The rows of a file, kept in the work folder once they are made."""
    stat = path.stat()
    key = f"{tokenizer.to_str()} {path.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    kept = work / f"rows-{hashlib.sha256(key.encode()).hexdigest()[:8]}.npz"
    if not kept.is_file():
        _log(f"reads {path}")
        partial = work / "partial.npz"
        np.savez(partial, **rows_of(tokenizer, path)._asdict())
        partial.replace(kept)
    arrays = np.load(kept)
    return Rows(arrays["long"], arrays["short"])


def _log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
