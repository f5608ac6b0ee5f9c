"""Linear algebra of a design: the inverse information matrix, the loss, what is covered.

Takes small (d, d) and (m, d) float64 arrays; rows of sellers never come here.

Shapes: n rows, d features, m queries, k picked rows, r rank of the rows.
"""

from typing import NamedTuple

import numpy as np

from modicum.daved.steps import ALPHA_MAX

__all__ = [
    "Inverse",
    "InverseBesideConstant",
    "WhitenedInverse",
    "constant_part",
    "coverage",
    "directions",
    "first_best",
    "objective",
    "pseudo_inverse",
]

_TIE = 1e-12
"""Relative difference below which two scores are equal: equal rows can differ by rounding."""

_BISECTIONS = 60
"""Halvings after which a step size in [0, 1] is known to the last digit of float64."""

_INVERSE_TOLERANCE = 1e-4
"""Largest entry of P M - I with which an inverse P of M is still one."""


class Inverse(NamedTuple):
    """A pseudo-inverse and the span it is one on.

    Attributes
    ----------
    matrix
        (d, d).
    basis
        Orthonormal columns of the span, (d, rank).
    """

    matrix: np.ndarray
    basis: np.ndarray

    @property
    def rank(self) -> int:
        """Dimension of the span."""
        return self.basis.shape[1]


def pseudo_inverse(gram_dd: np.ndarray) -> Inverse:
    """Invert a symmetric positive semidefinite matrix on its numerical span.

    Eigenvalues below d · eps times the largest count as 0.

    Parameters
    ----------
    gram_dd
        (d, d) float64.
    """
    values_d, vectors_dd = np.linalg.eigh((gram_dd + gram_dd.T) / 2)
    cutoff = len(values_d) * np.finfo(np.float64).eps * max(values_d[-1], 0.0)
    kept = values_d > cutoff
    basis_dr = vectors_dd[:, kept]
    return Inverse((basis_dr / values_d[kept]) @ basis_dr.T, basis_dr)


def directions(inverse_dd: np.ndarray, queries_md: np.ndarray) -> np.ndarray:
    """Give the columns P q_i, (d, m), whose squared products with a row are its scores."""
    return inverse_dd @ queries_md.T


def objective(inverse_dd: np.ndarray, queries_md: np.ndarray) -> float:
    """Give L = (1/m) Σ q_i' P q_i, in units of label variance per unit weight."""
    return float(np.einsum("md,de,me->", queries_md, inverse_dd, queries_md) / len(queries_md))


def constant_part(
    inverse_dd: np.ndarray, constant_dd: np.ndarray | None, queries_md: np.ndarray
) -> float:
    """Give (1/m) Σ q' P C P q, the part of L that no weight carries; 0 without a constant C.

    With M = C + Σ w x x' the weighted scores sum to Σ w g = L - (1/m) Σ q' P C P q. L is convex and
    its slope towards one row is Σ w g - g, so that max g - Σ w g bounds L minus its optimum.
    """
    if constant_dd is None:
        return 0.0
    seen_dm = directions(inverse_dd, queries_md)
    return float(np.einsum("dm,de,em->", seen_dm, constant_dd, seen_dm) / len(queries_md))


def coverage(basis_dr: np.ndarray, queries_md: np.ndarray) -> np.ndarray:
    """Give the share of every query's squared length in a span, (m,), between 0 and 1.

    Parameters
    ----------
    basis_dr
        Orthonormal columns, (d, rank).
    queries_md
        Queries, none of them 0.
    """
    inside_m = np.square(queries_md @ basis_dr).sum(axis=1)
    return np.minimum(inside_m / np.square(queries_md).sum(axis=1), 1.0)


def first_best(values_n: np.ndarray) -> int:
    """Give the smallest index among the largest values; equal is what differs by rounding only."""
    largest = float(values_n.max())
    return int(np.argmax(values_n >= largest - _TIE * abs(largest)))


