"""What theory says: bias and variance of the estimators, tails, radii, regret, rates, budgets.

Formulas only: numbers in, numbers out, float64; nothing here evaluates a function or draws a random
number. Every argument is a keyword and may be a float or an array; arrays broadcast, floats give a
float. Constants refer to one function ``f``:

``dimension``
    ``d``.
``strong_convexity``
    ``M``, the least eigenvalue of any Hessian of ``f``.
``hessian_lipschitz``
    ``ρ`` with ``‖∇²f(x) - ∇²f(x')‖_F <= ρ ‖x - x'‖₂``; the norm on the left is Frobenius'.
``noise``
    ``σ``, the standard deviation of one evaluation. The paper has ``σ = 1``; here every formula is
    applied to ``f/σ`` and scaled back, so all of them scale right under ``f -> c f``.
``pairs``, ``samples``
    How many antithetic pairs, or evaluations per point, are averaged.
``radius``
    Distance of the evaluated points, or the spectral norm of the matrix ``Z`` of an ellipsoid.

Source: "Stochastic Zeroth-Order Optimization under Strong Convexity and Lipschitz Hessian: Minimax
Sample Complexity" (arXiv 2406.19617), whose equation numbers are given; formulas marked "ours" are
not stated there. All are held to exact integration, simulation or a solver in the tests.
"""

import math
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

Numbers = Any
"""A float or an array of floats; arrays broadcast."""

RadiusKind = Literal["gradient", "gradient-exact", "bootstrap", "hessian", "coordinate"]
BudgetKind = Literal["predicted", "upper", "lower"]

FINAL_SHARE = 0.1
"""Pairs of the final gradient per evaluation of the two-stage algorithm's budget."""

ADAPTIVE_SHARE = 0.25
"""Pairs of the last round per evaluation of the adaptive method's budget (half of it, in pairs)."""

UPPER_CONSTANT = 6 * 10 ** (2 / 3)
"""Limit of the two-stage algorithm's regret in units of `rate`, about 27.8."""

LOWER_CONSTANT = 1 / (128 * math.pi ** (4 / 3))
"""Regret that no algorithm beats, in units of `rate`, about 0.0017."""

GAUSSIAN_TAIL_SCALE = math.sqrt(2)
"""``s`` in ``P(|w| > t) <= 2 exp(-t²/s²)`` for a Gaussian of standard deviation 1."""

FINAL_HESSIAN_SAMPLES = 64
"""Factor of ``ρ⁴ σ² d⁶ / M⁶`` in the number of Hessian samples that `model_bound` asks for."""


class RegretTerms(NamedTuple):
    """Predicted regret and what it consists of.

    Attributes
    ----------
    bias
        Part that a smaller radius makes smaller.
    variance
        Part that a larger radius or more pairs make smaller.
    total
        Their sum.
    """

    bias: Numbers
    variance: Numbers
    total: Numbers


class HessianCovariance(NamedTuple):
    """Second moments of the noise in the entries of a coordinate Hessian estimate.

    Attributes
    ----------
    diagonal
        Variance of an entry on the diagonal.
    between_diagonal
        Covariance of two entries on the diagonal, which share the centre's samples.
    off_diagonal
        Variance of an entry off the diagonal; such entries are independent of all others.
    """

    diagonal: Numbers
    between_diagonal: Numbers
    off_diagonal: Numbers


# The estimators ----------------------------------------------------------------------------------


def bias_bound(*, dimension: Numbers, hessian_lipschitz: Numbers, radius: Numbers) -> Numbers:
    """Bound the bias ``‖E ĝ - Z∇f‖`` of the ellipsoid two-point estimator.

    Attained by `f(x) = (ρ/√d) ((e·x)‖x‖²/2 - (e·x)³/3)` with a unit vector ``e`` and by
    ``(ρ/6) Σ x_j³``, both at the origin on a sphere.

    Parameters
    ----------
    dimension, hessian_lipschitz
        ``d`` and ``ρ``.
    radius
        Largest singular value ``λ_Z`` of ``Z``.

    Returns
    -------
    float or array
        ``λ_Z³ ρ √d / (2 (d + 2))``.

    Raises
    ------
    ValueError
        For an argument that is nan, infinite, negative or, where that makes no sense, zero. So in
        every function of this module.

    Notes
    -----
    Source: arXiv 2406.19617, equation (2).
    """
    d = _positive("dimension", dimension)
    rho = _nonnegative("hessian_lipschitz", hessian_lipschitz)
    return _positive("radius", radius) ** 3 * rho * np.sqrt(d) / (2 * (d + 2))


