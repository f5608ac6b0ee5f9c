"""What a purchase was worth: the error that a buyer's model makes, and its ratio to a baseline's.

Takes orders in which records would be bought, labels and answers; knows no solver and no peer. The
only module of the method that looks at labels.

Shapes: n sellers' rows, d features, k rows bought, m buyers, b budgets, q queries of one buyer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modicum.daved.markets import Market
from modicum.daved.rounding import Rules, purchase

__all__ = [
    "Ratio",
    "buyer_errors",
    "error_ratio",
    "predict",
    "random_orders",
]

RESAMPLES = 2000
LEVEL = 0.95


def predict(
    rows_kd: np.ndarray,
    labels_k: np.ndarray,
    queries_qd: np.ndarray,
    *,
    ridge: float = 0.0,
    noise_var_k: np.ndarray | None = None,
) -> np.ndarray:
    """Train a linear model on a purchase and ask it.

    Parameters
    ----------
    rows_kd, labels_k
        What was bought; leading dimensions are those of many purchases of the same size.
    queries_qd
        What is asked, with the same leading dimensions.
    ridge
        λ of ``min Σ (y - xᵀθ)² / σ² + λ ‖θ‖²``. At 0 the least-squares solution of smallest norm,
        the model of the published experiments.
    noise_var_k
        Variances σ² of the labels; 1 each by default.

    Returns
    -------
    ndarray, (..., q)
        The answers; 0 where nothing was bought.
    """
    if noise_var_k is not None:
        scale_k = 1 / np.sqrt(noise_var_k)
        rows_kd, labels_k = rows_kd * scale_k[..., None], labels_k * scale_k
    k, d = rows_kd.shape[-2:]
    if k == 0:
        return np.zeros(queries_qd.shape[:-1])
    transposed = np.swapaxes(rows_kd, -1, -2)
    if ridge == 0:
        cut = max(k, d) * np.finfo(np.float64).eps
        theta_d1 = np.linalg.pinv(rows_kd, rcond=cut) @ labels_k[..., None]
    elif k < d:
        # Through the k × k matrix: the same θ, and cheaper.
        kernel = rows_kd @ transposed + ridge * np.eye(k)
        theta_d1 = transposed @ np.linalg.solve(kernel, labels_k[..., None])
    else:
        normal = transposed @ rows_kd + ridge * np.eye(d)
        theta_d1 = np.linalg.solve(normal, transposed @ labels_k[..., None])
    return (queries_qd @ theta_d1)[..., 0]


def random_orders(market: Market, rng: np.random.Generator) -> np.ndarray:
    """Shuffle the rows anew for every buyer, (m, n)."""
    n, m = len(market.rows_nd), len(market.queries_md)
    return rng.permuted(np.tile(np.arange(n), (m, 1)), axis=1)


def buyer_errors(
    market: Market,
    orders: Sequence[np.ndarray] | np.ndarray,
    budgets: Sequence[float],
    *,
    ridge: float = 0.0,
    fill: bool = True,
) -> np.ndarray:
    """Give the squared error of every buyer's model at every budget, (m, b).

    Parameters
    ----------
    market
        Rows, labels, prices and buyers. Where it knows the labels' noise, the model weights labels
        by it.
    orders
        For every buyer the rows, the most wanted first; longer ones are cut by the budget.
    budgets
        In the currency of the prices.
    ridge
        As in `predict`.
    fill
        Whether to go on behind the first row that is too dear.

    Raises
    ------
    ValueError
        If there is not an order for every buyer.
    """
    m = len(market.queries_md)
    if len(orders) != m:
        raise ValueError(f"there are {m} buyers and {len(orders)} orders; every buyer needs one")
    errors_mb = np.empty((m, len(budgets)))
    for column, budget in enumerate(budgets):
        bought = [purchase(order, market.prices_n, budget, Rules(fill=fill)) for order in orders]
        sizes = np.array([len(rows) for rows in bought])
        for size in np.unique(sizes):
            buyers = np.flatnonzero(sizes == size)
            chosen = np.array([bought[buyer] for buyer in buyers], dtype=np.int64)
            variances = None if market.noise_var_n is None else market.noise_var_n[chosen]
            answers = predict(
                market.rows_nd[chosen],
                market.labels_n[chosen],
                market.queries_md[buyers, None, :],
                ridge=ridge,
                noise_var_k=variances,
            )[:, 0]
            errors_mb[buyers, column] = np.square(answers - market.answers_m[buyers])
    return errors_mb


@dataclass(frozen=True)
class Ratio:
    """A ratio of mean errors, and its interval (percentiles of the bootstrap)."""

    value: float
    low: float
    high: float


def error_ratio(
    errors_mb: np.ndarray,
    baseline_mb: np.ndarray,
    *,
    folds_m: np.ndarray | None = None,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Ratio:
    """Compare mean errors over buyers and budgets with a baseline's.

    Buyers are drawn again with replacement, the same ones for both, since they met the same market.

    Parameters
    ----------
    errors_mb, baseline_mb
        Errors of the same buyers at the same budgets.
    folds_m
        Which buyers met the same sellers, (m,) int. Then markets are drawn again with replacement,
        and buyers within each, so that the interval allows for both; without it, or with one
        market only, it speaks of other buyers on the same markets.
    rng
        Source of the resamples.
    resamples, level
        Number of resamples and level of the interval.

    Raises
    ------
    ValueError
        If the shapes differ, or there is not a number in `folds_m` for every buyer.
    """
    if errors_mb.shape != baseline_mb.shape:
        raise ValueError(
            f"errors {errors_mb.shape} and baseline {baseline_mb.shape} must have the same shape"
        )
    if folds_m is not None and np.shape(folds_m) != (len(errors_mb),):
        raise ValueError(
            f"folds_m must have the shape ({len(errors_mb)},), one for every buyer, not"
            f" {np.shape(folds_m)}"
        )
    mine_m, theirs_m = errors_mb.mean(axis=1), baseline_mb.mean(axis=1)
    if folds_m is None:
        drawn = rng.integers(len(mine_m), size=(resamples, len(mine_m)))
        ratios = mine_m[drawn].mean(axis=1) / theirs_m[drawn].mean(axis=1)
    else:
        drawn, counts = _drawn_in_folds(folds_m, resamples, rng)
        ratios = (mine_m[drawn] * counts).sum(axis=1) / (theirs_m[drawn] * counts).sum(axis=1)
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return Ratio(float(mine_m.mean() / theirs_m.mean()), float(low), float(high))


def _drawn_in_folds(
    folds_m: np.ndarray, resamples: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw folds, and as many buyers of each as it has.

    Returns
    -------
    drawn, counts
        Buyers of every resample, and 1 where a draw counts; places beyond the size of a small fold
        count 0.
    """
    _, numbers_m, sizes_f = np.unique(folds_m, return_inverse=True, return_counts=True)
    by_fold_m = np.argsort(numbers_m, kind="stable")
    starts_f = np.cumsum(sizes_f) - sizes_f
    chosen = rng.integers(len(sizes_f), size=(resamples, len(sizes_f)))
    sizes = sizes_f[chosen][..., None]
    places = np.floor(rng.random((*chosen.shape, sizes_f.max())) * sizes).astype(np.int64)
    counts = np.arange(sizes_f.max()) < sizes
    drawn = by_fold_m[starts_f[chosen][..., None] + places]
    return drawn.reshape(resamples, -1), counts.reshape(resamples, -1)
