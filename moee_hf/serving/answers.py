"""Vectors into JSON, and refusals in the form that a route's clients read."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from .limits import RequestError

# what text-embeddings-inference calls the kinds of errors
_ERROR_TYPES = {413: "Validation", 429: "Overloaded", 503: "Unhealthy", 500: "Backend"}


def first_dimensions(vectors: np.ndarray, dimensions: int | None, normalize: bool) -> np.ndarray:
    """Return vectors on the first of their principal components.

    Args:
        vectors: Of shape `(n, embedding_size)`.
        dimensions: How many. None: all.
        normalize: Whether the vectors have length 1, and shall have it again.

    Returns:
        Of shape `(n, dimensions)`.
    """
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    vectors = vectors[:, :dimensions]
    if not normalize:
        return vectors
    # as torch.nn.functional.normalize has it
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def openai_answer(vectors: np.ndarray, as_base64: bool, model: str, prompt: str | list[str], num_tokens: int) -> bytes:
    """Return the answer of `/v1/embeddings`, with the prompt that was applied beside OpenAI's fields.

    Args:
        vectors: Of shape `(n, embedding_size)`.
        as_base64: Whether a vector is its float32, little-endian, in base64; else its numbers.
        model: What clients call the model.
        prompt: The name of the prompt, or several, or the template.
        num_tokens: How many were read.
    """
    rows = (f'"{_base64(vector)}"' for vector in vectors) if as_base64 else _rows(vectors)
    data = ",".join(f'{{"object":"embedding","index":{index},"embedding":{row}}}' for index, row in enumerate(rows))
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    fields = json.dumps({"model": model, "prompt": prompt, "usage": usage})
    return f'{{"object":"list","data":[{data}],{fields[1:]}'.encode()


def inference_answer(vectors: np.ndarray) -> bytes:
    """Return the answer of `/embed`, or of numbers that are no vectors, of `/similarity`.

    Args:
        vectors: Of shape `(n, embedding_size)`, or `(n,)`.
    """
    rows = _rows(vectors) if vectors.ndim == 2 else _rows(vectors[None])
    joined = ",".join(rows)
    return (f"[{joined}]" if vectors.ndim == 2 else joined).encode()


def _rows(vectors: np.ndarray) -> Sequence[str]:
    """Each vector as JSON. Nine digits are all that a float32 has; the rest of what `json` writes is noise."""
    template = f"[{','.join(['%.9g'] * vectors.shape[1])}]"
    return [template % tuple(vector.tolist()) for vector in vectors]


def _base64(vector: np.ndarray) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def openai_error(error: RequestError) -> dict[str, Any]:
    """Return a refusal as OpenAI's clients read it."""
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    kind = "rate_limit_error" if error.status == 429 else kind
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}


def inference_error(error: RequestError) -> dict[str, Any]:
    """Return a refusal as clients of text-embeddings-inference read it."""
    return {"error": error.message, "error_type": _ERROR_TYPES.get(error.status, "Validation")}
