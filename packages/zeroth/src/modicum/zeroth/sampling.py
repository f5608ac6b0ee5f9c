"""Points around a place and the noisy values there.

Takes a function and a point and evaluates, one point or many at a time, in the library and on the
device of the point. Whole pairs count; values are checked here. Knows nothing of what the values
are for.

Legend: ``N`` pairs, ``d`` dimension, ``b`` points of one call, ``m`` places, ``n`` repeats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_torch_array

from modicum.zeroth.arguments import one_of, positive
from modicum.zeroth.arrays import Array, chunks, host, like, vector_like
from modicum.zeroth.directions import KINDS, draw_pair_directions
from modicum.zeroth.pairs import Pairs, make_pairs

__all__ = ["Function", "Place", "Repeats", "Sampler"]

Function = Callable[[Any], Any]
"""One point ``(d,)`` to a number or, where ``vectorized=True``, points ``(b, d)`` to ``(b,)``."""


class Place:
    """A point and the shape of an ellipsoid around it."""

    def __init__(self, x: Array, shape: Array | float) -> None:
        self.point = x if is_torch_array(x) else np.asarray(x)
        if self.point.ndim != 1 or len(self.point) == 0:
            raise ValueError(f"x must have shape (d,) with d ≥ 1, got {tuple(self.point.shape)}")
        numbers = host(self.point) if _is_real(self.point) else np.array([np.nan])
        if not np.isfinite(numbers).all():
            raise ValueError(f"x must hold finite real numbers, got {self.point!r}")
        self.dimension = len(self.point)
        self.library = array_namespace(self.point)
        floating = self.library.isdtype(self.point.dtype, "real floating")
        self.dtype = self.point.dtype if floating else self.library.float64
        self.start = self.library.astype(self.point, self.library.float64)
        matrix = host(shape)
        if matrix.ndim == 0:
            self.matrix = positive("shape", float(matrix)) * np.eye(self.dimension)
        elif matrix.shape == (self.dimension, self.dimension) and np.isfinite(matrix).all():
            self.matrix = matrix
        else:
            raise ValueError(
                f"shape must be a positive number or a finite matrix {(self.dimension,) * 2}, got "
                f"shape {matrix.shape}"
            )
        self.is_scalar = matrix.ndim == 0
        self.norm = float(np.linalg.norm(self.matrix, 2))

    def offsets(self, u_Nd: Array) -> Array:
        """Give ``Z u`` for every row."""
        if self.is_scalar:
            return u_Nd * self.norm
        return u_Nd @ like(self.matrix.T, u_Nd)

    def gradient(self, value: np.ndarray) -> np.ndarray:
        """Give ``Z⁻ᵀ value``, nan for a singular ``Z``."""
        try:
            return np.linalg.solve(self.matrix.T, value)
        except np.linalg.LinAlgError:
            return np.full_like(value, np.nan)

    def hessian(self, matrix: np.ndarray) -> np.ndarray:
        """Give ``Z⁻ᵀ matrix Z⁻¹``, nan for a singular ``Z``."""
        half = np.stack([self.gradient(column) for column in matrix.T], axis=1)
        result = np.stack([self.gradient(row) for row in half], axis=0)
        return (result + result.T) / 2


def _is_real(values: Array) -> bool:
    xp = array_namespace(values)
    return xp.isdtype(values.dtype, ("real floating", "integral", "bool"))


def _values(fun: Function, place: Place, offset_bd: Array, vectorized: bool) -> Array:
    """Evaluate at ``x + offset``; float64 ``(b,)`` in the library of ``x``."""
    xp = place.library
    point_bd = xp.astype(place.start + offset_bd, place.dtype, copy=False)
    if not vectorized:
        return vector_like(np.array([_number(fun(point)) for point in point_bd]), offset_bd)
    value_b = fun(point_bd)
    if not (isinstance(value_b, np.ndarray) or is_torch_array(value_b)):
        value_b = np.asarray(value_b)
    if not _is_real(value_b):
        raise TypeError(f"fun must return real numbers, got {value_b.dtype}")
    if tuple(value_b.shape) != (len(point_bd),):
        raise ValueError(
            f"fun must return shape {(len(point_bd),)} for points of shape "
            f"{tuple(point_bd.shape)}, got {tuple(value_b.shape)}"
        )
    return vector_like(value_b, offset_bd)


def _number(value: Any) -> float:
    array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"fun must return a real number, got {value!r}")
    if array.size != 1:
        raise ValueError(f"fun must return one number, got an array of shape {array.shape}")
    return float(array.reshape(()))


class Sampler:
    """Pairs around a place, with directions of one seed."""

    def __init__(
        self,
        fun: Function,
        place: Place,
        directions: str,
        rng: int | np.random.Generator | None,
        vectorized: bool,
    ) -> None:
        self.kind = one_of("directions", directions, KINDS)
        self.block = place.dimension if directions in ("orthogonal", "coordinate") else 1
        self.seed = rng if isinstance(rng, int) else int(np.random.default_rng(rng).integers(2**63))
        self.fun, self.place, self.vectorized = fun, place, vectorized
        self.nfev = self.dropped = self.stream = 0

    def pairs(self, radius: float, count: int) -> Pairs:
        """Draw and evaluate `count` pairs; those with finite values."""
        place = self.place
        where = str(device(place.start)) if is_torch_array(place.start) else None
        u_Nd = draw_pair_directions(
            self.kind, count, place.dimension, self.seed, "estimators", self.stream, device=where
        )
        self.stream += 1
        plus, minus = [], []
        for rows in chunks(count, 2 * place.dimension):
            offset_nd = radius * place.offsets(u_Nd[rows, :])
            offset_bd = place.library.concat([offset_nd, -offset_nd], axis=0)
            value_b = _values(self.fun, place, offset_bd, self.vectorized)
            plus.append(value_b[: len(offset_nd)])
            minus.append(value_b[len(offset_nd) :])
        self.nfev += 2 * count
        concat = place.library.concat
        pairs = make_pairs(u_Nd, concat(plus), concat(minus), radius, block=self.block)
        self.dropped += pairs.dropped
        if pairs.count == 0:
            raise ValueError(f"none of {count} pairs has two finite values")
        return pairs

    def repeats(self, count: int) -> np.ndarray:
        """Evaluate `count` times at the place itself."""
        if count == 0:
            return np.zeros(0)
        repeats = Repeats(self.fun, self.place, count, self.vectorized)
        values = repeats(np.zeros((1, self.place.dimension)))[0]
        self.nfev += count
        self.dropped += int(np.count_nonzero(~np.isfinite(values)))
        return values


class Repeats:
    """Repeated values at given offsets from a place."""

    def __init__(self, fun: Function, place: Place, count: int, vectorized: bool) -> None:
        self.fun, self.place, self.count, self.vectorized = fun, place, count, vectorized
        self.nfev = 0

    def __call__(self, offset_md: np.ndarray) -> np.ndarray:
        """Give values ``(m, n)`` on the host."""
        total = len(offset_md) * self.count
        parts = []
        for rows in chunks(total, self.place.dimension):
            row_b = np.arange(rows.start, rows.stop) // self.count
            offset_bd = like(offset_md[row_b], self.place.start)
            parts.append(host(_values(self.fun, self.place, offset_bd, self.vectorized)))
        self.nfev += total
        return np.concatenate(parts).reshape(len(offset_md), self.count)
