"""The regression of even parts: a value, a Hessian and the noise from ``(y₊ + y₋)/2``.

Weighted ridge least squares with normal equations summed over pieces of the pairs, so that memory
depends on the number of unknowns and not on that of pairs. Conventions and words are those of
`modicum.zeroth.pairs`. Knows nothing of functions and rounds.

Legend: ``N`` pairs, ``d`` dimension, ``P`` unknowns, ``n`` pairs of a piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace, device

from modicum.zeroth.arrays import Array, chunks, host, like, vector_like
from modicum.zeroth.curvature import Curvature, Diagonal, Full, Isotropic, LowRank

__all__ = ["HessianFit", "fit_even"]

# Smallest pivot, relative to a unit diagonal, of a regression that counts as determined.
_PIVOT_MIN = 1e-11
# Share of an unknown in a direction that nothing determines, above which it counts as unknown.
_NULL_SHARE = 1e-6
# Residuals of fewer degrees of freedom than this say nothing of the noise: where there are more
# unknowns than pairs, what is left decides between rounding errors.
_DOF_MIN = 0.5
# Huber's constant (95 % efficiency at the normal) and the factor from MAD to standard deviation.
_HUBER, _MAD_TO_STD = 1.345, 1.4826
_ROBUST_STEPS = 100
# In standard deviations of the unknowns.
_ROBUST_TOLERANCE = 1e-6


@dataclass(frozen=True)
class HessianFit:
    """A regression of the even parts: ``even ≈ constant + radius²/2 · uᵀ matrix u``.

    Attributes
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
        ``2√d`` for a full symmetric matrix, ``√(2 log 2d)`` for a diagonal, and at least 2.
    noise
        Standard deviation of one value, from the residuals; nan without degrees of freedom. With
        ``robust=True`` that of normal noise under which the fit would be as uncertain.
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
        Standard deviation of one value: a positive number, or ``(N,)``; where the two values of a
        pair share part of their noise, ``√2`` times that of an even part.
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
        If there are no pairs, a noise is not positive, a precision is negative, `prior` has
        another shape, or `hessian` is unknown.
    """
    xp = array_namespace(u_Nd)
    count, dimension = u_Nd.shape
    if count == 0:
        raise ValueError("there are no pairs")
    noise_N = vector_like(noise, u_Nd)
    if not bool(xp.all(noise_N > 0)):
        raise ValueError(f"noise must be positive, got {float(xp.min(noise_N))}")
    even_N = vector_like(even_N, u_Nd)
    weights_N = 2 / noise_N**2
    if center is None:
        center = float((weights_N @ even_N) / xp.sum(weights_N))
    prior = np.zeros((dimension, dimension)) if prior is None else np.asarray(prior, dtype=float)
    if prior.shape != (dimension, dimension):
        raise ValueError(f"prior must be {(dimension, dimension)}, got {prior.shape}")
    if center_precision < 0 or prior_precision < 0:
        raise ValueError(
            f"precisions must not be negative, got {center_precision} and {prior_precision}"
        )
    data = _EvenData(u_Nd, even_N - center, vector_like(radius_N, u_Nd) ** 2 / 2, weights_N)
    knowledge = _Knowledge(prior, prior_precision, center_precision)
    model: Curvature
    kind, _, rank = hessian.partition(":")
    if kind == "lowrank":
        model, data = _low_rank(data, knowledge, _rank(rank, dimension), robust)
    elif hessian in _CURVATURES:
        model = _CURVATURES[hessian](dimension)
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
        matrix_dd = like(matrix, self.directions)
        parts = []
        for rows in chunks(len(self.value), len(matrix)):
            u_nd = self.directions[rows, :]
            quadratic_n = xp.sum((u_nd @ matrix_dd) * u_nd, axis=1)
            parts.append(self.value[rows] - constant - self.half_square[rows] * quadratic_n)
        return xp.concat(parts)


@dataclass(frozen=True)
class _Knowledge:
    matrix: np.ndarray
    precision: float
    constant_precision: float


_CURVATURES: dict[str, Callable[[int], Curvature]] = {
    "full": Full,
    "diag": Diagonal,
    "none": Isotropic,
}


def _rank(text: str, dimension: int) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= dimension:
        raise ValueError(
            f'k of hessian="lowrank:k" must be an integer from 1 to {dimension}, got {text!r}'
        )
    return int(text)


def _low_rank(
    data: _EvenData, knowledge: _Knowledge, rank: int, robust: bool
) -> tuple[LowRank, _EvenData]:
    """Choose directions with the pairs of even number and give back the others."""
    seen = data.part(slice(0, None, 2))
    xp = array_namespace(data.directions)
    dimension = data.directions.shape[1]
    base = _fit(seen, Isotropic(dimension), knowledge, 0.0, robust)
    # For u on the sphere E[(uᵀAu)(uuᵀ - I/d)] = 2/(d(d+2)) (A - tr(A)/d I); what the fit of a
    # multiple of I leaves over is therefore an unbiased view of the rest of A.
    residual_N = seen.residual(base.constant, base.matrix)
    if robust:
        residual_N = _clip(residual_N)[0]
    pull_N = seen.weights * seen.half_square * residual_N
    moment_dd = host((seen.directions * pull_N[:, None]).T @ seen.directions)
    moment_dd -= np.eye(dimension) * float(xp.sum(pull_N)) / dimension
    information = float(seen.weights @ seen.half_square**2) * 2 / (dimension * (dimension + 2))
    precision = knowledge.precision
    total_dd = moment_dd + precision * (knowledge.matrix - base.matrix)
    values_d, vectors_dd = np.linalg.eigh(total_dd / (information + precision))
    largest = np.argsort(-np.abs(values_d), kind="stable")[:rank]
    others = data.part(slice(1, None, 2)) if len(data.value) > 1 else data
    return LowRank(vectors_dd[:, largest]), others


def _fit(
    data: _EvenData, model: Curvature, knowledge: _Knowledge, center: float, robust: bool
) -> HessianFit:
    gram_PP, pull_P = _normal_equations(data, model)
    start_P = np.append(0.0, model.coefficients(knowledge.matrix))
    precision_P = np.append(knowledge.constant_precision, knowledge.precision * model.frobenius())
    system_PP = gram_PP.copy()
    np.einsum("pp->p", system_PP)[...] += precision_P
    covariance_PP, unknown_P = _invert(system_PP)
    count = len(data.value)
    dof = count - float(np.vdot(gram_PP, covariance_PP))
    solution_P = start_P + covariance_PP @ (pull_P - gram_PP @ start_P)
    if robust:
        solution_P, square = _huber(data, model, solution_P, start_P, precision_P, covariance_PP)
    matrix = model.matrix(solution_P[1:])
    # Squares of residuals in units of what the noise says.
    square_N = host(data.residual(float(solution_P[0]), matrix) ** 2 * data.weights)
    if not robust:
        square = float(np.mean(square_N))
    told = 2 / float(np.mean(host(data.weights)))
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
        kurtosis=_kurtosis(square_N),
        count=count,
    )


def _kurtosis(square_N: np.ndarray) -> float:
    """Give the kurtosis of residuals from their squares, whose own squares may underflow."""
    largest = float(square_N.max())
    if largest == 0:
        return np.nan
    relative_N = square_N / largest
    return float(np.mean(relative_N**2) / np.mean(relative_N) ** 2)


def _feature_chunks(data: _EvenData, model: Curvature) -> Iterator[tuple[slice, Array]]:
    """Give derivatives ``(1 + P, n)`` by constant and unknowns, times the root of the weight."""
    xp = array_namespace(data.directions)
    dimension = data.directions.shape[1]
    where = {"dtype": xp.float64, "device": device(data.directions)}
    for rows in chunks(len(data.value), 1 + model.size):
        size = rows.stop - rows.start
        u_dn = xp.empty((dimension, size), **where)
        u_dn[...] = data.directions[rows, :].T
        root_n = xp.sqrt(data.weights[rows])
        feature_Pn = xp.empty((1 + model.size, size), **where)
        feature_Pn[0, :] = root_n
        model.features(u_dn, data.half_square[rows] * root_n, feature_Pn[1:, :])
        yield rows, feature_Pn


def _normal_equations(data: _EvenData, model: Curvature) -> tuple[np.ndarray, np.ndarray]:
    gram_PP: Array = 0.0
    pull_P: Array = 0.0
    for rows, feature_Pn in _feature_chunks(data, model):
        gram_PP = gram_PP + feature_Pn @ feature_Pn.T
        pull_P = pull_P + feature_Pn @ (
            data.value[rows] * array_namespace(feature_Pn).sqrt(data.weights[rows])
        )
    return host(gram_PP), host(pull_P)


def _invert(matrix_PP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Invert a positive semi-definite matrix, overwrite it, and say which unknowns it leaves open.

    What is not determined gets the inverse 0, so that it stays where it started.
    """
    from scipy.linalg import lapack

    diagonal_P = np.diag(matrix_PP)
    scale_P = 1 / np.sqrt(np.where(diagonal_P > 0, diagonal_P, 1.0))
    matrix_PP *= scale_P
    matrix_PP *= scale_P[:, None]
    # The transpose has LAPACK's order of entries and is the same matrix.
    factor_PP, failed = lapack.dpotrf(matrix_PP.T, lower=1)
    if failed or np.diag(factor_PP).min() ** 2 <= _PIVOT_MIN:
        return _pseudo_invert(matrix_PP, scale_P)
    inverse_PP = lapack.dpotri(factor_PP, lower=1, overwrite_c=1)[0]
    inverse_PP *= scale_P
    inverse_PP *= scale_P[:, None]
    # The other triangle is 0.
    inverse_PP += inverse_PP.T
    np.einsum("pp->p", inverse_PP)[...] /= 2
    return inverse_PP, np.zeros(len(scale_P), dtype=bool)


