"""The cheapest rows first: as many rows as a budget can buy.

Sees prices; no labels, no queries. Rows of one price come in random order.
"""

import numpy as np

from modicum.daved.peers.base import PRICES, Peer, View

__all__ = ["Cheapest"]


class Cheapest(Peer):
    """Buy from the lowest price up; among equal prices in random order."""

    name = "cheapest"
    sees = frozenset({PRICES})

    def _values(self, view: View, rng: np.random.Generator) -> np.ndarray:
        prices_n = np.asarray(view.prices_n)
        mixed_n = rng.permutation(len(prices_n))
        # Negated place in the order by price first, then by a random key.
        values_n = np.empty(len(prices_n))
        values_n[np.lexsort((mixed_n, prices_n))] = -np.arange(len(prices_n))
        return values_n
