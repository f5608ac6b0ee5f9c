"""Exact Shapley values of rows for a nearest-neighbour model, in closed form.

Sees the sellers' labels and labelled points of the buyer; no queries, no prices. Jia et al.,
"Efficient Task-Specific Data Valuation for Nearest Neighbor Algorithms", VLDB 2019,
arXiv 1908.08619: Theorem 1 (classification) and the theorem for regression. The utility of rows S
for one validation point is the share of the K nearest rows of S with its label, or minus the
squared error of their mean label; in both the divisor is K even where S has fewer rows. Values are
means over validation points.

Classification counts exact matches, which say nothing about labels on a continuous scale: use the
regression form for these.

Shapes: n rows in the order of distance to one validation point, q outputs.
"""

import numpy as np

from modicum.daved.peers.base import LABELS, VALIDATION, Peer, View, check_positive
from modicum.daved.peers.distances import columns, squared_distances

__all__ = ["KNNShapley", "KNNShapleyRegression", "shapley_of_matches", "shapley_of_means"]

DEFAULT_NEIGHBOURS = 5


def shapley_of_matches(matches_n: np.ndarray, neighbours: int) -> np.ndarray:
    """Give the Shapley values for the share of matches among the nearest.

    Parameters
    ----------
    matches_n
        1 where a row has the label of the validation point, else 0; nearest row first, (n,).
    neighbours
        K.

    Returns
    -------
    numpy.ndarray
        (n,) float64, in the same order; they sum to (matches among the first K) / K.
    """
    n = len(matches_n)
    place_n = np.arange(1, n + 1)
    weight_n = np.minimum(neighbours, place_n) / (place_n * neighbours)
    last = matches_n[-1:] * weight_n[-1]
    steps = (matches_n[:-1] - matches_n[1:]) * weight_n[:-1]
    return np.cumsum(np.concatenate([last, steps[::-1]]))[::-1]


def shapley_of_means(labels_n: np.ndarray, target: float, neighbours: int) -> np.ndarray:
    """Give the Shapley values for minus the squared error of the mean label of the nearest.

    Parameters
    ----------
    labels_n
        Labels of the rows, nearest row first, (n,) float64.
    target
        Label of the validation point.
    neighbours
        K.

    Returns
    -------
    numpy.ndarray
        (n,) float64, in the same order; they sum to target² − (target − sum of first K / K)².
    """
    n, k = len(labels_n), neighbours
    kept = min(k, n)
    before_last = labels_n[:-1].sum() / max(n - 1, 1)
    last = labels_n[-1] / k - 2 * target + (kept - 1) / k * before_last
    last *= -kept * labels_n[-1] / (k * n)
    # i is the place, from 1, of the nearer row of two neighbours in the order.
    i = np.arange(1, n)
    share = np.minimum(k, i) / i
    nearer = np.cumsum(labels_n)[:-1] - labels_n[:-1]
    nearer = nearer * (np.minimum(k, i) - 1) / np.maximum(i - 1, 1)
    place = np.arange(3, n + 1)
    farther = np.minimum(k - 1, place - 2) * np.minimum(k, place - 1)
    farther = farther / ((place - 1) * (place - 2)) * labels_n[2:]
    farther = np.concatenate([np.cumsum(farther[::-1])[::-1], [0.0]])[: n - 1]
    inner = share * (nearer + labels_n[:-1] + labels_n[1:]) + farther
    steps = (labels_n[1:] - labels_n[:-1]) / k * (inner / k - 2 * target * share)
    return np.cumsum(np.concatenate([[last], steps[::-1]]))[::-1]


class _KNNShapley(Peer):
    sees = frozenset({LABELS, VALIDATION})

    def __init__(self, neighbours: int = DEFAULT_NEIGHBOURS) -> None:
        check_positive(neighbours=neighbours)
        self.neighbours = neighbours

    def _values(self, view: View, rng: np.random.Generator) -> np.ndarray:
        distances_vn = squared_distances(np.asarray(view.validation_rows_vd), view.rows_nd)
        values_n = np.zeros(len(view.rows_nd))
        for number, distance_n in enumerate(distances_vn):
            order_n = np.argsort(distance_n, kind="stable")
            values_n[order_n] += self._of_point(view, number, order_n)
        return values_n / len(distances_vn)

    def _of_point(self, view: View, number: int, order_n: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class KNNShapley(_KNNShapley):
    """Shapley values for the accuracy of a nearest-neighbour classifier.

    Parameters
    ----------
    neighbours
        K.

    Raises
    ------
    ValueError
        A setting is not positive.
    """

    name = "knn_shapley"

    def _of_point(self, view: View, number: int, order_n: np.ndarray) -> np.ndarray:
        labels_n = np.asarray(view.labels_n)[order_n]
        matches = labels_n == np.asarray(view.validation_labels_v)[number]
        # Several outputs match where all do.
        matches_n = matches.reshape(len(order_n), -1).all(axis=1).astype(np.float64)
        return shapley_of_matches(matches_n, self.neighbours)


class KNNShapleyRegression(_KNNShapley):
    """Shapley values for minus the squared error of a nearest-neighbour regression.

    Parameters
    ----------
    neighbours
        K.

    Raises
    ------
    ValueError
        A setting is not positive.
    """

    name = "knn_shapley_regression"

    def _of_point(self, view: View, number: int, order_n: np.ndarray) -> np.ndarray:
        labels_nq = columns(view.labels_n)[order_n]
        targets_q = columns(view.validation_labels_v)[number]
        pairs = zip(labels_nq.T, targets_q, strict=True)
        return np.sum([shapley_of_means(y_n, t, self.neighbours) for y_n, t in pairs], axis=0)
