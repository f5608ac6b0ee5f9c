"""The sellers' rows as solvers see them: few passes over n rows, small results.

A pool answers the three questions that a design needs, the score of every row, the information
matrix of weighted rows and single rows, and knows where and how the rows lie: in one array, on a
disk, in shards, on a device. It knows nothing of budgets, of weights' updates or of who owns a row.

Shapes: n rows, d features, m queries, k rows or columns asked for, g groups of columns.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

__all__ = ["ArrayPool", "Pool", "ScaledPool", "SubsetPool", "as_pool", "grouped_scores", "unscaled"]

# Values of one chunk of rows: 32 MB in float64.
_VALUES_OF_A_CHUNK = 1 << 22


@runtime_checkable
class Pool(Protocol):
    """What a solver may ask of the sellers' rows, each divided by the root of its price.

    Attributes
    ----------
    n, d
        Number of rows and of features.
    """

    n: int
    d: int

    def scores(self, directions_dm: np.ndarray) -> np.ndarray:
        """Give the mean over m of the squared inner products, (n,) float64."""

    def gram(self, weights_n: np.ndarray | None = None) -> np.ndarray:
        """Give the sum of w_j x_j x_jᵀ, (d, d) float64; every weight 1 without weights."""

    def rows(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Give rows, (k, d) float64, in the order asked for."""

    def products(self, matrix_dk: np.ndarray) -> np.ndarray:
        """Give the rows times a matrix, (n, k) float64."""


