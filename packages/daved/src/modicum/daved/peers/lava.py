"""Rows that bring the sellers' data nearer to the buyer's labelled points in optimal transport.

Sees the sellers' labels and labelled points of the buyer; no queries, no prices. Just et al.,
"LAVA: Data Valuation without Pre-Specified Learning Algorithms", ICLR 2023, arXiv 2305.00054: the
value of a row is minus the calibrated gradient of the transport distance with respect to the row's
mass. The cost of moving one labelled point to another is the squared distance of their features
plus the squared distance of their labels. Two classes are as far from each other as the features
of their rows are, again in transport (sellers' rows and validation points in one pot).

Shapes: n rows, v validation points, d features, c classes, a and b points of two classes.
"""

from typing import Literal

import numpy as np

from modicum.daved.peers.base import LABELS, VALIDATION, Peer, View, check_positive
from modicum.daved.peers.distances import columns, squared_distances
from modicum.daved.peers.sinkhorn import sinkhorn

__all__ = ["LAVA", "calibrated_gradient", "class_distances"]

# Share of the mean cost: small enough to follow the plan, large enough to converge in seconds.
DEFAULT_REGULARIZATION = 0.05


def _uniform(n: int) -> np.ndarray:
    return np.full(n, 1 / n)


def calibrated_gradient(potential_n: np.ndarray) -> np.ndarray:
    """Give the derivative for more mass on a row that is taken evenly from all other rows.

    Parameters
    ----------
    potential_n
        Potential of the rows, (n,), n ≥ 2; a constant in it does not matter.

    Returns
    -------
    numpy.ndarray
        f_j minus the mean of all other f, (n,); of sum 0.
    """
    n = len(potential_n)
    return potential_n - (potential_n.sum() - potential_n) / (n - 1)


def class_distances(
    rows_nd: np.ndarray, classes_n: np.ndarray, regularization: float
) -> np.ndarray:
    """Give the squared transport distance of the features of every two classes.

    Parameters
    ----------
    rows_nd
        Points, (n, d).
    classes_n
        Their classes, 0 … c−1, each with at least one point.
    regularization
        Entropy as a share of the mean cost.

    Returns
    -------
    numpy.ndarray
        (c, c) float64, symmetric, 0 on the diagonal.
    """
    count = int(classes_n.max()) + 1
    found_cc = np.zeros((count, count))
    for one in range(count):
        for other in range(one):
            costs_ab = squared_distances(rows_nd[classes_n == one], rows_nd[classes_n == other])
            found_cc[one, other] = found_cc[other, one] = _transport_cost(costs_ab, regularization)
    return found_cc


def _transport_cost(costs_ab: np.ndarray, regularization: float) -> float:
    scale = float(costs_ab.mean())
    if scale == 0:
        return 0.0
    a, b = costs_ab.shape
    solved = sinkhorn(costs_ab, _uniform(a), _uniform(b), regularization * scale)
    return float((solved.plan_ab * costs_ab).sum())


class LAVA(Peer):
    """Value a row by minus the calibrated gradient of the transport to the validation points.

    Parameters
    ----------
    task
        "regression", labels are as far apart as they are as numbers; "classification", as the
        features of their classes are.
    label_weight
        What the squared distance of labels is multiplied with.
    regularization
        Entropy as a share of the mean cost.

    Raises
    ------
    ValueError
        An unknown task, a negative weight, or a regularization that is not positive.
    """

    name = "lava"
    sees = frozenset({LABELS, VALIDATION})

    def __init__(
        self,
        task: Literal["regression", "classification"] = "regression",
        label_weight: float = 1.0,
        regularization: float = DEFAULT_REGULARIZATION,
    ) -> None:
        if task not in ("regression", "classification"):
            raise ValueError(f"task is {task!r}: give 'regression' or 'classification'")
        check_positive(regularization=regularization)
        if label_weight < 0:
            raise ValueError(f"label_weight is {label_weight}: give 0, for features only, or more")
        self.task = task
        self.label_weight = label_weight
        self.regularization = regularization

    def costs(self, view: View) -> np.ndarray:
        """Give the cost of moving each row to each validation point, (n, v) float64."""
        points_vd = np.asarray(view.validation_rows_vd)
        return squared_distances(view.rows_nd, points_vd) + self.label_weight * self._labels(view)

    def _labels(self, view: View) -> np.ndarray:
        if self.task == "regression":
            return squared_distances(columns(view.labels_n), columns(view.validation_labels_v))
        n = len(view.rows_nd)
        together = np.concatenate([np.asarray(view.labels_n), np.asarray(view.validation_labels_v)])
        _, classes = np.unique(together, axis=0, return_inverse=True)
        points = np.concatenate([view.rows_nd, np.asarray(view.validation_rows_vd)])
        found_cc = class_distances(points, classes, self.regularization)
        return found_cc[np.ix_(classes[:n], classes[n:])]

    def _values(self, view: View, rng: np.random.Generator) -> np.ndarray:
        costs_nv = self.costs(view)
        n, v = costs_nv.shape
        epsilon = self.regularization * float(costs_nv.mean())
        if n < 2 or epsilon == 0:
            return np.zeros(n)
        solved = sinkhorn(costs_nv, _uniform(n), _uniform(v), epsilon)
        return -calibrated_gradient(solved.left_a)
