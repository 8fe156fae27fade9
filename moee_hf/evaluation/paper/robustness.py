"""How much the choice of the prompt matters (section 3.3 and figure 5 of the paper): RW is said to mind it less."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mteb.abstasks import AbsTask
from scipy.stats import spearmanr

from ...figures.style import WIDTH, Theme, drawing, save
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

    def figure(self, path: Path, theme: str = "light") -> None:
        """Draw scores over prompts, a box for each embedding, and the rank correlations beside.

        Args:
            path: The file, in a format of matplotlib's.
            theme: `"light"` or `"dark"`.
        """
        with drawing(theme) as colors:
            from matplotlib.figure import Figure

            tasks = list(dict.fromkeys(task for task, _ in self.scores))
            figure = Figure(figsize=(WIDTH, 4.6 * len(tasks)))
            axes = figure.subplots(len(tasks), 2, squeeze=False, width_ratios=(3, 4))
            for (left, right), task in zip(axes, tasks, strict=True):
                scores = {name: list(by.values()) for (scored, name), by in self.scores.items() if scored == task}
                _draw_scores(left, scores, colors)
                left.set_title(f"{task}: each prompt a dot")
                if (task, "trained") in self.ranks:
                    _draw_ranks(right, self.ranks[task, "trained"], colors)
                else:
                    right.set_axis_off()
            save(figure, path)


def _draw_scores(axis: Any, scores: Mapping[str, Sequence[float]], theme: Theme) -> None:
    """A box over the prompts for each embedding, and the prompts as dots."""
    for place, (name, values) in enumerate(scores.items()):
        color = {"hs": theme.hidden, "rw": theme.routing}.get(name, theme.text)
        color = theme.faint if name.startswith("random ") else color
        lines = {part: {"color": color} for part in ("boxprops", "whiskerprops", "capprops", "medianprops")}
        axis.boxplot(values, positions=[place], widths=0.6, showfliers=False, **lines)
        axis.scatter(np.full(len(values), place), values, s=14, color=color, alpha=0.6, linewidths=0)
    names = [label.upper() if label in ("hs", "rw") else label for label in scores]
    turned = {"rotation": 30, "ha": "right"} if len(names) > 4 else {}
    axis.set_xticks(range(len(names)), names, **turned)
    axis.set_ylabel("main score x 100")


def _draw_ranks(axis: Any, ranks: np.ndarray, theme: Theme) -> None:
    """Every two of `LABELS`, as a heat map with its scale."""
    image = axis.imshow(ranks, vmin=min(0.0, float(ranks.min())), vmax=1, cmap=theme.sequential())
    count = len(NINE_PROMPTS)
    axis.set_yticks(range(len(LABELS)), [prompt for _, prompt in LABELS], fontsize=8)
    for place, (name, color) in enumerate((("HS", theme.hidden), ("RW", theme.routing))):
        for label in axis.get_yticklabels()[place * count : (place + 1) * count]:
            label.set_color(color)
        axis.text((place + 0.5) * count - 0.5, 2 * count, name, color=color, ha="center", va="top")
    axis.set_xticks([])
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    for line in (axis.axhline, axis.axvline):
        line(count - 0.5, color=theme.background, linewidth=2)
    axis.set_title("Do two prompts put pairs in one order?")
    axis.figure.colorbar(image, ax=axis, shrink=0.8, label="rank correlation").outline.set_visible(False)


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
