"""Type II errors of model-aware tests on texts of two tokens, for texts of any length.

The law of a token is ``(1 - delta, delta)`` and the detector has the model. Given the text all that
matters is the number k of rare tokens, so the null law, the threshold of level alpha and the law of
the marked text's score are computed for each k by FFT on a lattice, onto which scores are split
such that their mean is kept. Knows no key.

Legend: ``J`` points of a token's law, ``W`` lattice points, ``F`` frequencies.
"""

import math

import numpy as np
from numpy.typing import NDArray

from modicum.umpwatermark.nulls import PivotMatchLaw, check_weights
from modicum.umpwatermark.profile import EntropyProfile
from modicum.umpwatermark.schemes._hits import HitScheme, Rate
from modicum.umpwatermark.theory import check_alpha

Floats = NDArray[np.float64]

POINTS = 2000
"""Points of equal mass that stand for a continuous law."""

LATTICE = 1 << 16
BELOW = 0.25
"""Share of the lattice below zero: totals are mostly positive."""

NEGLIGIBLE = 1e-7
"""Probability of a number of rare tokens, and of a miss, below which nothing is computed."""


class SpikeHazardScheme(HitScheme):
    """Hazard sampling over two tokens, read by the best test of its pivots.

    The pooled density of Y has two values, below and above delta, so the best test counts the
    pivots above: of mass ``1 - delta`` under the null and ``1 - delta^2`` in marked text, where
    only the rarer token leaves the others' place. Exact.

    Parameters
    ----------
    delta
        Probability of the rarer token, in ``(0, 1/2]``.
    """

    name = "spike_hazard"
    label = "hazard sampling over two tokens"
    needs_laws = True

    def __init__(self, delta: float) -> None:
        self.delta, self.gamma = delta, 1 - delta

    def __repr__(self) -> str:
        return f"SpikeHazardScheme(delta={self.delta})"

    def _hit_rate(self, profile: EntropyProfile) -> Rate:
        return Rate(1 - self.delta**2)

    def _draw_hits(
        self, profile: EntropyProfile, num_texts: int, num_tokens: int, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        rare = rng.random((num_texts, num_tokens)) < self.delta
        below = rng.random((num_texts, num_tokens)) < self.delta
        return num_tokens - (rare & below).sum(axis=1)


def oracle_type2(delta: float, num_tokens: int, alpha: float) -> float:
    """Return the Type II error of the optimal test without its coin: reject if ``rho(x) <= alpha``.

    The match statistic with the exact model is this test: of a marked text all tokens match, and
    under the null they do with probability rho(x). Exact.
    """
    k, mass_K = _rare_counts(delta, num_tokens)
    surprisal_K = -k * math.log(delta) - (num_tokens - k) * math.log1p(-delta)
    return float(mass_K[surprisal_K < -math.log(check_alpha(alpha)) - 1e-12].sum())


def _rare_counts(delta: float, n: int) -> tuple[NDArray[np.int64], Floats]:
    from scipy.special import gammaln

    reach = 12 * math.sqrt(n * delta) + 40
    k = np.arange(max(0, math.floor(n * delta - reach)), min(n, math.ceil(n * delta + reach)) + 1)
    log_mass_K = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    mass_K = np.exp(log_mass_K + k * math.log(delta) + (n - k) * math.log1p(-delta))
    return k[mass_K > NEGLIGIBLE], mass_K[mass_K > NEGLIGIBLE]


class SpikeTest:
    """The combined test with the exact model on texts of two tokens.

    Parameters
    ----------
    delta
        Probability of the rarer token, in ``(0, 1/2]``.
    weights
        (a, b) of pivot and match.
    step
        Width of the lattice, nats.
    """

    def __init__(self, delta: float, weights: tuple[float, float], step: float = 1 / 128) -> None:
        if not 0 < delta <= 0.5:
            raise ValueError(f"delta must lie in (0, 1/2], got {delta}")
        self.delta, self.step = delta, step
        self.a, self.b = check_weights(weights)
        common, rare = 1 - delta, delta
        # Scores of common tokens are measured from their largest, which most of them are close to.
        shift = math.log((1 - self.a - self.b) + (self.a + self.b) / common)
        with np.errstate(divide="ignore"):
            self.null_2F = np.log([self._null(common, shift), self._null(rare, 0.0)])
            self.marked_2F = np.log([self._marked(common, shift), self._marked(rare, 0.0)])

    def _scores(self, h: float, y_J: Floats, match: bool) -> Floats:
        law = PivotMatchLaw(np.full(len(y_J), h), ((self.a, self.b),))
        tail_J = np.exp((1 / h - 1) * np.log(y_J))
        return np.log(law.e_values(tail_J, np.full(len(y_J), match)))

    def _marked(self, h: float, shift: float) -> NDArray[np.complex128]:
        # Y^(1/h) is uniform, and the token matches.
        v_J = (np.arange(POINTS) + 0.5) / POINTS
        score_J = self._scores(h, v_J**h, True) - shift
        return self._transform(score_J, np.full(POINTS, 1 / POINTS))

    def _null(self, h: float, shift: float) -> NDArray[np.complex128]:
        # With a match, of mass h, Y^(1/h) is uniform; without one, P(Y <= y) = y - h y^(1/h).
        v_J = (np.arange(POINTS) + 0.5) / POINTS
        edge_J = np.union1d(np.linspace(0, 1, POINTS + 1), np.linspace(0, 1, POINTS + 1) ** h)
        middle_J = (edge_J[1:] + edge_J[:-1]) / 2
        missed_J = np.diff(edge_J - h * edge_J ** (1 / h))
        score_J = np.concatenate([self._scores(h, v_J**h, True), self._scores(h, middle_J, False)])
        mass_J = np.concatenate([np.full(POINTS, h / POINTS), np.maximum(missed_J, 0.0)])
        return self._transform(score_J - shift, mass_J / mass_J.sum())

    def _transform(self, score_J: Floats, mass_J: Floats) -> NDArray[np.complex128]:
        place_J = score_J / self.step
        low_J = np.floor(place_J)
        up_J = place_J - low_J
        mass_W = np.zeros(LATTICE)
        at_J = low_J.astype(np.int64) % LATTICE
        np.add.at(mass_W, at_J, mass_J * (1 - up_J))
        np.add.at(mass_W, (at_J + 1) % LATTICE, mass_J * up_J)
        return np.fft.rfft(mass_W)

    def type2(self, num_tokens: int, alpha: float) -> float:
        """Return the Type II error at a length and a level."""
        check_alpha(alpha)
        start = round(BELOW * LATTICE)
        missed = 0.0
        for k, mass in zip(*_rare_counts(self.delta, num_tokens), strict=True):
            copies = np.array([num_tokens - k, k])
            null_W = np.roll(np.fft.irfft(_power(self.null_2F, copies), LATTICE), start)
            marked_W = np.roll(np.fft.irfft(_power(self.marked_2F, copies), LATTICE), start)
            tail_W = np.cumsum(np.clip(null_W, 0.0, None)[::-1])[::-1]
            first = int(np.searchsorted(-tail_W, -alpha, side="left"))
            miss = float(np.clip(marked_W[:first], 0.0, None).sum())
            missed += mass * miss
            # Every further rare token is more evidence.
            if miss < NEGLIGIBLE and k > num_tokens * self.delta:
                break
        return min(missed, 1.0)


def _power(log_2F: NDArray[np.complex128], copies: NDArray[np.int64]) -> NDArray[np.complex128]:
    # A transform that is zero somewhere stays so, unless its token does not occur.
    used = copies > 0
    return np.asarray(np.exp(copies[used] @ log_2F[used]))
