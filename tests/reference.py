"""The judge: the paper's equations (arXiv 2410.10814, section 3), and what was added to them, as loops in float64.

Imports nothing from moee_hf.
"""

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


def centred_log_ratio(weights):
    """Logarithms of weights that are one in sum, less their mean (Aitchison, 1986)."""
    logarithms = [math.log(weight) for weight in weights]
    return np.array([logarithm - sum(logarithms) / len(logarithms) for logarithm in logarithms])


def hidden_state(hidden_states, layer, pooling):
    """HS of one text, from `hidden_states`: one [T, D] array per layer, the token embeddings first."""
    return POOL[pooling](np.asarray(hidden_states[layer], dtype=np.float64))


def attention_read_out(outputs, blocks, pooling):
    """HS of one text from what its attention blocks give, one [T, D] array each: the sum over blocks."""
    return sum(POOL[pooling](np.asarray(outputs[block], dtype=np.float64)) for block in blocks)


def mean_values(values, blocks, pooling):
    """HS of one text from the values of its attention blocks, one [T, size] array each: the mean over blocks."""
    pooling = "mean" if pooling == "lasttoken" else pooling
    return attention_read_out(values, blocks, pooling) / len(blocks)


def routing_weights(router_logits, layers, activation, pooling):
    """RW of one text, from `router_logits`: one [T, E] array per MoE layer."""
    rows = []
    for layer in layers:
        logits = np.asarray(router_logits[layer], dtype=np.float64)
        rows.append(POOL[pooling](np.array([ACTIVATE[activation](token) for token in logits])))
    return np.array(rows)


ACTIVATE = {
    "softmax": softmax,
    "logits": lambda logits: logits,
    "clr": lambda logits: centred_log_ratio(softmax(logits)),
}


def weighted_layers(r, weights):
    return np.array([math.sqrt(weight) * layer for layer, weight in zip(r, weights, strict=True)])


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


def unit(vector):
    return vector / length(vector)


def average_over_prompts(vectors):
    """The mean of the unit vectors that one text has in several prompts."""
    return mean(np.array([unit(vector) for vector in vectors]))


def ranks(values):
    """From 1; equal values share the mean of theirs."""
    result = [0.0] * len(values)
    order = sorted(range(len(values)), key=lambda index: values[index])
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for place in range(start, end + 1):
            result[order[place]] = (start + end) / 2 + 1
        start = end + 1
    return result


def spearman(a, b):
    a, b = ranks(a), ranks(b)
    middle = (len(a) + 1) / 2
    products = sum((x - middle) * (y - middle) for x, y in zip(a, b, strict=True))
    squares = [sum((x - middle) ** 2 for x in values) for values in (a, b)]
    return products / math.sqrt(squares[0] * squares[1]) if all(squares) else 0.0


def standard(vectors, divide=True):
    """Vectors less their mean, and in units of their standard deviation; it is 1 of what never changes."""
    columns = []
    for column in np.array(vectors).T:
        centre = sum(column) / len(column)
        deviation = math.sqrt(sum((value - centre) ** 2 for value in column) / len(column)) or 1.0
        columns.append([(value - centre) / (deviation if divide else 1.0) for value in column])
    return np.array(columns).T


def layer_agreement(hidden, routing, pairs):
    """Of each layer: whether its routing has the pairs of texts in the order of HS. HS [n, D], RW [n, L, E]."""
    hidden = standard(hidden)
    expected = [cosine(hidden[i], hidden[j]) for i, j in pairs]
    agreement = []
    for layer in range(routing.shape[1]):
        centred = standard(routing[:, layer], divide=False)
        still = not centred.any()
        agreement.append(0.0 if still else spearman(expected, [cosine(centred[i], centred[j]) for i, j in pairs]))
    return agreement


def weights_by_agreement(agreement):
    """The quarter of layers, rounded up, that agree most, by their agreement; 1 on average."""
    order = sorted(range(len(agreement)), key=lambda layer: -agreement[layer])
    kept = [layer for layer in order[: -(-len(agreement) // 4)] if agreement[layer] > 0]
    if not kept:
        return [1.0] * len(agreement)
    average = sum(agreement[layer] for layer in kept) / len(kept)
    return [agreement[layer] / average if layer in kept else 0.0 for layer in range(len(agreement))]


def cautious_alpha(hidden, routing, alphas, least):
    """The largest alpha whose sum has pairs of texts in the order of HS, up to a rank correlation of `least`."""
    best = min(alphas)
    for alpha in sorted(alphas):
        if spearman([h + alpha * r for h, r in zip(hidden, routing, strict=True)], hidden) >= least:
            best = alpha
    return best


def principal_components(vectors, number):
    """The eigenvectors of the second moments with the largest eigenvalues, by Jacobi's rotations (1846)."""
    moments = sum(np.outer(vector, vector) for vector in np.asarray(vectors, dtype=np.float64))
    size, scale = len(moments), np.abs(moments).max()
    directions = np.eye(size)
    for _ in range(30):
        for p in range(size):
            for q in range(p + 1, size):
                if abs(moments[p, q]) < 1e-15 * scale:
                    continue
                angle = math.atan2(2 * moments[p, q], moments[q, q] - moments[p, p]) / 2
                turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
                moments[[p, q]] = turn @ moments[[p, q]]
                moments[:, [p, q]] = moments[:, [p, q]] @ turn.T
                directions[[p, q]] = turn @ directions[[p, q]]
        if np.abs(moments - np.diag(np.diag(moments))).max() < 1e-13 * scale:
            break
    return directions[np.argsort(-np.diag(moments))[:number]]


def projected(vector, components):
    return np.array([sum(x * y for x, y in zip(vector, component, strict=True)) for component in components])


def signs(vector):
    """The bits of binary embeddings, eight dimensions a byte, the first one in its highest place; padded with 0."""
    bits = [int(value > 0) for value in vector] + [0] * (-len(vector) % 8)
    return [sum(bit << (7 - place) for place, bit in enumerate(bits[i : i + 8])) for i in range(0, len(bits), 8)]


def similarity_parts(first, second, combination, alpha, components=None):
    """What HS, and each expert of each layer `[L][E]`, give to the cosine of two texts.

    A text is the (HS, RW) that it has in each prompt, standardized and weighted, if they are at all.
    """
    vectors = []
    for text in (first, second):
        vector = average_over_prompts([embedding(h, r, combination, alpha) for h, r in text])
        if components is not None:  # what the projection leaves
            vector = sum(x * component for x, component in zip(projected(vector, components), components, strict=True))
        vectors.append(unit(vector))
    products = [x * y for x, y in zip(*vectors, strict=True)]
    hidden, routing = first[0]
    size = 0 if combination == "rw" else len(hidden)
    layers, experts = (0, 0) if combination == "hs" else routing.shape
    assert len(products) == size + layers * experts
    starts = [size + layer * experts for layer in range(layers)]
    return sum(products[:size]), [products[start : start + experts] for start in starts]
