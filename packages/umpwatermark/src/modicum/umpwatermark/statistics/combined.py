"""The combined statistic: pivot and match under any surrogate; exact for every text.

Weighted pivot and match are its ends. Where the surrogate is the generator it loses little to the
uniformly most powerful test; where the surrogate is bad it loses power and never validity.

Legend: ``S`` scored tokens, ``J`` pairs of weights.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from modicum.umpwatermark.evidence import Evidence
from modicum.umpwatermark.nulls import (
    PivotMatchLaw,
    Tail,
    check_method,
    check_weights,
    log_mean_exp,
    match_chance,
    tail,
)
from modicum.umpwatermark.statistics.base import Needs, Statistic, default_rng

WINSOR = (math.log(0.4), 4.0)
"""Bounds of a score in nats with ``truncate=True``."""

Weights = float | Sequence[float]


class CombinedStatistic(Statistic):
    """``sum_t ln(1 - a - b + (a/h) G(Y_t) + (b/h) M_t)``; see `PivotMatchLaw`.

    h is the surrogate's probability of the observed token, Y its keyed uniform, M whether the
    sampler would have taken it under the surrogate's law, and G the probability of that given Y.

    Parameters
    ----------
    weights
        ``(a, b)`` with ``a + b < 1``; (.3, .3) by default. More a tolerates a worse surrogate, more
        b uses a better one; less of both loses less where neither applies.
    mixture
        Average the whole text's product over a grid of weights instead.
    truncate
        Winsorise scores to ``[ln .4, 4]``, for edited text where single tokens should not decide.
        Changes the p-value; e-values stay as they are.
    method, num_null_draws
        As in `modicum.umpwatermark.nulls.tail`.

    Notes
    -----
    Our derivation; see `PivotMatchLaw` for the null law.
    """

    name: ClassVar[str] = "combined"
    needs: ClassVar[Needs] = "law"
    default_weights: ClassVar[tuple[float, float]] = (0.3, 0.3)
    grid: ClassVar[tuple[tuple[float, float], ...]] = (
        (0.3, 0.3),
        (0.7, 0.0),
        (0.0, 0.7),
        (0.3, 0.0),
        (0.1, 0.1),
    )

    def __init__(
        self,
        weights: Weights | None = None,
        *,
        mixture: bool = False,
        truncate: bool = False,
        method: str = "auto",
        num_null_draws: int = 9999,
    ) -> None:
        if mixture and weights is not None:
            raise ValueError(f"mixture=True averages over its own weights; leave out {weights!r}")
        if mixture and truncate:
            raise ValueError("truncate=True is for one pair of weights, not for mixture=True")
        self.method = check_method(method)
        if mixture and self.method in ("fft", "saddlepoint"):
            raise ValueError(
                f"method={method!r} is for one pair of weights; with mixture=True choose 'auto', "
                "'mc' or 'bound'"
            )
        self.mixture, self.truncate = bool(mixture), bool(truncate)
        self.num_null_draws = int(num_null_draws)
        self.pairs = self.grid if mixture else (self._pair(weights),)

    def _pair(self, weights: Weights | None) -> tuple[float, float]:
        if weights is None:
            return self.default_weights
        if isinstance(weights, int | float):
            raise ValueError(f"weights of {self.name!r} must be a pair (a, b), got {weights!r}")
        return check_weights(weights)

    def law(self, evidence: Evidence, *, truncate: bool | None = None) -> PivotMatchLaw:
        """Return the null law of the total given the text."""
        evidence.require("prob_S")
        prob_S = np.zeros(0) if evidence.prob_S is None else evidence.prob_S
        clip = WINSOR if (self.truncate if truncate is None else truncate) else None
        return PivotMatchLaw(prob_S, self.pairs, clip, evidence.reach_S)

    def _log_e_SJ(self, evidence: Evidence, truncate: bool) -> NDArray[np.float64]:
        if any(b for _, b in self.pairs):
            evidence.require("match_S")
        law = self.law(evidence, truncate=truncate)
        if not len(evidence):
            return np.zeros((0, len(self.pairs)))
        chance_S = match_chance(evidence.y_S, law.prob_S, law.reach_S)
        columns = [
            np.log(law.e_values(chance_S, evidence.match_S, j)) for j in range(len(self.pairs))
        ]
        return np.stack(columns, axis=1)

    def scores(self, evidence: Evidence) -> NDArray[np.float64]:
        """Return the log e-value of each token, nats, winsorised with ``truncate``.

        With ``mixture`` the log of each token's mean over the weights, which does not add up to
        the total.
        """
        return log_mean_exp(self._log_e_SJ(evidence, self.truncate).T)

    def total(self, evidence: Evidence) -> float:
        """Return the statistic: the sum of the scores, or the log of the mean of products."""
        return float(log_mean_exp(self._log_e_SJ(evidence, self.truncate).sum(axis=0)[:, None])[0])

    def tail(self, evidence: Evidence, rng: np.random.Generator | None = None) -> Tail:
        """Return the p-value; see `modicum.umpwatermark.nulls.tail`."""
        return tail(
            self.law(evidence),
            self.total(evidence),
            method=self.method,
            num_draws=self.num_null_draws,
            rng=default_rng(rng),
        )

    def log_e_steps(self, evidence: Evidence) -> NDArray[np.float64]:
        """Return log e-values ``[S, J]``, one component per pair of weights; never winsorised."""
        return self._log_e_SJ(evidence, False)

    @property
    def num_components(self) -> int:
        """Number of pairs of weights."""
        return len(self.pairs)


class WeightedPivotStatistic(CombinedStatistic):
    """``sum_t ln(1 - a + (a/h) G(Y_t))``: needs the probability of the *observed* token only.

    No law, no regeneration: log-probabilities that any engine returns will do. (a, 0) with a = .7
    by default; smaller a suits low entropy under a bad surrogate. For the hazard sampler without a
    law, h is read as the hazard, which it is for every token of probability above one half.

    Parameters
    ----------
    weights
        a, or ``(a, 0)``.
    """

    name: ClassVar[str] = "weighted-pivot"
    needs: ClassVar[Needs] = "probability"
    default_weights: ClassVar[tuple[float, float]] = (0.7, 0.0)
    grid: ClassVar[tuple[tuple[float, float], ...]] = (
        (0.7, 0.0),
        (0.5, 0.0),
        (0.3, 0.0),
        (0.1, 0.0),
    )
    _other = 1

    def _pair(self, weights: Weights | None) -> tuple[float, float]:
        if weights is None:
            return self.default_weights
        if isinstance(weights, int | float):
            weights = (weights, 0.0) if self._other else (0.0, weights)
        pair = check_weights(weights)
        if pair[self._other]:
            form = "(a, 0)" if self._other else "(0, b)"
            raise ValueError(
                f"weights of {self.name!r} must be {form}, got {pair}; statistic='combined' uses "
                "both"
            )
        return pair


class MatchStatistic(WeightedPivotStatistic):
    """``sum_t ln(1 - b + (b/h) M_t)``: regenerated tokens only.

    The closest to the uniformly most powerful test where the surrogate is nearly the generator, and
    the first to fail where it is not. (0, b) with b = .7 by default.

    Parameters
    ----------
    weights
        b, or ``(0, b)``.
    """

    name: ClassVar[str] = "match"
    needs: ClassVar[Needs] = "law"
    default_weights: ClassVar[tuple[float, float]] = (0.0, 0.7)
    grid: ClassVar[tuple[tuple[float, float], ...]] = (
        (0.0, 0.7),
        (0.0, 0.9),
        (0.0, 0.4),
        (0.0, 0.1),
    )
    _other = 0