def gradient_bias_bound(
    *, dimension: Numbers, hessian_lipschitz: Numbers, radius: Numbers
) -> Numbers:
    """Bound the bias of the gradient itself, ``r² ρ √d / (2 (d + 2))``, for a sphere of radius r.

    Notes
    -----
    Source: arXiv 2406.19617, equation (2) divided by the radius.
    """
    d = _positive("dimension", dimension)
    rho = _nonnegative("hessian_lipschitz", hessian_lipschitz)
    return _positive("radius", radius) ** 2 * rho * np.sqrt(d) / (2 * (d + 2))


def effective_lipschitz(bias_coefficient: Numbers, *, dimension: Numbers) -> Numbers:
    """Give the ``ρ`` for which `gradient_bias_bound` equals a bias that was seen.

    Parameters
    ----------
    bias_coefficient
        Norm of the bias of the gradient divided by the squared radius.
    dimension
        ``d``.

    Returns
    -------
    float or array
        ``2 (d + 2) / √d`` times the coefficient; a lower bound of the true ``ρ`` if the coefficient
        is exact. Ours.
    """
    d = _positive("dimension", dimension)
    return 2 * (d + 2) / np.sqrt(d) * _nonnegative("bias_coefficient", bias_coefficient)


def variance_bound(
    *,
    dimension: Numbers,
    hessian_lipschitz: Numbers,
    noise: Numbers,
    pairs: Numbers,
    radius: Numbers,
    gradient_norm: Numbers = 0.0,
) -> Numbers:
    """Bound ``Tr Cov ĝ`` of the ellipsoid two-point estimator.

    Parameters
    ----------
    dimension, hessian_lipschitz, noise, pairs, radius
        See the module.
    gradient_norm
        ``‖Z∇f‖``, not ``‖∇f‖``.

    Returns
    -------
    float or array
        ``(2d/n) ‖Z∇f‖² + d² ρ² λ_Z⁶ / (18 n) + d² σ² / (2 n)``.

    Notes
    -----
    Source: arXiv 2406.19617, equation (3).
    """
    d = _positive("dimension", dimension)
    rho = _nonnegative("hessian_lipschitz", hessian_lipschitz)
    pairs = _positive("pairs", pairs)
    along = 2 * d * _nonnegative("gradient_norm", gradient_norm) ** 2
    cubic = d**2 * rho**2 * _positive("radius", radius) ** 6 / 18
    return (along + cubic + d**2 * _nonnegative("noise", noise) ** 2 / 2) / pairs


def quadratic_variance(
    *, dimension: Numbers, noise: Numbers, pairs: Numbers, gradient_norm: Numbers = 0.0
) -> Numbers:
    """Give ``Tr Cov ĝ`` exactly for a quadratic and independent directions on the sphere.

    The bias is zero then, and the radius does not matter.

    Parameters
    ----------
    dimension, noise, pairs
        See the module.
    gradient_norm
        ``‖Z∇f‖``.

    Returns
    -------
    float or array
        ``((d - 1) ‖Z∇f‖² + d² σ² / 2) / n``. Ours.
    """
    d = _positive("dimension", dimension)
    along = (d - 1) * _nonnegative("gradient_norm", gradient_norm) ** 2
    pairs = _positive("pairs", pairs)
    return (along + d**2 * _nonnegative("noise", noise) ** 2 / 2) / pairs


def orthogonal_variance(*, dimension: Numbers, noise: Numbers, pairs: Numbers) -> Numbers:
    """Give ``Tr Cov ĝ = d² σ² / (2 n)`` for a quadratic and complete blocks of orthogonal pairs.

    `pairs` is a multiple of the dimension; the gradient adds nothing. Ours.
    """
    return quadratic_variance(dimension=dimension, noise=noise, pairs=pairs)


def coordinate_bias_bound(*, hessian_lipschitz: Numbers, radius: Numbers) -> Numbers:
    """Bound the bias of one entry of the coordinate gradient by ``ρ r² / 6``.

    Notes
    -----
    Source: arXiv 2406.19617, algorithm 2.
    """
    rho = _nonnegative("hessian_lipschitz", hessian_lipschitz)
    return rho * _positive("radius", radius) ** 2 / 6


