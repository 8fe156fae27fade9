"""How much the choice of the prompt matters (section 3.3 and figure 5 of the paper): RW is said to mind it less."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mteb.abstasks import AbsTask
from scipy.stats import spearmanr

from ...model.choices_moee import COMBINATIONS
from ...model.modeling_moee import MoEEModel
from ...model.prompts_moee import PROMPTS
from ..grid import encoders
from ..pairs import has_pairs, pairs_of, similarities
from ..scores import evaluate
from ..tables import Cell, Table

# table 2 of the paper
_NAMES = (
    "prompteol",
    "style",
    "sentiment",
    "tone",
    "intent",
    "complexity",
    "subjectivity",
    "language style",
    "grammar structure",
)
NINE_PROMPTS = {name: PROMPTS[name] for name in _NAMES}
# HS with each prompt, then RW with each
LABELS = [(combination, prompt) for combination in ("hs", "rw") for prompt in NINE_PROMPTS]


@dataclass(frozen=True)
class Robustness:
    """What the choice of the prompt does.

    Args:
        scores: Main score times 100 with each prompt, by task and embedding.
        ranks: By task of pairs and by `"trained"` or `"random"`, the Spearman correlation of the cosine similarities
            of its pairs between every two of `LABELS`, of shape `(18, 18)`.
    """

    scores: Mapping[tuple[str, str], Mapping[str, float]]
    ranks: Mapping[tuple[str, str], np.ndarray]

    def score_table(self) -> Table:
        """Return mean, standard deviation and range of the score over prompts, then the score with each.

        The best mean of each task is marked; of several tasks, averages stand below.
        """
        rows: list[list[Cell]] = []
        for (task, name), by_prompt in self.scores.items():
            of = [by_prompt[prompt] for prompt in NINE_PROMPTS]
            rows.append([task, name, statistics.mean(of), statistics.stdev(of), max(of) - min(of), *of])
        tasks, names = (list(dict.fromkeys(labels)) for labels in zip(*self.scores, strict=True))
        averages: list[list[Cell]] = []
        for name in names if len(tasks) > 1 else ():
            cells = [[cell for cell in row[2:] if isinstance(cell, float)] for row in rows if row[1] == name]
            averages.append(["average", name, *map(statistics.mean, zip(*cells, strict=True))])
        compared = [[i for i, row in enumerate(rows) if row[0] == task] for task in tasks]
        compared.append(list(range(len(rows), len(rows) + len(averages))))
        return Table(["task", "embedding", "mean", "std", "range", *NINE_PROMPTS], rows, averages, compared, [2])

    def rank_table(self) -> Table:
        """Return the mean rank correlation between different prompts: of HS, of RW, and of one with the other."""
        n = len(NINE_PROMPTS)
        between = [(i, j) for i, j in itertools.product(range(n), repeat=2) if i != j]
        blocks = ((0, 0), (n, n), (0, n))
        rows: list[list[Cell]] = [
            [task, weights, *(float(np.mean([ranks[i + a, j + b] for i, j in between])) for a, b in blocks)]
            for (task, weights), ranks in self.ranks.items()
        ]
        return Table(["task", "weights", "HS-HS", "RW-RW", "HS-RW"], rows)

    def figure(self, path: Path) -> None:
        """Draw scores over prompts, a box for each embedding, and the rank correlations beside; written as PNG."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        tasks = list(dict.fromkeys(task for task, _ in self.scores))
        size = (12, 4.5 * len(tasks))
        figure, axes = pyplot.subplots(len(tasks), 2, figsize=size, squeeze=False, layout="constrained")
        for (left, right), task in zip(axes, tasks, strict=True):
            boxes = {name: list(values.values()) for (scored, name), values in self.scores.items() if scored == task}
            left.boxplot(list(boxes.values()), tick_labels=list(boxes))
            left.tick_params(axis="x", rotation=30)
            left.set(title=f"{task}: nine prompts", ylabel="main score x 100")
            if (task, "trained") not in self.ranks:
                right.set_axis_off()
                continue
            image = right.imshow(self.ranks[task, "trained"], vmin=0, vmax=1, cmap="viridis")
            labels = [" ".join(label) for label in LABELS]
            right.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7)
            right.set_yticks(range(len(labels)), labels, fontsize=7)
            right.set_title("rank correlation of the similarities of pairs")
            figure.colorbar(image, ax=right)
        figure.savefig(path, dpi=120)
        pyplot.close(figure)


def robustness(
    model: MoEEModel,
    tasks: Sequence[AbsTask],
    output: Path,
    combinations: Sequence[str] = COMBINATIONS,
    control: bool = False,
    batch_size: int | None = None,
    store: Path | None = None,
    begins: Callable[[str], None] = lambda prompt: None,
) -> Robustness:
    """Evaluate a model with each of the paper's nine prompts.

    Args:
        model: The model.
        tasks: Tasks of mteb.
        output: Folder for the results, which resumes as `evaluate` does.
        combinations: What embeddings are made of.
        control: Whether to evaluate the same architecture with random weights too.
        batch_size: The most texts per forward pass. None: as many as the device is fast with.
        store: A folder to keep HS and RW in; without it, a second run reads the pairs again, for their correlation.
        begins: Is told each prompt, of trained or random weights, before texts are read in it.
    """
    scores: dict[tuple[str, str], dict[str, float]] = {}
    found: dict[tuple[str, str], dict[tuple[str, str], np.ndarray]] = {}
    names = {template: name for name, template in NINE_PROMPTS.items()}
    for group in encoders(
        model,
        tuple(names),
        combinations=combinations,
        dimensions=(0,),
        control=control,
        batch_size=batch_size,
        store=store,
    ):
        features = group[0].features
        prompt = names[features.templates[0]]
        begins(f"random {prompt}" if features.random else prompt)
        for task in filter(has_pairs, tasks):
            key = task.metadata.name, "random" if features.random else "trained"
            for combination, values in similarities(group[0], *pairs_of(task)).items():
                found.setdefault(key, {})[combination, prompt] = values
        for score in evaluate([group], tasks, output):
            name = ("random " if features.random else "") + score.choices["combination"]
            scores.setdefault((score.task, name), {})[prompt] = score.value
    ranks = {
        key: np.asarray(spearmanr(np.stack([values[label] for label in LABELS], axis=1)).statistic)
        for key, values in found.items()
    }
    return Robustness(scores, ranks)
