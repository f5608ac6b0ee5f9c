"""Truncated goodness of fit: is any share of the pivots too large? For edited text, no model.

Legend: ``S`` scored tokens, ``K`` draws.
"""

import math
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from modicum.umpwatermark.evidence import Evidence
from modicum.umpwatermark.nulls import (
    TIE,
    Tail,
    check_method,
    clamp_p,
    deeper,
    draws_for,
)
from modicum.umpwatermark.statistics.base import Needs, Statistic, default_rng

CHUNK_DRAWS = 1 << 20


def divergence(u: NDArray[np.float64], v: NDArray[np.float64], s: float) -> NDArray[np.float64]:
    """phi-divergence ``K_s(u, v)`` of Bernoulli laws where ``u > v``, 0 elsewhere.

    ``v phi(u/v) + (1 - v) phi((1 - u)/(1 - v))`` with
    ``phi(x) = (1 - s + s x - x^s)/(s (1 - s))``; s = 1 is Kullback-Leibler, s = 2 half of the
    squared higher criticism.
    """
    u, v = np.broadcast_arrays(u, v)
    inside = np.clip(v, 1e-300, 1 - 1e-16)
    if s == 1:
        from scipy.special import xlogy

        value = xlogy(u, u / inside) + xlogy(1 - u, (1 - u) / (1 - inside))
    elif s == 2:
        value = (u - inside) ** 2 / (2 * inside * (1 - inside))
    else:
        total = u**s * inside ** (1 - s) + (1 - u) ** s * (1 - inside) ** (1 - s)
        value = (1 - total) / (s * (1 - s))
    return np.where(u > v, np.maximum(value, 0.0), 0.0)


class TrGoFStatistic(Statistic):
    """``S sup_{r >= 1/S} K_s+(F(r), r)``, F the empirical law of ``1 - Y``.

    Power against a mixture of many unmarked and some marked tokens whose share is unknown, as edits
    leave it. The sup starts at ``r = 1/S``, which keeps single extreme pivots from deciding.

    Parameters
    ----------
    s
        Order of the divergence, in (0, 2]; 2 is higher criticism.
    method
        ``"mc"``: Monte Carlo, exactly valid. ``"bound"``: union bound over order statistics.
        ``"auto"``: the bound where no draw reaches the statistic.
    num_null_draws
        K.

    Notes
    -----
    "Robust Detection of Watermarks for Large Language Models Under Human Edits"
    (arXiv 2411.13868), whose sup starts at the largest p-value up to 1/S; ours starts at 1/S
    itself, so that a deterministic bound exists.
    """

    name: ClassVar[str] = "trgof"
    needs: ClassVar[Needs] = "pivot"

    def __init__(self, s: float = 2.0, *, method: str = "auto", num_null_draws: int = 9999) -> None:
        if not 0 < s <= 2:
            raise ValueError(f"s must lie in (0, 2], got {s!r}")
        if check_method(method) not in ("auto", "mc", "bound"):
            raise ValueError(f"method of 'trgof' must be 'auto', 'mc' or 'bound', got {method!r}")
        self.s, self.method = float(s), method
        self.num_null_draws = int(num_null_draws)

    def scores(self, evidence: Evidence) -> NDArray[np.float64]:
        """Return ``-ln(1 - Y)``; the statistic is no sum, so these only show which tokens count."""
        return -np.log1p(-evidence.y_S)

    def _statistic(self, sorted_KS: NDArray[np.float64]) -> NDArray[np.float64]:
        S = sorted_KS.shape[-1]
        rank_S = np.arange(1, S + 1) / S
        at_points_KS = np.where(sorted_KS >= 1 / S, divergence(rank_S, sorted_KS, self.s), 0.0)
        share_K = (sorted_KS <= 1 / S).mean(axis=-1)
        at_start_K = divergence(share_K, np.full_like(share_K, 1 / S), self.s)
        return S * np.maximum(at_points_KS.max(axis=-1), at_start_K)

    def total(self, evidence: Evidence) -> float:
        """Return the statistic."""
        if not len(evidence):
            return 0.0
        return float(self._statistic(np.sort(1 - evidence.y_S)[None])[0])

    def tail(self, evidence: Evidence, rng: np.random.Generator | None = None) -> Tail:
        """Return the p-value; the null law depends on the number of tokens alone."""
        S, observed = len(evidence), self.total(evidence)
        if not S:
            return Tail(1.0, "exact")
        if self.method == "bound":
            return Tail(self._union_bound(S, observed), "bound")
        rng = default_rng(rng)
        draws = draws_for(S, self.num_null_draws)
        reached = 0
        size = max(1, CHUNK_DRAWS // S)
        for at in range(0, draws, size):
            # Sorted uniforms are partial sums of exponentials over their total.
            sums_KS = np.cumsum(rng.standard_exponential((min(size, draws - at), S + 1)), axis=1)
            null_K = self._statistic(sums_KS[:, :-1] / sums_KS[:, -1:])
            reached += int((null_K >= observed * (1 - TIE)).sum())
        if self.method == "auto" and not reached:
            return deeper(1 / (draws + 1), self._union_bound(S, observed))
        return Tail((1 + reached) / (draws + 1), "mc")

    def _union_bound(self, S: int, observed: float) -> float:
        if observed <= 0:
            return 1.0
        from scipy.special import betainc

        rank_S = np.arange(1, S + 1)
        # Largest v below t/S at which t p-values up to v reach the statistic; K falls in v.
        low_S, high_S = np.zeros(S), rank_S / S
        for _ in range(60):
            middle_S = (low_S + high_S) / 2
            reach_S = S * divergence(rank_S / S, middle_S, self.s) >= observed * (1 - TIE)
            low_S, high_S = np.where(reach_S, middle_S, low_S), np.where(reach_S, high_S, middle_S)
        # The t-th smallest of S uniforms is at most v with probability I_v(t, S - t + 1); the point
        # r = 1/S is reached by t p-values below it only where v >= 1/S for that t.
        relevant_S = high_S >= 1 / S
        return clamp_p(math.fsum(betainc(rank_S, S - rank_S + 1, high_S)[relevant_S]) * (1 + 1e-12))