def coordinate_variance(*, noise: Numbers, samples: Numbers, radius: Numbers) -> Numbers:
    """Give the variance of one entry of the coordinate gradient, ``σ² / (2 n r²)``.

    Notes
    -----
    Source: arXiv 2406.19617, algorithm 2.
    """
    sigma = _nonnegative("noise", noise)
    return sigma**2 / (2 * _positive("samples", samples) * _positive("radius", radius) ** 2)


def hessian_bias_bound(
    *, dimension: Numbers, hessian_lipschitz: Numbers, radius: Numbers
) -> Numbers:
    """Bound the bias of the raw coordinate Hessian in Frobenius norm by ``√2 d ρ r / 3``.

    Notes
    -----
    Source: arXiv 2406.19617, algorithm 3.
    """
    rho = _nonnegative("hessian_lipschitz", hessian_lipschitz)
    d = _positive("dimension", dimension)
    return math.sqrt(2) / 3 * d * rho * _positive("radius", radius)


def hessian_covariance(*, noise: Numbers, samples: Numbers, radius: Numbers) -> HessianCovariance:
    """Give the noise in the entries of the raw coordinate Hessian: 6, 4 and ¼ ``σ² / (n r⁴)``.

    Notes
    -----
    Source: arXiv 2406.19617, algorithm 3; the covariance is ours.
    """
    sigma = _nonnegative("noise", noise)
    unit = sigma**2 / (_positive("samples", samples) * _positive("radius", radius) ** 4)
    return HessianCovariance(diagonal=6 * unit, between_diagonal=4 * unit, off_diagonal=unit / 4)


def hessian_variance(
    *, dimension: Numbers, noise: Numbers, samples: Numbers, radius: Numbers
) -> Numbers:
    """Give ``E ‖Ĥ - E Ĥ‖_F²`` of the raw coordinate Hessian.

    Returns
    -------
    float or array
        ``(6 d + d (d - 1) / 4) σ² / (n r⁴)``, on a quadratic the whole squared error. Ours.
    """
    d = _positive("dimension", dimension)
    parts = hessian_covariance(noise=noise, samples=samples, radius=radius)
    return d * parts.diagonal + d * (d - 1) * parts.off_diagonal


# Tails -------------------------------------------------------------------------------------------


def gradient_tail(
    deviation: Numbers,
    *,
    dimension: Numbers,
    hessian_lipschitz: Numbers,
    noise: Numbers,
    samples: Numbers,
    radius: Numbers,
    tail_scale: Numbers = GAUSSIAN_TAIL_SCALE,
) -> Numbers:
    """Bound the probability that the coordinate gradient is off by `deviation` or more.

    Parameters
    ----------
    deviation
        ``K`` in ``‖m̂ - ∇f‖ >= K``.
    dimension, hessian_lipschitz, noise, samples, radius
        See the module.
    tail_scale
        ``s`` in ``P(|w| > t σ) <= 2 exp(-t²/s²)`` of the noise; the default fits a Gaussian.

    Returns
    -------
    float or array
        ``2 exp(-K² / (3 d ρ² r⁴ / 4 + 12 d s² σ² / (n r²)))``; may exceed 1.

    Notes
    -----
    Source: arXiv 2406.19617, equation (4).
    """
    d = _positive("dimension", dimension)
    rho = _nonnegative("hessian_lipschitz", hessian_lipschitz)
    radius = _positive("radius", radius)
    spread = _positive("noise", noise) * _positive("tail_scale", tail_scale)
    random = 12 * d * spread**2 / (_positive("samples", samples) * radius**2)
    return _tail(deviation, 3 * d * rho**2 * radius**4 / 4 + random)


def hessian_tail(
    deviation: Numbers,
    *,
    dimension: Numbers,
    hessian_lipschitz: Numbers,
    noise: Numbers,
    samples: Numbers,
    radius: Numbers,
    tail_scale: Numbers = GAUSSIAN_TAIL_SCALE,
) -> Numbers:
    """Bound the probability that the floored coordinate Hessian is off by `deviation` or more.

    Parameters
    ----------
    deviation
        ``K`` in ``‖Ĥ - ∇²f‖_F >= K``.
    dimension, hessian_lipschitz, noise, samples, radius
        See the module.
    tail_scale
        As of `gradient_tail`.

    Returns
    -------
    float or array
        ``2 exp(-K² / (2 d² ρ² r² + 144 d² s² σ² / (n r⁴)))``; may exceed 1.

    Notes
    -----
    Source: arXiv 2406.19617, equation (5).
    """
    d = _positive("dimension", dimension)
    rho = _nonnegative("hessian_lipschitz", hessian_lipschitz)
    radius = _positive("radius", radius)
    spread = _positive("noise", noise) * _positive("tail_scale", tail_scale)
    random = 144 * d**2 * spread**2 / (_positive("samples", samples) * radius**4)
    return _tail(deviation, 2 * d**2 * rho**2 * radius**2 + random)


