"""Inverse transform sampling (ITS): one uniform and a random order of the vocabulary per token."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from modicum.umpwatermark._sums import MGF_CELLS, CdfLaw, Lattice, TokenLaw
from modicum.umpwatermark.profile import EntropyProfile
from modicum.umpwatermark.schemes._hits import known_laws
from modicum.umpwatermark.schemes._scores import ScoreScheme, monte_carlo_type2
from modicum.umpwatermark.schemes.base import Type2, chunks

Floats = NDArray[np.float64]

SIMULATED_TOKENS = 400_000
"""Tokens simulated for the law of the score of marked text, fewer for large vocabularies."""

LARGEST_SAMPLE = 25_000_000
"""Simulated tokens times vocabulary are kept below this."""

BLOCKS = 20
"""Independent blocks of the simulation, for the standard error."""


def distance_null(vocab_size: int) -> TokenLaw:
    """Return the null law of ``1 - |u - rank/(V-1)|``, u uniform and the rank uniform on V."""
    V = vocab_size
    steps = np.arange(V, dtype=np.float64)
    # P(|u - eta| > r) = 2 E(eta - r)+ by symmetry, linear between the possible ranks.
    excess = (V - 1 - steps) * (V - steps) / (2.0 * V * (V - 1))
    grid = steps / (V - 1)

    def cdf(s: Floats) -> Floats:
        return 2 * np.interp(np.clip(1 - s, 0.0, 1.0), grid, excess)

    mean = (2 * V - 1) / (6 * (V - 1))
    return CdfLaw(cdf, 1 - mean, V / (6 * (V - 1)) - mean**2, 0.0, 1.0)


@dataclass(frozen=True, eq=False)
class CorrectedLaw:
    """A known law, plus the law of one sample, minus that of another: a control variate.

    Attributes
    ----------
    known
        Law that the second sample has.
    plus_S, minus_S
        Samples of equal size, the closer coupled the better.
    """

    known: TokenLaw
    plus_S: Floats
    minus_S: Floats
    unit: float | None = None

    @cached_property
    def mean(self) -> float:
        """Expectation."""
        return self.known.mean + float(np.mean(self.plus_S - self.minus_S))

    @cached_property
    def variance(self) -> float:
        """Variance."""
        square = self.known.variance + self.known.mean**2
        square += float(np.mean(self.plus_S**2 - self.minus_S**2))
        return max(square - self.mean**2, 1e-12)

    @property
    def lower(self) -> float:
        """Least value."""
        return self.known.lower

    @property
    def upper(self) -> float:
        """Largest value."""
        return self.known.upper

    @cached_property
    def coarse(self) -> Lattice:
        """A lattice of `MGF_CELLS` cells."""
        return self.lattice((self.upper - self.lower) / MGF_CELLS)

    def lattice(self, step: float) -> Lattice:
        """Round down to multiples of a step."""
        known = self.known.lattice(step)
        size = len(known.mass_K)

        def mass(sample_S: Floats) -> Floats:
            index_S = np.floor(sample_S / step).astype(np.int64) - known.first
            return np.bincount(np.clip(index_S, 0, size - 1), minlength=size) / len(sample_S)

        mass_K = np.maximum(known.mass_K + mass(self.plus_S) - mass(self.minus_S), 0.0)
        mass_K /= mass_K.sum()
        rounded = float(mass_K @ (known.first + np.arange(size))) * step
        mean_error = min(max(self.mean - rounded, 0.0), step)
        return Lattice(mass_K, known.first, step, mean_error, step**2 / 4)


class InverseTransformScheme(ScoreScheme):
    """Takes the token at which the law, cumulated in the random order, passes u.

    Rejects when ranks and uniforms are close, by the sum of ``1 - |u - rank/(V-1)|``.

    Parameters
    ----------
    seed
        Seed of the simulation that gives the score's law in marked text.

    Notes
    -----
    ITS of "Robust Distortion-free Watermarks for Language Models" (arXiv 2307.15593) with a key of
    full length and its exact null law in place of permutations.
    """

    name = "inverse_transform"
    needs_laws = True

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.label = "inverse transform (ITS)"

    def _null_law(self, profile: EntropyProfile) -> TokenLaw:
        size = known_laws(profile)[0].shape[1]
        return profile.remember("its null", lambda: distance_null(size))

    def _sample(self, profile: EntropyProfile) -> Floats:
        """Return scores of simulated tokens and of their controls, ``[2, BLOCKS, S]``.

        The control is a token drawn with the same order but without u: its score has the null law.
        """

        def make() -> Floats:
            V = known_laws(profile)[0].shape[1]
            size = max(100, min(SIMULATED_TOKENS, LARGEST_SAMPLE // V) // BLOCKS)
            rng = np.random.default_rng(self.seed)
            rows = []
            for _ in range(BLOCKS):
                u_S = (rng.permutation(size) + rng.random(size)) / size
                rows.append(self._distances(profile, u_S, rng))
            return np.stack(rows, axis=1)

        return profile.remember(("its", self.seed), make)

    def _marked_law(self, profile: EntropyProfile) -> TokenLaw:
        plus, minus = self._sample(profile)
        return profile.remember(
            ("its law", self.seed),
            lambda: CorrectedLaw(self._null_law(profile), plus.ravel(), minus.ravel()),
        )

    def _type2(self, profile: EntropyProfile, num_tokens: int, alpha: float) -> Type2:
        threshold = self._threshold(profile, num_tokens, alpha)[2]
        values = np.concatenate(list(self._sample(profile)), axis=1)
        size = values.shape[1] // 2
        weights = np.broadcast_to(np.repeat([1 / size, -1 / size], size), values.shape)
        return monte_carlo_type2(
            self._marked_law(profile), np.stack([values, weights]), num_tokens, threshold
        )

    def _distances(self, profile: EntropyProfile, u_S: Floats, rng: np.random.Generator) -> Floats:
        """Return scores of marked tokens and of controls, ``[2, S]``."""
        laws_BV, _ = known_laws(profile)
        V = laws_BV.shape[1]
        parts, start = [], 0
        for rows in chunks(len(u_S), V):
            part_S = u_S[start : start + rows]
            start += rows
            q_SV = laws_BV[profile.draw_contexts(rng, rows)]
            # Shuffling the law is drawing the order in which it is cumulated.
            cumulative_SV = np.cumsum(rng.permuted(q_SV, axis=1), axis=1)

            def score(
                level_S: Floats, u_S: Floats = part_S, cumulative_SV: Floats = cumulative_SV
            ) -> Floats:
                rank_S = np.minimum((cumulative_SV <= level_S[:, None]).sum(axis=1), V - 1)
                return 1 - np.abs(u_S - rank_S / (V - 1))

            parts.append(np.stack([score(part_S), score(rng.random(rows))]))
        return np.concatenate(parts, axis=1)

    def _draw_scores(
        self, profile: EntropyProfile, shape: tuple[int, int], rng: np.random.Generator, null: bool
    ) -> Floats:
        marked, control = self._distances(profile, rng.random(shape[0] * shape[1]), rng)
        return (control if null else marked).reshape(shape)
