"""What a set of rows is worth to a buyer with labelled points: a set function.

`RidgeUtility` trains a ridge regression on the rows and measures it on the points; whoever values
rows by other models derives from `Utility`. It knows nothing about how values are made of it.

Shapes: n rows, d features, v validation points, q outputs.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np

from modicum.daved.peers.base import LABELS, VALIDATION, Peer, View, check_positive
from modicum.daved.peers.distances import columns

__all__ = ["DEFAULT_RIDGE", "RidgePeer", "RidgeUtility", "Utility"]

DEFAULT_RIDGE = 0.01


class Utility(ABC):
    """A set function on n rows.

    Attributes
    ----------
    n
        Number of rows.
    """

    n: int

    @abstractmethod
    def of(self, indices: Sequence[int] | np.ndarray) -> float:
        """Give the utility of a set of rows; the empty set has one, too."""

    def along(self, order: Sequence[int] | np.ndarray) -> Iterator[float]:
        """Give the utility of the first row, the first two rows and so on."""
        for stop in range(1, len(order) + 1):
            yield self.of(order[:stop])

    def without_each(self) -> np.ndarray:
        """Give the utility of all rows but one, for each, (n,)."""
        every = np.arange(self.n)
        return np.array([self.of(np.delete(every, row)) for row in every])


class RidgeUtility(Utility):
    """Minus the mean squared error, on the validation points, of a ridge regression on the rows.

    Parameters
    ----------
    rows_nd, labels_n
        The sellers' rows and labels, (n, d) and (n,) or (n, q).
    points_vd, targets_v
        The buyer's labelled points, (v, d) and (v,) or (v, q). Errors of outputs are summed.
    ridge
        Penalty as a share of the rows' mean squared norm, positive. Nothing is bought: the
        prediction is 0.
    """

    def __init__(
        self,
        rows_nd: np.ndarray,
        labels_n: np.ndarray | None,
        points_vd: np.ndarray | None,
        targets_v: np.ndarray | None,
        ridge: float = DEFAULT_RIDGE,
    ) -> None:
        self.n, self.d = rows_nd.shape
        self.rows_nd = rows_nd
        self.labels_nq = columns(labels_n)
        self.points_vd = np.asarray(points_vd)
        self.targets_vq = columns(targets_v)
        self.penalty = ridge * float(np.square(rows_nd).sum(axis=1).mean())

    def _score(self, predicted_vq: np.ndarray) -> float:
        return -float(np.square(predicted_vq - self.targets_vq).sum(axis=1).mean())

    def _inverse(self, rows_kd: np.ndarray) -> np.ndarray:
        return np.linalg.inv(rows_kd.T @ rows_kd + self.penalty * np.eye(self.d))

    def of(self, indices: Sequence[int] | np.ndarray) -> float:
        """Give minus the mean squared error after training on these rows."""
        chosen = np.asarray(indices, dtype=np.int64)
        rows_kd, labels_kq = self.rows_nd[chosen], self.labels_nq[chosen]
        theta_dq = self._inverse(rows_kd) @ (rows_kd.T @ labels_kq)
        return self._score(self.points_vd @ theta_dq)

    def along(self, order: Sequence[int] | np.ndarray) -> Iterator[float]:
        """Give the utility of growing sets, one rank-one update for each row."""
        inverse_dd = np.eye(self.d) / self.penalty
        theta_dq = np.zeros((self.d, self.labels_nq.shape[1]))
        for row in order:
            x_d = self.rows_nd[row]
            u_d = inverse_dd @ x_d
            gain_d = u_d / (1 + x_d @ u_d)
            theta_dq = theta_dq + np.outer(gain_d, self.labels_nq[row] - x_d @ theta_dq)
            inverse_dd = inverse_dd - np.outer(gain_d, u_d)
            yield self._score(self.points_vd @ theta_dq)

    def without_each(self) -> np.ndarray:
        """Give the utility of all rows but one, for each, from one fit to all rows."""
        inverse_dd = self._inverse(self.rows_nd)
        theta_dq = inverse_dd @ (self.rows_nd.T @ self.labels_nq)
        u_nd = self.rows_nd @ inverse_dd
        spare_n = 1 - (u_nd * self.rows_nd).sum(axis=1)
        residuals_nq = self.labels_nq - self.rows_nd @ theta_dq
        moved_nq = residuals_nq / spare_n[:, None]
        predicted_vq = self.points_vd @ theta_dq
        shifts_vn = self.points_vd @ u_nd.T
        return np.array(
            [
                self._score(predicted_vq - np.outer(shifts_vn[:, row], moved_nq[row]))
                for row in range(self.n)
            ]
        )

    def slopes(self) -> np.ndarray:
        """Give the derivative of the utility of all rows with respect to each row's weight, (n,).

        A row of weight w counts w times in the squared error of the fit; the penalty stays.
        """
        inverse_dd = self._inverse(self.rows_nd)
        theta_dq = inverse_dd @ (self.rows_nd.T @ self.labels_nq)
        residuals_nq = self.labels_nq - self.rows_nd @ theta_dq
        missed_vq = self.targets_vq - self.points_vd @ theta_dq
        pull_dq = inverse_dd @ (self.points_vd.T @ missed_vq) * (2 / len(self.points_vd))
        return ((self.rows_nd @ pull_dq) * residuals_nq).sum(axis=1)


class RidgePeer(Peer):
    """A peer that values rows by what a ridge regression on them says of labelled points.

    Parameters
    ----------
    ridge
        Penalty of the regression as a share of the rows' mean squared norm.

    Raises
    ------
    ValueError
        The penalty is not positive.
    """

    sees = frozenset({LABELS, VALIDATION})

    def __init__(self, ridge: float = DEFAULT_RIDGE) -> None:
        check_positive(ridge=ridge)
        self.ridge = ridge

    def _values(self, view: View, rng: np.random.Generator) -> np.ndarray:
        utility = RidgeUtility(
            view.rows_nd,
            view.labels_n,
            view.validation_rows_vd,
            view.validation_labels_v,
            self.ridge,
        )
        return self._of(utility, rng)

    @abstractmethod
    def _of(self, utility: RidgeUtility, rng: np.random.Generator) -> np.ndarray:
        """Value the rows of a set function."""
