"""Rows that bring the sellers' data nearer to the buyer's labelled points in optimal transport.

Sees the sellers' labels and labelled points of the buyer; no queries, no prices. Just et al.,
"LAVA: Data Valuation without Pre-Specified Learning Algorithms", ICLR 2023, arXiv 2305.00054: the
value of a row is minus the calibrated gradient of the transport distance with respect to the row's
mass. The cost of moving one labelled point to another is the squared distance of their features
plus the squared distance of their labels. A class of the sellers and one of the validation points
are as far from each other as the features of their rows are, again in transport; so a class has a
distance from itself, too.

Shapes: n rows, v validation points, d features, c and e classes of the two, a and b points of two
classes.
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
    rows_nd: np.ndarray,
    classes_n: np.ndarray,
    points_vd: np.ndarray,
    classes_v: np.ndarray,
    epsilon: float,
) -> np.ndarray:
    """Give the squared transport distance of the features of every class to every class.

    Parameters
    ----------
    rows_nd, classes_n
        Rows, (n, d), and their classes, (n,) of anything that can be sorted.
    points_vd, classes_v
        The same of the validation points.
    epsilon
        Entropy, in squared units of the features, positive. Its bias is taken out: the distance is
        the Sinkhorn divergence OT(a, b) - OT(a, a) / 2 - OT(b, b) / 2.

    Returns
    -------
    numpy.ndarray
        (c, e) float64, at least 0; classes in sorted order.
    """
    ours = [rows_nd[classes_n == one] for one in np.unique(classes_n)]
    theirs = [points_vd[classes_v == one] for one in np.unique(classes_v)]
    our_own = np.array([_transport(rows_ad, rows_ad, epsilon) for rows_ad in ours])
    their_own = np.array([_transport(rows_bd, rows_bd, epsilon) for rows_bd in theirs])
    between_ce = np.array(
        [[_transport(rows_ad, rows_bd, epsilon) for rows_bd in theirs] for rows_ad in ours]
    )
    return np.maximum(between_ce - our_own[:, None] / 2 - their_own / 2, 0.0)


def _transport(rows_ad: np.ndarray, rows_bd: np.ndarray, epsilon: float) -> float:
    costs_ab = squared_distances(rows_ad, rows_bd)
    return sinkhorn(costs_ab, _uniform(len(rows_ad)), _uniform(len(rows_bd)), epsilon).value


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
        Entropy as a share of the mean cost; between classes, of the mean cost of features.

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
        rows_nd, points_vd = view.rows_nd, np.asarray(view.validation_rows_vd)
        _, classes_n = np.unique(np.asarray(view.labels_n), axis=0, return_inverse=True)
        _, classes_v = np.unique(np.asarray(view.validation_labels_v), axis=0, return_inverse=True)
        epsilon = self.regularization * float(squared_distances(rows_nd, points_vd).mean())
        if epsilon == 0:
            return np.zeros((len(rows_nd), len(points_vd)))
        found_ce = class_distances(rows_nd, classes_n, points_vd, classes_v, epsilon)
        return found_ce[np.ix_(classes_n, classes_v)]

    def _values(self, view: View, rng: np.random.Generator) -> np.ndarray:
        costs_nv = self.costs(view)
        n, v = costs_nv.shape
        epsilon = self.regularization * float(costs_nv.mean())
        if n < 2 or epsilon == 0:
            return np.zeros(n)
        solved = sinkhorn(costs_nv, _uniform(n), _uniform(v), epsilon)
        return -calibrated_gradient(solved.left_a)
