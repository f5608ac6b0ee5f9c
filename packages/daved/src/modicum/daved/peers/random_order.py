"""Rows in random order: what every method has to beat.

Sees no labels, no queries and no prices.
"""

import numpy as np

from modicum.daved.peers.base import Peer, View

__all__ = ["Random"]


class Random(Peer):
    """Buy in an order drawn uniformly from all orders."""

    name = "random"

    def _values(self, view: View, rng: np.random.Generator) -> np.ndarray:
        return rng.random(len(view.rows_nd))
