"""The judge of evaluations: what mteb's tasks score, from raw vectors, with numpy and scipy; imports nothing of ours.

scikit-learn fits the same classifiers and clusters; every number that follows from their output is computed here.
"""

import numpy as np
from scipy.stats import spearmanr
from sklearn.cluster import MiniBatchKMeans
from sklearn.linear_model import LogisticRegression

SEED = 42


def embedding(hidden, routing, combination, alpha=1.0):
    """Vectors of shape [n, N], from HS [n, D] and RW [n, L * E], in their dtype."""
    if combination == "sum":
        hidden = hidden / np.linalg.norm(hidden, axis=1, keepdims=True)
        routing = np.sqrt(alpha) * routing / np.linalg.norm(routing, axis=1, keepdims=True)
    return {"hs": hidden, "rw": routing}.get(combination, np.concatenate([hidden, routing], axis=1))


def cosines(a, b):
    return (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def average_precision(relevant, scores):
    """Area under the precision-recall steps; equal scores are one step."""
    relevant, scores = np.asarray(relevant, float), np.asarray(scores)
    total, found, seen = relevant.sum(), 0.0, 0
    area = 0.0
    for value in np.unique(scores)[::-1]:
        step = scores == value
        gained = relevant[step].sum()
        found, seen = found + gained, seen + step.sum()
        area += gained / total * found / seen
    return area


def sts(rows, vector):
    first, second = (np.stack([vector[row[side]] for row in rows]) for side in ("sentence1", "sentence2"))
    return spearmanr(cosines(first, second), [row["score"] for row in rows]).statistic


def pair_classification(rows, vector):
    a, b = (np.stack([vector[row[side]] for row in rows]) for side in ("sentence1", "sentence2"))
    labels = [row["label"] for row in rows]
    scores = [cosines(a, b), -np.abs(a - b).sum(axis=1), -np.linalg.norm(a - b, axis=1), (a * b).sum(axis=1)]
    return max(average_precision(labels, score) for score in scores)


def classification(rows, vector, train, samples_per_label):
    order, scores = list(range(len(train))), []
    for _ in range(10):
        np.random.RandomState(SEED).shuffle(order)
        taken, counts = [], {}
        for i in order:
            label = train[i]["label"]
            if counts.setdefault(label, 0) < samples_per_label:
                counts[label] += 1
                taken.append(train[i])
        classifier = LogisticRegression(max_iter=100, random_state=SEED)
        # in the precision of the embeddings that mteb gets: in another the solver stops elsewhere
        inputs, targets = (np.stack([vector[row["text"]] for row in part]).astype("f") for part in (taken, rows))
        classifier.fit(inputs, [row["label"] for row in taken])
        guesses = classifier.predict(targets)
        scores.append(np.mean([guess == row["label"] for guess, row in zip(guesses, rows, strict=True)]))
    return np.mean(scores)


def clustering(rows, vector):
    labels = np.array([row["label"] for row in rows])
    model = MiniBatchKMeans(len(set(labels)), batch_size=500, n_init="auto", random_state=SEED)
    clusters = model.fit(np.stack([vector[row["text"]] for row in rows])).labels_
    joint = np.array([[np.sum((labels == a) & (clusters == b)) for b in set(clusters)] for a in sorted(set(labels))])
    joint = joint / joint.sum()

    def entropy(p):
        return -(p[p > 0] * np.log(p[p > 0])).sum()

    classes, groups, both = entropy(joint.sum(axis=1)), entropy(joint.sum(axis=0)), entropy(joint.ravel())
    shared = classes + groups - both
    return 2 * shared / (classes + groups)  # the harmonic mean of homogeneity and completeness


def reranking(rows, vector):
    precisions = []
    for row in rows:
        documents = np.stack([vector[text.strip()] for text in [*row["positive"], *row["negative"]]])
        query = np.broadcast_to(vector[row["query"]], documents.shape)
        relevant = np.arange(len(documents)) < len(row["positive"])
        # documents of equal score one after the other, the last one first, as trec_eval has them
        ranked = np.lexsort((np.arange(len(documents)), cosines(query, documents).round(6)))[::-1]
        hits = relevant[ranked]
        precisions.append((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())
    return np.mean(precisions)


def summarization(rows, vector):
    correlations = []
    for row in rows:
        humans = np.stack([vector[text] for text in row["human_summaries"]])
        best = [max(cosines(np.broadcast_to(vector[s], humans.shape), humans)) for s in row["machine_summaries"]]
        if len(set(row["relevance"])) > 1 and len(set(best)) > 1:
            correlations.append(spearmanr(row["relevance"], best).statistic)
    return np.mean(correlations)
