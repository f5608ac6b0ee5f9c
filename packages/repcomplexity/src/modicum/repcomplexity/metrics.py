"""Measures of how far predictions are from targets, and what they depend on.

Every metric but two is a function of a few sums over rows (`ErrorSums`), so that it can be taken
over any set of clusters of rows without going through the rows again. The two others,
`action_regret` and `rollout_error`, look at decisions and at several steps in a row. Knows nothing
of networks.

The metrics of two papers are here as their code computes them. ``"zhu2024"`` is that of "On
Representation Complexity of Model-based and Model-free Reinforcement Learning" (arXiv 2310.01706):
it has the unit of the target, so that rewards in cents in place of dollars multiply the error of a
Q-function by 100. ``"feng2023"`` is that of "Rethinking Model-based, Policy-based, and Value-based
Reinforcement Learning via the Lens of Representation Complexity" (arXiv 2312.17248): it divides the
mean over dimensions by a sum over dimensions, which makes the error of a vector of d numbers √d
times too small beside that of a scalar.

Legend: ``n`` rows, ``d`` dimensions of the target, ``c`` clusters of rows, ``a`` actions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "METRICS",
    "ErrorSums",
    "Metric",
    "MetricValue",
    "action_regret",
    "feng2023",
    "fvu",
    "fvu_perdim",
    "get_metric",
    "nrmse",
    "nrmse_uncentred",
    "rmse",
    "rollout_error",
    "skill",
    "zhu2024",
]

CONSTANT = 1e-12
"""Variance, relative to max(1, mean²), below which a target counts as constant."""
ZHU_BATCH_SIZE = 32
"""Rows of a batch in the code of arXiv 2310.01706; its metric depends on it."""


@dataclass(frozen=True, eq=False)
class ErrorSums:
    """Sums over rows from which metrics are computed; `…` are leading axes such as clusters.

    Attributes
    ----------
    rows
        Number of rows, float64 ``(…,)``.
    squared_error
        Σ (ŷ − y)² of each dimension, ``(…, d)``.
    shift, deviation
        Σ (y − center) and Σ (y − center)², ``(…, d)``.
    center
        What the targets are centred at: their mean over the training rows, ``(d,)``.
    reference_error
        Σ (y₀ − y)² of a prediction y₀ that took no learning, ``(…, d)``, or None.
    """

    rows: np.ndarray
    squared_error: np.ndarray
    shift: np.ndarray
    deviation: np.ndarray
    center: np.ndarray
    reference_error: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        targets: npt.ArrayLike,
        predictions: npt.ArrayLike,
        *,
        center: npt.ArrayLike | None = None,
        reference: npt.ArrayLike | None = None,
        clusters: npt.ArrayLike | None = None,
        n_clusters: int | None = None,
    ) -> ErrorSums:
        """Return the sums over some rows, in float64.

        Parameters
        ----------
        targets, predictions
            ``(n, d)`` or ``(n,)``.
        center
            ``(d,)``; the mean of these targets by default.
        reference
            A prediction that took no learning, shaped as the targets.
        clusters
            Cluster of each row, integers ``(n,)`` from 0; without them all rows are added up.
        n_clusters
            Number of clusters; one more than the greatest by default.

        Returns
        -------
        ErrorSums
            With leading shape ``(c,)`` if there are clusters and ``()`` otherwise.

        Raises
        ------
        ValueError
            If there is no row, shapes differ or a number is not finite.
        """
        y_nd = _rows(targets, "targets")
        errors_nd = _same(predictions, y_nd, "predictions") - y_nd
        center_d = y_nd.mean(0) if center is None else np.asarray(center, float).reshape(-1)
        if center_d.shape != y_nd.shape[1:]:
            raise ValueError(f"center must have {y_nd.shape[1]} numbers, not {center_d.size}")
        shifts_nd = y_nd - center_d
        parts = [np.ones((len(y_nd), 1)), errors_nd**2, shifts_nd, shifts_nd**2]
        if reference is not None:
            parts.append((_same(reference, y_nd, "reference") - y_nd) ** 2)
        if clusters is None:
            sums = [part.sum(0) for part in parts]
        else:
            index_n = np.asarray(clusters, dtype=np.int64)
            if index_n.shape != (len(y_nd),):
                raise ValueError(f"clusters must have {len(y_nd)} rows, not {index_n.shape}")
            sums = [_sum_by(part, index_n, n_clusters) for part in parts]
        reference_sum = sums[4] if len(sums) == 5 else None
        return cls(sums[0][..., 0], sums[1], sums[2], sums[3], center_d, reference_sum)

    @property
    def n_dimensions(self) -> int:
        """Dimensions of the target."""
        return self.center.shape[-1]

    @property
    def variance(self) -> np.ndarray:
        """Variance of the targets about their own mean, of each dimension, ``(…, d)``."""
        n = np.maximum(self.rows, 1)[..., None]
        return self.deviation / n - (self.shift / n) ** 2

    @property
    def constant(self) -> np.ndarray:
        """Which dimensions do not vary about the centre, bool ``(…, d)``."""
        scale_d = np.maximum(1.0, self.center**2)
        return self.deviation <= CONSTANT * scale_d * self.rows[..., None]

    @property
    def norm(self) -> np.ndarray:
        """Frobenius norm of the targets, not centred, ``(…,)``."""
        n = self.rows[..., None]
        squares = self.deviation + 2 * self.center * self.shift + n * self.center**2
        return np.sqrt(np.maximum(squares.sum(-1), 0.0))

    def total(self) -> ErrorSums:
        """Return the sums over all leading axes."""
        return self.over(*range(self.rows.ndim))

    def over(self, *axes: int) -> ErrorSums:
        """Return the sums over some leading axes."""
        return self._map(lambda part: part.sum(axes))

    def weighted(self, weights: np.ndarray) -> ErrorSums:
        """Return weighted sums over the one leading axis; weights ``(r, c)`` give ``(r,)``."""
        return self._map(lambda part: weights @ part)

    def each_dimension(self) -> ErrorSums:
        """Return the sums with every dimension as a target of its own: ``(…, d)`` of d = 1."""
        spread = np.broadcast_to(self.rows[..., None], self.deviation.shape)
        alone = self._map(lambda part: part[..., None])
        return ErrorSums(
            spread,
            alone.squared_error,
            alone.shift,
            alone.deviation,
            self.center[..., None],
            alone.reference_error,
        )

    def _map(self, change: Callable[[np.ndarray], np.ndarray]) -> ErrorSums:
        reference = None if self.reference_error is None else change(self.reference_error)
        return ErrorSums(
            change(self.rows),
            change(self.squared_error),
            change(self.shift),
            change(self.deviation),
            self.center,
            reference,
        )


def fvu(sums: ErrorSums) -> np.ndarray:
    """Fraction of variance unexplained: Σ‖ŷ − y‖² / Σ‖y − ȳ‖², ȳ the mean of training targets.

    0 is perfect, 1 is no better than the mean; NaN if no dimension varies. Dimensions with a large
    unit count for more than others.
    """
    varies = ~sums.constant.all(-1)
    return _ratio(sums.squared_error.sum(-1), sums.deviation.sum(-1), varies)


def fvu_perdim(sums: ErrorSums) -> np.ndarray:
    """Mean of `fvu` over the dimensions that vary: a dimension's unit does not matter."""
    varies = ~sums.constant
    ratios = _ratio(sums.squared_error, sums.deviation, varies)
    return _ratio(np.where(varies, ratios, 0.0).sum(-1), varies.sum(-1), varies.any(-1))


