"""Training of the mixture: its settings, one step, and all of them, with checkpoints."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel
from upcycling_data import batch
from upcycling_distillation import Losses, distil, load_entropy
from upcycling_model import mixtures

# means of a step
METRICS = ("text_kl_divergence", "prompt_kl_divergence", "distance", "load_balancing_loss", "tokens")


@dataclass(frozen=True)
class Training:
    """Settings of a training, each under the name of its flag.

    Attributes:
        text_batch_size: Rows of consecutive text of a step.
        sequence_length: Tokens of such a row.
        prompt_batch_size: Sentences inside prompts of a step.
        steps: How many.
        save_steps: From one checkpoint to the next.
        learning_rate: The highest.
        balance_coefficient: Of the load-balancing loss, at first.
        final_balance_coefficient: Of the load-balancing loss, in the end.
        seed: Of all that is random.

    Raises:
        ValueError: If a value is out of its range.
    """

    text_batch_size: int
    sequence_length: int
    prompt_batch_size: int
    steps: int
    save_steps: int
    learning_rate: float
    balance_coefficient: float
    final_balance_coefficient: float
    seed: int

    def __post_init__(self) -> None:
        if self.sequence_length < 2:  # the first token of a row is not compared
            raise ValueError(f"--sequence-length: expected 2 tokens or more; got {self.sequence_length}.")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"--learning-rate: expected a finite number > 0; got {self.learning_rate}.")
        for name in ("balance_coefficient", "final_balance_coefficient"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise ValueError(f"--{name.replace('_', '-')}: expected a finite number >= 0; got {value}.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed: expected a number from 0 to {2**32 - 1}; got {self.seed}.")


def schedule(step: int, training: Training) -> tuple[float, float, float]:
    """Return learning rate, coefficient of the load-balancing loss and `mix` of the experts of a step, from 1 on.

    The rate rises for a twentieth of the steps, and falls as a cosine to a fiftieth. The experts take the place of the
    dense model over the first fifth. The coefficient changes between the half and three quarters.
    """
    done = step / training.steps
    rate = min(1.0, done * 20) * (0.51 + 0.49 * math.cos(math.pi * done))
    late = min(1.0, max(0.0, 4 * done - 2))
    coefficient = (1 - late) * training.balance_coefficient + late * training.final_balance_coefficient
    return training.learning_rate * rate, coefficient, min(1.0, done * 5)


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
    training: Training,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take one step, from 1 on, on rows of text and on prompts; nothing here waits for the device.

    Returns:
        The numbers of `METRICS`, and how many tokens of the text visited each expert, `[L, E]`.
    """
    rate, coefficient, mix = schedule(step, training)
    for mlp in mixtures(model):
        mlp.mix.fill_(mix)
    generator = torch.Generator().manual_seed((training.seed << 32) + step)
    text = batch(data, "text", training.text_batch_size, step, training.seed)
    prompts = batch(data, "prompts", training.prompt_batch_size, step, training.seed)
    of_both = []
    for rows in (text, prompts):
        # not on a CPU: there, it takes longer than float32
        with torch.autocast(rows.ids.device.type, torch.bfloat16, enabled=rows.ids.device.type == "cuda"):
            losses = distil(model, dense, rows, generator, last=rows is prompts)
        (losses.kl_divergence + losses.distance + coefficient * losses.load_balancing).backward()
        of_both.append(Losses(*(x.detach() for x in losses)))
    torch.nn.utils.clip_grad_norm_([x for x in model.parameters() if x.requires_grad], 1.0)
    for group in optimizer.param_groups:
        group["lr"] = group["factor"] * rate
    optimizer.step()
    optimizer.zero_grad()
    of_text, of_prompts = of_both
    distance = (of_text.distance + of_prompts.distance) / 2
    load_balancing = (of_text.load_balancing + of_prompts.load_balancing) / 2
    tokens = text.lengths.sum() + prompts.lengths.sum()
    metrics = torch.stack([of_text.kl_divergence, of_prompts.kl_divergence, distance, load_balancing, tokens])
    return metrics.double(), of_text.expert_counts


def run(
    model: PreTrainedModel,
    dense: PreTrainedModel,
    data: dict[str, torch.Tensor],
    training: Training,
    checkpoint: Path,
) -> list[dict[str, float]]:
    """Train until the last step, from the checkpoint if there is one; return the curve.

    Args:
        model: As `to_mixture` returns it; it is trained in place.
        dense: What it was made of.
        data: As `read_corpus` returns it, on the same device.
        training: The settings.
        checkpoint: A file, which is written anew again and again.
    """
    optimizer, done, curve = new_optimizer(model), 0, []
    if checkpoint.is_file():
        state = torch.load(checkpoint, map_location=model.device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done, curve = state["step"], state["curve"]
        log(f"goes on after step {done}")
    if model.device.type == "cuda":
        for layer in (*model.model.layers, *dense.model.layers):
            layer.compile(dynamic=False)
    totals: list[tuple[torch.Tensor, torch.Tensor]] = []  # of the steps since the last checkpoint
    began = time.monotonic()
    for step in range(done + 1, training.steps + 1):
        totals.append(train_step(model, dense, optimizer, data, step, training))
        if step % training.save_steps == 0 or step == training.steps:
            metrics, expert_counts = (torch.stack(x).sum(dim=0) for x in zip(*totals, strict=True))
            point = dict(zip(METRICS, (metrics / len(totals)).tolist(), strict=True))
            curve.append({"step": step, **point, "least_load_entropy": min(load_entropy(expert_counts))})
            state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "curve": curve}
            torch.save(state, partial := checkpoint.with_suffix(".partial"))
            partial.replace(checkpoint)  # complete, or the one before
            _log_progress(curve[-1], training.steps, (time.monotonic() - began) / len(totals))
            totals.clear()
            began = time.monotonic()
    return curve


def log(message: str) -> None:
    """Print a line for the person who waits."""
    print(message, file=sys.stderr, flush=True)


def _log_progress(point: dict[str, float], steps: int, seconds: float) -> None:
    left = (steps - point["step"]) * seconds / 60
    log(
        f"step {point['step']} of {steps}: KL divergence {point['text_kl_divergence']:.3f} of text, "
        f"{point['prompt_kl_divergence']:.3f} of prompts, distance {point['distance']:.3f}, load entropy "
        f"{point['least_load_entropy']:.2f} or more, {point['tokens'] / seconds:,.0f} tokens a second, "
        f"{left:.0f} minutes left"
    )
