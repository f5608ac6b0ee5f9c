"""Design weights as one value per record, the form in which libraries of data valuation hold them.

Imports no library. A design gives weight to few records and the same, or none, to all others, so
that sorting by weight leaves those others in the order of their positions; here their scores sort
them.

Shapes: n records.
"""

import numpy as np

from modicum.daved.rounding import at_floor

__all__ = ["values_of"]


def values_of(weights_n: np.ndarray, scores_n: np.ndarray) -> np.ndarray:
    """Give the weights, with the records that no step picked below all others, by their score.

    Parameters
    ----------
    weights_n
        Design weights, (n,), nonnegative, not all 0.
    scores_n
        -∂L/∂w_j, (n,), nonnegative.

    Returns
    -------
    numpy.ndarray
        (n,) nonnegative. A record of the least weight has at most half of the least weight above
        it, in proportion to its score; where all weights are equal, of that weight.
    """
    floor_n = at_floor(weights_n, float(weights_n.min()))
    above = weights_n[~floor_n].min() if not floor_n.all() else float(weights_n.min())
    best = float(scores_n[floor_n].max())
    shares_n = scores_n / best if best > 0 else np.zeros_like(scores_n)
    return np.where(floor_n, 0.5 * above * shares_n, weights_n)
