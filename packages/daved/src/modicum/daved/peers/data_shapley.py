"""Shapley values of rows by Monte Carlo over orders of purchase, cut short.

Sees the sellers' labels and labelled points of the buyer; no queries, no prices. Ghorbani & Zou,
"Data Shapley: Equitable Valuation of Data for Machine Learning", ICML 2019, arXiv 1904.02868,
truncated Monte Carlo.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from modicum.daved.peers.base import check_positive
from modicum.daved.peers.utility import DEFAULT_RIDGE, RidgePeer, RidgeUtility, Utility

__all__ = ["DataShapley", "shapley_from_orders"]

DEFAULT_ORDERS = 100
DEFAULT_TRUNCATION = 0.01


def shapley_from_orders(
    utility: Utility, orders: Iterable[Sequence[int] | np.ndarray], truncation: float = 0.0
) -> np.ndarray:
    """Average what each row adds to the rows before it.

    Parameters
    ----------
    utility
        Set function on n rows.
    orders
        Permutations of the rows; all n! of them give the exact values.
    truncation
        The rest of an order counts as adding nothing once the utility is nearer to that of all
        rows than this share of what all rows add to none; 0 goes through to the end.

    Returns
    -------
    numpy.ndarray
        (n,) float64.
    """
    empty, full = utility.of([]), utility.of(np.arange(utility.n))
    near = truncation * abs(full - empty)
    total_n, count = np.zeros(utility.n), 0
    for order in orders:
        count += 1
        before = empty
        for row, after in zip(order, utility.along(order), strict=False):
            total_n[row] += after - before
            before = after
            if abs(full - after) < near:
                break
    return total_n / count


class DataShapley(RidgePeer):
    """Value a row by its Shapley value for the validation error of a ridge regression.

    Parameters
    ----------
    orders
        Number of random orders.
    truncation
        See `shapley_from_orders`.
    ridge
        Penalty of the regression as a share of the rows' mean squared norm.

    Raises
    ------
    ValueError
        There are no orders, the ridge is not positive or the truncation is negative.
    """

    name = "data_shapley"

    def __init__(
        self,
        orders: int = DEFAULT_ORDERS,
        truncation: float = DEFAULT_TRUNCATION,
        ridge: float = DEFAULT_RIDGE,
    ) -> None:
        super().__init__(ridge)
        check_positive(orders=orders)
        if truncation < 0:
            raise ValueError(f"truncation is {truncation}: give 0, for none, or a positive share")
        self.orders = orders
        self.truncation = truncation

    def _of(self, utility: RidgeUtility, rng: np.random.Generator) -> np.ndarray:
        orders = (rng.permutation(utility.n) for _ in range(self.orders))
        return shapley_from_orders(utility, orders, self.truncation)
