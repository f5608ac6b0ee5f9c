"""SynthID-Text: tournaments over keyed g-values; the test is the mean of all g-values."""

import numpy as np
from numpy.typing import NDArray

from modicum.core.watermark.peer_laws import SYNTHID_DEPTH, tournament_law
from modicum.umpwatermark._sums import AtomLaw, TokenLaw
from modicum.umpwatermark.profile import EntropyProfile
from modicum.umpwatermark.schemes._hits import binomial_threshold, known_laws
from modicum.umpwatermark.schemes._scores import ScoreScheme, monte_carlo_type2
from modicum.umpwatermark.schemes.base import Type2, chunks

Floats = NDArray[np.float64]

SIMULATED_TOKENS = 200_000
"""Tournaments simulated for the law of the number of ones in marked text, fewer for large
vocabularies."""

LARGEST_SAMPLE = 8_000_000
"""Tournaments times vocabulary are kept below this."""

BLOCKS = 20
"""Independent blocks of the simulation, for the standard error."""


class SynthIDScheme(ScoreScheme):
    """Counts the g-values that are one, Binomial(n depth, 1/2) under the null.

    Parameters
    ----------
    depth
        Tournament layers.
    seed
        Seed of the simulation that gives the count's law in marked text.

    Notes
    -----
    "Scalable watermarking for identifying large language model outputs" (Nature 634, 2024), the
    non-distortionary version with two candidates per match and Bernoulli(1/2) g-values. The
    published *weighted* mean and Bayesian scores are other tests of the same text.
    """

    name = "synthid"
    needs_laws = True

    def __init__(self, depth: int = SYNTHID_DEPTH, seed: int = 0) -> None:
        if not 1 <= depth <= 62:
            raise ValueError(f"depth must lie in [1, 62], got {depth}")
        self.depth, self.seed = depth, seed
        self.label = f"SynthID-Text, {depth} layers, mean test"

    def _null_law(self, profile: EntropyProfile) -> AtomLaw:
        from scipy.special import binom

        count = np.arange(self.depth + 1, dtype=np.float64)
        return AtomLaw(count, binom(self.depth, count) / 2.0**self.depth, unit=1.0)

    def _threshold(
        self, profile: EntropyProfile, num_tokens: int, alpha: float
    ) -> tuple[float, float, float]:
        exact = float(binomial_threshold(np.array([num_tokens * self.depth]), 0.5, alpha)[0])
        return exact, exact, exact

    def _histograms(self, profile: EntropyProfile) -> Floats:
        """Return the law of the number of ones in blocks of tournaments, ``[BLOCKS, depth + 1]``.

        Given the g-values of all tokens the law of the winner is known: nothing else is drawn. A
        token of the untilted law has a binomial number of ones over g-values; what tournaments add
        to that is all that is left to simulate, and little where the law has little entropy.
        """

        def make() -> Floats:
            V = known_laws(profile)[0].shape[1]
            size = max(100, min(SIMULATED_TOKENS, LARGEST_SAMPLE // V) // BLOCKS)
            rng = np.random.default_rng(self.seed)
            rows = []
            for _ in range(BLOCKS):
                total = np.zeros(self.depth + 1)
                for part in chunks(size, V):
                    q_SV, words_SV, law_SV = self._tournaments(profile, part, rng)
                    ones = np.bitwise_count(words_SV).ravel()
                    added = (law_SV - q_SV).ravel()
                    total += np.bincount(ones, added, minlength=self.depth + 1)
                rows.append(self._null_law(profile).weights_A + total / size)
            return np.stack(rows)

        return profile.remember(("synthid", self.depth, self.seed), make)

    def _tournaments(
        self, profile: EntropyProfile, num: int, rng: np.random.Generator
    ) -> tuple[Floats, NDArray[np.int64], Floats]:
        laws_BV, _ = known_laws(profile)
        q_SV = laws_BV[profile.draw_contexts(rng, num)]
        words_SV = rng.integers(1 << self.depth, size=q_SV.shape)
        return q_SV, words_SV, tournament_law(q_SV, words_SV, self.depth)

    def _marked_law(self, profile: EntropyProfile) -> TokenLaw:
        mass_K = np.maximum(self._histograms(profile).mean(axis=0), 0.0)
        mass_K /= mass_K.sum()
        return AtomLaw(np.arange(self.depth + 1, dtype=np.float64), mass_K, unit=1.0)

    def _type2(self, profile: EntropyProfile, num_tokens: int, alpha: float) -> Type2:
        threshold = self._threshold(profile, num_tokens, alpha)[2]
        histograms = self._histograms(profile)
        ones = np.broadcast_to(np.arange(self.depth + 1, dtype=np.float64), histograms.shape)
        return monte_carlo_type2(
            self._marked_law(profile), np.stack([ones, histograms]), num_tokens, threshold
        )

    def _draw_scores(
        self, profile: EntropyProfile, shape: tuple[int, int], rng: np.random.Generator, null: bool
    ) -> Floats:
        if null:
            return rng.binomial(self.depth, 0.5, size=shape).astype(np.float64)
        V = known_laws(profile)[0].shape[1]
        parts: list[NDArray[np.float64]] = []
        for rows in chunks(shape[0] * shape[1], V):
            _, words_SV, law_SV = self._tournaments(profile, rows, rng)
            cumulative_SV = np.cumsum(law_SV, axis=1)
            drawn_S = (cumulative_SV <= rng.random((rows, 1)) * cumulative_SV[:, -1:]).sum(axis=1)
            words_S = words_SV[np.arange(rows), np.minimum(drawn_S, V - 1)]
            parts.append(np.bitwise_count(words_S).astype(np.float64))
        return np.concatenate(parts).reshape(shape)
