"""Entropy profiles: what a planner knows of the next-token laws of the text to be marked.

Takes rows of laws (of a model's traffic or of a simulated bank), log-probabilities of sampled
tokens, a named family or a single entropy; gives the pooled law of an emitted token, that is of its
probability under the model and under a surrogate, which is all that most schemes' errors depend on.
Positions are taken to be drawn independently from the profile. Knows nothing of keys.

Legend: ``B`` rows of laws (contexts), ``V`` vocabulary, ``A`` atoms: kinds of emitted token,
``C`` merged atoms, ``N`` observed tokens.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modicum.umpwatermark._sums import AtomLaw
from modicum.umpwatermark.theory import check_law

Floats = NDArray[np.float64]
Made = TypeVar("Made")

MERGE_WIDTH = 1 / 1024
"""Atoms whose surprisals share a cell of this width (nats) are merged at their mean probability;
smooth means move by less than 1e-6 of themselves. Beyond `RARE` nats the cells grow."""

RARE = 8.0
"""Surprisal (nats) beyond which cells of merged atoms grow in proportion to it."""

FEW_ATOMS = 64
"""Profiles with at most this many distinct token probabilities are never merged."""


def binary_entropy(delta: float) -> float:
    """Return the entropy of the law ``(1 - delta, delta)`` in nats."""
    if delta in (0.0, 1.0):
        return 0.0
    return -(delta * math.log(delta) + (1 - delta) * math.log1p(-delta))


def _spike_law(delta: float, num_tokens: int) -> Floats:
    return np.array([1 - delta] + [delta / (num_tokens - 1)] * (num_tokens - 1))


def spike_tokens(entropy: float) -> int:
    """Return the least number of tokens with which a law can have a given entropy, at least 2."""
    if not (entropy > 0 and math.isfinite(entropy)):
        raise ValueError(f"the entropy must be positive and finite (nats per token), got {entropy}")
    return max(2, math.ceil(math.exp(entropy) * (1 - 1e-12)))


def spike_delta(entropy: float) -> float:
    """Return the mass outside the likeliest token of the spike of a given entropy.

    The spike ``(1 - d, d)`` for entropies up to ``ln 2``; above, d is spread evenly over as few
    further tokens as have room for the entropy.

    Parameters
    ----------
    entropy
        Nats per token, positive.

    Returns
    -------
    float
        d, in ``(0, 1 - 1/m]`` for m tokens.

    Raises
    ------
    ValueError
        If the entropy is not positive and finite.
    """
    others = spike_tokens(entropy) - 1
    low, high = 0.0, others / (others + 1)
    for _ in range(200):
        middle = (low + high) / 2
        if binary_entropy(middle) + middle * math.log(others) < entropy:
            low = middle
        else:
            high = middle
    return high


@dataclass(frozen=True, eq=False)
class EntropyProfile:
    """Next-token laws of a kind of text, or what is known of them.

    Build one with `from_laws`, `from_logprobs`, `spike`, `zipf` or `from_entropy`.

    Attributes
    ----------
    label
        What the profile is, in words.
    laws_BV, context_weights_B
        Next-token laws and how often each occurs; None if only probabilities of emitted tokens are
        known.
    surrogate_BV
        Laws that a surrogate gives at the same positions, if it is not the model itself.
    weights_A, prob_A
        How often each kind of token is emitted, and its probability q(x) under the model.
    spike_mass
        d for the two-token law ``(1 - d, d)``, whose sums have closed forms; else None.
    """

    label: str
    laws_BV: Floats | None
    context_weights_B: Floats | None
    surrogate_BV: Floats | None
    weights_A: Floats
    prob_A: Floats
    spike_mass: float | None = None
    _memory: dict[Any, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_laws(
        cls,
        laws_BV: ArrayLike,
        weights_B: ArrayLike | None = None,
        surrogate_BV: ArrayLike | None = None,
        *,
        label: str | None = None,
    ) -> "EntropyProfile":
        """Take next-token laws.

        Parameters
        ----------
        laws_BV
            Laws that the text is sampled from, after temperature and truncation; ``[B, V]``, or
            ``[V]`` for one law.
        weights_B
            How often each law occurs; equal by default.
        surrogate_BV
            Laws of the surrogate at detection, ``[B, V]``; the model itself by default.
        label
            What to call the profile.

        Raises
        ------
        ValueError
            If rows are no laws, or shapes differ.
        """
        laws = np.atleast_2d(check_law(laws_BV, "laws"))
        if laws.ndim != 2:
            raise ValueError(f"laws need shape [B, V] or [V], got {np.shape(laws_BV)}")
        num_contexts = len(laws)
        if weights_B is None:
            weights = np.full(num_contexts, 1 / num_contexts)
        else:
            weights = np.asarray(check_law(weights_B, "weights"))
            if weights.shape != (num_contexts,):
                raise ValueError(f"weights need shape [{num_contexts}], got {weights.shape}")
        surrogate = None
        if surrogate_BV is not None:
            surrogate = np.atleast_2d(check_law(surrogate_BV, "surrogate"))
            if surrogate.shape != laws.shape:
                raise ValueError(
                    f"surrogate laws have shape {surrogate.shape}, the model's {laws.shape}"
                )
        emitted = laws > 0
        label = label or (f"{num_contexts} laws" if num_contexts > 1 else "one law")
        spike = None
        if num_contexts == 1 and int(emitted.sum()) == 2:
            spike = float(laws[emitted].min())
        return cls(
            label,
            laws,
            weights,
            surrogate,
            (weights[:, None] * laws)[emitted],
            laws[emitted],
            spike,
        )

    @classmethod
    def from_logprobs(cls, logprobs_N: ArrayLike, *, label: str | None = None) -> "EntropyProfile":
        """Take the log-probabilities of tokens that a model sampled.

        Parameters
        ----------
        logprobs_N
            Natural logs of q(x), ``[N]``, at the temperature that will be used. Values above 0 by
            less than 1e-6 are taken as 0.
        label
            What to call the profile.

        Raises
        ------
        ValueError
            If a value is positive or not a number, or there is none.

        Notes
        -----
        Schemes that need whole laws cannot be planned from it. A surrogate is taken to be the model
        itself.
        """
        logprobs = np.asarray(logprobs_N, dtype=np.float64)
        if logprobs.ndim != 1 or not len(logprobs):
            raise ValueError(f"log-probabilities need shape [N], N >= 1, got {logprobs.shape}")
        if not np.all(np.isfinite(logprobs)):
            raise ValueError("log-probabilities must be finite: a sampled token has positive mass")
        if logprobs.max() > 1e-6:
            raise ValueError(f"log-probabilities must not be positive, got {logprobs.max()}")
        prob, count = np.unique(np.exp(np.minimum(logprobs, 0.0)), return_counts=True)
        label = label or f"log-probabilities of {len(logprobs)} tokens"
        return cls(label, None, None, None, count / len(logprobs), prob)

    @classmethod
    def spike(cls, delta: float) -> "EntropyProfile":
        """Take the two-token law ``(1 - delta, delta)``, ``0 < delta <= 1/2``."""
        if not 0 < delta <= 0.5:
            raise ValueError(f"delta must lie in (0, 1/2], got {delta}")
        return cls.from_laws([1 - delta, delta], label=f"spike δ={delta:.6g}")

    @classmethod
    def zipf(cls, exponent: float, vocab_size: int) -> "EntropyProfile":
        """Take the law proportional to ``rank ** -exponent``, ``exponent >= 0``."""
        if not (exponent >= 0 and math.isfinite(exponent)):
            raise ValueError(f"exponent must be finite and not negative, got {exponent}")
        if vocab_size < 2:
            raise ValueError(f"vocab_size must be at least 2, got {vocab_size}")
        weights = np.arange(1, vocab_size + 1, dtype=np.float64) ** -exponent
        return cls.from_laws(weights / weights.sum(), label=f"Zipf s={exponent:g}, V={vocab_size}")

    @classmethod
    def from_entropy(cls, entropy: float) -> "EntropyProfile":
        """Take the spike of a given entropy in nats as a reference.

        The hardest law of its entropy that we know; nobody has shown that there is no harder one.
        """
        delta, num_tokens = spike_delta(entropy), spike_tokens(entropy)
        return cls.from_laws(
            _spike_law(delta, num_tokens), label=f"spike reference h={entropy:.6g}"
        )

    # What the schemes ask ------------------------------------------------------------------------

    @cached_property
    def surprisal_A(self) -> Floats:
        """``-ln q(x)`` of each kind of token, nats."""
        return -np.log(self.prob_A)

    @cached_property
    def surprisal(self) -> AtomLaw:
        """Law of ``-ln q(x)`` of an emitted token."""
        return AtomLaw(self.surprisal_A, self.weights_A)

    @property
    def entropy(self) -> float:
        """Average entropy of the next-token laws, nats per token."""
        return max(self.surprisal.mean, 0.0)

    @property
    def surprisal_variance(self) -> float:
        """Variance of ``-ln q(x)`` of an emitted token, nats squared."""
        return self.surprisal.variance

    @property
    def is_single_law(self) -> bool:
        """Whether every position has the same, known law."""
        return self.laws_BV is not None and len(self.laws_BV) == 1

    @property
    def has_exact_surrogate(self) -> bool:
        """Whether the surrogate is the model itself."""
        return self.surrogate_BV is None

    @property
    def vocab_size(self) -> int | None:
        """V, if laws are known."""
        return None if self.laws_BV is None else self.laws_BV.shape[1]

    def surprisal_law(self, step: float) -> tuple[Floats, Floats]:
        """Return lattice values (rounded down, nats) and probabilities of a token's surprisal.

        Parameters
        ----------
        step
            Spacing of the lattice, nats.

        Returns
        -------
        values_K, mass_K
            float64; values are multiples of the step.
        """
        if not step > 0:
            raise ValueError(f"step must be positive, got {step}")
        lattice = self.surprisal.lattice(step)
        index_K = lattice.first + np.arange(len(lattice.mass_K), dtype=np.float64)
        return index_K * step, lattice.mass_K

    def remember(self, key: Any, make: Callable[[], Made], version: Any = None) -> Made:
        """Return what ``make`` returned when first called for a key and version.

        Only the latest version of a key is kept.
        """
        kept = self._memory.get(key)
        if kept is None or kept[0] != version:
            kept = self._memory[key] = (version, make())
        made: Made = kept[1]
        return made

    @cached_property
    def pooled(self) -> tuple[Floats, Floats]:
        """Merged atoms ``(weights_C, prob_C)``: see `MERGE_WIDTH`."""
        prob, inverse = np.unique(self.prob_A, return_inverse=True)
        if len(prob) > FEW_ATOMS:
            surprisal = -np.log(prob)
            scale = np.where(
                surprisal < RARE, surprisal, RARE * (1 + np.log(np.maximum(surprisal, RARE) / RARE))
            )
            cell = np.floor(scale / MERGE_WIDTH).astype(np.int64)
            merged = np.unique(cell, return_inverse=True)[1]
            inverse = merged[inverse]
        weights: Floats = np.bincount(inverse, weights=self.weights_A).astype(np.float64)
        mass: Floats = np.bincount(inverse, weights=self.weights_A * self.prob_A).astype(np.float64)
        keep = weights > 0
        return weights[keep], mass[keep] / weights[keep]

    @cached_property
    def surrogate_A(self) -> Floats:
        """The surrogate's probability of each kind of token."""
        if self.surrogate_BV is None or self.laws_BV is None:
            return self.prob_A
        return self.surrogate_BV[self.laws_BV > 0]

    @cached_property
    def mismatch_A(self) -> Floats:
        """How easily another token than the emitted x wins the Gumbel race run with the surrogate.

        With the race run under q, x arrives at a time ``E ~ Exp(1)``, and the same uniforms raced
        under the surrogate pick x with probability ``exp(-D E)`` given E, so with ``1 / (1 + D)``
        overall, ``D = sum_v (surrogate(v) q(x) / surrogate(x) - q(v))+`` (our derivation: the
        others' arrival times beyond E are independent exponentials again).
        """
        if self.surrogate_BV is None or self.laws_BV is None:
            return np.zeros_like(self.prob_A)
        q_BV, s_BV = self.laws_BV, self.surrogate_BV
        # A token that the surrogate excludes never wins its race.
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio_BV = np.where(q_BV > 0, q_BV / s_BV, np.where(s_BV > 0, 0.0, np.inf))
        order_BV = np.argsort(ratio_BV, axis=1, kind="stable")
        sorted_s = np.take_along_axis(s_BV, order_BV, axis=1)
        sorted_q = np.take_along_axis(q_BV, order_BV, axis=1)
        sorted_r = np.take_along_axis(ratio_BV, order_BV, axis=1)
        with np.errstate(invalid="ignore"):
            gap = sorted_r * np.cumsum(sorted_s, axis=1) - np.cumsum(sorted_q, axis=1)
        mismatch_BV = np.empty_like(gap)
        np.put_along_axis(mismatch_BV, order_BV, np.maximum(gap, 0.0), axis=1)
        mismatch_BV[s_BV <= 0] = np.inf
        return mismatch_BV[q_BV > 0]

    @cached_property
    def _cumulative_A(self) -> Floats:
        total = np.cumsum(self.weights_A)
        return total / total[-1]

    def draw_tokens(
        self, rng: np.random.Generator, shape: int | tuple[int, ...]
    ) -> NDArray[np.int64]:
        """Draw kinds of emitted tokens, as atom numbers."""
        drawn = np.searchsorted(self._cumulative_A, rng.random(shape), side="right")
        return np.minimum(drawn, len(self.prob_A) - 1)

    def draw_contexts(
        self, rng: np.random.Generator, shape: int | tuple[int, ...]
    ) -> NDArray[np.int64]:
        """Draw rows of `laws_BV`."""
        if self.context_weights_B is None:
            raise ValueError("a profile of log-probabilities has no laws to draw")
        return rng.choice(len(self.context_weights_B), size=shape, p=self.context_weights_B)
