"""The rows nearest to the buyer's queries: the baseline that is hardest to explain away.

Sees the queries; no labels, no prices.
"""

import numpy as np

from modicum.daved.peers.base import QUERIES, Peer, View
from modicum.daved.peers.distances import squared_distances

__all__ = ["Nearest"]


class Nearest(Peer):
    """Value a row by minus its Euclidean distance to the nearest query."""

    name = "nearest"
    sees = frozenset({QUERIES})

    def _values(self, view: View, rng: np.random.Generator) -> np.ndarray:
        return -np.sqrt(squared_distances(view.rows_nd, np.asarray(view.queries_md))).min(axis=1)
