"""Simulated Gumbel-max texts over a token bank, and p-values of every prefix of them.

Takes next-token laws, of the generator and of the model at detection, and draws what a detector
would see of a marked text without racing over the vocabulary: given the emitted token x, its time
of arrival is ``E ~ Exp(1)``, its pivot ``exp(-q(x) E)``, and the same uniforms raced under the
other law pick x with probability ``exp(-D(x) E)`` (see `EntropyProfile.mismatch_A`). Knows no key.

Legend: ``R`` texts, ``T`` tokens, ``K`` null draws.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modicum.core.watermark.bank import TokenBank
from modicum.umpwatermark import prefixes
from modicum.umpwatermark.evidence import PROB_FLOOR, Evidence
from modicum.umpwatermark.profile import EntropyProfile

Floats = NDArray[np.float64]
Weights = tuple[float, float]

BANK_SEED, NOISE_SEED = 0, 1
SURROGATES = {
    "exact": "the model itself",
    "noise 1": "logits with noise 1, temperature 1",
    "noise 2": "logits with noise 2, temperature 1",
}


def bank_profile(case: str, surrogate: str, seed: int = BANK_SEED) -> EntropyProfile:
    """Return a token bank with a model at detection.

    Parameters
    ----------
    case
        ``"base"`` (0.83 nats per token) or ``"low"`` (0.16).
    surrogate
        One of `SURROGATES`.
    seed
        Seed of the bank; its noise has the next one.
    """
    changes: dict[str, Any] = {}
    if surrogate == "exact":
        changes = {"anchor_noise": 0.0, "anchor_temperature": 0.7 if case == "base" else 0.35}
    elif surrogate == "noise 2":
        changes = {"anchor_noise": 2.0}
    noise_seed = seed + NOISE_SEED
    bank = TokenBank.build(case, seed=seed, noise_seed=noise_seed, **changes)  # type: ignore[arg-type]
    other = None if surrogate == "exact" else bank.anchor_BV
    return EntropyProfile.from_laws(
        bank.target_BV, surrogate_BV=other, label=f"{case}, {surrogate}"
    )


@dataclass(frozen=True, eq=False)
class MarkedTexts:
    """What a detector sees of marked texts.

    Attributes
    ----------
    y_RT
        Pivots.
    prob_RT
        The surrogate's probability of the emitted token, at least `PROB_FLOOR`.
    match_RT
        Whether Gumbel-max under the surrogate would have picked it.
    surprisal_RT
        ``-ln q(x)`` under the generator, nats.
    """

    y_RT: Floats
    prob_RT: Floats
    match_RT: NDArray[np.bool_]
    surprisal_RT: Floats

    def optimum_RT(self, alpha: float) -> Floats:
        """Probability that the optimal test of level alpha detects each prefix: ``min(1, a/rho)``.

        Given the text; its mean over texts is the optimum's power.
        """
        return np.minimum(1.0, alpha * np.exp(np.cumsum(self.surprisal_RT, axis=1)))


def draw_marked(
    profile: EntropyProfile, num_texts: int, num_tokens: int, rng: np.random.Generator
) -> MarkedTexts:
    """Draw Gumbel-max texts with independent contexts from a profile."""
    x_RT = profile.draw_tokens(rng, (num_texts, num_tokens))
    arrival_RT = rng.standard_exponential((num_texts, num_tokens))
    tiny = np.finfo(np.float64).tiny
    y_RT = np.clip(np.exp(-profile.prob_A[x_RT] * arrival_RT), tiny, np.nextafter(1.0, 0.0))
    with np.errstate(over="ignore", invalid="ignore"):
        picked_RT = np.exp(-profile.mismatch_A[x_RT] * arrival_RT)
    return MarkedTexts(
        y_RT,
        np.clip(profile.surrogate_A[x_RT], PROB_FLOOR, 1.0),
        rng.random((num_texts, num_tokens)) < picked_RT,
        profile.surprisal_A[x_RT],
    )


def prefix_p_values(
    texts: MarkedTexts,
    weights: Sequence[Weights],
    num_draws: int,
    rng: np.random.Generator,
    *,
    at: Sequence[int] | None = None,
    advance: Callable[[int], Any] = lambda texts: None,
) -> dict[Weights, Floats]:
    """Return Monte-Carlo p-values of prefixes under the null given the text.

    The scores are those of the statistic ``combined``; all weights and prefixes share one set of
    draws per text, so each p-value alone is exactly valid.

    Parameters
    ----------
    texts
        What is tested.
    weights
        Pairs (a, b) of pivot and match.
    num_draws
        K.
    rng
        Source of the null.
    at
        Lengths of the prefixes; all by default.
    advance
        Told of each finished text.

    Returns
    -------
    dict
        By weights p-values ``[R, len(at)]``.
    """
    num_texts, num_tokens = texts.y_RT.shape
    lengths = np.arange(1, num_tokens + 1) if at is None else np.asarray(at)
    p = {pair: np.empty((num_texts, len(lengths))) for pair in weights}
    for r in range(num_texts):
        evidence = Evidence(texts.y_RT[r], texts.prob_RT[r], texts.match_RT[r])
        for pair, p_L in prefixes.prefix_p_values(
            evidence, weights, num_draws, rng, lengths
        ).items():
            p[pair][r] = p_L
        advance(1)
    return p


def sum_p_values(texts: MarkedTexts, lengths: Sequence[int]) -> Floats:
    """Return p-values ``[R, len(lengths)]`` of the sum test, exact by the Gamma law."""
    from scipy.special import gammaincc

    at = np.asarray(lengths)
    total_RT = np.cumsum(-np.log1p(-texts.y_RT), axis=1)
    return np.asarray(gammaincc(at, total_RT[:, at - 1]), dtype=np.float64)