def _pseudo_invert(scaled_PP: np.ndarray, scale_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values_P, vectors_PP = np.linalg.eigh(scaled_PP)
    null = values_P <= _PIVOT_MIN * values_P[-1]
    kept_PP = vectors_PP[:, ~null] * scale_P[:, None]
    unknown_P = np.abs(vectors_PP[:, null]).max(axis=1, initial=0.0) > _NULL_SHARE
    return (kept_PP / values_P[~null]) @ kept_PP.T, unknown_P


def _huber(
    data: _EvenData,
    model: Curvature,
    least_squares_P: np.ndarray,
    prior_P: np.ndarray,
    precision_P: np.ndarray,
    covariance_PP: np.ndarray,
) -> tuple[np.ndarray, float]:
    """Minimise Huber's loss by least squares on clipped residuals.

    Starts at least squares or at the prior, where no wild value has a say yet: where residuals are
    smaller. Gives the unknowns and the mean square of normal residuals from which they would be as
    uncertain.
    """
    root_N = array_namespace(data.directions).sqrt(data.weights)
    std_P = np.sqrt(np.diag(covariance_PP))

    def clipped(solution_P: np.ndarray) -> tuple[Array, float, float]:
        residual_N = data.residual(float(solution_P[0]), model.matrix(solution_P[1:])) * root_N
        return _clip(residual_N)

    middle = np.median(host(data.residual(0.0, model.matrix(prior_P[1:]))))
    from_prior_P = np.append(middle, prior_P[1:])
    solution_P = min((least_squares_P, from_prior_P), key=lambda start_P: clipped(start_P)[1])
    for _ in range(_ROBUST_STEPS):
        clipped_N, bound, inside = clipped(solution_P)
        pull_P: Array = 0.0
        for rows, feature_Pn in _feature_chunks(data, model):
            pull_P = pull_P + feature_Pn @ clipped_N[rows]
        move_P = covariance_PP @ (host(pull_P) - precision_P * (solution_P - prior_P))
        solution_P = solution_P + move_P
        if np.all(np.abs(move_P) <= _ROBUST_TOLERANCE * bound * std_P):
            break
    return solution_P, float(np.mean(host(clipped_N) ** 2)) / inside**2


def _clip(residual_N: Array) -> tuple[Array, float, float]:
    """Clip residuals where Huber's loss turns from a square to a line.

    Gives them, that bound, and the share of residuals within it.
    """
    size_N = np.abs(host(residual_N))
    # More than half of the residuals are 0 where directions repeat and there is no noise.
    scale = _MAD_TO_STD * float(np.median(size_N)) or float(np.sqrt(np.mean(size_N**2)))
    bound = _HUBER * scale
    clipped_N = array_namespace(residual_N).clip(residual_N, -bound, bound)
    return clipped_N, bound, float(np.mean(size_N <= bound))