def hessian_tail_denominator(
    *, dimension: Numbers, hessian_lipschitz: Numbers, noise: Numbers, samples: Numbers
) -> Numbers:
    """Bound the denominator of `hessian_tail` at the Hessian's own radius, for a tail scale of 1.

    Returns
    -------
    float or array
        ``16 d² ρ^{4/3} (σ²/n)^{1/3}``; the exact factor is ``3 · 144^{1/3} = 15.7``.

    Notes
    -----
    Source: arXiv 2406.19617, below equation (5).
    """
    rho = _nonnegative("hessian_lipschitz", hessian_lipschitz)
    noise = _nonnegative("noise", noise)
    d = _positive("dimension", dimension)
    return 16 * d**2 * rho ** (4 / 3) * np.cbrt(noise**2 / _positive("samples", samples))


# Radii -------------------------------------------------------------------------------------------


def radius(
    kind: RadiusKind = "gradient",
    *,
    hessian_lipschitz: Numbers,
    noise: Numbers,
    dimension: Numbers | None = None,
    pairs: Numbers | None = None,
    samples: Numbers | None = None,
) -> Numbers:
    """Give the radius at which bias and noise of an estimator balance.

    Parameters
    ----------
    kind
        ``"gradient"``: pairs on a sphere, minimises ``ρ² r⁴/(4 d) + d² σ²/(2 n r²)``;
        ``"gradient-exact"``: the same with the sharper bias ``ρ² r⁴ d/(4 (d + 2)²)`` of
        `predicted_regret` (ours); ``"bootstrap"``: coordinate gradient in the sense of
        `gradient_tail`, ``3 ρ² r⁴/4 + 12 σ²/(n r²)``; ``"hessian"``: coordinate Hessian in the
        sense of `hessian_tail`, ``2 ρ² r² + 144 σ²/(n r⁴)``; ``"coordinate"``: coordinate gradient
        in mean square, ``ρ² r⁴/36 + σ²/(2 n r²)`` (ours).
    hessian_lipschitz, noise
        ``ρ`` and ``σ``, both positive.
    dimension, pairs
        For the two ``"gradient"`` kinds.
    samples
        For the other kinds: evaluations per point.

    Returns
    -------
    float or array
        ``(d³ σ²/(n ρ²))^{1/6}``, ``(d (d + 2)² σ²/(n ρ²))^{1/6}``, ``(8 σ²/(n ρ²))^{1/6}``,
        ``(144 σ²/(n ρ²))^{1/6}`` and ``(9 σ²/(n ρ²))^{1/6}``, in the order of the kinds.

    Raises
    ------
    ValueError
        For an unknown kind or a missing count.

    Notes
    -----
    Source: arXiv 2406.19617, algorithm 4.
    """
    rho, sigma = _positive("hessian_lipschitz", hessian_lipschitz), _positive("noise", noise)
    if kind not in get_args(RadiusKind):
        raise ValueError(f"kind must be one of {get_args(RadiusKind)}, got {kind!r}")
    if kind in ("gradient", "gradient-exact"):
        d, count = _needed(kind, "dimension", dimension), _needed(kind, "pairs", pairs)
        factor = d**3 if kind == "gradient" else d * (d + 2) ** 2
    else:
        count = _needed(kind, "samples", samples)
        factor = {"bootstrap": 8, "hessian": 144, "coordinate": 9}[kind]
    return np.cbrt(np.sqrt(factor / count) * sigma / rho)


