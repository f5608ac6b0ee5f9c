"""One-step e-values: how much a single scored position multiplies the wealth of a bet on the key.

Works on arrays that describe scored positions (did the token's group match the seed symbol, how
likely was that symbol under the anchor); knows nothing of keys, tokens or models.

Every score here has the form ``e(v, s) = k(s | v) / p(s)`` with a probability vector ``k(. | v)``
on the symbols that is fixed before the seed symbol is drawn. For every fixed v its mean over
``s ~ p`` is ``sum_s k(s | v) = 1``, whatever produced v and however poor the anchor p is. That is
the whole proof of validity; which k one picks only decides the power.

Source: "Towards Anytime-Valid Statistical Watermarking" (arXiv 2602.17608) for `AnchoredScore`
(theorem on the worst-case growth rate); the other scores are derived from the general form above.

Legend: ``T`` scored positions, ``J`` parallel bets of a score, ``m`` seed symbols.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

P_FLOOR = 1e-9
"""Lower bound on the seed probability inside an e-value; raising p only makes e smaller."""

LOG_E_CAP = 30 * math.log(2)
"""Upper bound on one log e-value: 32-bit uniforms cannot represent rarer seed symbols."""

DEFENSIVE_GRID = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97)
"""Fractions of wealth over which the defensive mixture averages."""


@dataclass(frozen=True)
class Evidence:
    """What a detector reads off scored positions, all of it independent of the score used.

    Attributes
    ----------
    match_T
        bool[T]; the token's group equals the seed symbol.
    seed_probability_T
        float64[T]; anchor mass of the seed symbol that was drawn.
    token_probability_T
        float64[T]; anchor mass of the emitted token's group.
    entropy_T
        float64[T]; entropy of the anchor's group masses in nats.
    support_T
        int64[T]; number of symbols with positive anchor mass.
    """

    match_T: NDArray[np.bool_]
    seed_probability_T: NDArray[np.float64]
    token_probability_T: NDArray[np.float64]
    entropy_T: NDArray[np.float64]
    support_T: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.match_T)

    @classmethod
    def concatenate(cls, parts: "list[Evidence]") -> "Evidence":
        """Join the evidence of several stretches of text in order."""
        names = ("match_T", "seed_probability_T", "token_probability_T", "entropy_T", "support_T")
        empty = cls.empty()
        return cls(*(np.concatenate([getattr(e, n) for e in (empty, *parts)]) for n in names))

    @classmethod
    def empty(cls) -> "Evidence":
        """Return the evidence of no positions."""
        real = np.zeros(0)
        return cls(np.zeros(0, bool), real, real, real, np.zeros(0, np.int64))

    def take(self, keep_T: NDArray[np.bool_]) -> "Evidence":
        """Return the positions where ``keep_T`` is true."""
        return Evidence(
            self.match_T[keep_T],
            self.seed_probability_T[keep_T],
            self.token_probability_T[keep_T],
            self.entropy_T[keep_T],
            self.support_T[keep_T],
        )


class Score(Protocol):
    """A family of one-step e-values.

    ``log_e`` returns the natural logs ``float64[T, J]`` of J parallel bets, averaged with
    ``weights``; ``matches_before`` and ``steps_before`` describe the text before the first
    position, which a score that learns while it reads may use.
    """

    name: str
    weights: NDArray[np.float64]

    def log_e(
        self, evidence: Evidence, matches_before: int = 0, steps_before: int = 0
    ) -> NDArray[np.float64]:
        """Return log e-values, ``float64[T, J]``."""
        ...


def _floored_log(p: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(np.maximum(p, P_FLOOR))


def check_delta(delta: float, num_groups: int) -> float:
    """Validate an l1 tolerance for ``num_groups`` symbols and return it.

    Raises
    ------
    ValueError
        If ``delta`` is outside ``(0, 2)`` or at least ``2 (m - 1) / m``, where the score would
        reward mismatches.
    """
    if not 0 < delta < 2:
        raise ValueError(f"delta must lie in (0, 2), got {delta}")
    if delta >= 2 * (num_groups - 1) / num_groups:
        raise ValueError(
            f"delta={delta} is not below 2(m-1)/m = {2 * (num_groups - 1) / num_groups:.6g} "
            f"for num_groups={num_groups}"
        )
    return float(delta)


def check_fraction(fraction: float) -> float:
    """Validate the share of wealth that a defensive bet risks, and return it."""
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must lie in (0, 1), got {fraction}")
    return float(fraction)


class AnchoredScore:
    """The worst-case optimal score for texts within l1 distance ``delta`` of the anchor.

    ``e = (1 - delta/2) / p(s)`` on a match, ``delta / (2 (m - 1) p(s))`` on a mismatch. Choose it
    to reproduce the published scheme, or when the anchor is close and m small; with many groups
    or a poor anchor one mismatch costs more than many matches earn.

    Parameters
    ----------
    num_groups
        Number of seed symbols m.
    delta
        l1 tolerance in ``(0, 2 (m - 1) / m)``.
    gated
        Set ``e = 1`` where the anchor's entropy does not exceed that of the error law, which is
        known before the seed is drawn: such positions cannot gain on average.

    Notes
    -----
    Where the anchor gives positive mass to only K < m symbols, K takes the place of m and delta
    is cut to ``2 (K - 1) / K``, so that a token outside the support still has a mean of at most 1.
    """

    name = "anchored"

    def __init__(self, num_groups: int, delta: float, *, gated: bool = False) -> None:
        self.num_groups = num_groups
        self.delta = check_delta(delta, num_groups)
        self.gated = gated
        self.weights = np.ones(1)

    def log_e(
        self, evidence: Evidence, matches_before: int = 0, steps_before: int = 0
    ) -> NDArray[np.float64]:
        """Return log e-values, ``float64[T, 1]``."""
        support = np.maximum(evidence.support_T, 2).astype(float)
        delta = np.minimum(self.delta, 2 * (support - 1) / support)
        hit = np.log1p(-delta / 2)
        miss = np.log(delta / 2) - np.log(support - 1)
        log_e = np.where(evidence.match_T, hit, miss) - _floored_log(evidence.seed_probability_T)
        log_e = np.where(evidence.support_T < 2, 0.0, log_e)
        if self.gated:
            half = delta / 2
            error_entropy = -(half * np.log(half) + (1 - half) * np.log1p(-half))
            error_entropy = error_entropy + half * np.log(support - 1)
            log_e = np.where(evidence.entropy_T <= error_entropy, 0.0, log_e)
        return np.minimum(log_e, LOG_E_CAP)[:, None]


class DefensiveScore:
    """Bet a fixed fraction of the wealth on a match and keep the rest.

    ``e = 1 - a + a/p(s)`` on a match and ``1 - a`` on a mismatch: a match never loses, a mismatch
    loses at most ``log(1/(1-a))``. With several fractions the bets run in parallel and their
    wealth is averaged, which costs at most the log of their number against the best of them.

    Parameters
    ----------
    fractions
        One or more values in ``(0, 1)``.
    """

    def __init__(self, fractions: tuple[float, ...] = DEFENSIVE_GRID) -> None:
        self.fractions = np.array([check_fraction(a) for a in fractions])
        self.weights = np.full(len(fractions), 1 / len(fractions))
        self.name = "defensive" if len(fractions) == 1 else "defensive-mixture"

    def log_e(
        self, evidence: Evidence, matches_before: int = 0, steps_before: int = 0
    ) -> NDArray[np.float64]:
        """Return log e-values, ``float64[T, J]``, one column per fraction."""
        inverse = 1 / np.maximum(evidence.seed_probability_T, P_FLOOR)
        gain = np.where(evidence.match_T, inverse, 0.0)[:, None] * self.fractions
        return np.minimum(np.log1p(gain - self.fractions), LOG_E_CAP)


class AnchoredMixtureScore:
    """`AnchoredScore` averaged over all tolerances with a Beta(1/2, 1/2) law on ``1 - delta/2``.

    Needs no tuning. The average over delta is computed by its predictive form: the match
    probability used at a position is ``(M + 1/2) / (t + 1)`` after M matches in t positions.

    Parameters
    ----------
    num_groups
        Number of seed symbols m.
    """

    name = "anchored-mixture"

    def __init__(self, num_groups: int) -> None:
        self.num_groups = num_groups
        self.weights = np.ones(1)

    def log_e(
        self, evidence: Evidence, matches_before: int = 0, steps_before: int = 0
    ) -> NDArray[np.float64]:
        """Return log e-values, ``float64[T, 1]``."""
        T = len(evidence)
        before = matches_before + np.concatenate([[0], np.cumsum(evidence.match_T)])[:T]
        steps = steps_before + np.arange(T)
        hit = (before + 0.5) / (steps + 1.0)
        miss = (1 - hit) / (self.num_groups - 1)
        log_k = np.log(np.where(evidence.match_T, hit, miss))
        log_e = log_k - _floored_log(evidence.seed_probability_T)
        # No bet where the seed is certain.
        log_e = np.where(evidence.support_T < 2, 0.0, log_e)
        # Tokens outside a truncated support: sum_s p e = K (1 - hit)/(m - 1) may exceed 1 only
        # when K > m - 1, that is never with K < m.
        return np.minimum(log_e, LOG_E_CAP)[:, None]


SCORES = ("anchored", "defensive", "anchored-mixture", "defensive-mixture")
"""Names accepted by `make_score`."""


def make_score(
    name: str, num_groups: int, *, delta: float = 0.3, fraction: float = 0.3, gated: bool = False
) -> Score:
    """Build a score by name.

    Parameters
    ----------
    name
        One of `SCORES`.
    num_groups
        Number of seed symbols m.
    delta
        Tolerance of ``"anchored"``.
    fraction
        Fraction of ``"defensive"``.
    gated
        Only for ``"anchored"``; see `AnchoredScore`.

    Raises
    ------
    ValueError
        If the name is unknown, a parameter is out of range or ``gated`` does not apply.
    """
    if gated and name != "anchored":
        raise ValueError(f"gated=True applies to score='anchored' only, got score={name!r}")
    if name == "anchored":
        return AnchoredScore(num_groups, delta, gated=gated)
    if name == "defensive":
        return DefensiveScore((fraction,))
    if name == "anchored-mixture":
        return AnchoredMixtureScore(num_groups)
    if name == "defensive-mixture":
        return DefensiveScore()
    raise ValueError(f"unknown score {name!r}; choose one of {SCORES}")
