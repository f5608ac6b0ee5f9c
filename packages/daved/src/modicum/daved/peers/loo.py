"""What is lost when a row is left out of all rows.

Sees the sellers' labels and labelled points of the buyer; no queries, no prices.
"""

import numpy as np

from modicum.daved.peers.base import LABELS, VALIDATION, Peer, View, check_positive
from modicum.daved.peers.utility import DEFAULT_RIDGE, Utility, utility_of

__all__ = ["LeaveOneOut", "leave_one_out"]


def leave_one_out(utility: Utility) -> np.ndarray:
    """Give the utility of all rows minus that of all but one, for each row, (n,) float64."""
    return utility.of(np.arange(utility.n)) - utility.without_each()


class LeaveOneOut(Peer):
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
    sees = frozenset({LABELS, VALIDATION})

    def __init__(self, ridge: float = DEFAULT_RIDGE) -> None:
        check_positive(ridge=ridge)
        self.ridge = ridge

    def _values(self, view: View, rng: np.random.Generator) -> np.ndarray:
        return leave_one_out(utility_of(view, self.ridge))