def optimal_axes(
    eigenvalues: np.ndarray, *, hessian_lipschitz: float, noise: float, pairs: float
) -> np.ndarray:
    """Give the semi-axes of an ellipsoid of pairs for which the worst regret is least.

    Near the minimiser the worst bias of an ellipsoid with semi-axes ``r_i`` along the eigenvectors
    of the Hessian depends on ``Σ r_i⁴`` alone, the noise on ``Σ 1/(λ_i r_i²)``; their sum
    (`axes_regret`) is least at ``r_i ∝ λ_i^{-1/6}``. For equal eigenvalues this is the sphere of
    ``radius("gradient-exact")``.

    Parameters
    ----------
    eigenvalues
        Positive, ``(d,)``.
    hessian_lipschitz, noise, pairs
        See the module; floats.

    Returns
    -------
    (d,)
        ``((d + 2)² d λ_min σ² / (n ρ² λ_i))^{1/6}``. Ours.
    """
    lam_D = _positive("eigenvalues", eigenvalues)
    d = lam_D.size
    rho, sigma = _positive("hessian_lipschitz", hessian_lipschitz), _positive("noise", noise)
    balance = d * (d + 2) ** 2 * lam_D.min() / _positive("pairs", pairs)
    return np.cbrt(np.sqrt(balance / lam_D) * sigma / rho)


# Regret ------------------------------------------------------------------------------------------


def predicted_regret(
    *,
    dimension: Numbers,
    strong_convexity: Numbers,
    hessian_lipschitz: Numbers,
    noise: Numbers,
    pairs: Numbers,
    radius: Numbers | None = None,
) -> RegretTerms:
    """Predict the regret of one final Newton step near the minimiser with a known Hessian.

    Parameters
    ----------
    dimension, hessian_lipschitz, noise, pairs
        See the module.
    strong_convexity
        Least eigenvalue of the Hessian at the minimiser, or ``M`` if that is all one knows.
    radius
        Radius of the pairs; the default is ``radius("gradient", …)``.

    Returns
    -------
    RegretTerms
        ``r⁴ρ²d/(4 (d + 2)²)`` and ``d²σ²/(2 n r²)``, each over twice the least eigenvalue. With the
        default radius the total is at most ``(3/8) d ρ^{2/3} σ^{4/3} / (λ_min n^{2/3})``. Ours.
    """
    d = _positive("dimension", dimension)
    if radius is None:
        radius = _gradient_radius(d, hessian_lipschitz, noise, pairs)
    bias = gradient_bias_bound(
        dimension=dimension, hessian_lipschitz=hessian_lipschitz, radius=radius
    )
    variance = orthogonal_variance(dimension=d, noise=noise, pairs=pairs) / radius**2
    return _regret_terms(bias**2, variance, _positive("strong_convexity", strong_convexity))


def axes_regret(
    axes: np.ndarray,
    *,
    eigenvalues: np.ndarray,
    hessian_lipschitz: float,
    noise: float,
    pairs: float,
) -> RegretTerms:
    """Predict the worst regret of one final Newton step with pairs on an ellipsoid.

    Sharper than `predicted_regret` where eigenvalues differ: with all axes equal to its radius it
    gives the same bias and the variance of ``1/λ_i`` averaged instead of ``1/λ_min``.

    Parameters
    ----------
    axes
        Semi-axes ``r_i`` along the eigenvectors of the Hessian at the minimiser, ``(d,)``.
    eigenvalues
        Its eigenvalues in the same order, ``(d,)``.
    hessian_lipschitz, noise, pairs
        See the module; floats.

    Returns
    -------
    RegretTerms
        ``ρ² Σ r_i⁴ / (8 (d + 2)² λ_min)``, which a cubic attains if the longest axis belongs to the
        least eigenvalue, and ``d σ² Σ 1/(λ_i r_i²) / (4 n)``. Ours.
    """
    axes_D, lam_D = _positive("axes", axes), _positive("eigenvalues", eigenvalues)
    rho, sigma = _nonnegative("hessian_lipschitz", hessian_lipschitz), _nonnegative("noise", noise)
    d = lam_D.size
    bias = rho**2 * (axes_D**4).sum() / (8 * (d + 2) ** 2 * lam_D.min())
    spread = (1 / (lam_D * axes_D**2)).sum()
    variance = d * sigma**2 * spread / (4 * _positive("pairs", pairs))
    return RegretTerms(bias, variance, bias + variance)


def radius_penalty(ratio: Numbers) -> Numbers:
    """Give the factor by which regret grows if the radius is `ratio` times the right one.

    Returns
    -------
    float or array
        ``(c⁴/4 + 1/(2 c²)) / (3/4)``: 1 at 1, 5.5 at 2, 2.7 at ½. Ours.
    """
    c = _positive("ratio", ratio)
    return (c**4 / 4 + 1 / (2 * c**2)) / 0.75


