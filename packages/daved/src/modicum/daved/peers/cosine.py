"""The rows most parallel to the buyer's queries, whatever their sign and length.

Sees the queries; no labels, no prices. For a linear model a row x and the row −x with the label
negated say the same, hence the absolute value.
"""

import numpy as np

from modicum.daved.peers.base import QUERIES, Peer, View

__all__ = ["AbsoluteCosine"]


def _directions(rows_nd: np.ndarray) -> np.ndarray:
    lengths_n = np.linalg.norm(rows_nd, axis=1, keepdims=True)
    # A row of zeros has no direction: it is parallel to nothing.
    return rows_nd / np.where(lengths_n > 0, lengths_n, 1)


class AbsoluteCosine(Peer):
    """Value a row by the mean over queries of the absolute cosine, in [0, 1]."""

    name = "cosine"
    sees = frozenset({QUERIES})

    def _values(self, view: View, rng: np.random.Generator) -> np.ndarray:
        queries_md = np.asarray(view.queries_md)
        return np.abs(_directions(view.rows_nd) @ _directions(queries_md).T).mean(axis=1)
