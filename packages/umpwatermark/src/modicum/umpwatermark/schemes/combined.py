"""Gumbel-max tokens, tested with a surrogate: weighted pivot and match.

The pivot counts by the surrogate's probability of the token; a match says that Gumbel-max with the
surrogate's law would have picked the same token.

The null law of the score depends on the text, through the surrogate's probabilities of its tokens,
so each simulated text has a p-value of its own, computed by FFT. For that, tokens are put into
classes by their surrogate probability, rounded *up*: the test that scores with the class's
probability is valid, because under the null a match is then only less likely than assumed. Scores
are rounded to a lattice, which is part of the test as well.

Legend: ``R`` texts, ``T`` tokens, ``A`` kinds of token, ``C`` classes, ``K`` lattice points of a
score, ``W`` of a sum, ``F`` frequencies.
"""

import math
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from modicum.umpwatermark.evidence import PROB_FLOOR
from modicum.umpwatermark.profile import FEW_ATOMS, EntropyProfile
from modicum.umpwatermark.schemes.base import (
    CannotPlanError,
    PlannedScheme,
    Type2,
)

Floats = NDArray[np.float64]

NUM_TEXTS = 1000
"""Texts simulated per Type II error."""

MAX_SIMULATED_TOKENS = 20_000
"""Longest text that is simulated."""

BLOCK = 32
"""Tokens per block of random numbers: texts of different lengths begin alike."""

CLASS_RATIO = 1.04
"""Neighbouring classes differ by this factor in p (below 1/2) or in 1 - p (above)."""

STEP = 1 / 32
"""Lattice step of a score in nats up to `FINE_TOKENS` tokens, twice that beyond."""

FINE_TOKENS = 100

TILT = 0.5
"""Exponential tilt under which null laws are convolved: the upper tail keeps its digits."""

# Lattice beyond ln(1/alpha), in nats. What the sum has above wraps around with a factor of at most
# exp(-(1 - TILT) * length of the lattice), because E exp(score) = 1.
MARGIN = 60.0

FREQUENCIES = 1 << 22
"""Complex numbers that the convolution holds at once."""

LEAST_GAP = 1e-9
"""Surrogate probabilities are not told apart from 1 beyond this."""


