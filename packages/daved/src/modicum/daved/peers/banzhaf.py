"""Banzhaf values of rows: what a row adds to a set in which every other row is by a coin's toss.

Sees the sellers' labels and labelled points of the buyer; no queries, no prices. Wang & Jia, "Data
Banzhaf: A Robust Data Valuation Framework for Machine Learning", AISTATS 2023, arXiv 2205.15466,
with the estimator of maximum sample reuse: every sampled set says something about every row.

Shapes: n rows, s sets.
"""

import numpy as np

from modicum.daved.peers.base import check_positive
from modicum.daved.peers.utility import DEFAULT_RIDGE, RidgePeer, RidgeUtility

__all__ = ["Banzhaf", "maximum_sample_reuse"]

DEFAULT_SETS = 2000


def maximum_sample_reuse(members_sn: np.ndarray, utilities_s: np.ndarray) -> np.ndarray:
    """Give the mean utility of the sets with a row minus that of the sets without it.

    Parameters
    ----------
    members_sn
        Which rows a set has, (s, n) bool; all 2ⁿ sets give the exact values.
    utilities_s
        Utility of each set, (s,) float64.

    Returns
    -------
    numpy.ndarray
        (n,) float64; 0 for a row that is in every set or in none.
    """
    inside_n = members_sn.sum(axis=0)
    outside_n = len(members_sn) - inside_n
    with_n = members_sn.T @ utilities_s / np.maximum(inside_n, 1)
    without_n = (~members_sn).T @ utilities_s / np.maximum(outside_n, 1)
    return np.where((inside_n > 0) & (outside_n > 0), with_n - without_n, 0.0)


class Banzhaf(RidgePeer):
    """Value a row by its Banzhaf value for the validation error of a ridge regression.

    Parameters
    ----------
    sets
        Number of random sets.
    ridge
        Penalty of the regression as a share of the rows' mean squared norm.

    Raises
    ------
    ValueError
        A setting is not positive.
    """

    name = "banzhaf"

    def __init__(self, sets: int = DEFAULT_SETS, ridge: float = DEFAULT_RIDGE) -> None:
        super().__init__(ridge)
        check_positive(sets=sets)
        self.sets = sets

    def _of(self, utility: RidgeUtility, rng: np.random.Generator) -> np.ndarray:
        members_sn = rng.random((self.sets, utility.n)) < 0.5
        utilities_s = np.array([utility.of(np.flatnonzero(members)) for members in members_sn])
        return maximum_sample_reuse(members_sn, utilities_s)