def rate(
    *,
    dimension: Numbers,
    strong_convexity: Numbers,
    hessian_lipschitz: Numbers,
    noise: Numbers,
    budget: Numbers,
) -> Numbers:
    """Give the minimax rate ``ε(T) = d ρ^{2/3} σ^{4/3} / (M T^{2/3})``.

    Notes
    -----
    Source: arXiv 2406.19617, its rate.
    """
    d = _positive("dimension", dimension)
    rho, sigma = _nonnegative("hessian_lipschitz", hessian_lipschitz), _nonnegative("noise", noise)
    scale = _positive("strong_convexity", strong_convexity) * _positive("budget", budget) ** (2 / 3)
    return d * rho ** (2 / 3) * sigma ** (4 / 3) / scale


def upper_bound(
    *,
    dimension: Numbers,
    strong_convexity: Numbers,
    hessian_lipschitz: Numbers,
    noise: Numbers,
    budget: Numbers,
) -> Numbers:
    """Give ``6 · 10^{2/3} ε(T)``, which the regret of the two-stage algorithm does not exceed.

    A statement about large budgets (limes superior).

    Notes
    -----
    Source: arXiv 2406.19617, equations (7) and (8) with a tenth of the budget in final pairs.
    """
    return UPPER_CONSTANT * rate(
        dimension=dimension,
        strong_convexity=strong_convexity,
        hessian_lipschitz=hessian_lipschitz,
        noise=noise,
        budget=budget,
    )


def lower_bound(
    *,
    dimension: Numbers,
    strong_convexity: Numbers,
    hessian_lipschitz: Numbers,
    noise: Numbers,
    budget: Numbers,
) -> Numbers:
    """Give ``ε(T) / (128 π^{4/3})``: on some function every algorithm has at least this regret.

    The paper states it for one dimension and large budgets, and ``d`` coordinates up to a constant.
    With Gaussian noise it holds as it stands for every ``d`` and every budget from
    `lower_bound_start` on: the worst cases of the coordinates add up and every sign of every
    coordinate is as hard to tell as in one dimension (ours).

    Notes
    -----
    Source: arXiv 2406.19617, its lower bound.
    """
    return LOWER_CONSTANT * rate(
        dimension=dimension,
        strong_convexity=strong_convexity,
        hessian_lipschitz=hessian_lipschitz,
        noise=noise,
        budget=budget,
    )


def lower_bound_start(
    *, strong_convexity: Numbers, hessian_lipschitz: Numbers, noise: Numbers
) -> Numbers:
    """Give the budget ``ρ⁴ σ² / (π² M⁶)`` from which on the hard instance is ``M``-convex. Ours."""
    M, rho = _positive("strong_convexity", strong_convexity), hessian_lipschitz
    rho, sigma = _nonnegative("hessian_lipschitz", rho), _nonnegative("noise", noise)
    return (rho**2 * sigma / (math.pi * M**3)) ** 2


def required_budget(
    eps: Numbers,
    *,
    dimension: Numbers,
    strong_convexity: Numbers,
    hessian_lipschitz: Numbers,
    noise: Numbers,
    kind: BudgetKind = "predicted",
    share: float = FINAL_SHARE,
) -> Numbers:
    """Give the number of evaluations for which the regret is `eps`.

    Parameters
    ----------
    eps
        Regret to reach, positive.
    dimension, strong_convexity, hessian_lipschitz, noise
        See the module.
    kind
        Which formula to invert: ``"predicted"`` (`predicted_regret` at its default radius),
        ``"upper"`` (`upper_bound`) or ``"lower"`` (`lower_bound`: no method needs less).
    share
        Final pairs per evaluation for ``"predicted"``: `FINAL_SHARE` for the two-stage algorithm,
        `ADAPTIVE_SHARE` for the adaptive method.

    Returns
    -------
    float or array
        The budget as a real number; whole numbers are the caller's.

    Raises
    ------
    ValueError
        For an unknown kind or a share outside ``(0, 0.5]``.
    """
    eps = _positive("eps", eps)
    if kind not in get_args(BudgetKind):
        raise ValueError(f"kind must be one of {get_args(BudgetKind)}, got {kind!r}")
    if not 0 < share <= 0.5:
        raise ValueError(f"share must lie in (0, 0.5], a pair costs two evaluations, got {share!r}")
    constants = {
        "dimension": dimension,
        "strong_convexity": strong_convexity,
        "hessian_lipschitz": _positive("hessian_lipschitz", hessian_lipschitz),
        "noise": _positive("noise", noise),
    }
    # All three are a constant over T^{2/3}.
    if kind == "predicted":
        return (predicted_regret(**constants, pairs=1).total / eps) ** 1.5 / share
    bound = upper_bound if kind == "upper" else lower_bound
    return (bound(**constants, budget=1) / eps) ** 1.5


