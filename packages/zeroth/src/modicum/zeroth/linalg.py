"""Steps and shapes from a Hessian: floored eigenvalues, the clipped Newton step, inverse roots.

Takes small dense symmetric matrices and vectors as NumPy arrays or torch tensors, computes on the
host in float64 and answers in the library, on the device and in the dtype of the matrix. Knows
nothing of functions, noise and budgets.

Source: "Stochastic Zeroth-Order Optimization under Strong Convexity and Lipschitz Hessian: Minimax
Sample Complexity" (arXiv 2406.19617), algorithms 3 and 4; the closed form of the step is our own.

Legend of shape suffixes: ``D`` dimension.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import array_api_compat
import numpy as np

from modicum.zeroth.arrays import Array, host


class FlooredHessian(NamedTuple):
    """A symmetric matrix none of whose eigenvalues is below a floor.

    Attributes
    ----------
    hessian
        The floored matrix, ``(d, d)``.
    eigenvalues
        Its eigenvalues (after flooring), ascending, ``(d,)``.
    eigenvectors
        Orthonormal columns in the same order, ``(d, d)``; they are also those of the matrix before.
    """

    hessian: Array
    eigenvalues: Array
    eigenvectors: Array


@dataclass(frozen=True)
class ClippedStep:
    """A Newton step of limited length.

    Attributes
    ----------
    step
        ``-H_t^-1 gradient`` with the eigenvalues of ``H`` floored at ``t``, ``(d,)``.
    floor
        The least ``t`` for which the step is within the radius; 0.0 if the Newton step is.
    eigenvalues
        Eigenvalues after flooring, in the order of the eigenvectors, ``(d,)``.
    eigenvectors
        Orthonormal columns, ``(d, d)``.
    """

    step: Array
    floor: float
    eigenvalues: Array
    eigenvectors: Array

    @property
    def hessian(self) -> Array:
        """The floored matrix ``H_t``, ``(d, d)``: ``hessian @ step == -gradient``."""
        return _compose(self.eigenvalues, self.eigenvectors)


def floor_eigenvalues(hessian: Array, floor: float) -> FlooredHessian:
    """Raise the eigenvalues of a symmetric matrix to a floor; eigenvectors stay.

    Parameters
    ----------
    hessian
        Symmetric ``(d, d)``; of a slightly asymmetric matrix the symmetric part counts.
    floor
        Least eigenvalue of the result.

    Returns
    -------
    FlooredHessian
        ``(hessian, eigenvalues, eigenvectors)``, all after flooring.

    Raises
    ------
    ValueError
        If the matrix is not square or not finite, or `floor` is not finite.

    Notes
    -----
    Source: arXiv 2406.19617, algorithm 3 (last line).
    """
    if not math.isfinite(floor):
        raise ValueError(f"floor must be finite, got {floor!r}")
    raw_D, eigenvectors_DD = _eigh(hessian)
    eigenvalues_D = np.maximum(raw_D, floor)
    floored = FlooredHessian(
        _compose(eigenvalues_D, eigenvectors_DD), eigenvalues_D, eigenvectors_DD
    )
    return FlooredHessian(*(_like(part, hessian) for part in floored))


def clipped_newton(hessian: Array, gradient: Array, radius: float) -> ClippedStep:
    """Give the Newton step, shortened to a radius by flooring the eigenvalues of the Hessian.

    Among all floors ``t`` with ``‖H_t^-1 gradient‖ <= radius`` the least is taken, where ``H_t``
    has the eigenvalues ``max(λ_i, t)``. This is not the shift ``H + t I`` of ordinary trust
    regions: directions that are steep already keep their full Newton step.

    Parameters
    ----------
    hessian
        Symmetric positive definite ``(d, d)``, as `floor_eigenvalues` makes it.
    gradient
        ``(d,)``.
    radius
        Greatest length of the step, positive; ``M/ρ`` in the paper, ``inf`` for a plain Newton
        step.

    Returns
    -------
    ClippedStep
        The step, the floor and the floored matrix.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is not finite, an eigenvalue or the radius is not positive.

    Notes
    -----
    Source: arXiv 2406.19617, algorithm 4, line 6. Solved in closed form after one
    eigendecomposition; use `clipped_newton_eigen` when there is one already.
    """
    eigenvalues_D, eigenvectors_DD = _eigh(hessian)
    clipped = clipped_newton_eigen(eigenvalues_D, eigenvectors_DD, host(gradient), radius)
    return ClippedStep(
        _like(clipped.step, hessian),
        clipped.floor,
        _like(clipped.eigenvalues, hessian),
        _like(clipped.eigenvectors, hessian),
    )


def clipped_newton_eigen(
    eigenvalues: np.ndarray, eigenvectors: np.ndarray, gradient: np.ndarray, radius: float
) -> ClippedStep:
    """Give the clipped Newton step of a Hessian whose eigendecomposition is known.

    Parameters
    ----------
    eigenvalues
        Positive, in any order, ``(d,)`` NumPy float64.
    eigenvectors
        Orthonormal columns, ``(d, d)``.
    gradient
        ``(d,)``.
    radius
        Greatest length of the step, positive, ``inf`` allowed.

    Returns
    -------
    ClippedStep
        As of `clipped_newton`, with the eigenvectors as given.

    Raises
    ------
    ValueError
        As `clipped_newton`.
    """
    if not radius > 0:
        raise ValueError(f"radius must be positive, got {radius!r}")
    if eigenvectors.shape != (len(eigenvalues),) * 2 or gradient.shape != eigenvalues.shape:
        raise ValueError(
            f"a Hessian with {len(eigenvalues)} eigenvalues needs eigenvectors (d, d) and a "
            f"gradient (d,), got {eigenvectors.shape} and {gradient.shape}"
        )
    if not (np.isfinite(eigenvalues).all() and eigenvalues.min() > 0):
        raise ValueError(
            f"eigenvalues must be positive and finite, got least {eigenvalues.min()!r}; floor the "
            "Hessian first (floor_eigenvalues)"
        )
    if not np.isfinite(gradient).all():
        raise ValueError(f"gradient must be finite, got {gradient!r}")
    along_D = eigenvectors.T @ gradient
    floor = _least_floor(eigenvalues, along_D, radius)
    floored_D = np.maximum(eigenvalues, floor)
    step_D = eigenvectors @ (-along_D / floored_D)
    return ClippedStep(step_D, floor, floored_D, eigenvectors)


def inv_sqrt(hessian: Array) -> Array:
    """Give the symmetric inverse square root ``H^-1/2`` of a positive definite matrix.

    Parameters
    ----------
    hessian
        Symmetric positive definite ``(d, d)``.

    Returns
    -------
    (d, d)
        Symmetric positive definite, with ``Z H Z = I``.

    Raises
    ------
    ValueError
        If the matrix is not square, not finite or not positive definite.
    """
    eigenvalues_D, eigenvectors_DD = _eigh(hessian)
    if not eigenvalues_D[0] > 0:
        raise ValueError(
            f"hessian must be positive definite, got least eigenvalue {eigenvalues_D[0]!r}; floor "
            "it first (floor_eigenvalues)"
        )
    return _like(_compose(1 / np.sqrt(eigenvalues_D), eigenvectors_DD), hessian)


def _least_floor(eigenvalues_D: np.ndarray, along_D: np.ndarray, radius: float) -> float:
    # With the k least eigenvalues floored at t, ‖step‖² = A_k²/t² + B_k²; the answer is the t that
    # makes it radius² for the one k whose t lies between the k-th and the next eigenvalue. That k
    # is the first for which flooring up to the next eigenvalue is enough: norms fall with t, so
    # this finds it also where rounding leaves no t inside its interval. Root sums of squares by
    # hypot and in units of the radius, so that no scale of the problem overflows.
    order = np.argsort(eigenvalues_D, kind="stable")
    ascending_D = eigenvalues_D[order]
    size_D = np.abs(along_D)[order]
    with np.errstate(over="ignore"):  # inf means "far outside the radius" just as well
        newton_D = size_D / ascending_D / radius
        beyond_D = np.append(np.hypot.accumulate(newton_D[::-1])[::-1], 0.0)
        if beyond_D[0] <= 1:
            return 0.0
        head_D = np.hypot.accumulate(size_D / radius)
        enough_D = np.hypot(head_D[:-1] / ascending_D[1:], beyond_D[1:-1]) <= 1
    k = int(np.argmax(np.append(enough_D, True)))
    rest = float(beyond_D[k + 1])
    room = math.sqrt((1 - rest) * (1 + rest))
    floor = float(head_D[k]) / room if room > 0 else math.inf
    largest = ascending_D[k + 1] if k + 1 < len(ascending_D) else math.inf
    return float(min(max(floor, ascending_D[k]), largest))


def _compose(eigenvalues: Array, eigenvectors: Array) -> Array:
    matrix = (eigenvectors * eigenvalues) @ eigenvectors.T
    return (matrix + matrix.T) / 2


def _eigh(hessian: Array) -> tuple[np.ndarray, np.ndarray]:
    matrix_DD = host(hessian)
    if matrix_DD.ndim != 2 or matrix_DD.shape[0] != matrix_DD.shape[1] or matrix_DD.size == 0:
        raise ValueError(f"hessian must be a square matrix, got shape {matrix_DD.shape}")
    if not np.isfinite(matrix_DD).all():
        raise ValueError("hessian must be finite, got nan or inf entries")
    return np.linalg.eigh(matrix_DD / 2 + matrix_DD.T / 2)


def _like(array: np.ndarray, example: Array) -> Array:
    return example.new_tensor(array) if array_api_compat.is_torch_array(example) else array
