"""Gradient, Hessian, noise and third derivatives of a function from its noisy values at one point.

Each estimator takes a function and a point, spends a known number of evaluations and returns what
it found with its uncertainty. Points are NumPy arrays or torch tensors, of the library, the device
and (where it is a floating one) the dtype of ``x``; results are NumPy float64. Values are used in
whole pairs: a pair with a value that is not finite is left out and counted. Knows nothing of
optimisation.

Source: Yu et al., "Stochastic Zeroth-Order Optimization under Strong Convexity and Lipschitz
Hessian: Minimax Sample Complexity", arXiv 2406.19617, algorithms 1 to 3; what else is here is ours.

Legend: ``N`` pairs, ``d`` dimension, ``m`` places, ``n`` repeats, ``R`` radii.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace

from modicum.zeroth.arguments import integer, one_of, positive
from modicum.zeroth.arrays import Array, chunks, host
from modicum.zeroth.linalg import floor_eigenvalues
from modicum.zeroth.pairs import (
    BiasEstimate,
    GradientMean,
    HessianFit,
    Pairs,
    bias_from_radii,
    combine,
    difference_noise,
    fit_even,
    odd_gradient,
    richardson,
)
from modicum.zeroth.sampling import Function, Place, Repeats, Sampler
from modicum.zeroth.theory import effective_lipschitz

__all__ = [
    "CoordinateGradient",
    "GradientEstimate",
    "HessianEstimate",
    "LipschitzEstimate",
    "NoiseEstimate",
    "PairQuadratic",
    "coordinate_gradient",
    "gradient",
    "hessian",
    "hessian_lipschitz",
    "noise_std",
    "pair_quadratic",
]

# A constant function has no noise; divisions by it must not fail.
_NOISE_FLOOR = 1e-9
_ORTHONORMAL = 1e-8
# The two radii of `pair_quadratic`, in units of the shape.
_NEAR, _FAR = 0.5**0.5, 2.0**0.5
# Non-centrality from which Student's distribution is as good as the exact one, and much faster.
_NONCENTRAL_MAX = 1e6
# Where an estimated variance is as good as the true one, and the nodes that average over it below.
_DOF_MAX = 1e8
_TRACE_NODES = 32


@dataclass(frozen=True)
class GradientEstimate:
    """What `gradient` returns.

    Attributes
    ----------
    value
        Estimate of ``Zᵀ ∇f(x)``, ``(d,)``.
    gradient
        ``Z⁻ᵀ value``, an estimate of ``∇f(x)``; nan for a singular `Z`.
    cov_trace
        Trace of the covariance of `value`, from the scatter of the pairs (between blocks of
        orthogonal directions); nan if there are too few.
    even_part
        Means ``(y₊ + y₋)/2`` of the pairs that count, ``(N,)``, in the library of ``x``.
    directions
        Their directions ``(N, d)``, in the library of ``x``.
    nfev
        Number of evaluations, ``2n``.
    dropped
        Number of pairs with a value that is not finite.
    """

    value: np.ndarray
    gradient: np.ndarray
    cov_trace: float
    even_part: Array
    directions: Array
    nfev: int
    dropped: int


@dataclass(frozen=True)
class CoordinateGradient:
    """What `coordinate_gradient` returns.

    Attributes
    ----------
    gradient
        Estimate of ``∇f(x)``, ``(d,)``.
    components
        Its components along the basis, ``(d,)``.
    std
        Standard deviations of the components, ``(d,)``; nan for one sample.
    nfev
        Number of evaluations, ``2dn``.
    dropped
        Number of pairs with a value that is not finite.
    """

    gradient: np.ndarray
    components: np.ndarray
    std: np.ndarray
    nfev: int
    dropped: int


@dataclass(frozen=True)
class HessianEstimate:
    """What `hessian` returns.

    Attributes
    ----------
    hessian
        ``(d, d)`` with eigenvalues raised to the floor, if one was given.
    raw
        ``(d, d)`` as measured.
    entry_std
        Standard deviations ``(d, d)`` of the entries of `raw` along the basis, from the noise
        between samples; nan for one sample.
    noise
        Standard deviation of one value; nan for one sample.
    fun
        Mean value at ``x``.
    nfev
        Number of evaluations, ``n(2d² + 1)``.
    dropped
        Number of pairs, and of values at ``x``, that are not finite.
    """

    hessian: np.ndarray
    raw: np.ndarray
    entry_std: np.ndarray
    noise: float
    fun: float
    nfev: int
    dropped: int


@dataclass(frozen=True)
class PairQuadratic:
    """What `pair_quadratic` returns: a quadratic model around ``x``.

    Attributes
    ----------
    fun, fun_std
        Value of the model at ``x`` and its standard deviation.
    gradient
        ``∇f(x)``, ``(d,)``; nan for a singular shape.
    hessian
        ``∇²f(x)``, ``(d, d)``, not floored; nan for a singular shape.
    odd
        The gradient in the coordinates of the shape, with its uncertainty.
    bias
        How that gradient changes with the squared radius.
    even
        The Hessian in the coordinates of the shape, with its uncertainty.
    noise
        Standard deviation of one value that the model assumed.
    nfev
        Number of evaluations.
    dropped
        Number of pairs, and of values at ``x``, that are not finite.
    """

    fun: float
    fun_std: float
    gradient: np.ndarray
    hessian: np.ndarray
    odd: GradientMean
    bias: BiasEstimate
    even: HessianFit
    noise: float
    nfev: int
    dropped: int


@dataclass(frozen=True)
class NoiseEstimate:
    """What `noise_std` returns.

    Attributes
    ----------
    std
        Sample standard deviation of one value (``n - 1`` in the denominator), at least
        ``1e-9 max(1, |mean|)``.
    mean
        Mean value.
    nfev
        Number of evaluations.
    dropped
        Number of values that are not finite.
    """

    std: float
    mean: float
    nfev: int
    dropped: int


@dataclass(frozen=True)
class LipschitzEstimate:
    """What `hessian_lipschitz` returns.

    Attributes
    ----------
    value
        Estimate of the effective Lipschitz constant ρ_e of the Hessian; 0 if noise explains all.
    low, high
        Ends of the confidence interval.
    confidence
        Probability with which the interval contains ρ_e.
    slope
        Change ``(d,)`` of the gradient, in the coordinates of the shape, per squared radius.
    cov_trace
        Trace of the covariance of `slope`.
    nfev
        Number of evaluations, ``2n`` for each radius.
    dropped
        Number of pairs with a value that is not finite.
    """

    value: float
    low: float
    high: float
    confidence: float
    slope: np.ndarray
    cov_trace: float
    nfev: int
    dropped: int


# Estimators -------------------------------------------------------------------------------------


def gradient(
    fun: Function,
    x: Array,
    shape: Array | float,
    n: int,
    *,
    directions: str = "sphere",
    estimator: str = "mean",
    groups: int = 16,
    rng: int | np.random.Generator | None = None,
    vectorized: bool = False,
) -> GradientEstimate:
    """Estimate the gradient from pairs on an ellipsoid around a point.

    Parameters
    ----------
    fun
        Function with noisy values: of one point ``(d,)``, or of points ``(b, d)`` if `vectorized`.
    x
        Point ``(d,)``, NumPy or torch.
    shape
        ``Z``: a positive radius, or a matrix ``(d, d)``. Pairs are ``x ± Z u``; the target is
        ``Zᵀ ∇f(x)``.
    n
        Number of pairs.
    directions
        ``"sphere"``, ``"orthogonal"``, ``"gaussian"`` (divided by ``√d``), ``"rademacher"`` or
        ``"coordinate"``; see `modicum.zeroth.directions.draw_directions`. On quadratics and for
        `n` a multiple of ``d``, orthogonal and coordinate ones leave only the noise as error.
    estimator, groups
        ``"mean"``, ``"least-squares"`` or ``"median-of-means"`` over `groups` groups; see
        `modicum.zeroth.pairs.odd_gradient`.
    rng
        Seed, generator, or None for a fresh seed.
    vectorized
        Whether `fun` takes many points at once.

    Raises
    ------
    ValueError
        If a shape does not fit, a number is out of range, or no pair has finite values.
    TypeError
        If `fun` returns something else than real numbers.

    Notes
    -----
    Source: arXiv 2406.19617, algorithm 1. Bias ``≤ λ³ρ√d/(2(d+2))`` and ``Tr Cov ≤ (2d/n)‖Z∇f‖² +
    d²ρ²λ⁶/(18n) + d²σ²/(2n)`` for the spectral norm ``λ`` of ``Z`` (equations 2 and 3). The bound
    on the bias is for spherical and orthogonal directions. There are functions for which the bias
    of Gaussian ones is ``1 + 2/d`` times as large, and ``(d - 2/3)(d + 2)/d²`` times that of
    Rademacher ones, ``(d + 2)/3`` times that of coordinate ones.
    """
    place = Place(x, shape)
    sample = Sampler(fun, place, directions, rng, vectorized)
    pairs = sample.pairs(1.0, integer("n", n))
    mean = odd_gradient(
        pairs.directions,
        pairs.odd,
        pairs.radius,
        block=pairs.block,
        estimator=estimator,
        groups=groups,
    )
    return GradientEstimate(
        value=mean.mean,
        gradient=place.gradient(mean.mean),
        cov_trace=mean.cov_trace,
        even_part=pairs.even,
        directions=pairs.directions,
        nfev=sample.nfev,
        dropped=sample.dropped,
    )


def coordinate_gradient(
    fun: Function,
    x: Array,
    radius: float,
    n: int,
    *,
    basis: Array | None = None,
    vectorized: bool = False,
) -> CoordinateGradient:
    """Estimate the gradient by central differences along a basis, each repeated.

    Parameters
    ----------
    fun, x, vectorized
        As for `gradient`.
    radius
        Half the distance of the two points of a difference, positive.
    n
        Number of pairs for each direction.
    basis
        Orthonormal columns ``(d, d)``; None for the coordinate axes.

    Raises
    ------
    ValueError, TypeError
        As `gradient`; also if the basis is not orthonormal.

    Notes
    -----
    Source: arXiv 2406.19617, algorithm 2. A component has bias ``≤ ρ r²/6`` and variance
    ``σ²/(2nr²)``.
    """
    place = Place(x, positive("radius", radius))
    basis_dd = _basis(basis, place.dimension)
    repeats = Repeats(fun, place, integer("n", n), vectorized)
    plus_dn, minus_dn = repeats(radius * basis_dd.T), repeats(-radius * basis_dd.T)
    slope = _Finite((plus_dn - minus_dn) / (2 * radius))
    return CoordinateGradient(
        gradient=basis_dd @ slope.mean,
        components=slope.mean,
        std=np.sqrt(slope.variance / slope.count),
        nfev=repeats.nfev,
        dropped=slope.dropped,
    )


def hessian(
    fun: Function,
    x: Array,
    radius: float,
    n: int,
    *,
    floor: float | None = None,
    basis: Array | None = None,
    vectorized: bool = False,
) -> HessianEstimate:
    """Estimate the Hessian by second differences along a basis, each repeated.

    Parameters
    ----------
    fun, x, vectorized
        As for `gradient`.
    radius
        Step of the differences, positive.
    n
        Number of evaluations at each of the ``2d² + 1`` points.
    floor
        Least eigenvalue of the result (the strong convexity ``M``); None for none.
    basis
        Orthonormal columns ``(d, d)``; None for the coordinate axes.

    Raises
    ------
    ValueError, TypeError
        As `gradient`; also if the basis is not orthonormal.

    Notes
    -----
    Source: arXiv 2406.19617, algorithm 3. Along the basis ``Var H_kk = 6σ²/(nr⁴)``,
    ``Cov(H_kk, H_ll) = 4σ²/(nr⁴)``, ``Var H_kl = σ²/(4nr⁴)``.
    """
    place = Place(x, positive("radius", radius))
    basis_dd = _basis(basis, place.dimension)
    repeats = Repeats(fun, place, integer("n", n), vectorized)
    step_dd = radius * basis_dd.T
    center = _Finite(repeats(np.zeros((1, place.dimension))))
    diagonal = _Finite((repeats(step_dd) + repeats(-step_dd)) / 2)
    raw_dd = np.diag(2 * (diagonal.mean - center.mean) / radius**2)
    spread_dd = np.diag(2 / diagonal.count + 4 / center.count)
    parts = [center.noise_square(1), diagonal.noise_square(2)]
    dropped = center.dropped + diagonal.dropped
    rows, columns = np.triu_indices(place.dimension, 1)
    for piece in chunks(len(rows), 4 * place.dimension):
        first, second = step_dd[rows[piece]], step_dd[columns[piece]]
        along = _Finite((repeats(first + second) + repeats(-first - second)) / 2)
        across = _Finite((repeats(first - second) + repeats(second - first)) / 2)
        entries = (along.mean - across.mean) / (2 * radius**2)
        spread = (1 / along.count + 1 / across.count) / 8
        for matrix_dd, values in ((raw_dd, entries), (spread_dd, spread)):
            matrix_dd[rows[piece], columns[piece]] = matrix_dd[columns[piece], rows[piece]] = values
        parts += [along.noise_square(2), across.noise_square(2)]
        dropped += along.dropped + across.dropped
    square, dof = np.sum(parts, axis=0)
    noise = float(np.sqrt(square / dof)) if dof else np.nan
    raw_dd = basis_dd @ raw_dd @ basis_dd.T
    return HessianEstimate(
        hessian=raw_dd if floor is None else floor_eigenvalues(raw_dd, floor).hessian,
        raw=raw_dd,
        entry_std=noise * np.sqrt(spread_dd) / radius**2,
        noise=noise,
        fun=float(center.mean[0]),
        nfev=repeats.nfev,
        dropped=dropped,
    )


def pair_quadratic(
    fun: Function,
    x: Array,
    shape: Array | float,
    n: int,
    *,
    center: int | None = None,
    noise: float | None = None,
    directions: str = "sphere",
    estimator: str = "mean",
    hessian: str = "full",
    order: int = 3,
    robust: bool = False,
    rng: int | np.random.Generator | None = None,
    vectorized: bool = False,
) -> PairQuadratic:
    """Estimate value, gradient and Hessian from the same pairs.

    Half of the pairs are at ``shape/√2``, half at ``√2 shape``: two radii tell the value at the
    center from the mean curvature, and the bias of the gradient from the gradient.

    Parameters
    ----------
    fun, x, shape, directions, estimator, rng, vectorized
        As for `gradient`.
    n
        Number of pairs, at least 2.
    center
        Number of evaluations at ``x``; None for a tenth of `n`, at least 2.
    noise
        Standard deviation of one value; None to estimate it.
    hessian, robust
        As for `modicum.zeroth.pairs.fit_even`. Entries that too few pairs leave open are 0, with
        infinite standard deviation.
    order
        3 for the mean gradient of both radii with weights ``radius²``; 5 for the combination whose
        bias is of order ``radius⁴``.

    Raises
    ------
    ValueError, TypeError
        As `gradient`.
    """
    n = integer("n", n, 2)
    center = max(2, n // 10) if center is None else integer("center", center, 0)
    if order not in (3, 5):
        raise ValueError(f"order must be 3 or 5, got {order!r}")
    place = Place(x, shape)
    sample = Sampler(fun, place, directions, rng, vectorized)
    near, far = sample.pairs(_NEAR, n // 2), sample.pairs(_FAR, n - n // 2)
    odd_near, odd_far = (
        odd_gradient(side.directions, side.odd, side.radius, block=side.block, estimator=estimator)
        for side in (near, far)
    )
    middle = _finite_values(sample.repeats(center))
    if noise is None:
        noise = _noise_of_pairs([near, far], middle)
    known = len(middle) > 0
    even = fit_even(
        *_stack([near, far], "directions", "even", "radius"),
        noise=positive("noise", noise),
        center=float(np.mean(middle)) if known else None,
        center_precision=len(middle) / noise**2,
        hessian=hessian,
        robust=robust,
    )
    if order == 5:
        odd = richardson(odd_near, odd_far, _NEAR, _FAR)
    else:
        odd = combine(odd_near, odd_far, near.count * _NEAR**2, far.count * _FAR**2)
    return PairQuadratic(
        fun=even.constant,
        fun_std=even.constant_std,
        gradient=place.gradient(odd.mean),
        hessian=place.hessian(even.matrix),
        odd=odd,
        bias=bias_from_radii(odd_near, odd_far, _NEAR, _FAR),
        even=even,
        noise=noise,
        nfev=sample.nfev,
        dropped=sample.dropped,
    )


def noise_std(fun: Function, x: Array, n: int, *, vectorized: bool = False) -> NoiseEstimate:
    """Estimate the noise of one value from repeats.

    Parameters
    ----------
    fun, x, vectorized
        As for `gradient`.
    n
        Number of evaluations, at least 2.

    Raises
    ------
    ValueError, TypeError
        As `gradient`; also if fewer than two values are finite.
    """
    repeats = Repeats(fun, Place(x, 1.0), integer("n", n, 2), vectorized)
    values = _finite_values(repeats(np.zeros((1, repeats.place.dimension)))[0])
    if len(values) < 2:
        raise ValueError(f"{len(values)} of {n} values are finite; the noise takes at least 2")
    return NoiseEstimate(*_spread(values), nfev=n, dropped=n - len(values))


def hessian_lipschitz(
    fun: Function,
    x: Array,
    shape: Array | float,
    radii: Sequence[float],
    n: int,
    *,
    confidence: float = 0.95,
    directions: str = "orthogonal",
    rng: int | np.random.Generator | None = None,
    vectorized: bool = False,
) -> LipschitzEstimate:
    """Estimate how fast the Hessian changes, from the bias of gradients at several radii.

    The effective constant ρ_e is the one for which the bound on the bias of `gradient` is the bias
    that is seen. It is what the best radius depends on, and at most the Lipschitz constant ρ.

    Parameters
    ----------
    fun, x, rng, vectorized
        As for `gradient`.
    shape
        ``Z`` as for `gradient`; pairs are ``x ± radius · Z u``.
    radii
        At least two different radii. They should be of the size at which the function will be
        sampled, and far apart.
    n
        Number of pairs for each radius, at least ``2d`` (2 for independent directions).
    confidence
        Of the interval, which holds for normal noise and where the bias grows with the squared
        radius.
    directions
        ``"orthogonal"``, which have no error from the gradient itself, or ``"sphere"``; others have
        another bias.

    Raises
    ------
    ValueError, TypeError
        As `gradient`.
    """
    place = Place(x, shape)
    radii_R = np.array([positive("radius", radius) for radius in radii])
    if len(set(radii_R)) < 2:
        raise ValueError(f"radii must hold at least two different numbers, got {list(radii)}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence!r}")
    one_of("directions", directions, ("orthogonal", "sphere"))
    sample = Sampler(fun, place, directions, rng, vectorized)
    n = integer("n", n, 2 * sample.block)
    all_pairs = [sample.pairs(radius, n) for radius in radii_R]
    means = [odd_gradient(p.directions, p.odd, p.radius, block=p.block) for p in all_pairs]
    # Regression of the gradients on the squared radius; their variances are about 1/(n radius²).
    weights_R = np.array([mean.count for mean in means]) * radii_R**2
    square_R = radii_R**2 - np.average(radii_R**2, weights=weights_R)
    share_R = weights_R * square_R / np.sum(weights_R * square_R**2)
    slope = share_R @ np.stack([mean.mean for mean in means])
    trace_R = share_R**2 * np.array([mean.cov_trace for mean in means])
    trace = float(trace_R.sum())
    dof_R = np.array([-(-p.count // p.block) - 1 for p in all_pairs]) * place.dimension
    # Degrees of freedom of a sum of variances after Welch and Satterthwaite.
    dof = trace**2 / float(np.sum(trace_R**2 / dof_R)) if trace > 0 else np.inf
    square = float(slope @ slope)
    low, high = _norm_interval(square, trace, place.dimension, dof, confidence)
    unit = float(effective_lipschitz(1.0, dimension=place.dimension)) / place.norm**3
    return LipschitzEstimate(
        value=unit * max(0.0, square - trace) ** 0.5,
        low=unit * low,
        high=unit * high,
        confidence=confidence,
        slope=slope,
        cov_trace=trace,
        nfev=sample.nfev,
        dropped=sample.dropped,
    )


def _norm_interval(
    square: float, trace: float, dimension: int, dof: float, confidence: float
) -> tuple[float, float]:
    """Give an interval for a vector's norm from the squared norm of a normal estimate of it.

    The estimate has covariance ``trace/dimension · I``, where `trace` was estimated with `dof`
    degrees of freedom. With a known trace the squared norm is non-central chi-square; its
    distribution is averaged over what the trace may be. That is the F test where there is no
    vector, and the t interval where it is large.
    """
    from scipy.optimize import brentq
    from scipy.special import chndtr, gammaincinv, stdtrit

    norm, unit = square**0.5, (trace / dimension) ** 0.5
    if trace == 0:
        return norm, norm
    dof = min(dof, _DOF_MAX)
    tail = (1 - confidence) / 2
    if (norm / unit) ** 2 > _NONCENTRAL_MAX:
        half = float(stdtrit(dof, 1 - tail)) * unit
        return max(0.0, norm - half), norm + half
    nodes, weights = np.polynomial.legendre.leggauss(_TRACE_NODES)
    precisions = gammaincinv(dof / 2, (1 + nodes) / 2) * 2 / dof / unit**2

    def smaller(true_norm: float) -> float:
        """Give the probability of an estimate with a smaller norm than that seen."""
        probabilities = chndtr(square * precisions, dimension, true_norm**2 * precisions)
        return float(weights @ probabilities) / 2

    def solve(probability: float) -> float:
        if smaller(0.0) <= probability:
            return 0.0
        high = norm + unit
        while smaller(high) > probability:
            high += norm + unit
        return float(brentq(lambda value: smaller(value) - probability, 0.0, high))

    return solve(1 - tail), solve(tail)


# Statistics -------------------------------------------------------------------------------------


class _Finite:
    """Means and variances ``(m,)`` of the finite ones of values ``(m, n)``."""

    def __init__(self, values_mn: np.ndarray) -> None:
        finite_mn = np.isfinite(values_mn)
        self.count = finite_mn.sum(axis=1)
        self.dropped = int(values_mn.size - self.count.sum())
        if not self.count.all():
            raise ValueError(f"none of {values_mn.shape[1]} samples at a point is finite")
        kept_mn = np.where(finite_mn, values_mn, 0.0)
        self.mean = kept_mn.sum(axis=1) / self.count
        self._square = np.sum(np.where(finite_mn, values_mn - self.mean[:, None], 0.0) ** 2, axis=1)

    @property
    def variance(self) -> np.ndarray:
        """Sample variances; nan where there is one sample."""
        return np.divide(
            self._square,
            self.count - 1,
            out=np.full(len(self.count), np.nan),
            where=self.count > 1,
        )

    def noise_square(self, values: int) -> np.ndarray:
        """Give sum of squares and degrees of freedom of one value; these are means of `values`."""
        return np.array([values * self._square.sum(), (self.count - 1).sum()])


def _finite_values(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _spread(values: np.ndarray) -> tuple[float, float]:
    mean = float(np.mean(values))
    return max(float(np.std(values, ddof=1)), _NOISE_FLOOR * max(1.0, abs(mean))), mean


def _noise_of_pairs(sides: list[Pairs], middle: np.ndarray) -> float:
    """Estimate the noise from the differences, or from repeats where pairs are too few."""
    noise, dof = difference_noise(*_stack(sides, "directions", "odd", "radius"))
    level = max(1.0, float(np.abs(host(sides[0].even)).max()))
    if dof > 0:
        return max(noise, _NOISE_FLOOR * level)
    if len(middle) > 1:
        return _spread(middle)[0]
    raise ValueError("give noise, more pairs or at least 2 evaluations at the center")


def _stack(sides: list[Pairs], *names: str) -> list[Array]:
    xp = array_namespace(sides[0].directions)
    return [xp.concat([getattr(side, name) for side in sides]) for name in names]


def _basis(basis: Array | None, dimension: int) -> np.ndarray:
    if basis is None:
        return np.eye(dimension)
    basis_dd = host(basis)
    if basis_dd.shape != (dimension, dimension):
        raise ValueError(f"basis must have shape {(dimension,) * 2}, got {basis_dd.shape}")
    gap = float(np.abs(basis_dd.T @ basis_dd - np.eye(dimension)).max())
    if not gap < _ORTHONORMAL:
        raise ValueError(f"basis must have orthonormal columns; BᵀB differs from I by {gap:.2g}")
    return basis_dd