# The two stages ----------------------------------------------------------------------------------


def trust_radius(*, strong_convexity: Numbers, hessian_lipschitz: Numbers) -> Numbers:
    """Give ``M / ρ``, the length within which a Newton step is safe.

    Notes
    -----
    Source: arXiv 2406.19617, algorithm 4.
    """
    rho = _positive("hessian_lipschitz", hessian_lipschitz)
    return _positive("strong_convexity", strong_convexity) / rho


def bootstrap_steps(
    *, strong_convexity: Numbers, hessian_lipschitz: Numbers, distance: Numbers
) -> Numbers:
    """Give how many exact clipped Newton steps surely lead to ``‖∇f‖ <= M² / (2 ρ)``.

    Every clipped step has ``(x* - x)·s >= 0.6 ‖s‖²`` and so brings the squared distance to the
    minimiser down by ``0.2 (M/ρ)²``; one full step at the end makes the gradient small.

    Parameters
    ----------
    strong_convexity, hessian_lipschitz
        ``M`` and ``ρ``.
    distance
        ``R``, at least the distance of the start from the minimiser.

    Returns
    -------
    float or array
        ``5 R² ρ² / M² + 1``, not rounded.

    Notes
    -----
    Source: arXiv 2406.19617, analysis of the first stage.
    """
    M = _positive("strong_convexity", strong_convexity)
    rho = _nonnegative("hessian_lipschitz", hessian_lipschitz)
    return 5 * (_nonnegative("distance", distance) * rho / M) ** 2 + 1


def bootstrap_distance(
    *, strong_convexity: Numbers, hessian_lipschitz: Numbers, steps: Numbers
) -> Numbers:
    """Give the distance from which `bootstrap_steps` is `steps` ``N``: ``(M/ρ) √((N - 1)/5)``."""
    trust = trust_radius(strong_convexity=strong_convexity, hessian_lipschitz=hessian_lipschitz)
    if (_positive("steps", steps) < 1).any():
        raise ValueError(f"steps must be at least 1, got {steps!r}")
    return trust * np.sqrt((_positive("steps", steps) - 1) / 5)


def newton_gradient_bound(step_norm: Numbers, *, hessian_lipschitz: Numbers) -> Numbers:
    """Bound the gradient after a full exact Newton step by ``(ρ/2) ‖s‖²``.

    Notes
    -----
    Source: arXiv 2406.19617, analysis of the first stage.
    """
    rho = _nonnegative("hessian_lipschitz", hessian_lipschitz)
    return rho / 2 * _nonnegative("step_norm", step_norm) ** 2


def regret_from_model(
    model_value: Numbers,
    *,
    strong_convexity: Numbers,
    hessian_lipschitz: Numbers,
    bootstrap_regret: Numbers,
) -> Numbers:
    """Bound the regret of a point by the quadratic model around the bootstrapped point.

    With ``x̃ = x_B - H⁻¹∇f(x_B)``, ``f̃(x) = ½ (x - x̃)ᵀ H (x - x̃)`` and ``‖x - x_B‖ <= M/ρ``.

    Parameters
    ----------
    model_value
        ``f̃(x)``.
    strong_convexity, hessian_lipschitz
        ``M`` and ``ρ``.
    bootstrap_regret
        ``f(x_B) - f*``.

    Returns
    -------
    float or array
        ``2 f̃(x) + 12 ρ (f(x_B) - f*)^{3/2} / M^{3/2}``.

    Notes
    -----
    Source: arXiv 2406.19617, equation (7).
    """
    M = _positive("strong_convexity", strong_convexity)
    rho = _nonnegative("hessian_lipschitz", hessian_lipschitz)
    excess = _nonnegative("bootstrap_regret", bootstrap_regret)
    return 2 * _nonnegative("model_value", model_value) + 12 * rho * (excess / M) ** 1.5