def rmse(sums: ErrorSums) -> np.ndarray:
    """Root of the mean squared error over rows and dimensions, in the unit of the target."""
    return np.sqrt(_mean_square(sums))


def nrmse(sums: ErrorSums) -> np.ndarray:
    """Root of `fvu`."""
    return np.sqrt(fvu(sums))


def nrmse_uncentred(sums: ErrorSums) -> np.ndarray:
    """‖Ŷ − Y‖_F / ‖Y‖_F: falls when a constant is added to targets and predictions."""
    error = np.sqrt(sums.squared_error.sum(-1))
    return _ratio(error, sums.norm, sums.norm > 0)


def skill(sums: ErrorSums) -> np.ndarray:
    """1 − MSE / MSE of the prediction that took no learning: 1 is perfect, 0 no gain.

    For transitions that prediction is "nothing changes". NaN where there is none, or it is perfect.
    """
    if sums.reference_error is None:
        return np.full(sums.rows.shape, np.nan)
    reference = sums.reference_error.sum(-1)
    return 1.0 - _ratio(sums.squared_error.sum(-1), reference, reference > 0)


def zhu2024(sums: ErrorSums, batch_size: int = ZHU_BATCH_SIZE) -> np.ndarray:
    """Σ over batches of the batch's mean squared error, divided by ‖Y‖_F (arXiv 2310.01706).

    With B batches of n rows and d dimensions it is B / √(n d) · rms(Y) · `nrmse_uncentred`²: it has
    the unit of the target and grows as √n. Its rows are those of training. Batches are taken to
    have equal errors, which is exact where `batch_size` divides n.
    """
    batches = np.ceil(sums.rows / batch_size)
    return _ratio(batches * _mean_square(sums), sums.norm, sums.norm > 0)


