"""How many tokens a test needs: p-values of every prefix of a text, and where a share is detected.

Each prefix has the p-value that a detector would give a text of that length; none is anytime-valid,
so a length may not be chosen by looking at them. Takes what a detector reads; knows no key and no
model.

Legend: ``T`` tokens, ``L`` lengths, ``K`` null draws.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modicum.umpwatermark.evidence import Evidence
from modicum.umpwatermark.nulls import TIE, PivotMatchLaw

Floats = NDArray[np.float64]


def prefix_p_values(
    evidence: Evidence,
    weights: Sequence[tuple[float, float]],
    num_draws: int,
    rng: np.random.Generator,
    lengths: ArrayLike | None = None,
) -> dict[tuple[float, float], Floats]:
    """Return Monte-Carlo p-values of the statistic ``combined`` for prefixes of a text.

    All weights and prefixes share one set of draws: each p-value alone is exactly valid.

    Parameters
    ----------
    evidence
        Of Gumbel-max text, with probabilities; with matches where a weight of the match is not 0.
    weights
        Pairs (a, b) of pivot and match.
    num_draws
        K.
    rng
        Source of the null draws.
    lengths
        Lengths of the prefixes in scored tokens, at least 1; ``1 … T`` by default.

    Returns
    -------
    dict
        By weights p-values, float64 ``[L]``.
    """
    evidence.require("prob_S")
    num_tokens = len(evidence)
    at = np.arange(1, num_tokens + 1) if lengths is None else np.asarray(lengths)
    if not num_tokens or evidence.prob_S is None:
        return {pair: np.ones(len(at)) for pair in weights}
    if at.size and not (at.min() >= 1 and at.max() <= num_tokens):
        raise ValueError(f"lengths must lie in [1, {num_tokens}], got {at.min()} to {at.max()}")
    h_T = evidence.prob_S
    seen_T = np.exp((1 / h_T - 1) * np.log(evidence.y_S))
    tail_TK = rng.standard_exponential((num_tokens, num_draws))
    tail_TK *= (1 - 1 / h_T)[:, None]
    np.exp(tail_TK, out=tail_TK)
    match_TK = rng.random(tail_TK.shape) < tail_TK if any(b for _, b in weights) else None
    found = {}
    for pair in weights:
        if pair[1]:
            evidence.require("match_S")
        law = PivotMatchLaw(h_T, (pair,))
        observed_T = np.cumsum(np.log(law.e_values(seen_T, evidence.match_S)))
        null_TK = np.log(law.e_values(tail_TK, match_TK))
        np.cumsum(null_TK, axis=0, out=null_TK)
        reached_L = (null_TK[at - 1] >= observed_T[at - 1, None] - TIE).sum(axis=1)
        found[pair] = (1 + reached_L) / (num_draws + 1)
    return found


def length_reaching(
    lengths: ArrayLike, detected: ArrayLike, num_texts: int, share: float = 0.9
) -> tuple[float, tuple[float, float]]:
    """Return the length at which a share of texts is detected, with an interval.

    Shares are made non-decreasing by pooling neighbours and interpolated. The bounds are where the
    ends of the exact 95 % intervals of the shares pass.

    Parameters
    ----------
    lengths
        Increasing, ``[L]``.
    detected
        Texts detected at each length, ``[L]``; an expected number need not be whole.
    num_texts
        Number of texts.
    share
        In ``(0, 1)``.

    Returns
    -------
    float
        Tokens; ``inf`` if no length reaches the share.
    tuple of float
        95 % interval.
    """
    from scipy.optimize import isotonic_regression

    from modicum.core.stats import clopper_pearson

    length_L = np.asarray(lengths, dtype=np.float64)
    share_L = isotonic_regression(np.asarray(detected, dtype=np.float64) / num_texts).x
    low_L, high_L = clopper_pearson(np.round(share_L * num_texts).astype(np.int64), num_texts)

    def passes(curve_L: Floats) -> float:
        found = np.flatnonzero(curve_L >= share)
        if not len(found):
            return math.inf
        i = int(found[0])
        if i == 0:
            return float(length_L[0])
        part = (share - curve_L[i - 1]) / (curve_L[i] - curve_L[i - 1])
        return float(length_L[i - 1] + part * (length_L[i] - length_L[i - 1]))

    return passes(share_L), (passes(np.asarray(high_L)), passes(np.asarray(low_L)))
