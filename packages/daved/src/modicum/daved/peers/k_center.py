"""Rows that leave no row far from a bought one: the greedy k-center of core-set selection.

Sees the sellers' features only. Sener & Savarese, "Active Learning for Convolutional Neural
Networks: A Core-Set Approach", ICLR 2018, arXiv 1708.00489; the greedy rule is Gonzalez' farthest
point, whose radius is at most twice the smallest for every number of centres.
"""

import numpy as np

from modicum.daved.peers.base import Peer, View, check_positive
from modicum.daved.peers.distances import squared_distances

__all__ = ["KCenter"]


class KCenter(Peer):
    """Buy the row nearest the mean, then again and again the row farthest from all bought.

    Parameters
    ----------
    limit
        How many rows are ordered so; the rest follows by distance to them. All by default, which
        takes O(n²d).

    Raises
    ------
    ValueError
        A setting is not positive.
    """

    name = "k_center"

    def __init__(self, limit: int | None = None) -> None:
        if limit is not None:
            check_positive(limit=limit)
        self.limit = limit

    def _values(self, view: View, rng: np.random.Generator) -> np.ndarray:
        rows_nd = view.rows_nd
        n = len(rows_nd)
        distance_n = squared_distances(rows_nd, rows_nd.mean(axis=0, keepdims=True))[:, 0]
        pick = int(distance_n.argmin())
        distance_n = np.full(n, np.inf)
        order: list[int] = []
        while len(order) < min(self.limit or n, n):
            order.append(pick)
            to_pick_n = squared_distances(rows_nd, rows_nd[pick : pick + 1])[:, 0]
            distance_n = np.minimum(distance_n, to_pick_n)
            # Bought rows stay bought even where duplicates of them have distance 0 as well.
            distance_n[pick] = -1
            pick = int(distance_n.argmax())
        rest = np.argsort(-distance_n, kind="stable")[: n - len(order)]
        values_n = np.empty(n)
        values_n[np.concatenate([np.asarray(order, dtype=np.int64), rest])] = -np.arange(n)
        return values_n
