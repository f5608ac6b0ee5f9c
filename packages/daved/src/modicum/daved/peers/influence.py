"""What a little more weight on a row does to the validation error: the first order of leaving out.

Sees the sellers' labels and labelled points of the buyer; no queries, no prices. Koh & Liang,
"Understanding Black-box Predictions via Influence Functions", ICML 2017, arXiv 1703.04730, for a
ridge regression, where the derivative has a closed form.

Shapes: n rows, d features, v validation points, q outputs.
"""

import numpy as np

from modicum.daved.peers.base import LABELS, VALIDATION, Peer, View, check_positive
from modicum.daved.peers.utility import DEFAULT_RIDGE, utility_of

__all__ = ["Influence"]


class Influence(Peer):
    """Value a row by the derivative of minus the validation error with respect to its weight.

    Parameters
    ----------
    ridge
        Penalty of the regression as a share of the rows' mean squared norm.

    Raises
    ------
    ValueError
        A setting is not positive.
    """

    name = "influence"
    sees = frozenset({LABELS, VALIDATION})

    def __init__(self, ridge: float = DEFAULT_RIDGE) -> None:
        check_positive(ridge=ridge)
        self.ridge = ridge

    def _values(self, view: View, rng: np.random.Generator) -> np.ndarray:
        return utility_of(view, self.ridge).slopes()
