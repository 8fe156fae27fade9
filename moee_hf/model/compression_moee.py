"""Smaller embeddings, for an index that takes no large ones: fewer dimensions, or fewer bits in each."""

from __future__ import annotations

import numpy as np
import torch

from .choices_moee import PRECISIONS, check_choice


def principal_components(vectors: torch.Tensor, dimensions: int) -> torch.Tensor:
    """Return the directions in which vectors are largest, the first one most of all.

    They are the eigenvectors of the second moments, not centred: of all projections on this many dimensions, that on
    them keeps the dot products of the vectors best (Eckart and Young, 1936).

    Args:
        vectors: Of shape `(n, embedding_size)`.
        dimensions: How many directions.

    Returns:
        Float64 tensor of shape `(dimensions, embedding_size)`, with orthonormal rows.

    Raises:
        ValueError: If there are fewer vectors, or they are shorter.
    """
    if dimensions > (most := min(vectors.shape)):
        raise ValueError(
            f"dimensions: expected at most {most}, as there are {len(vectors)} different texts to fit them on and an "
            f"embedding has {vectors.shape[1]} dimensions; got {dimensions}."
        )
    vectors = vectors.double()
    basis = None
    if vectors.shape[0] < vectors.shape[1]:  # in the space that they span, which is smaller
        basis, coordinates = torch.linalg.qr(vectors.T)  # [N, n], [n, n]
        vectors = coordinates.T
    _, directions = torch.linalg.eigh(vectors.T @ vectors)  # in columns, the largest last
    directions = directions.flip(dims=[1])[:, :dimensions]
    return (directions if basis is None else basis @ directions).T.contiguous()


def project(vectors: torch.Tensor, components: torch.Tensor) -> torch.Tensor:
    """Return vectors `[n, N]` in the coordinates of components `[k, N]`, of shape `(n, k)`."""
    with torch.autocast(vectors.device.type, enabled=False):
        return vectors @ components.to(vectors).T


def quantize(vectors: np.ndarray, precision: str, largest: float | None = None) -> np.ndarray:
    """Return embeddings in fewer bits, as sentence-transformers quantizes them.

    Args:
        vectors: Float32, of shape `(n, embedding_size)`.
        precision: `"float32"`; `"int8"` or `"uint8"`, a byte a dimension; `"binary"` or `"ubinary"`, the signs alone,
            eight dimensions a byte.
        largest: The largest absolute value that the bytes of int8 can say; what is larger becomes that. One number for
            all dimensions leaves cosines as they were.

    Raises:
        ValueError: If there is no such precision.
        ImportError: If sentence-transformers is not installed.
    """
    check_choice("precision", precision, PRECISIONS)
    if precision == "float32":
        return vectors
    try:
        from sentence_transformers.util import quantize_embeddings
    except ImportError as error:
        raise ImportError(f"precision={precision!r} needs sentence-transformers; install it.") from error
    # it takes the floor of 255 steps: from half a step below -128, code c stands for c steps, and 127 for the largest
    step = None if largest is None else float(largest) / 127
    ranges = None if step is None else np.array([[-128.5 * step], [126.5 * step]]).repeat(vectors.shape[1], axis=1)
    return np.asarray(quantize_embeddings(vectors, precision=precision, ranges=ranges))
