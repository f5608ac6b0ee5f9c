"""Gumbel-max tokens with the test that engines ship: the sum of ``-ln(1 - Y)``."""

import math

import numpy as np
from numpy.typing import NDArray

from modicum.umpwatermark._sums import CdfLaw, TokenLaw
from modicum.umpwatermark.profile import EntropyProfile
from modicum.umpwatermark.schemes._scores import ScoreScheme

Floats = NDArray[np.float64]

NODES = 1500
"""Points at which the pooled distribution function of a score is computed before interpolation."""

# -ln(1 - Y) exceeds this many nats beyond the largest surprisal with probability below 1e-13.
BEYOND = 30.0


def pivot_cdf(profile: EntropyProfile, u_E: Floats) -> Floats:
    """Return ``P(Y <= u) = E u^(1/q(X))`` of the winner's uniform, pooled over the profile."""
    weights_C, prob_C = profile.pooled
    total = np.zeros(len(u_E))
    with np.errstate(divide="ignore"):
        log_u = np.log(u_E)
    for start in range(0, len(prob_C), 1024):
        part = slice(start, start + 1024)
        total += weights_C[part] @ np.exp(log_u / prob_C[part, None])
    return total


def harmonic(prob: Floats) -> Floats:
    """Return ``H(1/p) = E[-ln(1 - Y)]`` given a token of probability p, in nats."""
    from scipy.special import digamma

    return digamma(1 / prob + 1) + np.euler_gamma


class GumbelSumScheme(ScoreScheme):
    """``x = argmax ln U_v / q(v)``; rejects for large ``sum -ln(1 - Y_t)``, Gamma under the null.

    Kuditipudi et al.'s EXP scheme without its search over shifts of the key is the same test.

    Notes
    -----
    S. Aaronson; as in "A Statistical Framework of Watermarks for Large Language Models"
    (arXiv 2404.01245).
    """

    name = "gumbel_sum"
    label = "Gumbel-max, sum test"

    def _null_law(self, profile: EntropyProfile) -> TokenLaw:
        return CdfLaw(lambda s: -np.expm1(-s), 1.0, 1.0, 0.0, BEYOND)

    def _marked_law(self, profile: EntropyProfile) -> TokenLaw:
        return profile.remember("gumbel score", lambda: self._make_marked(profile))

    def _make_marked(self, profile: EntropyProfile) -> TokenLaw:
        from scipy.interpolate import PchipInterpolator
        from scipy.special import polygamma

        weights_C, prob_C = profile.pooled
        mean_C = harmonic(prob_C)
        mean = float(weights_C @ mean_C)
        # Given the token, -ln(1 - Y) is the largest of 1/q exponentials.
        within_C = math.pi**2 / 6 - polygamma(1, 1 / prob_C + 1)
        variance = float(weights_C @ (within_C + (mean_C - mean) ** 2))
        upper = BEYOND + float(-np.log(prob_C.min()))
        nodes = upper * np.sinh(np.linspace(0, 4, NODES)) / math.sinh(4)
        cdf = PchipInterpolator(nodes, pivot_cdf(profile, -np.expm1(-nodes)))
        return CdfLaw(lambda s: cdf(np.clip(s, 0.0, upper)), mean, variance, 0.0, upper)

    def _threshold(
        self, profile: EntropyProfile, num_tokens: int, alpha: float
    ) -> tuple[float, float, float]:
        from scipy.special import gammainccinv

        exact = float(gammainccinv(num_tokens, alpha))
        return exact, exact, exact

    def evidence(self, profile: EntropyProfile) -> float:
        """Return the Bahadur slope: the rate in nats per token at which the p-value falls."""
        mean = float(self._marked_law(profile).mean)
        return mean - 1 - math.log(mean)

    def _draw_scores(
        self, profile: EntropyProfile, shape: tuple[int, int], rng: np.random.Generator, null: bool
    ) -> Floats:
        exponential = rng.standard_exponential(shape)
        if null:
            return exponential
        # Y = exp(-q E), so -ln(1 - Y) without cancellation.
        prob = profile.prob_A[profile.draw_tokens(rng, shape)]
        return -np.log(-np.expm1(-prob * exponential))
