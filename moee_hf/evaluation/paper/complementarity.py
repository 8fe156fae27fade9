"""Whether HS and RW see different things in the same texts (section 3.2 of the paper)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from mteb.abstasks import AbsTask, AbsTaskClusteringLegacy, AbsTaskSTS
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix, pair_confusion_matrix

from ..encoder import MoEEEncoder
from ..pairs import has_pairs, hidden_and_routing, pairs_of, similarities, split_of
from ..tables import Cell, Table

# what each column of the table says
COLUMNS = {
    "AMI": "mutual information of the clusters of HS and of RW, adjusted for chance; 0 by chance, 1 if they are equal",
    "NMI": "the same, normalized, but not adjusted: higher with more clusters",
    "Jaccard": "of the pairs of texts that one of the two puts together, the share that both do",
    "exact match": "percentage of texts in the same cluster, with the clusters matched one to one",
    "errors of HS": "percentage of pairs whose rank by HS is more than a quarter of all pairs from that by the labels",
    "errors of RW": "the same of RW",
    "errors of one only": "of all these errors, the percentage that only one of the two makes; the more, the more one "
    "adds to the other",
}


def agreement(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Compare two clusterings of the same texts.

    Args:
        first: A cluster's number for each text, of shape `(n,)`.
        second: The same.

    Returns:
        `ami` and `nmi`, adjusted and normalized mutual information; `jaccard`, the pairs of texts that both put
        together over the pairs that either does; `exact`, the share of texts in the same cluster, with clusters
        matched one to one so that it is the highest (Kuhn-Munkres).
    """
    confusion = pair_confusion_matrix(first, second)
    counts = contingency_matrix(first, second)
    matched = counts[linear_sum_assignment(counts, maximize=True)].sum()
    return {
        "ami": float(adjusted_mutual_info_score(first, second)),
        "nmi": float(normalized_mutual_info_score(first, second)),
        "jaccard": float(confusion[1, 1] / max(confusion.sum() - confusion[0, 0], 1)),
        "exact": float(matched / len(first)),
    }


def misranked(similarity: np.ndarray, gold: np.ndarray, tolerance: float) -> np.ndarray:
    """Tell which pairs are ranked wrongly: farther from their rank by the gold score than `tolerance` of all pairs.

    The paper does not define an error; this rule is ours.
    """
    distance = np.abs(rankdata(similarity) - rankdata(gold)) / len(gold)
    return distance > tolerance


def complementarity(
    encoder: MoEEEncoder,
    tasks: Sequence[AbsTask],
    clusters: int = 50,
    tolerance: float = 0.25,
    begins: Callable[[str], None] = lambda task: None,
) -> Table:
    """Compare the clusters of HS and of RW, and the errors that each makes.

    Args:
        encoder: Of the model.
        tasks: Tasks of STS, pair classification or clustering; errors are those of STS.
        clusters: Clusters of k-means, of the distinct texts of a task.
        tolerance: What makes an error, see `misranked`.
        begins: Is told the name of each task before it is read.

    Returns:
        A row for each task: agreement of the clusters, the share of pairs that HS and RW are wrong about, and of all
        errors the share that only one of the two makes; in percent but for AMI, NMI and Jaccard.

    Raises:
        ValueError: If a task is of another type, or has fewer texts than there are clusters.
    """
    rows = []
    for task in tasks:
        begins(task.metadata.name)
        rows.append(_row(encoder, task, clusters, tolerance))
    return Table(["task", *COLUMNS], rows)


def _row(encoder: MoEEEncoder, task: AbsTask, clusters: int, tolerance: float) -> list[Cell]:
    texts = _texts(task)
    if len(texts) < clusters:
        raise ValueError(
            f"clusters: expected at most {len(texts)}, the texts of {task.metadata.name}; got {clusters}."
        )
    labels = [
        KMeans(clusters, n_init=1, random_state=0).fit_predict(part.embed(texts))
        for part in hidden_and_routing(encoder).values()
    ]
    found = agreement(*labels)
    clustered = [found["ami"], found["nmi"], found["jaccard"], 100 * found["exact"]]
    return [task.metadata.name, *clustered, *_errors(encoder, task, tolerance)]


def _texts(task: AbsTask) -> list[str]:
    """The distinct texts of a task."""
    if has_pairs(task):
        first, second = pairs_of(task)
        texts = first + second
    elif isinstance(task, AbsTaskClusteringLegacy):
        texts = [text for texts in split_of(task)["sentences"] for text in texts]
    else:
        raise ValueError(
            "tasks: expected tasks of STS, pair classification or clustering, those of one clustering per set (not "
            f".v2); got {task.metadata.name!r}."
        )
    return list(dict.fromkeys(texts))


def _errors(encoder: MoEEEncoder, task: AbsTask, tolerance: float) -> list[Cell]:
    """The errors of HS, of RW, and of one of the two only, in percent; None but for STS."""
    if not isinstance(task, AbsTaskSTS):
        return [None, None, None]
    gold = np.asarray(split_of(task)["score"])
    found = similarities(encoder, *pairs_of(task))
    hidden, routing = (misranked(found[part], gold, tolerance) for part in ("hs", "rw"))
    only_one = (hidden ^ routing).sum() / max((hidden | routing).sum(), 1)
    return [100 * float(hidden.mean()), 100 * float(routing.mean()), 100 * float(only_one)]