class ArrayPool:
    """Rows in one array or memory map, or in a list of them, read in chunks.

    Parameters
    ----------
    shards
        An (n, d) array, or a sequence of (n_i, d) arrays, of any real type. They are read when
        asked for and never copied as a whole, so that a memory map may be larger than the memory.
    scale
        What every row is multiplied with, (n,): 1 / sqrt(price) in a priced design.
    chunk_size
        Rows of a chunk; by default so many that a chunk in float64 has 32 MB.
    """

    def __init__(
        self,
        shards: Any,
        scale: np.ndarray | None = None,
        chunk_size: int | None = None,
    ) -> None:
        self.shards: list[Any] = list(shards) if isinstance(shards, list | tuple) else [shards]
        self.offsets = np.cumsum([0, *(len(shard) for shard in self.shards)])
        self.n = int(self.offsets[-1])
        self.d = int(self.shards[0].shape[1])
        self.scale = None if scale is None else np.asarray(scale, dtype=np.float64)
        self.chunk_size = chunk_size or max(1, _VALUES_OF_A_CHUNK // self.d)

    def chunks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Give (rows of the pool, their scaled values in float64) until all were given."""
        for shard, offset in zip(self.shards, self.offsets, strict=False):
            for start in range(0, len(shard), self.chunk_size):
                stop = min(start + self.chunk_size, len(shard))
                where = slice(int(offset) + start, int(offset) + stop)
                yield where, self._scaled(np.asarray(shard[start:stop], dtype=np.float64), where)

    def _scaled(self, rows: np.ndarray, where: Any) -> np.ndarray:
        return rows if self.scale is None else rows * self.scale[where, None]

    def scores(self, directions_dm: np.ndarray) -> np.ndarray:
        """Give the mean over m of the squared inner products, (n,) float64."""
        found_n = np.empty(self.n)
        for where, rows_kd in self.chunks():
            found_n[where] = np.square(rows_kd @ directions_dm).mean(axis=1)
        return found_n

    def grouped_scores(self, directions_dk: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
        """Give scores for groups of neighbouring columns in one pass, (g, n) float64.

        Parameters
        ----------
        directions_dk
            Columns of all groups, (d, k).
        sizes
            Numbers of columns of the groups, (g,), positive, with sum k.
        """
        sizes_g = np.asarray(sizes)
        starts_g = np.cumsum(sizes_g) - sizes_g
        found_gn = np.empty((len(sizes_g), self.n))
        for where, rows_kd in self.chunks():
            squares = directions_dk.T @ rows_kd.T
            np.square(squares, out=squares)
            sums = squares if (sizes_g == 1).all() else np.add.reduceat(squares, starts_g, axis=0)
            np.divide(sums, sizes_g[:, None], out=found_gn[:, where])
        return found_gn

    def gram(self, weights_n: np.ndarray | None = None) -> np.ndarray:
        """Give the sum of w_j x_j x_jᵀ, (d, d) float64; every weight 1 without weights."""
        found_dd = np.zeros((self.d, self.d))
        for where, rows_kd in self.chunks():
            left = rows_kd if weights_n is None else rows_kd * weights_n[where, None]
            found_dd += left.T @ rows_kd
        return found_dd

    def rows(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Give rows, (k, d) float64, in the order asked for."""
        asked_k = np.asarray(indices, dtype=np.int64)
        found_kd = np.empty((len(asked_k), self.d))
        of_shard = np.searchsorted(self.offsets, asked_k, side="right") - 1
        for number in np.unique(of_shard):
            here = of_shard == number
            found_kd[here] = self.shards[number][asked_k[here] - self.offsets[number]]
        return self._scaled(found_kd, asked_k)

    def products(self, matrix_dk: np.ndarray) -> np.ndarray:
        """Give the rows times a matrix, (n, k) float64."""
        found_nk = np.empty((self.n, matrix_dk.shape[1]))
        for where, rows_kd in self.chunks():
            found_nk[where] = rows_kd @ matrix_dk
        return found_nk


class ScaledPool:
    """A pool whose rows are multiplied with numbers, read through it.

    Parameters
    ----------
    pool
        Any pool.
    scale_n
        Positive factor of every row, (n,).
    """

    def __init__(self, pool: Pool, scale_n: np.ndarray) -> None:
        self.pool = pool
        self.scale_n = scale_n
        self.n, self.d = pool.n, pool.d

    def scores(self, directions_dm: np.ndarray) -> np.ndarray:
        """Give the mean over m of the squared inner products, (n,) float64."""
        return self.pool.scores(directions_dm) * np.square(self.scale_n)

    def grouped_scores(self, directions_dk: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
        """Give scores for groups of neighbouring columns, (g, n) float64."""
        found_gn = grouped_scores(self.pool, directions_dk, sizes)
        found_gn *= np.square(self.scale_n)
        return found_gn

    def gram(self, weights_n: np.ndarray | None = None) -> np.ndarray:
        """Give the sum of w_j x_j x_j' of the scaled rows, (d, d) float64."""
        squares_n = np.square(self.scale_n)
        return self.pool.gram(squares_n if weights_n is None else weights_n * squares_n)

    def rows(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Give scaled rows, (k, d) float64, in the order asked for."""
        return self.pool.rows(indices) * self.scale_n[np.asarray(indices, dtype=np.int64), None]

    def products(self, matrix_dk: np.ndarray) -> np.ndarray:
        """Give the scaled rows times a matrix, (n, k) float64."""
        return self.pool.products(matrix_dk) * self.scale_n[:, None]


class SubsetPool:
    """Some rows of a pool, read through it.

    Its passes are over all rows of the pool: it is for what is left after a few were taken away.

    Parameters
    ----------
    pool
        Any pool.
    indices
        Positions of the rows in the pool, (n,), each once.
    """

    def __init__(self, pool: Pool, indices: np.ndarray) -> None:
        self.pool = pool
        self.indices = np.asarray(indices, dtype=np.int64)
        self.n, self.d = len(self.indices), pool.d

    def scores(self, directions_dm: np.ndarray) -> np.ndarray:
        """Give the mean over m of the squared inner products, (n,) float64."""
        return self.pool.scores(directions_dm)[self.indices]

    def gram(self, weights_n: np.ndarray | None = None) -> np.ndarray:
        """Give the sum of w_j x_j x_j' of these rows, (d, d) float64; every weight 1 without."""
        of_all = np.zeros(self.pool.n)
        of_all[self.indices] = 1.0 if weights_n is None else weights_n
        return self.pool.gram(of_all)

    def rows(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Give rows, (k, d) float64, in the order asked for."""
        return self.pool.rows(self.indices[np.asarray(indices, dtype=np.int64)])

    def products(self, matrix_dk: np.ndarray) -> np.ndarray:
        """Give these rows times a matrix, (n, k) float64."""
        return self.pool.products(matrix_dk)[self.indices]


def grouped_scores(pool: Pool, directions_dk: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Give scores for groups of neighbouring columns, (g, n) float64.

    Parameters
    ----------
    pool
        One with a method of this name is passed over once; any other once per group.
    directions_dk
        Columns of all groups, (d, k).
    sizes
        Numbers of columns of the groups, (g,), positive, with sum k.
    """
    own = getattr(pool, "grouped_scores", None)
    if own is None:
        parts = np.split(directions_dk, np.cumsum(sizes)[:-1], axis=1)
        return np.stack([pool.scores(part) for part in parts])
    found_gn: np.ndarray = own(directions_dk, sizes)
    return found_gn


def unscaled(pool: Pool) -> tuple[Pool, np.ndarray | None]:
    """Give the pool beneath all scales that it is read through, and their product, (n,)."""
    scale_n = None
    while isinstance(pool, ScaledPool):
        scale_n = pool.scale_n if scale_n is None else scale_n * pool.scale_n
        pool = pool.pool
    return pool, scale_n


def as_pool(rows: Any, scale: np.ndarray | None = None, chunk_size: int | None = None) -> Pool:
    """Make a pool of an array, a memory map or a list of them; a pool stays what it is."""
    if isinstance(rows, Pool):
        if scale is not None:
            raise ValueError("a pool scales its rows itself: scale goes to where it is made")
        return rows
    return ArrayPool(rows, scale, chunk_size)
