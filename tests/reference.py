"""The judge: the paper's equations (arXiv 2410.10814, section 3) as loops in float64. Imports nothing from moee_hf."""

import math

import numpy as np


def last_token(values):
    return values[-1]


def mean(values):
    total = np.zeros(values.shape[1])
    for value in values:
        total += value
    return total / len(values)


def weighted_mean(values):
    total, weight = np.zeros(values.shape[1]), 0.0
    for position, value in enumerate(values, start=1):
        total += position * value
        weight += position
    return total / weight


POOL = {"lasttoken": last_token, "mean": mean, "weightedmean": weighted_mean}


def softmax(logits):
    exponentials = [math.exp(logit - max(logits)) for logit in logits]
    return np.array([e / sum(exponentials) for e in exponentials])


def hidden_state(hidden_states, layer, pooling):
    """HS of one text, from `hidden_states`: one [T, D] array per layer, the token embeddings first."""
    return POOL[pooling](np.asarray(hidden_states[layer], dtype=np.float64))


def routing_weights(router_logits, layers, activation, pooling):
    """RW of one text, from `router_logits`: one [T, E] array per MoE layer."""
    rows = []
    for layer in layers:
        logits = np.asarray(router_logits[layer], dtype=np.float64)
        weights = np.array([softmax(token) if activation == "softmax" else token for token in logits])
        rows.append(POOL[pooling](weights))
    return np.array(rows)


def length(vector):
    return math.sqrt(sum(x * x for x in vector))


def embedding(h, r, combination, alpha):
    r = r.ravel()
    if combination == "hs":
        return h
    if combination == "rw":
        return r
    if combination == "concat":
        return np.array([*h, *r])
    return np.array([x / length(h) for x in h] + [math.sqrt(alpha) * x / length(r) for x in r])


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / (length(a) * length(b))
