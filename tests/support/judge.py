"""What tests of evaluations share: the choices that they go through, and what the judge scores from raw vectors."""

import numpy as np
import torch

from moee_hf.model import stream_moee
from support import evaluation_data, fitting, metrics
from support.common import TEXTS

CORPUS = [f"{text} Or so they say, {number}." for number in range(4) for text in TEXTS]
COMBINATIONS = ("hs", "rw", "concat", "sum")
# the files of `evaluation_data` by what their tasks are called
TASKS = {
    "STSBenchmark": "sts/stsb.test",
    "twins": "pair_classification/twins.test",
    "EmotionClassification": "classification/emotion.test",
    "topics": "clustering/topics",
    "questions": "reranking/questions",
    "SummEvalSummarization.v2": "summarization/summeval.public",
}


def raw_vectors(model, texts, prompt):
    """HS `[n, D]` and RW `[n, L, E]` of each text, from `forward` on it alone, in float64."""
    with torch.inference_mode():
        outputs = [model(**model.tokenize([text], prompt_name=prompt)) for text in texts]
    hidden = np.stack([output.pooled_hidden_state[0].double().numpy() for output in outputs])
    routing = np.stack([output.router_weights[0].double().numpy() for output in outputs])
    return hidden, routing


def calibrated(vectors, of_corpus):
    """HS and RW of texts, standardized, and weighed by their agreement over a corpus; and the cautious alpha."""
    standard = fitting.Standard(*of_corpus)
    of_corpus = standard(*of_corpus)
    weights = fitting.layer_weights(fitting.agreement(*of_corpus))
    (hidden, routing), (of_hidden, of_routing) = standard(*vectors), of_corpus
    alpha = fitting.cautious_alpha(of_hidden, fitting.weigh(of_routing, weights))
    return hidden, fitting.weigh(routing, weights), alpha


def texts_read(monkeypatch, read):
    """Call a function with each text that a model reads, and its prompt, before it does."""
    token_ids = stream_moee.token_ids

    def watched(model, texts, template):
        for text in texts:
            read((text, template))
        return token_ids(model, texts, template)

    monkeypatch.setattr(stream_moee, "token_ids", watched)


def score(task, vector):
    """The main score of a task, from the vector of each text."""
    rows, name = evaluation_data.rows(), TASKS[task]
    if name.startswith("classification"):
        return metrics.classification(rows[name], vector, rows["classification/emotion.train"], samples_per_label=16)
    return getattr(metrics, name.split("/")[0])(rows[name], vector)


def results(folder):
    """When each result of mteb in a folder was written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.json") if path.name != "model_meta.json"}
