"""Exact upper tails of the number of hits among independent trials with unequal probabilities.

Takes hit counts and per-trial probabilities; what a hit is and whether the trials are independent
is the caller's business.

Shape suffixes: X any leading batch dimensions, N trials, T steps, K counts 0..K-1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["poisson_binomial_prefix_sf", "poisson_binomial_sf"]


def _check_probs(probs: npt.ArrayLike) -> np.ndarray:
    values = np.asarray(probs, dtype=np.float64)
    if values.ndim < 1:
        raise ValueError("probs must have at least one axis: one probability per trial")
    if not np.all((values >= 0) & (values <= 1)):
        raise ValueError("probs must lie in [0, 1]")
    return values


def _add_trial(tail_XK: np.ndarray, prob_X: np.ndarray) -> None:
    """Turn P(S >= k) into P(S + B >= k) in place, B one more trial.

    P(S + B >= k) = (1 - p) P(S >= k) + p P(S >= k - 1): only sums of products of non-negative
    numbers, so even a tail of 1e-300 keeps its relative accuracy.
    """
    prob_X1 = prob_X[..., None]
    tail_XK[..., 1:] = (1 - prob_X1) * tail_XK[..., 1:] + prob_X1 * tail_XK[..., :-1]


def poisson_binomial_sf(k: npt.ArrayLike, probs: npt.ArrayLike) -> np.ndarray:
    """P(S >= k) for a sum S of independent Bernoulli trials.

    Note the "at least": this is the p-value of an observed count k, and SciPy's ``sf(k - 1)``.

    Parameters
    ----------
    k : array_like, int, shape ``[...]``
        Counts; anything at most 0 has probability 1, anything above N probability 0.
    probs : array_like, float in [0, 1], shape ``[..., N]``
        Success probability of each trial; leading dimensions broadcast with ``k``.

    Returns
    -------
    ndarray or float, float64, shape ``[...]``
        Tail probabilities, with relative error at most about 3 N * 2^-53 (down to the smallest
        float64). Time grows as N max(k).

    Raises
    ------
    ValueError
        For probabilities outside [0, 1].
    TypeError
        For counts that are not integers.
    """
    probs_XN = _check_probs(probs)
    counts = np.asarray(k)
    if not np.issubdtype(counts.dtype, np.integer):
        raise TypeError(f"k must hold integers, got dtype {counts.dtype}")
    num_trials = probs_XN.shape[-1]
    counts_X = np.clip(counts, 0, num_trials + 1)
    batch = np.broadcast_shapes(counts_X.shape, probs_XN.shape[:-1])
    # Count N + 1 cannot be reached; it gets a column of its own, which stays zero.
    width = int(counts_X.max(initial=0)) + 1
    tail_XK = np.zeros((*probs_XN.shape[:-1], width))
    tail_XK[..., 0] = 1.0
    for trial in range(num_trials):
        _add_trial(tail_XK[..., : trial + 2], probs_XN[..., trial])
    tail_XK = np.broadcast_to(tail_XK, (*batch, width))
    counts_X1 = np.broadcast_to(counts_X, batch)[..., None]
    return np.take_along_axis(tail_XK, counts_X1, axis=-1)[..., 0][()]


def poisson_binomial_prefix_sf(hits: npt.ArrayLike, probs: npt.ArrayLike) -> np.ndarray:
    """P-value of the running hit count after every trial, in one pass.

    Entry t is P(S_t >= observed hits among the first t trials), S_t the number of hits when trial
    i succeeds with ``probs[i]`` independently. Each entry is a valid p-value by itself; looking at
    all of them needs a correction such as :func:`~modicum.core.stats.spending_levels`.

    Parameters
    ----------
    hits : array_like, bool or 0/1, shape ``[..., T]``
        Whether each trial was a hit.
    probs : array_like, float in [0, 1], shape ``[..., T]``
        Success probability of each trial under the null hypothesis; same shape as ``hits``.

    Returns
    -------
    ndarray, float64, shape ``[..., T]``
        The p-value after each trial, with relative error at most about 3 T * 2^-53. Time and
        memory per sequence grow as T times the number of hits, and as that number.

    Raises
    ------
    ValueError
        For different shapes, hits other than 0 and 1, or probabilities outside [0, 1].
    """
    probs_XT, hits_XT = _check_probs(probs), np.asarray(hits)
    if hits_XT.shape != probs_XT.shape:
        raise ValueError(
            f"hits and probs must have the same shape, got {hits_XT.shape} and {probs_XT.shape}"
        )
    if not np.all((hits_XT == 0) | (hits_XT == 1)):
        raise ValueError("hits must be 0 or 1 everywhere")
    count_XT = np.cumsum(hits_XT, axis=-1, dtype=np.int64)
    tail_XK = np.zeros((*probs_XT.shape[:-1], int(count_XT.max(initial=0)) + 1))
    tail_XK[..., 0] = 1.0
    p_value_XT = np.empty(probs_XT.shape)
    for step in range(probs_XT.shape[-1]):
        _add_trial(tail_XK[..., : step + 2], probs_XT[..., step])
        count_X1 = count_XT[..., step : step + 1]
        p_value_XT[..., step] = np.take_along_axis(tail_XK, count_X1, axis=-1)[..., 0]
    return p_value_XT
