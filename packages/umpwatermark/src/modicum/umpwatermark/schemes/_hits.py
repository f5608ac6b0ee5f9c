"""Schemes that count hits: under the null a token hits with probability gamma, whatever the text.

The test rejects from the least count on whose binomial tail is at most alpha; positions are
independent, so the count of a marked text is binomial as well, with the profile's mean hit rate.

Legend: ``R`` texts, ``T`` tokens, ``N`` lengths.
"""

import math
from abc import abstractmethod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from modicum.umpwatermark._sums import Bracket
from modicum.umpwatermark.iid import least_tokens
from modicum.umpwatermark.profile import EntropyProfile
from modicum.umpwatermark.schemes.base import (
    TWO_SIDED,
    CannotPlanError,
    PlannedScheme,
    Tokens,
    Type2,
)

# The Type II error of a binomial test is a saw in n; teeth are about 1/gamma long. A first length
# that suffices lies at most so many of them, and so much of itself, below one found by bisection.
TEETH, BACK = 40, 0.1


class Rate(NamedTuple):
    """A hit rate and its standard error, 0 where it is exact."""

    value: float
    stderr: float = 0.0


def binomial_tail(count_N: NDArray[np.int64], n_N: NDArray[np.int64], rate: float) -> NDArray:
    """Return ``P(Binomial(n, rate) >= count)``."""
    from scipy.special import betainc

    inside = np.clip(count_N, 1, n_N)
    tail = betainc(inside, n_N - inside + 1.0, rate)
    return np.where(count_N <= 0, 1.0, np.where(count_N > n_N, 0.0, tail))


def binomial_threshold(n_N: NDArray[np.int64], gamma: float, alpha: float) -> NDArray[np.int64]:
    """Return the least count with ``P(Binomial(n, gamma) >= count) <= alpha``; n+1 if none."""
    n_N = np.asarray(n_N, dtype=np.int64)
    low_N, high_N = np.zeros_like(n_N), n_N + 1
    while np.any(high_N - low_N > 1):
        middle_N = (low_N + high_N) // 2
        enough_N = binomial_tail(middle_N, n_N, gamma) <= alpha
        high_N = np.where(enough_N, middle_N, high_N)
        low_N = np.where(enough_N, low_N, middle_N)
    return high_N


def binomial_type2(n_N: NDArray[np.int64], gamma: float, rate: float, alpha: float) -> NDArray:
    """Return the Type II error at each length of the binomial test with a given hit rate."""
    n_N = np.asarray(n_N, dtype=np.int64)
    fewer_N = n_N - binomial_threshold(n_N, gamma, alpha) + 1
    # P(hits < c) = P(misses >= n - c + 1): a tail again, so that small errors keep their digits.
    return binomial_tail(fewer_N, n_N, 1 - rate)


class HitScheme(PlannedScheme):
    """Counts hits of probability gamma under the null.

    Attributes
    ----------
    gamma
        Probability of a hit under the null.
    """

    gamma: float

    @abstractmethod
    def _hit_rate(self, profile: EntropyProfile) -> Rate: ...

    @abstractmethod
    def _draw_hits(
        self, profile: EntropyProfile, num_texts: int, num_tokens: int, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Simulate marked texts and return the number of hits of each, int64 ``[R]``."""

    def hit_rate(self, profile: EntropyProfile) -> Rate:
        """Return the mean probability that a token of a marked text hits."""
        self.check(profile)
        return profile.remember((self.name, repr(self)), lambda: self._hit_rate(profile))

    def _type2(self, profile: EntropyProfile, num_tokens: int, alpha: float) -> Type2:
        rate, stderr = self.hit_rate(profile)
        n = np.array([num_tokens])

        def at(hit: float) -> float:
            return float(binomial_type2(n, self.gamma, min(max(hit, 0.0), 1.0), alpha)[0])

        margin = TWO_SIDED * stderr
        bracket = Bracket.of(at(rate), at(rate + margin), at(rate - margin))
        return Type2.of(bracket, "mc" if stderr > 0 else "exact")

    def _first(self, rate: float, alpha: float, beta: float, max_tokens: int) -> float:
        if rate <= self.gamma:
            return math.inf

        def error(n_N: NDArray[np.int64]) -> NDArray:
            return binomial_type2(n_N, self.gamma, rate, alpha)

        # Normal approximation of the binomial test.
        evidence = -math.log(alpha) - math.log(beta)
        spread = self.gamma * (1 - self.gamma) / (rate - self.gamma) ** 2
        found = least_tokens(
            lambda n: bool(error(np.array([n]))[0] <= beta),
            start=round(min(evidence * spread + 1, max_tokens)),
            max_tokens=max_tokens,
        )
        if not math.isfinite(found):
            return found
        tooth = TEETH / min(self.gamma, 1 - self.gamma)
        back = min(int(found) - 1, int(tooth + BACK * found), 200_000)
        n_N = int(found) - np.arange(back + 1)
        return float(n_N[error(n_N) <= beta].min())

    def _tokens_needed(
        self, profile: EntropyProfile, alpha: float, beta: float, max_tokens: int
    ) -> Tokens:
        rate, stderr = self.hit_rate(profile)
        value = self._first(rate, alpha, beta, max_tokens)
        if stderr == 0:
            return Tokens(value, value, value, "exact")
        margin = TWO_SIDED * stderr
        low = self._first(min(rate + margin, 1.0), alpha, beta, max_tokens)
        return Tokens(value, low, self._first(rate - margin, alpha, beta, max_tokens), "mc")

    def _simulate(
        self,
        profile: EntropyProfile,
        num_texts: int,
        num_tokens: int,
        alpha: float,
        rng: np.random.Generator,
        null: bool,
    ) -> NDArray[np.bool_]:
        if null:
            hits_R = rng.binomial(num_tokens, self.gamma, size=num_texts)
        else:
            hits_R = self._draw_hits(profile, num_texts, num_tokens, rng)
        return hits_R >= binomial_threshold(np.array([num_tokens]), self.gamma, alpha)[0]


def check_gamma(gamma: float) -> float:
    """Validate a share of the vocabulary in ``(0, 1)``."""
    if not 0 < gamma < 1:
        raise ValueError(f"gamma must lie in (0, 1), got {gamma}")
    return float(gamma)


def known_laws(profile: EntropyProfile) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return laws and context weights of a profile that has them."""
    if profile.laws_BV is None or profile.context_weights_B is None:
        raise CannotPlanError("needs whole next-token laws, not only those of emitted tokens")
    return profile.laws_BV, profile.context_weights_B