class WhitenedInverse:
    """The inverse of an information matrix M, on the span of M at the start, through its changes.

    It works in coordinates in which M at the start is the identity, so that neither the scales of
    features nor their correlations cost accuracy.

    Parameters
    ----------
    start_dd
        M at the start, (d, d); its numerical span is the one of `pseudo_inverse`.
    queries_md
        Queries; the part of them outside the span is left out.
    """

    def __init__(self, start_dd: np.ndarray, queries_md: np.ndarray) -> None:
        inverse = pseudo_inverse(start_dd)
        size_r = np.einsum("dr,de,er->r", inverse.basis, inverse.matrix, inverse.basis)
        self.whiten_dr = inverse.basis * np.sqrt(size_r)
        self.queries_mr = queries_md @ self.whiten_dr
        self.core_rr = np.eye(inverse.rank)

    def loss(self) -> float:
        """Give L = (1/m) Σ q_i' M⁻¹ q_i."""
        return objective(self.core_rr, self.queries_mr)

    def directions(self) -> np.ndarray:
        """Give the columns M⁻¹ q_i, (d, m)."""
        found_dm: np.ndarray = self.whiten_dr @ (self.core_rr @ self.queries_mr.T)
        return found_dm

    def mean_score(self) -> float:
        """Give Σ w g, the mean of the scores under the weights: the loss itself."""
        return self.loss()

    def leverage(self, row_d: np.ndarray) -> float:
        """Give x' M⁻¹ x."""
        row_r = row_d @ self.whiten_dr
        return float(row_r @ self.core_rr @ row_r)

    def matrix(self) -> np.ndarray:
        """Give M⁻¹ in the coordinates of the features, (d, d)."""
        found_dd: np.ndarray = self.whiten_dr @ self.core_rr @ self.whiten_dr.T
        return found_dd

    def follow(self, row_d: np.ndarray, step_size: float) -> bool:
        """Follow M to (1 - α) M + α x x' (Sherman and Morrison).

        Returns
        -------
        bool
            Whether the result is still an inverse; `rebuild` it otherwise.
        """
        row_r = row_d @ self.whiten_dr
        column_r = self.core_rr @ row_r
        left = 1 - step_size
        share = step_size / (left + step_size * float(row_r @ column_r))
        self.core_rr = (self.core_rr - share * np.outer(column_r, column_r)) / left
        return bool(share > 0 and np.diag(self.core_rr).min(initial=np.inf) > 0)

    def rebuild(self, start_share: float, rows_kd: np.ndarray, weights_k: np.ndarray) -> None:
        """Invert s M_start + Σ w x x' anew, s > 0.

        Raises
        ------
        FloatingPointError
            If float64 cannot invert it.
        """
        rows_kr = rows_kd @ self.whiten_dr
        whitened_rr = rows_kr.T @ (weights_k[:, None] * rows_kr)
        whitened_rr[np.diag_indices_from(whitened_rr)] += start_share
        self.core_rr = _inverse_of(whitened_rr, start_share)


