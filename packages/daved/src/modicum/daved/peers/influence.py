"""What a little more weight on a row does to the validation error: the first order of leaving out.

Sees the sellers' labels and labelled points of the buyer; no queries, no prices. Koh & Liang,
"Understanding Black-box Predictions via Influence Functions", ICML 2017, arXiv 1703.04730, for a
ridge regression, where the derivative has a closed form.

Shapes: n rows, d features, v validation points, q outputs.
"""

import numpy as np

from modicum.daved.peers.utility import RidgePeer, RidgeUtility

__all__ = ["Influence"]


class Influence(RidgePeer):
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

    def _of(self, utility: RidgeUtility, rng: np.random.Generator) -> np.ndarray:
        return utility.slopes()
