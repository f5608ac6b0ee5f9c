"""Families of symmetric matrices that a regression can fit, each linear in its unknowns.

A family says how ``radius²/2 · uᵀAu`` depends on its unknowns, and turns unknowns into a matrix and
back. Knows nothing of noise and data.

Legend: ``d`` dimension, ``n`` directions, ``P`` unknowns, ``k`` rank.
"""

from abc import ABC, abstractmethod

import numpy as np
from array_api_compat import array_namespace

from modicum.zeroth.arrays import Array, like

__all__ = ["Curvature", "Diagonal", "Full", "Isotropic", "LowRank"]


class Curvature(ABC):
    """A family of symmetric ``(d, d)`` matrices, linear in `size` unknowns.

    Attributes
    ----------
    dimension
        ``d``.
    size
        Number of unknowns ``P``.
    spectral_factor
        Spectral norm of a matrix whose unknowns are noise with the standard deviation of
        `typical_std`, about; at least 2, for which one unknown counts as different from 0.
    """

    dimension: int
    size: int
    spectral_factor: float

    @abstractmethod
    def features(self, u_dn: Array, half_n: Array, out_Pn: Array) -> None:
        """Write the derivatives of ``half · uᵀAu`` by the unknowns into ``(P, n)``."""

    @abstractmethod
    def frobenius(self) -> np.ndarray:
        """Give the squared Frobenius norms ``(P,)`` of the unknowns' matrices."""

    @abstractmethod
    def coefficients(self, matrix: np.ndarray) -> np.ndarray:
        """Give the unknowns ``(P,)`` of the member nearest to a symmetric matrix."""

    @abstractmethod
    def matrix(self, coefficients_P: np.ndarray) -> np.ndarray:
        """Give the member with these unknowns."""

    @abstractmethod
    def entry_std(self, covariance_PP: np.ndarray) -> np.ndarray:
        """Give the standard deviations ``(d, d)`` of the entries."""

    def typical_std(self, std_P: np.ndarray) -> float:
        """Give one number for the unknowns' standard deviations."""
        return _rms(std_P)


class Diagonal(Curvature):
    """Diagonal matrices."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.size = dimension
        self.spectral_factor = max(2.0, (2 * np.log(2 * dimension)) ** 0.5)

    def features(self, u_dn: Array, half_n: Array, out_Pn: Array) -> None:
        """Write ``half · u²`` of each coordinate."""
        out_Pn[...] = u_dn * u_dn * half_n

    def frobenius(self) -> np.ndarray:
        """Give ones."""
        return np.ones(self.size)

    def coefficients(self, matrix: np.ndarray) -> np.ndarray:
        """Give the diagonal."""
        return np.diag(matrix).copy()

    def matrix(self, coefficients_P: np.ndarray) -> np.ndarray:
        """Put the unknowns on the diagonal."""
        return np.diag(coefficients_P)

    def entry_std(self, covariance_PP: np.ndarray) -> np.ndarray:
        """Put the unknowns' standard deviations on the diagonal."""
        return np.diag(np.sqrt(np.diag(covariance_PP)))


class Isotropic(Curvature):
    """Multiples of the identity."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.size = 1
        self.spectral_factor = 2.0

    def features(self, u_dn: Array, half_n: Array, out_Pn: Array) -> None:
        """Write ``half · ‖u‖²``."""
        out_Pn[0, :] = array_namespace(u_dn).sum(u_dn * u_dn, axis=0) * half_n

    def frobenius(self) -> np.ndarray:
        """Give ``[d]``."""
        return np.array([float(self.dimension)])

    def coefficients(self, matrix: np.ndarray) -> np.ndarray:
        """Give the mean of the diagonal."""
        return np.array([np.trace(matrix) / self.dimension])

    def matrix(self, coefficients_P: np.ndarray) -> np.ndarray:
        """Multiply the identity."""
        return coefficients_P[0] * np.eye(self.dimension)

    def entry_std(self, covariance_PP: np.ndarray) -> np.ndarray:
        """Put the unknown's standard deviation on the diagonal."""
        return np.sqrt(covariance_PP[0, 0]) * np.eye(self.dimension)


