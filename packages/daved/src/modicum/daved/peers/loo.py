"""What is lost when a row is left out of all rows.

Sees the sellers' labels and labelled points of the buyer; no queries, no prices.
"""

import numpy as np

from modicum.daved.peers.utility import RidgePeer, RidgeUtility, Utility

__all__ = ["LeaveOneOut", "leave_one_out"]


def leave_one_out(utility: Utility) -> np.ndarray:
    """Give the utility of all rows minus that of all but one, for each row, (n,) float64."""
    return utility.of(np.arange(utility.n)) - utility.without_each()


class LeaveOneOut(RidgePeer):
    """Value a row by the validation error that it saves a ridge regression on all other rows.

    Parameters
    ----------
    ridge
        Penalty of the regression as a share of the rows' mean squared norm.

    Raises
    ------
    ValueError
        A setting is not positive.
    """

    name = "loo"

    def _of(self, utility: RidgeUtility, rng: np.random.Generator) -> np.ndarray:
        return leave_one_out(utility)
