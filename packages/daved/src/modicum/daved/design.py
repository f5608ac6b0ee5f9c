"""Linear algebra of a design: the inverse information matrix, the loss, what is covered.

Takes small (d, d) and (m, d) float64 arrays; rows of sellers never come here.

Shapes: d features, m queries.
"""

from typing import NamedTuple

import numpy as np

__all__ = ["Inverse", "coverage", "directions", "objective", "pseudo_inverse"]


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