def model_bound(
    *,
    dimension: Numbers,
    strong_convexity: Numbers,
    hessian_lipschitz: Numbers,
    noise: Numbers,
    samples: Numbers,
    pairs: Numbers,
    bootstrap_regret: Numbers,
) -> Numbers:
    """Bound ``E f̃`` of the final stage's point, for use in `regret_from_model`.

    Holds for ``pairs >= required_pairs`` and ``samples >= required_samples``.

    Parameters
    ----------
    dimension, strong_convexity, hessian_lipschitz, noise
        See the module.
    samples
        ``n_H``, evaluations per point of the Hessian.
    pairs
        ``n_g``, pairs of the gradient.
    bootstrap_regret
        ``f(x_B) - f*``.

    Returns
    -------
    float or array
        ``(14 d² ρ^{4/3} σ^{2/3} / (M² n_H^{1/3}) + 52 d / n_g) Δ + 82 ρ Δ^{3/2} / M^{3/2}
        + 3 d ρ^{2/3} σ^{4/3} / (M n_g^{2/3})`` with ``Δ = f(x_B) - f*``.

    Notes
    -----
    Source: arXiv 2406.19617, equation (8).
    """
    d, M = _positive("dimension", dimension), _positive("strong_convexity", strong_convexity)
    rho, sigma = _nonnegative("hessian_lipschitz", hessian_lipschitz), _nonnegative("noise", noise)
    excess = _nonnegative("bootstrap_regret", bootstrap_regret)
    pairs = _positive("pairs", pairs)
    shape_error = rho ** (4 / 3) * np.cbrt(sigma**2 / _positive("samples", samples))
    linear = 14 * d**2 * shape_error / M**2 + 52 * d / pairs
    estimate = 3 * d * rho ** (2 / 3) * sigma ** (4 / 3) / (M * pairs ** (2 / 3))
    return linear * excess + 82 * rho * (excess / M) ** 1.5 + estimate


def required_pairs(*, dimension: Numbers) -> Numbers:
    """Give the pairs ``d³`` from which on `model_bound` holds.

    Notes
    -----
    Source: arXiv 2406.19617, equation (8).
    """
    return _positive("dimension", dimension) ** 3


def required_samples(
    *,
    dimension: Numbers,
    strong_convexity: Numbers,
    hessian_lipschitz: Numbers,
    noise: Numbers,
) -> Numbers:
    """Give the Hessian samples ``64 ρ⁴ σ² d⁶ / M⁶`` from which on `model_bound` holds.

    Notes
    -----
    Source: arXiv 2406.19617, equation (8).
    """
    d, M = _positive("dimension", dimension), _positive("strong_convexity", strong_convexity)
    rho, sigma = _nonnegative("hessian_lipschitz", hessian_lipschitz), _nonnegative("noise", noise)
    return FINAL_HESSIAN_SAMPLES * (rho**2 * sigma * d**3 / M**3) ** 2


def _gradient_radius(d: Numbers, rho: Numbers, sigma: Numbers, pairs: Numbers) -> Numbers:
    return radius("gradient", dimension=d, hessian_lipschitz=rho, noise=sigma, pairs=pairs)


def _regret_terms(squared_bias: Numbers, variance: Numbers, curvature: Numbers) -> RegretTerms:
    # ½ eᵀ H⁻¹ e of a gradient error e.
    bias, noise = squared_bias / (2 * curvature), variance / (2 * curvature)
    return RegretTerms(bias, noise, bias + noise)


def _tail(deviation: Numbers, denominator: Numbers) -> Numbers:
    return 2 * np.exp(-(_nonnegative("deviation", deviation) ** 2) / denominator)


def _needed(kind: str, name: str, value: Numbers | None) -> Numbers:
    if value is None:
        raise ValueError(f"radius({kind!r}) needs {name}")
    return _positive(name, value)


def _nonnegative(name: str, value: Numbers) -> Numbers:
    return _checked(name, value, allow_zero=True)


def _positive(name: str, value: Numbers) -> Numbers:
    return _checked(name, value, allow_zero=False)


def _checked(name: str, value: Numbers, allow_zero: bool) -> Numbers:
    numbers = np.asarray(value, dtype=np.float64)
    right = (numbers >= 0) if allow_zero else (numbers > 0)
    if not (right & np.isfinite(numbers)).all():
        kind = "zero or positive" if allow_zero else "positive"
        raise ValueError(f"{name} must be {kind} and finite, got {value!r}")
    return numbers[()]
