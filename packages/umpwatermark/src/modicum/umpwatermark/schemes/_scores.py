"""Schemes that add up a score per token whose null law does not depend on the text.

The sum is compared with the threshold of its null law; both laws of the sum come from the FFT of
the token's law, each with its bracket. The test itself takes the upper limit of the threshold, so
its level is certain.

Legend: ``R`` texts, ``T`` tokens, ``E`` edges of pivot bins.
"""

import math
from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from modicum.umpwatermark._sums import AtomLaw, Bracket, TokenLaw, sum_law
from modicum.umpwatermark.profile import EntropyProfile
from modicum.umpwatermark.schemes.base import PlannedScheme, Type2, chunks

Floats = NDArray[np.float64]

SCORE_LIMIT = 30.0
"""Log-likelihood ratios are cut at this many nats on either side."""


def learned_edges(num_each: int = 40, smallest: float = 1e-4) -> Floats:
    """Return bin edges of a pivot: 0, log-spaced up to 1/2, mirrored to 1; ``2 num_each + 1``."""
    low = np.concatenate([[0.0], np.geomspace(smallest, 0.5, num_each)])
    return np.concatenate([low, (1 - low[:-1])[::-1]])


SCORE_STEP = 1 / 1024
"""Scores of bins are rounded to multiples of this (nats): the rounding is part of the test, whose
level is therefore exact."""

FINE_EDGES = learned_edges(400, 1e-12)
"""Edges fine enough that finer ones change no figure."""


class ScoreScheme(PlannedScheme):
    """Adds up scores with a null law that is the same for every text."""

    @abstractmethod
    def _null_law(self, profile: EntropyProfile) -> TokenLaw: ...

    @abstractmethod
    def _marked_law(self, profile: EntropyProfile) -> TokenLaw: ...

    @abstractmethod
    def _draw_scores(
        self, profile: EntropyProfile, shape: tuple[int, int], rng: np.random.Generator, null: bool
    ) -> Floats:
        """Simulate tokens and return their scores."""

    def _threshold(
        self, profile: EntropyProfile, num_tokens: int, alpha: float
    ) -> tuple[float, float, float]:
        """Return an estimate of the exact threshold and certain limits."""
        return sum_law(self._null_law(profile), num_tokens).threshold(alpha)

    def _type2(self, profile: EntropyProfile, num_tokens: int, alpha: float) -> Type2:
        value, low, high = self._threshold(profile, num_tokens, alpha)
        marked = sum_law(self._marked_law(profile), num_tokens)
        return Type2.of(
            Bracket.of(marked.below(value).value, marked.below(low).low, marked.below(high).high)
        )

    def _simulate(
        self,
        profile: EntropyProfile,
        num_texts: int,
        num_tokens: int,
        alpha: float,
        rng: np.random.Generator,
        null: bool,
    ) -> NDArray[np.bool_]:
        threshold = self._threshold(profile, num_tokens, alpha)[2]
        sums = [
            self._draw_scores(profile, (size, num_tokens), rng, null).sum(axis=1)
            for size in chunks(num_texts, num_tokens)
        ]
        # A sum of lattice scores may fall short of the lattice by round-off.
        return np.concatenate(sums) >= threshold - 1e-9


def monte_carlo_type2(law_of: TokenLaw, scores: Floats, num_tokens: int, threshold: float) -> Type2:
    """Return the Type II error of a sum of n scores whose law was estimated by simulation.

    Parameters
    ----------
    law_of
        The estimated law of one score.
    scores
        How the estimate arose, ``[J, K]`` values and ``[J, K]`` weights stacked on a first axis of
        length 2: J independent blocks, each with weights that sum to one.
    num_tokens
        n.
    threshold
        Sums from here on are called marked.

    Notes
    -----
    The first-order effect of a change of the law is n times that of one token, the others keeping
    theirs (the delta method), which gives the standard error from the blocks.
    """
    values_JK, weights_JK = scores
    value = sum_law(law_of, num_tokens, points=1 << 16).below(threshold).value
    if num_tokens == 1:
        effect_JK = (values_JK < threshold).astype(np.float64)
    else:
        others = sum_law(law_of, num_tokens - 1, points=1 << 16)
        effect_JK = others.below_many(threshold - values_JK)
    effect_J = num_tokens * (weights_JK * effect_JK).sum(axis=1)
    return Type2.estimate(value, float(effect_J.std(ddof=1)) / math.sqrt(len(effect_J)))


class PivotScheme(ScoreScheme):
    """The most powerful test of a binned pivot Y, uniform under the null, on its pooled law.

    A sum of log-likelihood ratios of bins, as `learned` detection computes it; the test of known
    pooled law is what learning from ever more calibration text tends to.
    """

    edges_E: Floats

    @abstractmethod
    def _pivot_cdf(self, profile: EntropyProfile, u_E: Floats) -> Floats:
        """Return ``P(Y <= u)`` of a token of a marked text, pooled over the profile."""

    @abstractmethod
    def _draw_pivots(
        self, profile: EntropyProfile, shape: tuple[int, int], rng: np.random.Generator
    ) -> Floats:
        """Simulate the pivots of marked texts."""

    def _edges(self, profile: EntropyProfile) -> Floats:
        return self.edges_E

    def _bins(self, profile: EntropyProfile) -> tuple[Floats, Floats, Floats, Floats]:
        """Return edges, null masses, marked masses and scores of the bins."""

        def make() -> tuple[Floats, Floats, Floats, Floats]:
            edges = self._edges(profile)
            width = np.diff(edges)
            below = self._pivot_cdf(profile, edges)
            below[0], below[-1] = 0.0, 1.0
            mass = np.maximum(np.diff(below), 0.0)
            with np.errstate(divide="ignore"):
                score = np.log(mass) - np.log(width)
            score = np.clip(score, -SCORE_LIMIT, SCORE_LIMIT)
            score = np.rint(score / SCORE_STEP) * SCORE_STEP
            return edges, width, mass / mass.sum(), score

        return profile.remember((self.name, "bins", len(self.edges_E)), make)

    def _null_law(self, profile: EntropyProfile) -> TokenLaw:
        _, width, _, score = self._bins(profile)
        return AtomLaw(score, width / width.sum(), SCORE_STEP)

    def _marked_law(self, profile: EntropyProfile) -> TokenLaw:
        _, _, mass, score = self._bins(profile)
        return AtomLaw(score, mass, SCORE_STEP)

    def evidence(self, profile: EntropyProfile) -> float:
        """Return the Kullback-Leibler divergence of the binned pooled pivot from uniform, nats."""
        self.check(profile)
        _, width, mass, _ = self._bins(profile)
        seen = mass > 0
        return float(mass[seen] @ np.log(mass[seen] / width[seen]))

    def _draw_scores(
        self, profile: EntropyProfile, shape: tuple[int, int], rng: np.random.Generator, null: bool
    ) -> Floats:
        edges, _, _, score = self._bins(profile)
        pivots = rng.random(shape) if null else self._draw_pivots(profile, shape, rng)
        at = np.searchsorted(edges, pivots, side="right") - 1
        return score[np.clip(at, 0, len(score) - 1)]