class InverseBesideConstant(WhitenedInverse):
    """The inverse of C + M(w), where steps change M(w) and C stays what it is.

    A step turns M(w) into (1 - α) M(w) + α x x'. Beside a constant that is no change of rank one of
    a shrunken whole, so that the inverse is computed anew in every step, O(d³).

    Parameters
    ----------
    design_dd
        M(w) at the start, (d, d).
    constant_dd
        C, positive semidefinite, (d, d), in the unit of weights of sum 1.
    queries_md
        Queries; the part of them outside the span of C + M(w) is left out.
    """

    def __init__(
        self, design_dd: np.ndarray, constant_dd: np.ndarray, queries_md: np.ndarray
    ) -> None:
        super().__init__(design_dd + constant_dd, queries_md)
        self.start_rr = self.whiten_dr.T @ design_dd @ self.whiten_dr
        self.constant_rr = self.whiten_dr.T @ constant_dd @ self.whiten_dr
        self.design_rr = self.start_rr
        self.start_share = 1.0

    def mean_score(self) -> float:
        """Give Σ w g, the mean of the scores under the weights: the loss less C's part."""
        return self.loss() - constant_part(self.core_rr, self.constant_rr, self.queries_mr)

    def follow(self, row_d: np.ndarray, step_size: float) -> bool:
        """Follow M(w) to (1 - α) M(w) + α x x'; what cannot be inverted raises an error."""
        row_r = row_d @ self.whiten_dr
        self.start_share *= 1 - step_size
        self.design_rr = (1 - step_size) * self.design_rr + step_size * np.outer(row_r, row_r)
        self.core_rr = _inverse_of(self.design_rr + self.constant_rr, self.start_share)
        return True

    def rebuild(self, start_share: float, rows_kd: np.ndarray, weights_k: np.ndarray) -> None:
        """Invert C + s M_start + Σ w x x' anew, s > 0; errors as in `WhitenedInverse`."""
        rows_kr = rows_kd @ self.whiten_dr
        self.design_rr = start_share * self.start_rr + rows_kr.T @ (weights_k[:, None] * rows_kr)
        self.start_share = start_share
        self.core_rr = _inverse_of(self.design_rr + self.constant_rr, start_share)

    def best_step(self, row_d: np.ndarray) -> float:
        """Find the step towards a row that lowers the loss most, in [0, .999].

        With M = C + M(w) the loss is that of M + α (x x' - M(w)). In coordinates in which M is the
        identity and M(w) a diagonal of shares μ in [0, 1], M - α M(w) is a diagonal too, and x x'
        is of rank one: after one decomposition, O(d³), the slope at any α costs O(d m). The loss is
        convex in α, so that its slope changes sign once, which bisection finds. The closed form of
        `modicum.daved.steps.line_search` is the case in which all μ are 1.
        """
        root_rr = np.linalg.cholesky(self.design_rr + self.constant_rr)
        half_rr = np.linalg.solve(root_rr, self.design_rr)
        share_r, turn_rr = np.linalg.eigh(np.linalg.solve(root_rr, half_rr.T))
        turn_rr = np.linalg.solve(root_rr.T, turn_rr)
        row_r = row_d @ self.whiten_dr @ turn_rr
        queries_rm = turn_rr.T @ self.queries_mr.T

        def falls(alpha: float) -> bool:
            left_r = 1 / (1 - alpha * share_r)
            along_r = left_r * row_r
            found_rm = left_r[:, None] * queries_rm
            pull_m = row_r @ found_rm / (1 + alpha * float(row_r @ along_r))
            found_rm -= alpha * np.outer(along_r, pull_m)
            return bool((share_r @ np.square(found_rm)).sum() < np.square(pull_m).sum())

        if not falls(0.0):
            return 0.0
        low, high = 0.0, ALPHA_MAX
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if falls(middle) else (low, middle)
        return high if high == ALPHA_MAX else low


def _inverse_of(whitened_rr: np.ndarray, start_share: float) -> np.ndarray:
    try:
        found_rr = np.linalg.inv(whitened_rr)
    except np.linalg.LinAlgError:
        raise FloatingPointError(_not_invertible(np.inf, start_share)) from None
    found_rr = (found_rr + found_rr.T) / 2
    error = np.abs(found_rr @ whitened_rr - np.eye(len(found_rr))).max(initial=0.0)
    if not error <= _INVERSE_TOLERANCE:
        raise FloatingPointError(_not_invertible(error, start_share))
    return found_rr


def _not_invertible(error: float, start_share: float) -> str:
    return (
        f"the information matrix cannot be inverted in float64 (error {error:.1e}, at most "
        f"{_INVERSE_TOLERANCE:.0e}): the start has {start_share:.1e} of the weight; take smaller "
        "or fewer steps"
    )
