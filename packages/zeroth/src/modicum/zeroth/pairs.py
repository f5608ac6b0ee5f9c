"""From the values of antithetic pairs to a gradient, its bias, a Hessian and the noise.

A pair is two noisy values at ``center + radius * shape @ u`` and ``center - radius * shape @ u``.
Its difference (the odd part) knows the gradient, its mean (the even part) the curvature, and the
two are uncorrelated. Everything here is in the coordinates of ``u``: a gradient is
``shapeᵀ ∇f``, a Hessian ``shapeᵀ ∇²f shape``. Directions have second moment ``E u uᵀ = I/d``
(`modicum.zeroth.directions.draw_pair_directions`).

``noise`` is always the standard deviation σ of one value of two independent ones: a difference has
variance ``2σ²``, an even part ``σ²/2``. Arrays may be NumPy or torch, on any device; what comes
back is small and lies in NumPy float64. Knows nothing of functions, rounds and steps.

Source: Yu et al., "Stochastic Zeroth-Order Optimization under Strong Convexity and Lipschitz
Hessian: Minimax Sample Complexity", arXiv 2406.19617, algorithm 1 for the odd part; the regression
of the even parts is ours.

Legend: ``N`` pairs, ``d`` dimension, ``P`` unknowns of a regression, ``B`` blocks of pairs,
``G`` groups of blocks, ``k`` rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

__all__ = [
    "BiasEstimate",
    "GradientMean",
    "HessianFit",
    "Pairs",
    "bias_from_radii",
    "difference_noise",
    "fit_even",
    "make_pairs",
    "noise_trace",
    "odd_gradient",
    "richardson",
    "shrink",
]

Array = Any
"""A NumPy array or a torch tensor."""

# Entries of the matrices made at once: the memory a statistic needs beside its input is a few times
# this, and pieces of it stay in a cache while they are used.
_CHUNK_ENTRIES = 1 << 19
_CHUNK_ROWS_MIN = 256
# Smallest pivot, relative to a unit diagonal, of a regression that counts as determined.
_PIVOT_MIN = 1e-11
# Huber's constant (95 % efficiency at the normal) and the factor from MAD to standard deviation.
_HUBER, _MAD_TO_STD = 1.345, 1.4826
_ROBUST_STEPS = 50
_ROBUST_TOLERANCE = 1e-8
_MEDIAN_STEPS = 200
# Share of an unknown in a direction that nothing determines, above which it counts as unknown.
_NULL_SHARE = 1e-6
# Fewer degrees of freedom than this are rounding errors.
_DOF_MIN = 1e-6


@dataclass(frozen=True)
class Pairs:
    """Pairs whose two values are finite.

    Parameters
    ----------
    directions
        ``(N, d)``.
    odd, even
        Difference ``y₊ - y₋`` and mean ``(y₊ + y₋)/2``, float64 ``(N,)``.
    radius
        Float64 ``(N,)``.
    noise
        Standard deviation ``(N,)`` of one value, ``√((σ₊² + σ₋²)/2)``; None where nobody told.
    block
        Number of consecutive pairs whose directions belong together; 1 once a pair was dropped.
    dropped
        Number of pairs with a value that is not finite.
    """

    directions: Array
    odd: Array
    even: Array
    radius: Array
    noise: Array | None
    block: int
    dropped: int


@dataclass(frozen=True)
class GradientMean:
    """An estimate of ``shapeᵀ ∇f``.

    Parameters
    ----------
    mean
        ``(d,)``.
    cov_trace
        Trace of the covariance of `mean`, from the scatter of the pairs; nan if there are too few.
    count
        Number of pairs.
    """

    mean: np.ndarray
    cov_trace: float
    count: int


@dataclass(frozen=True)
class BiasEstimate:
    """What the gradients at two radii say about the third derivatives.

    Parameters
    ----------
    slope
        Change of the estimated gradient per squared radius, ``(d,)``.
    cov_trace
        Trace of the covariance of `slope`; ``E‖slope‖²`` is its true square norm plus this.
    """

    slope: np.ndarray
    cov_trace: float


@dataclass(frozen=True)
class HessianFit:
    """A regression of the even parts: ``even ≈ constant + radius²/2 · uᵀ matrix u``.

    Parameters
    ----------
    matrix
        Symmetric ``(d, d)``; not floored.
    constant, constant_std
        Value at the center and its posterior standard deviation.
    entry_std
        Posterior standard deviations ``(d, d)`` of the entries of `matrix`; inf where neither the
        pairs nor a prior know an entry.
    std
        One number for them: the root mean square over the off-diagonal entries (``"full"``, of the
        ``k`` by ``k`` block for ``"lowrank:k"``), else over the diagonal ones.
    spectral_factor
        ``spectral_factor * std`` is the spectral norm that noise alone gives `matrix`, about:
        ``2√d`` for a full symmetric matrix, ``√(2 log 2d)`` for a diagonal, 1 for one number.
    noise
        Standard deviation of one value, from the residuals; nan without degrees of freedom.
    dof
        Pairs less the effective number of unknowns.
    kurtosis
        Of the residuals; 3 for normal noise, nan where all are 0.
    count
        Number of pairs.
    """

    matrix: np.ndarray
    constant: float
    constant_std: float
    entry_std: np.ndarray
    std: float
    spectral_factor: float
    noise: float
    dof: float
    kurtosis: float
    count: int


# Pairs ------------------------------------------------------------------------------------------


def make_pairs(
    u_Nd: Array,
    plus_N: Array,
    minus_N: Array,
    radius_N: Array | float,
    *,
    sigma_plus_N: Array | None = None,
    sigma_minus_N: Array | None = None,
    block: int = 1,
) -> Pairs:
    """Put values together, whole pairs only.

    Parameters
    ----------
    u_Nd
        Directions ``(N, d)``; their array library and device are those of the result.
    plus_N, minus_N
        Values ``(N,)``, any real dtype; a pair with one that is not finite is dropped.
    radius_N
        Radii ``(N,)`` or one number.
    sigma_plus_N, sigma_minus_N
        Standard deviations ``(N,)`` of the values, both or neither.
    block
        See `Pairs`.
    """
    xp = array_namespace(u_Nd)
    plus_N, minus_N = _vector(plus_N, u_Nd), _vector(minus_N, u_Nd)
    odd_N = plus_N - minus_N
    pairs = Pairs(
        directions=u_Nd,
        odd=odd_N,
        even=(plus_N + minus_N) / 2,
        radius=_vector(radius_N, u_Nd),
        noise=None,
        block=block,
        dropped=0,
    )
    if sigma_plus_N is not None and sigma_minus_N is not None:
        square_N = _vector(sigma_plus_N, u_Nd) ** 2 + _vector(sigma_minus_N, u_Nd) ** 2
        pairs = replace(pairs, noise=xp.sqrt(square_N / 2))
    keep_N = xp.isfinite(pairs.odd)
    dropped = len(keep_N) - int(xp.count_nonzero(keep_N))
    if not dropped:
        return pairs
    return Pairs(
        directions=u_Nd[keep_N, :],
        odd=pairs.odd[keep_N],
        even=pairs.even[keep_N],
        radius=pairs.radius[keep_N],
        noise=None if pairs.noise is None else pairs.noise[keep_N],
        block=1,
        dropped=dropped,
    )


# Odd parts --------------------------------------------------------------------------------------


def odd_gradient(
    u_Nd: Array,
    odd_N: Array,
    radius_N: Array | float,
    weights_N: Array | None = None,
    *,
    block: int = 1,
    estimator: str = "mean",
    groups: int = 16,
) -> GradientMean:
    """Estimate ``shapeᵀ ∇f`` from differences.

    One pair gives ``g = d (y₊ - y₋) u / (2 radius)``.

    Parameters
    ----------
    u_Nd, odd_N, radius_N
        Directions ``(N, d)``, differences ``y₊ - y₋`` ``(N,)``, radii ``(N,)`` or one number.
    weights_N
        Relative weights ``(N,)`` of the pairs; None for ``radius²``, the best ones where all values
        have the same noise. For noise that differs they are ``radius²/noise²``.
    block
        Number of consecutive pairs whose directions belong together (``d`` for orthogonal and
        coordinate directions): the scatter is taken between blocks.
    estimator
        ``"mean"``: the weighted mean (algorithm 1 of the paper), unbiased on quadratics at any
        ``N``. ``"least-squares"``: regression of the differences on the directions; its error has
        no part from the gradient itself; needs ``N ≥ d``. ``"median-of-means"``: geometric median
        of the means of `groups` groups, for noise with heavy tails.
    groups
        Number of groups for ``"median-of-means"``; at most the number of blocks.

    Raises
    ------
    ValueError
        If there are no pairs, too few for least squares, or the estimator is unknown.
    """
    count = len(odd_N)
    if count == 0:
        raise ValueError("there are no pairs")
    xp = array_namespace(u_Nd)
    radius_N = _vector(radius_N, u_Nd)
    weights_N = radius_N**2 if weights_N is None else _vector(weights_N, u_Nd)
    weights_N = weights_N / xp.sum(weights_N)
    odd_N = _vector(odd_N, u_Nd)
    if estimator == "mean":
        mean, cov_trace = _mean(u_Nd, odd_N, radius_N, weights_N, block)
    elif estimator == "least-squares":
        mean, cov_trace = _least_squares(u_Nd, odd_N, radius_N, weights_N)
    elif estimator == "median-of-means":
        groups = max(1, min(groups, -(-count // block)))
        mean, cov_trace = _median_of_means(u_Nd, odd_N, radius_N, weights_N, block, groups)
    else:
        raise ValueError(
            f'estimator must be "mean", "least-squares" or "median-of-means", got {estimator!r}'
        )
    return GradientMean(mean, cov_trace, count)


def _mean(
    u_Nd: Array, odd_N: Array, radius_N: Array, weights_N: Array, block: int
) -> tuple[np.ndarray, float]:
    xp = array_namespace(u_Nd)
    dimension = u_Nd.shape[1]
    factor_N = weights_N * odd_N * dimension / (2 * radius_N)
    mean_d = factor_N @ u_Nd
    scatter, blocks = 0.0, 0
    for rows in _chunks(len(odd_N), dimension, multiple=block):
        # A block's weighted sum, less what it would be at the mean.
        part_nd = factor_N[rows, None] * u_Nd[rows, :] - weights_N[rows, None] * mean_d[None, :]
        part_Bd = _block_sums(part_nd, block)
        scatter += float(xp.sum(part_Bd * part_Bd))
        blocks += len(part_Bd)
    return _host(mean_d), scatter * blocks / (blocks - 1) if blocks > 1 else np.nan


def _block_sums(rows_Nd: Array, block: int) -> Array:
    """Sum every `block` rows; the last block may be short."""
    if block == 1:
        return rows_Nd
    xp = array_namespace(rows_Nd)
    return xp.sum(xp.reshape(_pad(rows_Nd, block), (-1, block, rows_Nd.shape[1])), axis=1)


def _cycle_sums(rows_Bd: Array, groups: int) -> Array:
    """Sum rows ``b`` of equal ``b mod groups``."""
    xp = array_namespace(rows_Bd)
    return xp.sum(xp.reshape(_pad(rows_Bd, groups), (-1, groups, rows_Bd.shape[1])), axis=0)


def _pad(rows_Nd: Array, multiple: int) -> Array:
    """Append rows of zeros until there is a multiple of rows."""
    missing = -rows_Nd.shape[0] % multiple
    if not missing:
        return rows_Nd
    xp = array_namespace(rows_Nd)
    zeros = xp.zeros((missing, rows_Nd.shape[1]), dtype=xp.float64, device=device(rows_Nd))
    return xp.concat([rows_Nd, zeros], axis=0)


def _least_squares(
    u_Nd: Array, odd_N: Array, radius_N: Array, weights_N: Array
) -> tuple[np.ndarray, float]:
    count, dimension = u_Nd.shape
    if count < dimension:
        raise ValueError(
            f"least squares needs at least {dimension} pairs in dimension {dimension}, got {count}"
        )
    mean_d, inverse_dd, residual_N = _regress_odd(u_Nd, odd_N / (2 * radius_N), weights_N)
    scaled_N = (weights_N * residual_N) ** 2
    middle_dd = _host((u_Nd * scaled_N[:, None]).T @ u_Nd)
    cov_trace = float(np.trace(inverse_dd @ middle_dd @ inverse_dd))
    dof = count - dimension
    return mean_d, cov_trace * count / dof if dof > 0 else np.nan


def _regress_odd(
    u_Nd: Array, slope_N: Array, weights_N: Array
) -> tuple[np.ndarray, np.ndarray, Array]:
    """Regress slopes on directions: coefficients, inverse of the normal matrix, residuals."""
    weighted_Nd = u_Nd * weights_N[:, None]
    inverse_dd = np.linalg.pinv(_host(weighted_Nd.T @ u_Nd), hermitian=True)
    mean_d = inverse_dd @ _host(slope_N @ weighted_Nd)
    return mean_d, inverse_dd, slope_N - u_Nd @ _like(mean_d, u_Nd)


def _median_of_means(
    u_Nd: Array, odd_N: Array, radius_N: Array, weights_N: Array, block: int, groups: int
) -> tuple[np.ndarray, float]:
    xp = array_namespace(u_Nd)
    dimension = u_Nd.shape[1]
    factor_N = weights_N * odd_N * dimension / (2 * radius_N)
    sums_Gd = np.zeros((groups, dimension))
    weight_G = np.zeros(groups)
    # Block b belongs to group b mod G, so that radii that come one after another are in each.
    for rows in _chunks(len(odd_N), dimension, multiple=block * groups):
        part_Bd = _block_sums(factor_N[rows, None] * u_Nd[rows, :], block)
        weight_B1 = _block_sums(xp.reshape(weights_N[rows], (-1, 1)), block)
        sums_Gd += _host(_cycle_sums(part_Bd, groups))
        weight_G += _host(_cycle_sums(weight_B1, groups))[:, 0]
    means_Gd = sums_Gd / weight_G[:, None]
    center_d = _geometric_median(means_Gd)
    if groups == 1:
        return center_d, np.nan
    # The median of a chi-square variable is about d (1 - 2/(9d))³; π/2 is what a median costs
    # against a mean in one dimension, and more than it costs in others.
    square = np.median(np.sum((means_Gd - center_d) ** 2, axis=1))
    square /= (1 - 2 / (9 * dimension)) ** 3
    return center_d, float(np.pi / 2 * square / groups)


def _geometric_median(points_Gd: np.ndarray) -> np.ndarray:
    """Minimise the sum of distances (Weiszfeld's iteration; a floor keeps distances positive)."""
    center_d = np.median(points_Gd, axis=0)
    floor = np.finfo(float).eps * max(1.0, float(np.abs(points_Gd).max()))
    for _ in range(_MEDIAN_STEPS):
        weight_G = 1 / np.maximum(np.linalg.norm(points_Gd - center_d, axis=1), floor)
        moved_d = weight_G @ points_Gd / weight_G.sum()
        done = np.linalg.norm(moved_d - center_d) <= floor
        center_d = moved_d
        if done:
            break
    return center_d


def noise_trace(
    dimension: int,
    radius_N: Array | float,
    noise: Array | float,
    weights_N: Array | None = None,
) -> float:
    """Give the part of ``Tr Cov`` of a mean gradient that is due to noise alone.

    Parameters
    ----------
    dimension
        ``d``.
    radius_N
        Radii ``(N,)``.
    noise
        Standard deviation of one value: a number, or ``(N,)``.
    weights_N
        Those of `odd_gradient`; None for ``radius²``, for which one noise gives ``d²σ²/(2 Σ r²)``.
    """
    radius_N = np.atleast_1d(_host(radius_N))
    weights_N = radius_N**2 if weights_N is None else _host(weights_N)
    square = np.sum((weights_N * _host(noise) / radius_N) ** 2) / np.sum(weights_N) ** 2
    return float(dimension**2 / 2 * square)


def shrink(gradient_d: np.ndarray, noise_trace: float) -> np.ndarray:
    """Shrink a gradient towards 0 (positive part of James and Stein).

    Parameters
    ----------
    gradient_d
        Estimate ``(d,)`` whose noise has covariance ``noise_trace/d · I``.
    noise_trace
        See `noise_trace`.
    """
    dimension = len(gradient_d)
    square = float(gradient_d @ gradient_d)
    if square == 0:
        return gradient_d
    return gradient_d * max(0.0, 1 - max(dimension - 2, 0) / dimension * noise_trace / square)


def bias_from_radii(
    near: GradientMean,
    far: GradientMean,
    radius_near: float,
    radius_far: float,
    trace_near: float | None = None,
    trace_far: float | None = None,
) -> BiasEstimate:
    """Estimate how the gradient changes with the squared radius.

    Parameters
    ----------
    near, far
        Estimates at two radii, independent of each other.
    radius_near, radius_far
        The radii.
    trace_near, trace_far
        Traces of their covariances; None for those in `near` and `far`.
    """
    gap = _square_gap(radius_near, radius_far)
    trace = (near.cov_trace if trace_near is None else trace_near) + (
        far.cov_trace if trace_far is None else trace_far
    )
    return BiasEstimate((far.mean - near.mean) / gap, trace / gap**2)


def richardson(
    near: GradientMean, far: GradientMean, radius_near: float, radius_far: float
) -> GradientMean:
    """Combine the gradients at two radii so that the bias of order radius² cancels.

    What remains is of order radius⁴ where the fourth derivatives are Lipschitz; the variance is
    larger than that of either.
    """
    gap = _square_gap(radius_near, radius_far)
    weight_near, weight_far = radius_far**2 / gap, -(radius_near**2) / gap
    return GradientMean(
        weight_near * near.mean + weight_far * far.mean,
        weight_near**2 * near.cov_trace + weight_far**2 * far.cov_trace,
        near.count + far.count,
    )


def _square_gap(radius_near: float, radius_far: float) -> float:
    if radius_near == radius_far:
        raise ValueError(f"the two radii must differ, both are {radius_near}")
    return radius_far**2 - radius_near**2


def difference_noise(u_Nd: Array, odd_N: Array, radius_N: Array | float) -> tuple[float, int]:
    """Estimate the noise of one value from what differences leave over a linear function.

    This is the noise that enters a gradient also where the two values of a pair share part of
    theirs (common random numbers).

    Parameters
    ----------
    u_Nd, odd_N, radius_N
        As for `odd_gradient`.

    Returns
    -------
    noise : float
        ``std(y₊ - y₋)/√2``; nan for no more than ``d`` pairs.
    dof : int
        Its degrees of freedom, ``N - d``.
    """
    count, dimension = u_Nd.shape
    if count <= dimension:
        return np.nan, 0
    radius_N = _vector(radius_N, u_Nd)
    slope_N = _vector(odd_N, u_Nd) / (2 * radius_N)
    residual_N = _regress_odd(u_Nd, slope_N, radius_N**2)[2] * (2 * radius_N)
    return float((residual_N @ residual_N) / (2 * (count - dimension))) ** 0.5, count - dimension


# Even parts -------------------------------------------------------------------------------------


def fit_even(
    u_Nd: Array,
    even_N: Array,
    radius_N: Array | float,
    *,
    noise: Array | float,
    center: float | None = None,
    center_precision: float = 0.0,
    prior: np.ndarray | None = None,
    prior_precision: float = 0.0,
    hessian: str = "full",
    robust: bool = False,
) -> HessianFit:
    """Fit a constant and a symmetric matrix to even parts by weighted ridge least squares.

    The model is ``even = constant + radius²/2 · uᵀ matrix u`` plus noise of variance ``noise²/2``.
    Pairs at one radius with ``‖u‖ = 1`` tell the constant from the trace only by means of `center`
    or a prior; give them two radii.

    Parameters
    ----------
    u_Nd, even_N, radius_N
        Directions ``(N, d)``, means ``(y₊ + y₋)/2`` ``(N,)``, radii ``(N,)`` or one number.
    noise
        Standard deviation of one value: a positive number, or ``(N,)``.
    center, center_precision
        What is known of the value at the center, and the inverse of its variance.
    prior, prior_precision
        Symmetric matrix ``(d, d)`` towards which the fit is drawn (None for 0), with energy
        ``prior_precision/2 · ‖matrix - prior‖_F²``. Directions that neither the pairs nor a
        precision determine stay at `prior`.
    hessian
        ``"full"``: ``d(d+1)/2`` unknowns. ``"diag"``: a diagonal. ``"none"``: a multiple of I.
        ``"lowrank:k"``: a symmetric matrix on ``k`` directions and a multiple of I on the others;
        the directions are found with one half of the pairs, the numbers with the other.
    robust
        Minimise Huber's loss, for noise with heavy tails.

    Raises
    ------
    ValueError
        If there are no pairs, a noise is not positive, or `hessian` is unknown.
    """
    xp = array_namespace(u_Nd)
    count, dimension = u_Nd.shape
    if count == 0:
        raise ValueError("there are no pairs")
    noise_N = _vector(noise, u_Nd)
    if not bool(xp.all(noise_N > 0)):
        raise ValueError(f"noise must be positive, got {float(xp.min(noise_N))}")
    even_N = _vector(even_N, u_Nd)
    weights_N = 2 / noise_N**2
    if center is None:
        center = float((weights_N @ even_N) / xp.sum(weights_N))
    prior = np.zeros((dimension, dimension)) if prior is None else np.asarray(prior, dtype=float)
    data = _EvenData(u_Nd, even_N - center, _vector(radius_N, u_Nd) ** 2 / 2, weights_N)
    knowledge = _Knowledge(prior, prior_precision, center_precision)
    model: _Diagonal
    kind, _, rank = hessian.partition(":")
    if kind == "lowrank":
        model, data = _low_rank(data, knowledge, _rank(rank, dimension))
    elif hessian in _MODELS:
        model = _MODELS[hessian](dimension)
    else:
        raise ValueError(f'hessian must be "full", "diag", "none" or "lowrank:k", got {hessian!r}')
    return _fit(data, model, knowledge, center, robust)


@dataclass(frozen=True)
class _EvenData:
    directions: Array
    value: Array  # less the center
    half_square: Array  # radius²/2
    weights: Array  # inverse variances

    def part(self, rows: slice) -> _EvenData:
        return _EvenData(
            self.directions[rows, :],
            self.value[rows],
            self.half_square[rows],
            self.weights[rows],
        )

    def residual(self, constant: float, matrix: np.ndarray) -> Array:
        xp = array_namespace(self.directions)
        matrix_dd = _like(matrix, self.directions)
        parts = []
        for rows in _chunks(len(self.value), len(matrix)):
            u_nd = self.directions[rows, :]
            quadratic_n = xp.sum((u_nd @ matrix_dd) * u_nd, axis=1)
            parts.append(self.value[rows] - constant - self.half_square[rows] * quadratic_n)
        return xp.concat(parts)


@dataclass(frozen=True)
class _Knowledge:
    matrix: np.ndarray
    precision: float
    constant_precision: float


class _Diagonal:
    """Unknowns: the diagonal."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.size = dimension
        self.spectral_factor = max(2.0, (2 * np.log(2 * dimension)) ** 0.5)

    def features(self, u_dn: Array, half_n: Array, out_Pn: Array) -> None:
        """Write the derivatives of the model by the unknowns into ``(P, n)``."""
        out_Pn[...] = u_dn * u_dn * half_n

    def frobenius(self) -> np.ndarray:
        """Give the squared Frobenius norms ``(P,)`` of the unknowns' matrices."""
        return np.ones(self.size)

    def coefficients(self, matrix: np.ndarray) -> np.ndarray:
        """Project a matrix on those of the model."""
        return np.diag(matrix).copy()

    def matrix(self, coefficients_P: np.ndarray) -> np.ndarray:
        """Put the unknowns into a symmetric ``(d, d)``."""
        return np.diag(coefficients_P)

    def entry_std(self, covariance_PP: np.ndarray) -> np.ndarray:
        """Give the standard deviations ``(d, d)`` of the matrix's entries."""
        return np.diag(np.sqrt(np.diag(covariance_PP)))

    def typical_std(self, std_P: np.ndarray) -> float:
        """Give one number for the unknowns' standard deviations."""
        return _rms(std_P)


class _Isotropic(_Diagonal):
    """Unknown: the multiple of the identity."""

    def __init__(self, dimension: int) -> None:
        super().__init__(dimension)
        self.size = 1
        self.spectral_factor = 2.0

    def features(self, u_dn: Array, half_n: Array, out_Pn: Array) -> None:
        out_Pn[0, :] = array_namespace(u_dn).sum(u_dn * u_dn, axis=0) * half_n

    def frobenius(self) -> np.ndarray:
        return np.array([float(self.dimension)])

    def coefficients(self, matrix: np.ndarray) -> np.ndarray:
        return np.array([np.trace(matrix) / self.dimension])

    def matrix(self, coefficients_P: np.ndarray) -> np.ndarray:
        return coefficients_P[0] * np.eye(self.dimension)

    def entry_std(self, covariance_PP: np.ndarray) -> np.ndarray:
        return np.sqrt(covariance_PP[0, 0]) * np.eye(self.dimension)


class _Full(_Diagonal):
    """Unknowns: the upper triangle, row by row."""

    def __init__(self, dimension: int) -> None:
        super().__init__(dimension)
        self.upper = np.triu_indices(dimension)
        self.size = len(self.upper[0])
        self.off_diagonal = self.upper[0] != self.upper[1]
        self.spectral_factor = 2 * dimension**0.5

    def features(self, u_dn: Array, half_n: Array, out_Pn: Array) -> None:
        first = 0
        for row in range(self.dimension):
            width = self.dimension - row
            # An off-diagonal entry stands twice in uᵀAu.
            scaled_n = u_dn[row, :] * half_n
            out_Pn[first, :] = u_dn[row, :] * scaled_n
            out_Pn[first + 1 : first + width, :] = u_dn[row + 1 :, :] * (2 * scaled_n)
            first += width

    def frobenius(self) -> np.ndarray:
        return np.where(self.off_diagonal, 2.0, 1.0)

    def coefficients(self, matrix: np.ndarray) -> np.ndarray:
        return ((matrix + matrix.T) / 2)[self.upper]

    def matrix(self, coefficients_P: np.ndarray) -> np.ndarray:
        result = np.zeros((self.dimension, self.dimension))
        result[self.upper] = coefficients_P
        result.T[self.upper] = coefficients_P
        return result

    def entry_std(self, covariance_PP: np.ndarray) -> np.ndarray:
        return self.matrix(np.sqrt(np.diag(covariance_PP)))

    def typical_std(self, std_P: np.ndarray) -> float:
        return _rms(std_P[self.off_diagonal] if self.dimension > 1 else std_P)


class _LowRank(_Diagonal):
    """Unknowns: the upper triangle on `basis` ``(d, k)``, and the multiple of I beside it."""

    def __init__(self, basis_dk: np.ndarray) -> None:
        dimension, rank = basis_dk.shape
        super().__init__(dimension)
        self.basis = basis_dk
        self.block = _Full(rank)
        self.beside = rank < dimension
        self.size = self.block.size + self.beside
        self.spectral_factor = self.block.spectral_factor

    def features(self, u_dn: Array, half_n: Array, out_Pn: Array) -> None:
        xp = array_namespace(u_dn)
        within_kn = _like(self.basis.T.copy(), u_dn) @ u_dn
        self.block.features(within_kn, half_n, out_Pn)
        if self.beside:
            square_n = xp.sum(u_dn * u_dn, axis=0) - xp.sum(within_kn * within_kn, axis=0)
            out_Pn[self.size - 1, :] = square_n * half_n

    def frobenius(self) -> np.ndarray:
        beside = [float(self.dimension - self.block.dimension)] if self.beside else []
        return np.append(self.block.frobenius(), beside)

    def coefficients(self, matrix: np.ndarray) -> np.ndarray:
        within_kk = self.basis.T @ matrix @ self.basis
        rest = self.dimension - self.block.dimension
        beside = [(np.trace(matrix) - np.trace(within_kk)) / rest] if self.beside else []
        return np.append(self.block.coefficients(within_kk), beside)

    def matrix(self, coefficients_P: np.ndarray) -> np.ndarray:
        within_kk = self.block.matrix(coefficients_P[: self.block.size])
        beside = coefficients_P[-1] if self.beside else 0.0
        within_kk = within_kk - beside * np.eye(len(within_kk))
        result = self.basis @ within_kk @ self.basis.T + beside * np.eye(self.dimension)
        return (result + result.T) / 2

    def entry_std(self, covariance_PP: np.ndarray) -> np.ndarray:
        values_P, vectors_PP = np.linalg.eigh(covariance_PP)
        variance_dd = np.zeros((self.dimension, self.dimension))
        for value, vector_P in zip(values_P, vectors_PP.T, strict=True):
            variance_dd += max(value, 0.0) * self.matrix(vector_P) ** 2
        return np.sqrt(variance_dd)

    def typical_std(self, std_P: np.ndarray) -> float:
        return self.block.typical_std(std_P[: self.block.size])


_MODELS = {"full": _Full, "diag": _Diagonal, "none": _Isotropic}


def _rank(text: str, dimension: int) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= dimension:
        raise ValueError(
            f'k of hessian="lowrank:k" must be an integer from 1 to {dimension}, got {text!r}'
        )
    return int(text)


def _low_rank(data: _EvenData, knowledge: _Knowledge, rank: int) -> tuple[_LowRank, _EvenData]:
    """Choose directions with the pairs of even number and give back the others."""
    seen = data.part(slice(0, None, 2))
    xp = array_namespace(data.directions)
    dimension = data.directions.shape[1]
    base = _fit(seen, _Isotropic(dimension), knowledge, 0.0, False)
    # For u on the sphere E[(uᵀAu)(uuᵀ - I/d)] = 2/(d(d+2)) (A - tr(A)/d I); what the fit of a
    # multiple of I leaves over is therefore an unbiased view of the rest of A.
    residual_N = seen.residual(base.constant, base.matrix)
    pull_N = seen.weights * seen.half_square * residual_N
    moment_dd = _host((seen.directions * pull_N[:, None]).T @ seen.directions)
    moment_dd -= np.eye(dimension) * float(xp.sum(pull_N)) / dimension
    information = float(seen.weights @ seen.half_square**2) * 2 / (dimension * (dimension + 2))
    precision = knowledge.precision
    total_dd = moment_dd + precision * (knowledge.matrix - base.matrix)
    values_d, vectors_dd = np.linalg.eigh(total_dd / (information + precision))
    largest = np.argsort(-np.abs(values_d), kind="stable")[:rank]
    others = data.part(slice(1, None, 2)) if len(data.value) > 1 else data
    return _LowRank(vectors_dd[:, largest]), others


def _fit(
    data: _EvenData, model: _Diagonal, knowledge: _Knowledge, center: float, robust: bool
) -> HessianFit:
    gram_PP, pull_P = _normal_equations(data, model)
    start_P = np.append(0.0, model.coefficients(knowledge.matrix))
    precision_P = np.append(knowledge.constant_precision, knowledge.precision * model.frobenius())
    covariance_PP, unknown_P = _invert(gram_PP + np.diag(precision_P))
    count = len(data.value)
    dof = count - float(np.sum(gram_PP * covariance_PP))
    if robust:
        solution_P, square = _huber(data, model, start_P, precision_P, covariance_PP)
    else:
        solution_P = start_P + covariance_PP @ (pull_P - gram_PP @ start_P)
    matrix = model.matrix(solution_P[1:])
    # Squares of residuals in units of what the noise says.
    square_N = _host(data.residual(float(solution_P[0]), matrix) ** 2 * data.weights)
    if not robust:
        square = float(np.mean(square_N))
    told = float(np.mean(_host(2 / data.weights)))
    std_P = np.where(unknown_P, np.inf, np.sqrt(np.diag(covariance_PP)))
    entry_std = model.entry_std(covariance_PP[1:, 1:])
    entry_std[model.matrix(unknown_P[1:].astype(float)) != 0] = np.inf
    return HessianFit(
        matrix=matrix,
        constant=center + float(solution_P[0]),
        constant_std=float(std_P[0]),
        entry_std=entry_std,
        std=model.typical_std(std_P[1:]),
        spectral_factor=model.spectral_factor,
        noise=(told * square * count / dof) ** 0.5 if dof > _DOF_MIN else np.nan,
        dof=dof,
        kurtosis=float(np.mean(square_N**2) / np.mean(square_N) ** 2) if square_N.any() else np.nan,
        count=count,
    )


def _feature_chunks(data: _EvenData, model: _Diagonal) -> Iterator[tuple[slice, Array]]:
    """Give the derivatives ``(1 + P, n)`` by constant and unknowns, times the root of the weight.

    Unknowns come first, so that a product with the transpose reads and writes rows.
    """
    xp = array_namespace(data.directions)
    dimension = data.directions.shape[1]
    where = {"dtype": xp.float64, "device": device(data.directions)}
    for rows in _chunks(len(data.value), 1 + model.size):
        size = rows.stop - rows.start
        u_dn = xp.empty((dimension, size), **where)
        u_dn[...] = data.directions[rows, :].T
        root_n = xp.sqrt(data.weights[rows])
        feature_Pn = xp.empty((1 + model.size, size), **where)
        feature_Pn[0, :] = root_n
        model.features(u_dn, data.half_square[rows] * root_n, feature_Pn[1:, :])
        yield rows, feature_Pn


def _normal_equations(data: _EvenData, model: _Diagonal) -> tuple[np.ndarray, np.ndarray]:
    gram_PP: Array = 0.0
    pull_P: Array = 0.0
    for rows, feature_Pn in _feature_chunks(data, model):
        gram_PP = gram_PP + feature_Pn @ feature_Pn.T
        pull_P = pull_P + feature_Pn @ (
            data.value[rows] * array_namespace(feature_Pn).sqrt(data.weights[rows])
        )
    gram = _host(gram_PP)
    return (gram + gram.T) / 2, _host(pull_P)


def _invert(matrix_PP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Invert a positive semi-definite matrix and say which unknowns it does not determine.

    What is not determined gets the inverse 0, so that it stays where it started.
    """
    from scipy.linalg import lapack

    diagonal_P = np.diag(matrix_PP)
    scale_P = 1 / np.sqrt(np.where(diagonal_P > 0, diagonal_P, 1.0))
    scaled_PP = matrix_PP * scale_P * scale_P[:, None]
    factor_PP, failed = lapack.dpotrf(scaled_PP, lower=1)
    if not failed and np.diag(factor_PP).min() ** 2 > _PIVOT_MIN:
        inverse_PP = np.tril(lapack.dpotri(factor_PP, lower=1)[0])
        inverse_PP += np.tril(inverse_PP, -1).T
        return inverse_PP * scale_P * scale_P[:, None], np.zeros(len(diagonal_P), dtype=bool)
    values_P, vectors_PP = np.linalg.eigh(scaled_PP)
    null = values_P <= _PIVOT_MIN * values_P[-1]
    kept_PP = vectors_PP[:, ~null] * scale_P[:, None]
    unknown_P = np.abs(vectors_PP[:, null]).max(axis=1, initial=0.0) > _NULL_SHARE
    return (kept_PP / values_P[~null]) @ kept_PP.T, unknown_P


def _huber(
    data: _EvenData,
    model: _Diagonal,
    start_P: np.ndarray,
    precision_P: np.ndarray,
    covariance_PP: np.ndarray,
) -> tuple[np.ndarray, float]:
    """Minimise Huber's loss by least squares on clipped residuals.

    Starts at the prior, where no wild value has a say yet. Gives the unknowns and the mean square
    of normal residuals from which they would be as uncertain.
    """
    xp = array_namespace(data.directions)
    root_N = xp.sqrt(data.weights)
    std_P = np.sqrt(np.diag(covariance_PP))
    solution_P = start_P.copy()
    prior = data.residual(0.0, model.matrix(start_P[1:]))
    solution_P[0] = np.median(_host(prior))
    for _ in range(_ROBUST_STEPS):
        residual_N = data.residual(float(solution_P[0]), model.matrix(solution_P[1:])) * root_N
        scale = _MAD_TO_STD * float(np.median(np.abs(_host(residual_N))))
        clipped_N = xp.clip(residual_N, -_HUBER * scale, _HUBER * scale)
        pull_P: Array = 0.0
        for rows, feature_Pn in _feature_chunks(data, model):
            pull_P = pull_P + feature_Pn @ clipped_N[rows]
        move_P = covariance_PP @ (_host(pull_P) - precision_P * (solution_P - start_P))
        solution_P += move_P
        if np.all(np.abs(move_P) <= _ROBUST_TOLERANCE * scale * std_P):
            break
    inside = float(np.mean(np.abs(_host(residual_N)) <= _HUBER * scale))
    return solution_P, float(np.mean(_host(clipped_N) ** 2)) / inside**2


# Arrays -----------------------------------------------------------------------------------------


def _chunks(count: int, width: int, multiple: int = 1) -> Iterator[slice]:
    """Cut `count` rows into pieces of about `_CHUNK_ENTRIES` entries, multiples of `multiple`."""
    step = -(-max(_CHUNK_ENTRIES // width, _CHUNK_ROWS_MIN) // multiple) * multiple
    for begin in range(0, count, step):
        yield slice(begin, min(begin + step, count))


def _vector(values: Array, like: Array) -> Array:
    """Give float64 ``(N,)`` in the library and on the device of `like` ``(N, d)``."""
    xp = array_namespace(like)
    if isinstance(values, np.ndarray) and not isinstance(like, np.ndarray):
        values = xp.asarray(np.array(values, dtype=np.float64), device=device(like))
    vector = xp.asarray(values, dtype=xp.float64, device=device(like))
    return xp.broadcast_to(vector, (like.shape[0],)) if vector.ndim == 0 else vector


def _like(values: np.ndarray, like: Array) -> Array:
    return array_namespace(like).asarray(values, device=device(like))


def _host(values: Array) -> np.ndarray:
    """Give float64 NumPy."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=np.float64)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))
