"""Laws and running tests of the watermarks that others built: green lists, tournaments, Gumbel-max.

Takes rows of next-token laws, or what a peer's own detector observes, as NumPy arrays; gives the
law that is sampled from, or the p-value or e-process after every token. No model, no key, no
randomness.

Legend: ``B`` rows of laws, ``V`` vocabulary, ``R`` texts, ``T`` tokens, ``J`` parallel bets.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modicum.core.stats import calibrator_grid, log_e_process

__all__ = [
    "SYNTHID_DEPTH",
    "binomial_p_values",
    "check_green_list",
    "gumbel_log_wealth",
    "gumbel_p_values",
    "kgw_law",
    "tournament_law",
]

Array = NDArray[Any]

SYNTHID_DEPTH = 30
"""Tournament layers of SynthID-Text as published and as shipped in transformers."""


def check_green_list(gamma: float, delta: float, vocab_size: int) -> int:
    """Validate a green list's share and bias and return its number of tokens."""
    if not 0 < gamma < 1:
        raise ValueError(f"gamma must lie in (0, 1), got {gamma}")
    if not np.isfinite(delta) or delta < 0:
        raise ValueError(f"delta must be finite and not negative, got {delta}")
    size = int(gamma * vocab_size)
    if size != gamma * vocab_size:
        raise ValueError(
            f"gamma * V = {gamma * vocab_size:g} must be a whole number of green tokens, so that a "
            "token is green with probability gamma exactly"
        )
    return size


def kgw_law(q_BV: Array, green_BV: Array, delta: float) -> NDArray[np.float64]:
    """Return the law after adding ``delta`` to the logits of green tokens, float64 ``[B, V]``."""
    tilted_BV = q_BV * np.where(green_BV, np.exp(delta), 1.0)
    return tilted_BV / tilted_BV.sum(axis=1, keepdims=True)


def tournament_law(q_BV: Array, words_BV: Array, depth: int = SYNTHID_DEPTH) -> Array:
    """Return the law of a tournament of two candidates per match, float64 ``[B, V]``.

    Layer l keeps of two independent draws the one with the larger g-value, ties at random, so its
    law is ``p(v) (1 + g(v) - sum_w p(w) g(w))``. Averaged over g-values the law is unchanged.

    Parameters
    ----------
    q_BV
        Laws to sample from.
    words_BV
        Integers whose bit l is ``g_l(v)``.
    depth
        Number of layers L, at most 62.
    """
    law_BV = np.array(q_BV, dtype=np.float64)
    for layer in range(depth):
        g_BV = (words_BV >> layer) & 1
        mean_B = np.einsum("bv,bv->b", law_BV, g_BV)
        law_BV *= g_BV + (1 - mean_B)[:, None]
    return law_BV


def binomial_p_values(hits_RT: ArrayLike, probability: float, trials: int = 1) -> Array:
    """Return the exact binomial upper tail of the running number of hits.

    Parameters
    ----------
    hits_RT
        Hits per token, integers in ``[0, trials]``.
    probability
        Success probability of one trial under the null, in ``(0, 1)``.
    trials
        Trials per token.

    Returns
    -------
    float64[R, T]
    """
    from scipy.special import betainc

    hits = np.asarray(hits_RT)
    if not 0 < probability < 1:
        raise ValueError(f"probability must lie in (0, 1), got {probability}")
    if hits.size and (hits.min() < 0 or hits.max() > trials):
        raise ValueError(f"hits must lie in [0, {trials}], got [{hits.min()}, {hits.max()}]")
    count_RT = np.cumsum(hits, axis=-1, dtype=np.int64)
    total_T = trials * np.arange(1, hits.shape[-1] + 1)
    # P(Bin(n, p) >= k) = I_p(k, n - k + 1) for k >= 1.
    tail = betainc(np.maximum(count_RT, 1), total_T - count_RT + 1.0, probability)
    return np.where(count_RT == 0, 1.0, tail)


def gumbel_p_values(pivots_RT: ArrayLike) -> NDArray[np.float64]:
    """Return the p-value of the running sum of ``-log(1 - Y)``, Gamma under the null.

    Parameters
    ----------
    pivots_RT
        Keyed uniforms Y of the emitted tokens.

    Returns
    -------
    float64[R, T]
    """
    from scipy.special import gammaincc

    sum_RT = np.cumsum(-np.log1p(-np.asarray(pivots_RT, dtype=np.float64)), axis=-1)
    return gammaincc(np.arange(1, sum_RT.shape[-1] + 1), sum_RT)


def gumbel_log_wealth(pivots_RT: ArrayLike) -> NDArray[np.float64]:
    """Return the e-process of Gumbel pivots: power calibrators of ``1 - Y``, averaged over a grid.

    Returns
    -------
    float64[R, T]
        Natural logs.

    Notes
    -----
    "Online LLM watermark detection via e-processes" (arXiv 2602.14286) studies such processes.
    """
    log_e_RTJ = calibrator_grid(1 - np.asarray(pivots_RT, dtype=np.float64))
    return log_e_process(log_e_RTJ, log_e_RTJ.shape[-1])
