"""The rows that a least-squares fit to all rows hangs on most.

Sees the sellers' features only.
"""

import numpy as np

from modicum.daved.peers.base import Peer, View

__all__ = ["Leverage"]


class Leverage(Peer):
    """Value a row by its leverage x_jᵀ(XᵀX)†x_j, in [0, 1]; their sum is the rank of X."""

    name = "leverage"

    def _values(self, view: View, rng: np.random.Generator) -> np.ndarray:
        left_nr, singular_r, _ = np.linalg.svd(view.rows_nd, full_matrices=False)
        cutoff = singular_r.max() * max(view.rows_nd.shape) * np.finfo(np.float64).eps
        return np.square(left_nr[:, singular_r > cutoff]).sum(axis=1)
