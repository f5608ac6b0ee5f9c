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

from dataclasses import dataclass, replace

import numpy as np
from array_api_compat import array_namespace, device

from modicum.zeroth.arrays import Array, chunks, host, like, vector_like
from modicum.zeroth.regression import HessianFit, fit_even

__all__ = [
    "BiasEstimate",
    "GradientMean",
    "HessianFit",
    "Pairs",
    "bias_from_radii",
    "combine",
    "difference_noise",
    "fit_even",
    "make_pairs",
    "noise_trace",
    "odd_gradient",
    "richardson",
    "shrink",
]

_MEDIAN_STEPS = 200
# Sums of inverse distances stay finite.
_DISTANCE_MIN = 1e-150
# A pair with more leverage than this leaves no residual.
_LEVERAGE_MAX = 1 - 1e-9


@dataclass(frozen=True)
class Pairs:
    """Pairs whose two values are finite.

    Attributes
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

    @property
    def count(self) -> int:
        """Number of pairs ``N``."""
        return int(self.directions.shape[0])


@dataclass(frozen=True)
class GradientMean:
    """An estimate of ``shapeᵀ ∇f``.

    Attributes
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

    Attributes
    ----------
    slope
        Change of the estimated gradient per squared radius, ``(d,)``.
    cov_trace
        Trace of the covariance of `slope`; ``E‖slope‖²`` is its true square norm plus this.
    """

    slope: np.ndarray
    cov_trace: float


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

    Raises
    ------
    ValueError
        If standard deviations of only one side are given.
    """
    xp = array_namespace(u_Nd)
    plus_N, minus_N = vector_like(plus_N, u_Nd), vector_like(minus_N, u_Nd)
    odd_N = plus_N - minus_N
    pairs = Pairs(
        directions=u_Nd,
        odd=odd_N,
        even=(plus_N + minus_N) / 2,
        radius=vector_like(radius_N, u_Nd),
        noise=None,
        block=block,
        dropped=0,
    )
    if (sigma_plus_N is None) != (sigma_minus_N is None):
        raise ValueError("give the standard deviations of both sides, or of neither")
    if sigma_plus_N is not None and sigma_minus_N is not None:
        square_N = vector_like(sigma_plus_N, u_Nd) ** 2 + vector_like(sigma_minus_N, u_Nd) ** 2
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
        no part from the gradient itself; needs ``N ≥ d``; 0 along directions that no pair has
        seen, and then its covariance is nan. ``"median-of-means"``: geometric median
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
    radius_N = vector_like(radius_N, u_Nd)
    weights_N = radius_N**2 if weights_N is None else vector_like(weights_N, u_Nd)
    weights_N = weights_N / xp.sum(weights_N)
    odd_N = vector_like(odd_N, u_Nd)
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
    for rows in chunks(len(odd_N), dimension, multiple=block):
        # A block's weighted sum, less what it would be at the mean.
        part_nd = factor_N[rows, None] * u_Nd[rows, :] - weights_N[rows, None] * mean_d[None, :]
        part_Bd = _block_sums(part_nd, block)
        scatter += float(xp.sum(part_Bd * part_Bd))
        blocks += len(part_Bd)
    return host(mean_d), scatter * blocks / (blocks - 1) if blocks > 1 else np.nan


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
    xp = array_namespace(u_Nd)
    # A residual has 1 - leverage of the variance of its pair, where weights are inverse variances;
    # all leverages together are the rank.
    spread_Nd = u_Nd @ like(inverse_dd, u_Nd)
    leverage_N = weights_N * xp.sum(spread_Nd * u_Nd, axis=1)
    if float(xp.max(leverage_N)) > _LEVERAGE_MAX or float(xp.sum(leverage_N)) < dimension - 0.5:
        return mean_d, np.nan
    square_N = (weights_N * residual_N) ** 2 * xp.sum(spread_Nd * spread_Nd, axis=1)
    return mean_d, float(xp.sum(square_N / (1 - leverage_N)))


def _regress_odd(
    u_Nd: Array, slope_N: Array, weights_N: Array
) -> tuple[np.ndarray, np.ndarray, Array]:
    """Regress slopes on directions: coefficients, inverse of the normal matrix, residuals."""
    weighted_Nd = u_Nd * weights_N[:, None]
    inverse_dd = np.linalg.pinv(host(weighted_Nd.T @ u_Nd), hermitian=True)
    mean_d = inverse_dd @ host(slope_N @ weighted_Nd)
    return mean_d, inverse_dd, slope_N - u_Nd @ like(mean_d, u_Nd)


def _median_of_means(
    u_Nd: Array, odd_N: Array, radius_N: Array, weights_N: Array, block: int, groups: int
) -> tuple[np.ndarray, float]:
    xp = array_namespace(u_Nd)
    dimension = u_Nd.shape[1]
    factor_N = weights_N * odd_N * dimension / (2 * radius_N)
    sums_Gd = np.zeros((groups, dimension))
    weight_G = np.zeros(groups)
    # Block b belongs to group b mod G, so that radii that come one after another are in each.
    for rows in chunks(len(odd_N), dimension, multiple=block * groups):
        part_Bd = _block_sums(factor_N[rows, None] * u_Nd[rows, :], block)
        weight_B1 = _block_sums(xp.reshape(weights_N[rows], (-1, 1)), block)
        sums_Gd += host(_cycle_sums(part_Bd, groups))
        weight_G += host(_cycle_sums(weight_B1, groups))[:, 0]
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
    floor = max(np.finfo(float).eps * float(np.abs(points_Gd).max()), _DISTANCE_MIN)
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
    radius_N = np.atleast_1d(host(radius_N))
    weights_N = radius_N**2 if weights_N is None else host(weights_N)
    square = np.sum((weights_N * host(noise) / radius_N) ** 2) / np.sum(weights_N) ** 2
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


def combine(
    near: GradientMean, far: GradientMean, weight_near: float, weight_far: float
) -> GradientMean:
    """Average two independent estimates; weights are relative and may be negative."""
    total = weight_near + weight_far
    share_near, share_far = weight_near / total, weight_far / total
    return GradientMean(
        share_near * near.mean + share_far * far.mean,
        share_near**2 * near.cov_trace + share_far**2 * far.cov_trace,
        near.count + far.count,
    )


def richardson(
    near: GradientMean, far: GradientMean, radius_near: float, radius_far: float
) -> GradientMean:
    """Combine the gradients at two radii so that the bias of order radius² cancels.

    What remains is of order radius⁴ where the fourth derivatives are Lipschitz; the variance is
    larger than that of either.
    """
    _square_gap(radius_near, radius_far)
    return combine(near, far, radius_far**2, -(radius_near**2))


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
    radius_N = vector_like(radius_N, u_Nd)
    slope_N = vector_like(odd_N, u_Nd) / (2 * radius_N)
    residual_N = _regress_odd(u_Nd, slope_N, radius_N**2)[2] * (2 * radius_N)
    return float((residual_N @ residual_N) / (2 * (count - dimension))) ** 0.5, count - dimension
