"""Closed forms of the method: optimal growth, growth of a score, stopping times, sample sizes.

Plain NumPy functions of probability vectors; natural logarithms and nats throughout. Knows nothing
of keys, tokens or models. Source: "Towards Anytime-Valid Statistical Watermarking"
(arXiv 2602.17608): `optimal_growth` is its one-step max-min value, `expected_stopping_time` its
stopping-time law; the growth of the defensive score is derived in the docstring.

Legend: ``m`` seed symbols, ``B`` batch.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modicum.ewatermark.evalues import DEFENSIVE_GRID, check_delta, check_fraction

SUM_TOLERANCE = 1e-6

RUIN = 60.0
"""Log-wealth (nats) below zero from which `power_curve` assumes no return."""


def probability_vector(p: ArrayLike, name: str = "p") -> NDArray[np.float64]:
    """Check that the last axis holds probability vectors and return them normalised.

    Raises
    ------
    ValueError
        If an entry is negative or not finite, or a sum differs from 1 by more than 1e-6.
    """
    p = np.asarray(p, dtype=np.float64)
    if p.ndim == 0 or p.shape[-1] < 2:
        raise ValueError(f"{name} needs at least two probabilities, got shape {p.shape}")
    if not np.all(np.isfinite(p)) or np.any(p < 0):
        raise ValueError(f"{name} has negative or non-finite entries: min {np.min(p)}")
    total = p.sum(axis=-1, keepdims=True)
    if np.any(np.abs(total - 1) > SUM_TOLERANCE):
        raise ValueError(f"{name} must sum to 1, got {total.ravel()[np.abs(total - 1).argmax()]}")
    return p / total


def check_alpha(alpha: float) -> float:
    """Validate a level in ``(0, 1)`` and return it."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie in (0, 1), got {alpha}")
    return float(alpha)


def entropy(p: ArrayLike) -> NDArray[np.float64]:
    """Return the Shannon entropy in nats over the last axis."""
    p = np.asarray(p, dtype=np.float64)
    return -np.sum(np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0), axis=-1)


def total_variation(q: ArrayLike, p: ArrayLike) -> NDArray[np.float64]:
    """Return half the l1 distance over the last axis."""
    return 0.5 * np.abs(np.asarray(q, float) - np.asarray(p, float)).sum(axis=-1)


def error_entropy(delta: float, num_groups: int) -> float:
    """Return the entropy of the law that errs with probability ``delta/2``, evenly spread."""
    half = check_delta(delta, num_groups) / 2
    binary = -(half * math.log(half) + (1 - half) * math.log1p(-half))
    return binary + half * math.log(num_groups - 1)


def optimal_growth(p: ArrayLike, delta: float) -> NDArray[np.float64]:
    """Return ``J* = H(p) - H(nu_delta)``, the largest growth that any valid score can guarantee.

    It is attained by `AnchoredScore` with the maximal coupling when ``min(p) > delta``; for two
    symbols already when ``min(p) >= delta/2``.

    Parameters
    ----------
    p
        Anchor masses, shape ``[..., m]``.
    delta
        l1 tolerance around the anchor.

    Returns
    -------
    float64, shape [...]
        Nats per token.
    """
    p = probability_vector(p)
    return entropy(p) - error_entropy(delta, p.shape[-1])


def growth_rate(
    p: ArrayLike,
    q: ArrayLike,
    *,
    score: str = "anchored",
    delta: float = 0.3,
    fraction: float = 0.3,
) -> NDArray[np.float64]:
    """Return the mean log e-value per scored token when the text follows the coupling.

    With ``tau`` the total variation between the group masses, the pair (token group, seed) agrees
    on k with probability ``min(q_k, p_k)`` and disagrees with probability tau, so

    - anchored: ``H(p) + (1 - tau) log(1 - delta/2) + tau log(delta / (2 (m - 1)))``;
    - defensive: ``sum_k min(q_k, p_k) log(1 - a + a/p_k) + tau log(1 - a)``.

    Parameters
    ----------
    p, q
        Anchor and target group masses, shape ``[..., m]``.
    score
        ``"anchored"`` or ``"defensive"``; for ``"defensive-mixture"`` the best fraction of its
        grid for the *mean* of the batch, which the mixture follows up to ``log(12)/T`` nats.
    delta, fraction
        Parameters of the scores.

    Returns
    -------
    float64, shape [...] (a scalar for the mixture)
        Nats per token; not positive means that the score cannot detect.
    """
    p, q = probability_vector(p), probability_vector(q, "q")
    tau = total_variation(q, p)
    m = p.shape[-1]
    if score == "anchored":
        half = check_delta(delta, m) / 2
        miss = math.log(half) - math.log(m - 1)
        return entropy(p) + (1 - tau) * math.log1p(-half) + tau * miss
    overlap = np.minimum(q, p)
    safe = np.where(p > 0, p, 1.0)
    if score == "defensive":
        a = check_fraction(fraction)
        gain = np.where(overlap > 0, overlap * np.log(1 - a + a / safe), 0.0).sum(axis=-1)
        return gain + tau * math.log1p(-a)
    if score == "defensive-mixture":
        return np.max(
            [np.mean(growth_rate(p, q, score="defensive", fraction=a)) for a in DEFENSIVE_GRID]
        )
    raise ValueError(
        f"no growth formula for score {score!r}; choose 'anchored', 'defensive' or "
        "'defensive-mixture'"
    )