def feng2023(sums: ErrorSums, fix_dims: bool = False) -> np.ndarray:
    """√(MSE / Σ of the dimensions' variances), the MSE a mean over dimensions (arXiv 2312.17248).

    `fix_dims` sums the squared error over dimensions too: the root of `fvu` on the same rows about
    their own mean, which is √d times as much.
    """
    error = _mean_square(sums)
    if fix_dims:
        error = error * sums.n_dimensions
    varies = (sums.variance > CONSTANT * np.maximum(1.0, sums.center**2)).any(-1)
    return np.sqrt(_ratio(error, sums.variance.sum(-1), varies))


@dataclass(frozen=True)
class MetricValue:
    """A metric on some rows.

    Attributes
    ----------
    value
        The metric; NaN where it is not defined.
    per_dimension
        The metric of each dimension as a target of its own, ``(d,)``.
    degenerate
        Whether no dimension of the target varies, so that variance explained means nothing.
    constant_dimensions
        How many dimensions do not vary.
    """

    value: float
    per_dimension: np.ndarray
    degenerate: bool
    constant_dimensions: int


@dataclass(frozen=True)
class Metric:
    """A metric of the registry.

    Attributes
    ----------
    name
        Its key in `METRICS`.
    compute
        From sums ``(…)`` to values ``(…)``.
    rows
        Of which sums: ``"test"``, rows held out; ``"train"``, training rows, as its source does;
        ``"regret"`` and ``"rollout"``, what `action_regret` and `rollout_error` give.
    scale_free
        Whether the same unit change of targets and predictions leaves it as it is.
    """

    name: str
    compute: Callable[[ErrorSums], np.ndarray]
    rows: str
    scale_free: bool

    def __call__(self, sums: ErrorSums) -> MetricValue:
        """Evaluate the metric on the total of sums."""
        total = sums.total()
        return MetricValue(
            value=float(self.compute(total)),
            per_dimension=self.compute(total.each_dimension()),
            degenerate=bool(total.constant.all()),
            constant_dimensions=int(total.constant.sum()),
        )


def _mean_regret(sums: ErrorSums) -> np.ndarray:
    """Mean of `action_regret`, which these sums hold in place of squared errors."""
    return _ratio(sums.squared_error.sum(-1), sums.rows, sums.rows > 0)


def _feng2023_fixed(sums: ErrorSums) -> np.ndarray:
    return feng2023(sums, fix_dims=True)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("fvu", fvu, "test", True),
        Metric("fvu_perdim", fvu_perdim, "test", True),
        Metric("nrmse", nrmse, "test", True),
        Metric("nrmse_uncentred", nrmse_uncentred, "test", True),
        Metric("rmse", rmse, "test", False),
        Metric("skill", skill, "test", True),
        Metric("zhu2024", zhu2024, "train", False),
        Metric("zhu2024_heldout", zhu2024, "test", False),
        Metric("feng2023", feng2023, "train", True),
        Metric("feng2023_fixed", _feng2023_fixed, "train", True),
        Metric("action_regret", _mean_regret, "regret", False),
        Metric("rollout_error", fvu, "rollout", True),
    )
}
"""The metrics by name; ``"feng2023_fixed"`` is `feng2023` with ``fix_dims=True``, and
``"zhu2024_heldout"`` is `zhu2024` of rows held out: on the rows of the metrics it is compared with.
"""