class Full(Curvature):
    """All symmetric matrices; the unknowns are the upper triangle, row by row."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.upper = np.triu_indices(dimension)
        self.size = len(self.upper[0])
        self.off_diagonal = self.upper[0] != self.upper[1]
        self.spectral_factor = 2 * dimension**0.5

    def features(self, u_dn: Array, half_n: Array, out_Pn: Array) -> None:
        """Write ``half · u_i²`` and ``half · 2 u_i u_j``."""
        first = 0
        for row in range(self.dimension):
            width = self.dimension - row
            # An off-diagonal entry stands twice in uᵀAu.
            scaled_n = u_dn[row, :] * half_n
            out_Pn[first, :] = u_dn[row, :] * scaled_n
            out_Pn[first + 1 : first + width, :] = u_dn[row + 1 :, :] * (2 * scaled_n)
            first += width

    def frobenius(self) -> np.ndarray:
        """Give 1 for diagonal entries and 2 for others."""
        return np.where(self.off_diagonal, 2.0, 1.0)

    def coefficients(self, matrix: np.ndarray) -> np.ndarray:
        """Give the upper triangle."""
        return ((matrix + matrix.T) / 2)[self.upper]

    def matrix(self, coefficients_P: np.ndarray) -> np.ndarray:
        """Fill both triangles."""
        result = np.zeros((self.dimension, self.dimension))
        result[self.upper] = coefficients_P
        result.T[self.upper] = coefficients_P
        return result

    def entry_std(self, covariance_PP: np.ndarray) -> np.ndarray:
        """Fill both triangles with the unknowns' standard deviations."""
        return self.matrix(np.sqrt(np.diag(covariance_PP)))

    def typical_std(self, std_P: np.ndarray) -> float:
        """Give the root mean square over off-diagonal entries, if there are any."""
        return _rms(std_P[self.off_diagonal] if self.dimension > 1 else std_P)


class LowRank(Curvature):
    """Any symmetric matrix on `k` directions, a multiple of the identity on the others.

    Parameters
    ----------
    basis_dk
        Orthonormal columns ``(d, k)``.
    """

    def __init__(self, basis_dk: np.ndarray) -> None:
        dimension, rank = basis_dk.shape
        self.dimension = dimension
        self.basis = basis_dk
        self.block = Full(rank)
        self.beside = rank < dimension
        self.size = self.block.size + self.beside
        self.spectral_factor = self.block.spectral_factor

    def features(self, u_dn: Array, half_n: Array, out_Pn: Array) -> None:
        """Write those of `Full` on the basis, then the square of what is beside it."""
        xp = array_namespace(u_dn)
        within_kn = like(self.basis.T.copy(), u_dn) @ u_dn
        self.block.features(within_kn, half_n, out_Pn)
        if self.beside:
            square_n = xp.sum(u_dn * u_dn, axis=0) - xp.sum(within_kn * within_kn, axis=0)
            out_Pn[self.size - 1, :] = square_n * half_n

    def frobenius(self) -> np.ndarray:
        """Give those of `Full`, then the number of directions beside the basis."""
        beside = [float(self.dimension - self.block.dimension)] if self.beside else []
        return np.append(self.block.frobenius(), beside)

    def coefficients(self, matrix: np.ndarray) -> np.ndarray:
        """Project on the basis; beside it take the mean eigenvalue."""
        within_kk = self.basis.T @ matrix @ self.basis
        rest = self.dimension - self.block.dimension
        beside = [(np.trace(matrix) - np.trace(within_kk)) / rest] if self.beside else []
        return np.append(self.block.coefficients(within_kk), beside)

    def matrix(self, coefficients_P: np.ndarray) -> np.ndarray:
        """Turn the block back into all coordinates."""
        within_kk = self.block.matrix(coefficients_P[: self.block.size])
        beside = coefficients_P[-1] if self.beside else 0.0
        within_kk = within_kk - beside * np.eye(len(within_kk))
        result = self.basis @ within_kk @ self.basis.T + beside * np.eye(self.dimension)
        return (result + result.T) / 2

    def entry_std(self, covariance_PP: np.ndarray) -> np.ndarray:
        """Sum squared derivatives over the principal axes of the covariance."""
        values_P, vectors_PP = np.linalg.eigh(covariance_PP)
        variance_dd = np.zeros((self.dimension, self.dimension))
        for value, vector_P in zip(values_P, vectors_PP.T, strict=True):
            variance_dd += max(value, 0.0) * self.matrix(vector_P) ** 2
        return np.sqrt(variance_dd)

    def typical_std(self, std_P: np.ndarray) -> float:
        """Give that of the block."""
        return self.block.typical_std(std_P[: self.block.size])


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))
