"""Embeddings that may be shortened: axes in which the first numbers tell most (Matryoshka, arXiv 2205.13147).

In: the teacher's vectors. Out: an orthogonal matrix that turns them to their principal axes.
Careful: the turn costs nothing. It changes no cosine and no distance between full vectors, and a
linear map takes it in, so only the order in which an embedding's numbers tell something changes. Document vectors of
the teacher have to be turned the same way, which `Encoder.encode_document` does.
"""

import numpy as np
from numpy.typing import NDArray

_BLOCK = 4096


def principal_axes(vectors: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Axes of the largest second moments: the best k numbers to keep of a vector are its first k in these axes.

    Of moments about zero and not about the mean, since a cosine counts the mean too (Eckart and Young 1936).

    Args:
        vectors: (all, dim), may be memory-mapped.
        rows: which of them to look at.

    Returns:
        (dim, dim) orthogonal; vectors @ axes are the turned vectors.
    """
    moments = np.zeros((vectors.shape[1], vectors.shape[1]))
    for start in range(0, len(rows), _BLOCK):
        block = np.asarray(vectors[rows[start : start + _BLOCK]], np.float64)
        moments += block.T @ block
    _, axes = np.linalg.eigh(moments)
    return np.ascontiguousarray(axes[:, ::-1], dtype=np.float32)