def get_metric(name: str) -> Metric:
    """Return a metric by its name.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if name not in METRICS:
        raise ValueError(f"no metric {name!r}; there are {', '.join(METRICS)}")
    return METRICS[name]


def action_regret(predicted_q: npt.ArrayLike, exact_q: npt.ArrayLike) -> np.ndarray:
    """Return what one step by the greedy action of a predicted Q-function loses of V*.

    Parameters
    ----------
    predicted_q, exact_q
        Q̂(s, a) and Q*(s, a), ``(n, a)``.

    Returns
    -------
    ndarray
        max_a Q*(s, a) − Q*(s, argmax_a Q̂(s, a)) of each row, ``(n,)``, not negative; the lowest of
        tied actions is taken.

    Raises
    ------
    ValueError
        If there is no row, shapes differ or a number is not finite.
    """
    exact_na = _rows(exact_q, "exact_q")
    chosen_n = _same(predicted_q, exact_na, "predicted_q").argmax(1)
    return exact_na.max(1) - np.take_along_axis(exact_na, chosen_n[:, None], 1)[:, 0]


def rollout_error(
    model: Callable[[np.ndarray, np.ndarray], np.ndarray],
    observations: np.ndarray,
    actions: np.ndarray,
    next_observations: np.ndarray,
    episodes: np.ndarray,
    k: int,
    center: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the error of a model that predicts k steps from its own predictions.

    Starts at every row after which the episode goes on for k steps, and takes the actions that were
    taken.

    Parameters
    ----------
    model
        From observations ``(m, d)`` and actions ``(m, a)`` to next observations ``(m, d)``.
    observations, actions, next_observations
        Consecutive rows, ``(n, …)``.
    episodes
        Episode of each row, ``(n,)``; rows of one episode are consecutive.
    k
        Steps.
    center
        What the last observation is compared with, ``(d,)``; the mean of those by default.

    Returns
    -------
    starts, squared_errors, deviations
        Rows started at, ``(m,)``; ‖ŝ − s‖² and ‖s − center‖² of the k-th step, ``(m,)``. The error
        is the sum of the second over that of the third.

    Raises
    ------
    ValueError
        If k is less than 1 or no episode has k steps.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    starts_m = np.arange(max(len(observations) - k + 1, 0))
    starts_m = starts_m[episodes[starts_m] == episodes[starts_m + k - 1]]
    if not len(starts_m):
        raise ValueError(f"no episode has k = {k} steps")
    states_md = observations[starts_m]
    for step in range(k):
        states_md = model(states_md, actions[starts_m + step])
    reached_md = np.asarray(next_observations[starts_m + k - 1], dtype=np.float64)
    center_d = reached_md.mean(0) if center is None else np.asarray(center)
    errors_m = ((states_md - reached_md) ** 2).sum(1)
    return starts_m, errors_m, ((reached_md - center_d) ** 2).sum(1)


def _rows(values: npt.ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name} must be rows of numbers, not of shape {np.shape(values)}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite")
    return array


def _same(values: npt.ArrayLike, like: np.ndarray, name: str) -> np.ndarray:
    array = _rows(values, name)
    if array.shape != like.shape:
        raise ValueError(f"{name} must have the shape {like.shape}, not {array.shape}")
    return array


def _sum_by(values_nd: np.ndarray, index_n: np.ndarray, size: int | None) -> np.ndarray:
    count = int(index_n.max()) + 1 if size is None else size
    columns = [np.bincount(index_n, weights=column, minlength=count) for column in values_nd.T]
    return np.stack(columns, axis=-1)


def _mean_square(sums: ErrorSums) -> np.ndarray:
    """Mean over rows and dimensions; NaN without rows."""
    count = sums.rows * sums.n_dimensions
    return _ratio(sums.squared_error.sum(-1), count, count > 0)


def _ratio(numerator: np.ndarray, denominator: np.ndarray, defined: Any) -> np.ndarray:
    safe = np.where(defined, denominator, 1.0)
    return np.where(defined, numerator / safe, np.nan)