def probability_classes(prob_A: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Return the classes' probabilities (rounded up) and the class of each kind of token."""
    floored = np.clip(prob_A, PROB_FLOOR, 1.0)
    values, class_A = np.unique(floored, return_inverse=True)
    if len(values) <= FEW_ATOMS:
        return values, class_A
    log_ratio = math.log(CLASS_RATIO)
    below = np.exp(np.ceil(np.log(values) / log_ratio) * log_ratio)
    gap = np.maximum(1 - values, LEAST_GAP)
    above = 1 - np.exp(np.floor(np.log(gap) / log_ratio) * log_ratio)
    rounded = np.where(values <= 0.5, np.minimum(below, 1.0), np.maximum(above, values))
    classes, merged = np.unique(rounded, return_inverse=True)
    return classes, merged[class_A]


class CombinedScheme(PlannedScheme):
    """``s = ln(1 - a - b + a (1/p) Y^(1/p - 1) + b M / p)`` with p the surrogate's probability.

    Y is the emitted token's uniform, M whether Gumbel-max under the surrogate picks it. Under the
    null Y is uniform and M given Y has probability ``Y^(1/p - 1)``, whatever the surrogate; in
    marked text their law is known for any pair of model and surrogate (`EntropyProfile.mismatch_A`
    and ``Y = U^q``).

    Parameters
    ----------
    weights
        ``(a, b)``, not negative, ``0 < a + b < 1``.
    num_texts, seed
        Texts per simulated Type II error and their seed.
    """

    name: ClassVar[str] = "combined"
    uses_model = True
    resolution = 0.01

    def __init__(
        self,
        weights: tuple[float, float] = (0.3, 0.3),
        num_texts: int = NUM_TEXTS,
        seed: int = 0,
    ) -> None:
        a, b = (float(w) for w in weights)
        if not (a >= 0 and b >= 0 and 0 < a + b < 1):
            raise ValueError(f"weights (a, b) must be >= 0 with 0 < a + b < 1, got {weights}")
        self.weights, self.num_texts, self.seed = (a, b), num_texts, seed
        self.label = f"Gumbel-max, combined test a={a:g} b={b:g}"

    # Scores --------------------------------------------------------------------------------------

    def _score(self, prob: Floats, log_y: Floats, match: NDArray[np.bool_]) -> Floats:
        a, b = self.weights
        pivot = np.exp((1 / prob - 1) * log_y) / prob
        return np.log(1 - a - b + a * pivot + b * match / prob)

    def _lattice(self, num_tokens: int) -> tuple[float, int]:
        # Step, and lattice index of the least score.
        step = STEP if num_tokens <= FINE_TOKENS else 2 * STEP
        return step, round(math.log(1 - sum(self.weights)) / step)

    def _null_masses(self, prob: float, step: float, first: int) -> Floats:
        """Return the null law of the rounded score of one class, from lattice index ``first``."""
        a, b = self.weights
        top = math.log(1 - a - b + (a + b) / prob)
        num_points = round(top / step) - first + 1
        edges = np.exp((first + np.arange(num_points + 1) - 0.5) * step)
        masses = np.zeros(num_points)
        for match in (False, True):
            base = 1 - a - b + (b / prob if match else 0.0)
            if a > 0 and prob < 1:
                # The score rises in Y: the edges of the lattice cells as values of Y.
                with np.errstate(divide="ignore"):
                    log_y = np.log(np.maximum(edges - base, 0.0) * prob / a) * (prob / (1 - prob))
                log_y = np.minimum(log_y, 0.0)
                log_y[-1] = 0.0
                matched = prob * np.exp(log_y / prob)
                below = matched if match else np.exp(log_y) - matched
                masses += np.diff(below)
            else:
                # Constant in Y.
                value = base + (a / prob if prob == 1 else 0.0)
                at = round(math.log(value) / step) - first
                masses[at] += prob if match else 1 - prob
        return np.maximum(masses, 0.0)

    def _lattice_scores(
        self, prob: Floats, log_y: Floats, match: NDArray[np.bool_], step: float, first: int
    ) -> NDArray[np.int64]:
        score = self._score(prob, log_y, match)
        return np.rint(score / step).astype(np.int64) - first

    # p-values ------------------------------------------------------------------------------------

    def _rejects(
        self,
        counts_RC: Floats,
        total_R: NDArray[np.int64],
        prob_C: Floats,
        num_tokens: int,
        alpha: float,
    ) -> NDArray[np.bool_]:
        """Test texts given the classes of their tokens and their total lattice scores."""
        step, first = self._lattice(num_tokens)
        reach = -num_tokens * first + math.ceil((MARGIN - math.log(alpha)) / step)
        length = 1 << math.ceil(math.log2(reach))
        present = counts_RC.any(axis=0)
        counts_RC = np.ascontiguousarray(counts_RC[:, present])
        log_CF = np.empty((int(present.sum()), length // 2 + 1), dtype=np.complex128)
        for row, prob in enumerate(prob_C[present]):
            masses = self._null_masses(float(prob), step, first)
            tilted = masses * np.exp(TILT * step * np.arange(len(masses)))
            folded = np.zeros(length)
            np.add.at(folded, np.arange(len(tilted)) % length, tilted)
            transform = np.fft.rfft(folded)
            size = np.maximum(np.abs(transform), 1e-300)
            log_CF[row] = np.log(size) + 1j * np.angle(transform)
        real_CF = np.ascontiguousarray(log_CF.real)
        imag_CF = np.ascontiguousarray(log_CF.imag)
        untilt = np.exp(-TILT * step * np.arange(length))
        decisions = np.ones(len(total_R), dtype=bool)
        rows = max(1, FREQUENCIES // length)
        for start in range(0, len(total_R), rows):
            part = slice(start, start + rows)
            # The tilted mass, largest at frequency 0, leaves the range of floats for long texts.
            log_mass_R = counts_RC[part] @ real_CF[:, 0]
            log_size_RF = counts_RC[part] @ real_CF - log_mass_R[:, None]
            transform = np.exp(log_size_RF + 1j * (counts_RC[part] @ imag_CF))
            masses_RW = np.maximum(np.fft.irfft(transform, length, axis=1), 0.0)
            inside = total_R[part] < length
            at = np.clip(total_R[part], 0, length - 1)
            # Untilted relative to the observed total: only the tail from there on is summed.
            tail_R = np.array(
                [mass[i:] @ untilt[: length - i] for mass, i in zip(masses_RW, at, strict=True)]
            )
            with np.errstate(divide="ignore"):
                log_p = np.log(tail_R) + log_mass_R - TILT * step * at
            p_value = np.exp(np.minimum(log_p, 0.0))
            # Beyond the lattice the p-value is far below alpha.
            decisions[part] = ~inside | (p_value <= alpha)
        return decisions

    # Texts ---------------------------------------------------------------------------------------

    def _classes(self, profile: EntropyProfile) -> tuple[Floats, NDArray[np.int64]]:
        return profile.remember(
            "surrogate classes", lambda: probability_classes(profile.surrogate_A)
        )

    def _draw_block(
        self,
        profile: EntropyProfile,
        num_texts: int,
        rng: np.random.Generator,
        null: bool,
    ) -> tuple[NDArray[np.int64], Floats, NDArray[np.bool_]]:
        """Return kinds of token, ln Y and matches of `BLOCK` tokens of every text."""
        shape = (num_texts, BLOCK)
        token = profile.draw_tokens(rng, shape)
        exponential = rng.standard_exponential(shape)
        coin = rng.random(shape)
        if null:
            surrogate = np.maximum(profile.surrogate_A[token], 1e-300)
            return token, -exponential, coin < np.exp(-(1 / surrogate - 1) * exponential)
        match = coin < np.exp(-profile.mismatch_A[token] * exponential)
        return token, -profile.prob_A[token] * exponential, match

    def _decide(
        self,
        profile: EntropyProfile,
        num_texts: int,
        num_tokens: int,
        alpha: float,
        seeds: np.random.SeedSequence,
        null: bool,
    ) -> NDArray[np.bool_]:
        if num_tokens > MAX_SIMULATED_TOKENS:
            raise CannotPlanError(f"not found up to {MAX_SIMULATED_TOKENS} simulated tokens")
        prob_C, class_A = self._classes(profile)
        step, first = self._lattice(num_tokens)
        counts_RC = np.zeros((num_texts, len(prob_C)))
        total_R = np.zeros(num_texts, dtype=np.int64)
        row_R1 = np.arange(num_texts)[:, None] * len(prob_C)
        for start, seed in zip(
            range(0, num_tokens, BLOCK), seeds.spawn(-(-num_tokens // BLOCK)), strict=True
        ):
            rng = np.random.default_rng(seed)
            token, log_y, match = self._draw_block(profile, num_texts, rng, null)
            keep = min(BLOCK, num_tokens - start)
            class_RT = class_A[token[:, :keep]]
            total_R += self._lattice_scores(
                prob_C[class_RT], log_y[:, :keep], match[:, :keep], step, first
            ).sum(axis=1)
            counts_RC += np.bincount((row_R1 + class_RT).ravel(), minlength=counts_RC.size).reshape(
                counts_RC.shape
            )
        return self._rejects(counts_RC, total_R, prob_C, num_tokens, alpha)

    def _type2(self, profile: EntropyProfile, num_tokens: int, alpha: float) -> Type2:
        from modicum.core.stats import clopper_pearson

        seeds = np.random.SeedSequence(self.seed)
        found = self._decide(profile, self.num_texts, num_tokens, alpha, seeds, False)
        missed = int(self.num_texts - found.sum())
        low, high = clopper_pearson(missed, self.num_texts)
        return Type2(missed / self.num_texts, float(low), float(high), "mc")

    def _simulate(
        self,
        profile: EntropyProfile,
        num_texts: int,
        num_tokens: int,
        alpha: float,
        rng: np.random.Generator,
        null: bool,
    ) -> NDArray[np.bool_]:
        seeds = np.random.SeedSequence(int(rng.integers(1 << 63)))
        return self._decide(profile, num_texts, num_tokens, alpha, seeds, null)