def optimal_delta(tau: float) -> float:
    """Return the anchored tolerance that grows fastest at mismatch rate ``tau``: ``2 tau``."""
    if not 0 <= tau < 1:
        raise ValueError(f"tau must lie in [0, 1), got {tau}")
    return 2 * float(tau)


def optimal_fraction(p: ArrayLike, q: ArrayLike) -> float:
    """Return the fraction whose defensive score grows fastest on average over the batch."""
    from scipy.optimize import minimize_scalar

    p, q = probability_vector(p), probability_vector(q, "q")
    found = minimize_scalar(
        lambda a: -float(np.mean(growth_rate(p, q, score="defensive", fraction=a))),
        bounds=(1e-6, 1 - 1e-6),
        method="bounded",
        options={"xatol": 1e-9},
    )
    return float(found.x)


@dataclass(frozen=True)
class StoppingTime:
    """Bounds on the mean number of scored tokens until detection.

    Attributes
    ----------
    lower
        ``log(1/alpha) / J``.
    upper
        ``(log(1/alpha) + zeta) / J`` by Wald's identity.
    """

    lower: float
    upper: float


def expected_stopping_time(alpha: float, growth: float, largest_gain: float) -> StoppingTime:
    """Bound the mean stopping time of a score with i.i.d. steps.

    Parameters
    ----------
    alpha
        Level; the test stops when the e-process reaches ``1/alpha``.
    growth
        Mean log e-value per scored token (J), in nats.
    largest_gain
        Largest possible log e-value of one token (zeta), in nats.

    Returns
    -------
    StoppingTime
        Both infinite when ``growth <= 0``.
    """
    threshold = -math.log(check_alpha(alpha))
    if growth <= 0:
        return StoppingTime(math.inf, math.inf)
    return StoppingTime(threshold / growth, (threshold + max(largest_gain, 0.0)) / growth)


def required_entropy(alpha: float, num_tokens: int, delta: float, num_groups: int) -> float:
    """Return the anchor entropy per token (nats) at which J* reaches ``log(1/alpha)`` in time.

    The entropy of the group masses must average at least
    ``log(1/alpha)/num_tokens + H(nu_delta)`` for the mean evidence after ``num_tokens`` scored
    tokens to reach the threshold. A value above ``log(num_groups)`` cannot be met.
    """
    if num_tokens < 1:
        raise ValueError(f"num_tokens must be at least 1, got {num_tokens}")
    return -math.log(check_alpha(alpha)) / num_tokens + error_entropy(delta, num_groups)


def power_curve(
    log_e_values: ArrayLike,
    probabilities: ArrayLike,
    alpha: float,
    num_tokens: int,
    *,
    step: float = 1 / 256,
) -> NDArray[np.float64]:
    """Return ``P(detected within t tokens)`` for i.i.d. steps with a finite law of log e-values.

    The law of the log-wealth is propagated on a grid with absorption at the threshold. Steps are
    rounded *down* to the grid and wealth below ``exp(-60)`` counts as lost, so the curve never
    overstates the power.

    Parameters
    ----------
    log_e_values, probabilities
        Values and probabilities of one step under the watermark, shape ``[n]``.
    alpha
        Level.
    num_tokens
        Length of the curve.
    step
        Grid width in nats.

    Returns
    -------
    float64[num_tokens]
        Non-decreasing detection probabilities.

    Raises
    ------
    ValueError
        If shapes differ, probabilities do not sum to 1 or a size is not positive.
    """
    values = np.asarray(log_e_values, dtype=np.float64)
    weights = probability_vector(probabilities, "probabilities")
    if values.shape != weights.shape:
        raise ValueError(f"{values.shape} values but {weights.shape} probabilities")
    if num_tokens < 1 or not step > 0:
        raise ValueError(f"num_tokens={num_tokens} and step={step} must be positive")
    threshold = -math.log(check_alpha(alpha))
    jumps = np.floor(values / step + 1e-12).astype(int)
    top = math.ceil(threshold / step)
    # Wealth below the ruin line is dropped, which can only lower the curve.
    bottom = max(min(0, int(jumps.min())) * num_tokens, -math.ceil(RUIN / step)) - 1
    alive = np.zeros(top - bottom)
    # A jump as long as the grid leaves it from anywhere.
    jumps = np.clip(jumps, -len(alive), len(alive))
    alive[-bottom] = 1.0
    detected = np.zeros(num_tokens)
    crossed = 0.0
    for t in range(num_tokens):
        new = np.zeros_like(alive)
        for jump, weight in zip(jumps, weights, strict=True):
            if jump >= 0:
                crossed += weight * alive[len(alive) - jump :].sum() if jump else 0.0
                new[jump:] += weight * alive[: len(alive) - jump]
            else:
                new[:jump] += weight * alive[-jump:]
        alive = new
        detected[t] = crossed
    return detected


def check_evalue(p: ArrayLike, e: ArrayLike) -> float:
    """Return the largest mean of an e-value table over all tokens; valid means at most 1.

    Parameters
    ----------
    p
        Anchor masses, ``[m]``.
    e
        Table of e-values ``[n_tokens, m]``: row v, column s.
    """
    p = probability_vector(p)
    e = np.asarray(e, dtype=np.float64)
    if e.ndim != 2 or e.shape[1] != len(p):
        raise ValueError(f"e must have shape [n_tokens, {len(p)}], got {e.shape}")
    if np.any(e < 0) or not np.all(np.isfinite(e)):
        raise ValueError("e-values must be finite and not negative")
    return float((e @ p).max())
