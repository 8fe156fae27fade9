"""A model on the paper's tasks, with the paper's choices, or as its released code does it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mteb.abstasks import AbsTask

from ...model.choices_moee import COMBINATIONS
from ...model.modeling_moee import MoEEModel
from ..encoder import MoEEEncoder
from ..grid import encoders
from ..identity import identity_of
from ..task_files import available_tasks
from ..tasks import get_tasks
from .released_code import released_encoders
from .tables import NOTE, PROMPTS, Paper


def paper_tasks(
    paper: Paper, names: Sequence[str] | None = None, data: str | Path | None = None, split: str | None = None
) -> list[AbsTask]:
    """Return tasks of the paper.

    Args:
        paper: The published numbers.
        names: Names of its tasks. None: all; with `data`, those that have a file there.
        data: As in `get_tasks`, here and below.
        split: The split to evaluate in place of the task's own.

    Raises:
        ValueError: If the paper has no such task, or the folder no file of one.
        OSError: If the folder cannot be read.
    """
    if names is None:
        names = list(paper.types) if data is None else available_tasks(data, paper.types)
    if unknown := [name for name in names if name not in paper.types]:
        raise ValueError(f"tasks: expected tasks of the paper ({', '.join(paper.types)}); got {unknown[0]!r}.")
    return get_tasks(names, data, split)


def paper_encoders(
    model: MoEEModel,
    alphas: Sequence[float] = (1.0,),
    released_code: bool = False,
    batch_size: int | None = None,
    store: Path | None = None,
) -> Iterator[Sequence[MoEEEncoder]]:
    """Yield encoders with the paper's choices, whatever those of the model are, for `evaluate`.

    Args:
        model: The model.
        alphas: Weights of RW in `"sum"`; the paper's is 1.
        released_code: Whether to do what the released code does, see `released_encoders`.
        batch_size: The most texts per forward pass. None: as many as the device is fast with.
        store: A folder to keep HS and RW in, and to take them from in a later run.

    Raises:
        ValueError: If the released code does not know the model's architecture.
    """
    model = model.with_config(
        standardize=False,
        dimensions=None,
        hidden_source="state",
        router_layers=None,
        router_layer_weights=None,
        router_activation="softmax",
        prompts=None,
        default_prompt_name="prompteol",
    )
    if released_code:
        return released_encoders(model, PROMPTS, COMBINATIONS, alphas, batch_size, store)
    return encoders(model, PROMPTS, ["lasttoken"], [-1], COMBINATIONS, alphas, batch_size=batch_size, store=store)


def paper_note(paper: Paper, model: MoEEModel, released_code: bool = False) -> str:
    """Return what stands below the table: the model, the command that fills it, and how to read it."""
    name, revision = identity_of(model)
    command = f"moee evaluate --paper {paper.key}{' --released-code' * released_code} --output FOLDER"
    return f"Ours: {name} at {revision}. What is blank is filled by: {command}. {NOTE}"
