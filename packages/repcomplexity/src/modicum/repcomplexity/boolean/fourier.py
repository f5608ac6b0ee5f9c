"""The Walsh–Hadamard transform, exact on integers, and what follows from it by degree.

The spectrum of a Boolean function f is that of ``g = 1 − 2f``, which is −1 where f is true:
``ĝ(S) = E_x[g(x) Π_{i∈S} (−1)^{x_i}]``. Position S of a spectrum is the set of the inputs whose
bits are set in S; its degree is their number. Transforms run on NumPy arrays and on torch tensors,
on the device where they are.

Shapes: m inputs, N = 2**m positions, K = m + 1 degrees.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modicum.core.device import numpy_generator, resolve_device
from modicum.repcomplexity.bits import Array, popcount
from modicum.repcomplexity.boolean.sampling import (
    BlackBox,
    Estimate,
    evaluate,
    proportion,
    uniform_bits,
)
from modicum.repcomplexity.boolean.truth_table import TruthTable

if TYPE_CHECKING:
    import torch

__all__ = [
    "Spectrum",
    "fvu_by_degree",
    "sampled_coefficient",
    "spectrum",
    "walsh_hadamard",
]

# The low bits are transformed in rows of this many numbers, blocks of which stay in the cache.
_ROW = 1 << 14
_CACHE = 1 << 18
# Squares are added up in blocks of this many numbers.
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Spectrum:
    """The exact spectrum of ``g = 1 − 2f``.

    Attributes
    ----------
    n_inputs
        Number m of inputs.
    sums
        ``2**m ĝ(S)``, int32 ``(N,)``, exact; an array, or a tensor on the device that computed it.
    squares
        ``Σ_{|S|=k} (2**m ĝ(S))²`` for k = 0 … m, exact; together ``4**m`` (Parseval).
    """

    n_inputs: int
    sums: Array
    squares: tuple[int, ...]

    @property
    def coefficients(self) -> Array:
        """The coefficients ``ĝ(S)``, float64 ``(N,)``, exact."""
        if hasattr(self.sums, "detach"):
            return self.sums.double() / 2**self.n_inputs
        return self.sums / float(2**self.n_inputs)

    @property
    def weights(self) -> np.ndarray:
        """The weight ``W^{=k} = Σ_{|S|=k} ĝ(S)²`` of each degree, float64 ``(K,)``."""
        return np.array([square / 4**self.n_inputs for square in self.squares])

    @property
    def degree(self) -> int:
        """The degree of g as a real polynomial; 0 for a constant."""
        return max(k for k, square in enumerate(self.squares) if square)

    @property
    def total_influence(self) -> float:
        """The total influence ``Σ_S |S| ĝ(S)²``."""
        return sum(k * square for k, square in enumerate(self.squares)) / 4**self.n_inputs

    def tail(self, k: int) -> float:
        """Return ``W^{>k}``, the least mean squared error of a polynomial of degree k for g.

        Raises
        ------
        ValueError
            If k is negative.
        """
        if k < 0:
            raise ValueError(f"k must be at least 0, not {k}")
        return sum(self.squares[k + 1 :]) / 4**self.n_inputs

    def noise_sensitivity(self, delta: float) -> float:
        """Return how often f changes when every bit is flipped with probability `delta`.

        Raises
        ------
        ValueError
            If `delta` is no probability.
        """
        if not 0 <= delta <= 1:
            raise ValueError(f"delta must be in [0, 1], not {delta!r}")
        kept = (1 - 2 * delta) ** np.arange(self.n_inputs + 1)
        return float(0.5 * (self.weights * (1 - kept)).sum())


def spectrum(table: TruthTable, *, device: str | torch.device = "cpu") -> Spectrum:
    """Compute the spectrum of a truth table, exactly.

    Parameters
    ----------
    table
        The function, of at most 30 inputs: sums of ``2**30`` signs fit an int32.
    device
        ``"cpu"`` computes in NumPy; any other device, and ``"auto"`` where there is a GPU, in
        torch. It needs about ``3 · 4 · 2**m`` bytes there.

    Raises
    ------
    ValueError
        If the device is not here.
    ArithmeticError
        If Parseval's identity fails, which means broken hardware or libraries.
    """
    name = resolve_device(device)
    if name == "cpu":
        signs: Any = 1 - 2 * table.values.astype(np.int32)
    else:
        signs = 1 - 2 * table.to_torch(name).int()
    sums = walsh_hadamard(signs)
    squares = tuple(int(square) for square in _squares_by_degree(sums, table.n_inputs))
    if sum(squares) != 4**table.n_inputs:
        raise ArithmeticError(
            f"the squares of the spectrum add up to {sum(squares)}, not 4**{table.n_inputs}"
        )
    return Spectrum(table.n_inputs, sums, squares)


def walsh_hadamard(values: npt.ArrayLike | torch.Tensor) -> Array:
    """Return ``Σ_x values[x] Π_{i∈S} (−1)^{x_i}`` for every S, not normalised.

    Applied twice it multiplies by N.

    Parameters
    ----------
    values
        ``(N,)`` with N a power of two: integers or booleans, transformed exactly in int32, or in
        int64 where sums could be too large for it; or floats, transformed in their dtype. A tensor
        stays on its device.

    Returns
    -------
    array or tensor
        ``(N,)``.

    Raises
    ------
    ValueError
        If the length is no power of two, or sums of the integers could exceed an int64.
    """
    if hasattr(values, "detach"):
        return _transform_tensor(values)
    array = np.asarray(values)
    _check_length(array.shape)
    if not np.issubdtype(array.dtype, np.floating):
        wide = _needs_64_bits(array)
        return _transform_array(array.astype(np.int64 if wide else np.int32))
    return _transform_array(array.copy())


def fvu_by_degree(values: npt.ArrayLike | torch.Tensor) -> np.ndarray:
    """Return the fraction of variance that no polynomial of degree k explains, for every k.

    ``Σ_{|S|>k} q̂(S)² / Σ_{|S|>0} q̂(S)²`` under uniform inputs: the least squares error of the best
    polynomial of degree k in the input bits over the variance of the target.

    Parameters
    ----------
    values
        A real-valued target ``(N,)`` in the order of the codes; integers are treated exactly.

    Returns
    -------
    ndarray
        float64 ``(K,)``: 1 at k = 0, falling to 0 at k = m. All 0 for a constant target, which
        degree 0 fits.

    Raises
    ------
    ValueError
        If the length is no power of two, or a value is not finite.
    """
    target: Any = values if hasattr(values, "detach") else np.asarray(values)
    _check_length(tuple(target.shape))
    largest = _largest(target)
    if not math.isfinite(largest):
        raise ValueError("values must be finite")
    exact = not _is_floating(target) and largest * target.shape[0] < 2**31
    if not exact:
        target = target.double() if hasattr(target, "detach") else target.astype(np.float64)
        # Squares of large numbers stay finite, and a common factor does not matter.
        target = target / largest if largest > 0 else target
    sums = walsh_hadamard(target)
    squares = _squares_by_degree(sums, target.shape[0].bit_length() - 1)
    beyond = [sum(squares[k + 1 :]) for k in range(len(squares))]
    # Rounding leaves about this much of the squared mean in the other coefficients.
    noise = 0.0 if exact else 1e-24 * float(squares[0]) * len(squares)
    if beyond[0] <= noise:
        return np.zeros(len(squares))
    return np.array([float(rest / beyond[0]) for rest in beyond])


def sampled_coefficient(
    function: BlackBox,
    n_inputs: int,
    subset: Iterable[int],
    *,
    n_samples: int = 100_000,
    level: float = 0.95,
    interval: str = "hoeffding",
    seed: int = 0,
) -> Estimate:
    """Estimate ``ĝ(S)`` of a black box from uniform inputs.

    Parameters
    ----------
    function
        Maps boolean bits ``(B, m)`` to values ``(B,)``.
    n_inputs
        Number m of inputs; there is no limit.
    subset
        The inputs in S.
    n_samples
        Number of calls.
    level, interval
        As for `proportion`; Hoeffding's half-width is ``sqrt(2 ln(2 / (1 - level)) / n_samples)``.
    seed
        Seed of the inputs.

    Raises
    ------
    ValueError
        If an input of the subset does not exist, or an argument is out of range.
    """
    chosen = sorted(set(subset))
    if chosen and not 0 <= chosen[0] <= chosen[-1] < n_inputs:
        raise ValueError(f"subset must hold inputs in [0, {n_inputs}), not {chosen}")
    odd = 0
    for bits in uniform_bits(n_inputs, n_samples, numpy_generator(seed, "coefficient")):
        sign = np.logical_xor.reduce(bits[:, chosen], axis=1)
        odd += int((sign ^ evaluate(function, bits)).sum())
    return proportion(odd, n_samples, level=level, interval=interval).rescaled(-2.0, 1.0)


def _check_length(shape: tuple[int, ...]) -> None:
    if len(shape) != 1 or shape[0] < 1 or shape[0] & (shape[0] - 1):
        raise ValueError(f"values must be one-dimensional, a power of two of them, not {shape}")


def _is_floating(values: Array) -> bool:
    if hasattr(values, "detach"):
        return bool(values.is_floating_point())
    return bool(np.issubdtype(values.dtype, np.floating))


def _largest(values: Array) -> float:
    """Return the greatest absolute value, without the overflow of abs of the least integer."""
    return max(float(values.max()), -float(values.min()))


def _needs_64_bits(values: Array) -> bool:
    bound = _largest(values) * values.shape[0]
    if bound >= 2**63:
        raise ValueError(f"sums up to {bound:.3g} do not fit an int64; pass floats")
    return bound >= 2**31


def _transform_array(work: np.ndarray) -> np.ndarray:
    """Transform in place: low bits row by row in the cache, then one pass per high bit."""
    size = work.size
    row = min(size, _ROW)
    rows = work.reshape(-1, row)
    step = max(1, _CACHE // row)
    for start in range(0, rows.shape[0], step):
        _transform_rows(rows[start : start + step])
    half = row
    while half < size:
        pairs = work.reshape(-1, 2, half)
        low, high = pairs[:, 0], pairs[:, 1]
        difference = low - high
        low += high
        high[...] = difference
        half *= 2
    return work


def _transform_rows(rows: np.ndarray) -> None:
    """Transform every row in place, in passes of one geometry.

    A pass takes the lowest bit of the position and makes it the highest, so that both halves are
    written as long runs; after a pass per bit the order is the natural one again.
    """
    source, target = rows, np.empty_like(rows)
    half = rows.shape[1] // 2
    for _ in range(rows.shape[1].bit_length() - 1):
        even, odd = source[:, 0::2], source[:, 1::2]
        np.add(even, odd, out=target[:, :half])
        np.subtract(even, odd, out=target[:, half:])
        source, target = target, source
    if source is not rows:
        rows[...] = source


def _transform_tensor(values: Any) -> Any:
    import torch

    _check_length(tuple(values.shape))
    if not values.is_floating_point():
        integers = values.int() if values.dtype == torch.bool else values
        values = integers.to(torch.int64 if _needs_64_bits(integers) else torch.int32)
    work, half = values, 1
    while half < values.shape[0]:
        pairs = work.reshape(-1, 2, half)
        low, high = pairs[:, 0], pairs[:, 1]
        work = torch.stack((low + high, low - high), dim=1).reshape(-1)
        half *= 2
    return work.clone() if work is values else work


def _squares_by_degree(sums: Array, n_inputs: int) -> list[Any]:
    """Add up squares per degree, ``(K,)``: exact integers for integers, else floats."""
    exact = not _is_floating(sums)
    if hasattr(sums, "detach"):
        import torch

        dtype = torch.int64 if exact else torch.float64
        total = torch.zeros(n_inputs + 1, dtype=dtype, device=sums.device)
        for start in range(0, sums.shape[0], _BLOCK):
            block = sums[start : start + _BLOCK].to(dtype)
            degrees = popcount(torch.arange(start, start + block.shape[0], device=sums.device))
            total.index_add_(0, degrees, block * block)
        return total.tolist()
    squares = np.zeros(n_inputs + 1, dtype=np.int64 if exact else np.float64)
    for start in range(0, sums.size, _BLOCK):
        block = sums[start : start + _BLOCK].astype(squares.dtype)
        np.add.at(squares, popcount(np.arange(start, start + block.size)), block * block)
    return squares.tolist()
