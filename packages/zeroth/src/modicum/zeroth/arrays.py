"""What statistics do to arrays of either library: to the host and back, vectors, pieces of rows.

Takes NumPy arrays or torch tensors on any device; computes in float64. Knows nothing of statistics.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

__all__ = ["Array", "chunks", "host", "like", "vector_like"]

Array = Any
"""A NumPy array or a torch tensor."""

# Entries of the matrices made at once: the memory a statistic needs beside its input is a few times
# this, and pieces of it stay in a cache while they are used.
_CHUNK_ENTRIES = 1 << 19
# Fewer rows than this make a matrix product slow.
_CHUNK_ROWS_MIN = 256


def chunks(count: int, width: int, multiple: int = 1) -> Iterator[slice]:
    """Cut rows into pieces of bounded size.

    Parameters
    ----------
    count
        Number of rows.
    width
        Entries that are made of each row.
    multiple
        Pieces, but for the last, have a multiple of this many rows.
    """
    step = -(-max(_CHUNK_ENTRIES // width, _CHUNK_ROWS_MIN) // multiple) * multiple
    for begin in range(0, count, step):
        yield slice(begin, min(begin + step, count))


def host(values: Array) -> np.ndarray:
    """Give the values as float64 NumPy."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)


def like(values: np.ndarray, example: Array) -> Array:
    """Give NumPy values in the library and on the device of `example`; dtypes stay."""
    if isinstance(example, np.ndarray):
        return values
    # A copy: torch takes no array that is not writeable.
    return array_namespace(example).asarray(np.array(values), device=device(example))


def vector_like(values: Array, rows_Nd: Array) -> Array:
    """Give a vector, or one number for every row, as float64 ``(N,)`` beside `rows_Nd`."""
    xp = array_namespace(rows_Nd)
    if isinstance(values, np.ndarray):
        values = like(values, rows_Nd)
    vector = xp.asarray(values, dtype=xp.float64, device=device(rows_Nd))
    return xp.broadcast_to(vector, (rows_Nd.shape[0],)) if vector.ndim == 0 else vector
