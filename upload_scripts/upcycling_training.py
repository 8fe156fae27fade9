"""Training of the mixture: one step, and all of them, with checkpoints."""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

import torch
from transformers import PreTrainedModel
from upcycling_data import batch
from upcycling_distillation import Losses, distil, load_entropy
from upcycling_model import mixtures

CHECKPOINT = "checkpoint.pt"
METRICS = ("text_divergence", "prompts_divergence", "distance", "balance", "tokens")  # means of a step


def schedule(done: float, arguments: argparse.Namespace) -> tuple[float, float, float]:
    """Return learning rate, weight of the balance and `mix` of the experts when a share `done` of the steps is done.

    The rate rises for a twentieth of the steps, and falls as a cosine to a fiftieth. The experts take the place of the
    dense model over the first fifth. The balance's weight changes between the half and three quarters.
    """
    rate = min(1.0, done * 20) * (0.51 + 0.49 * math.cos(math.pi * done))
    late = min(1.0, max(0.0, 4 * done - 2))
    balance = arguments.balance + late * (arguments.final_balance - arguments.balance)
    return arguments.learning_rate * rate, balance, min(1.0, done * 5)


def new_optimizer(model: PreTrainedModel) -> torch.optim.Optimizer:
    """Return the optimizer of all that is trained; each group has its `factor` of the learning rate."""
    routers = {id(weight) for mlp in mixtures(model) for weight in (mlp.router, mlp.shared_gate)}
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    plain = [weight for weight in trained if weight.ndim > 1 and id(weight) not in routers]
    special = [weight for weight in trained if weight.ndim == 1 or id(weight) in routers]
    groups = [
        {"params": plain, "weight_decay": 0.01, "factor": 1.0},
        {"params": special, "weight_decay": 0.0, "factor": 2.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=plain[0].device.type == "cuda")


def train_step(
    model: PreTrainedModel,
    dense: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    data: dict[str, torch.Tensor],
    step: int,
    arguments: argparse.Namespace,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take one step on rows of text and on prompts; nothing here waits for the device.

    Returns:
        The numbers of `METRICS`, and the load of the text, `[L, E]`.
    """
    rate, balance, mix = schedule(step / arguments.steps, arguments)
    for mlp in mixtures(model):
        mlp.mix.fill_(mix)
    generator = torch.Generator().manual_seed((arguments.seed << 32) + step)
    text, prompts = (batch(data, name, getattr(arguments, name), step, arguments.seed) for name in ("text", "prompts"))
    of_both = []
    for rows in (text, prompts):
        # not on a CPU: there, it takes longer than float32
        with torch.autocast(rows.ids.device.type, torch.bfloat16, enabled=rows.ids.device.type == "cuda"):
            losses = distil(model, dense, rows, generator, last=rows is prompts)
        (losses.divergence + losses.distance + balance * losses.balance).backward()
        of_both.append(Losses(*(x.detach() for x in losses)))
    torch.nn.utils.clip_grad_norm_([x for x in model.parameters() if x.requires_grad], 1.0)
    for group in optimizer.param_groups:
        group["lr"] = group["factor"] * rate
    optimizer.step()
    optimizer.zero_grad()
    of_text, of_prompts = of_both
    tokens = text.lengths.sum() + prompts.lengths.sum()
    distance, level = (of_text.distance + of_prompts.distance) / 2, (of_text.balance + of_prompts.balance) / 2
    metrics = torch.stack([of_text.divergence, of_prompts.divergence, distance, level, tokens])
    return metrics.double(), of_text.load


def run(
    model: PreTrainedModel, dense: PreTrainedModel, data: dict[str, torch.Tensor], arguments: argparse.Namespace
) -> list[dict[str, float]]:
    """Train until the last step, from the last checkpoint if there is one; return the curve.

    Args:
        model: As `to_mixture` returns it; it is trained in place.
        dense: What it was made of.
        data: As `read_corpus` returns it, on the same device.
        arguments: The flags.
    """
    checkpoint, optimizer, first, curve = Path(arguments.work) / CHECKPOINT, new_optimizer(model), 0, []
    if checkpoint.is_file():
        state = torch.load(checkpoint, map_location=model.device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, curve = state["step"], state["curve"]
        log(f"goes on from step {first}")
    if model.device.type == "cuda":
        for layer in (*model.model.layers, *dense.model.layers):
            layer.compile(dynamic=False)
    totals: list[tuple[torch.Tensor, torch.Tensor]] = []  # of the steps since the last checkpoint
    began = time.monotonic()
    for step in range(first, arguments.steps):
        totals.append(train_step(model, dense, optimizer, data, step, arguments))
        if (done := step + 1) % arguments.every == 0 or done == arguments.steps:
            metrics, load = (torch.stack(x).sum(dim=0) for x in zip(*totals, strict=True))
            point = dict(zip(METRICS, (metrics / len(totals)).tolist(), strict=True))
            curve.append({"step": done, **point, "least_load_entropy": min(load_entropy(load))})
            state = {"step": done, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "curve": curve}
            torch.save(state, partial := checkpoint.with_suffix(".partial"))
            partial.replace(checkpoint)  # complete, or the one before
            _log_progress(curve[-1], arguments.steps, (time.monotonic() - began) / len(totals))
            totals.clear()
            began = time.monotonic()
    return curve


def log(message: str) -> None:
    """Print a line for the person who waits."""
    print(message, file=sys.stderr, flush=True)


def _log_progress(point: dict[str, float], steps: int, seconds: float) -> None:
    left = (steps - point["step"]) * seconds / 60
    log(
        f"step {point['step']} of {steps}: divergence {point['text_divergence']:.3f} of text, "
        f"{point['prompts_divergence']:.3f} of prompts, distance {point['distance']:.3f}, load entropy "
        f"{point['least_load_entropy']:.2f} or more, {point['tokens'] / seconds:,.0f} tokens a second, "
        f"{left:.0f} minutes left"
    )
