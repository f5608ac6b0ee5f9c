"""Texts of independent, identically distributed tokens: exact errors of whole-text watermarks.

Takes an entropy profile, a number of tokens and a level; gives the Type II errors of the uniformly
most powerful watermark, of the best model-agnostic one and of Gumbel-max over whole texts, and the
number of tokens the optimum needs, exactly and by classical approximations. Two-token laws have
closed sums over the number of rare tokens; every other profile goes through the FFT law of the
surprisal, with a bracket.

Source: "Towards Optimal Statistical Watermarking" (arXiv 2312.07930) for the watermark;
computations are our derivation.

Legend: ``K`` classes of texts of equal probability, ``A`` kinds of token.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from modicum.umpwatermark._sums import LOG_LARGEST, Bracket, SumLaw, sum_law
from modicum.umpwatermark.profile import EntropyProfile, spike_delta
from modicum.umpwatermark.theory import check_alpha, normal_tokens_needed

__all__ = [
    "ESTIMATES",
    "MAX_TOKENS",
    "TokenEstimate",
    "agnostic_error",
    "least_tokens",
    "lower_bound_error",
    "n_ump",
    "sequence_gumbel_error",
    "spike_delta",
    "ump_error",
    "ump_error_estimate",
]

Floats = NDArray[np.float64]

MAX_TOKENS = 10_000_000
"""Longest text that a planner considers."""

Method = Literal["exact", "chernoff", "bahadur-rao", "normal", "lower-bound"]
ESTIMATES: tuple[Method, ...] = get_args(Method)

STATUS: dict[str, str] = {
    "exact": "exact",
    "chernoff": "upper bound: this many tokens suffice",
    "bahadur-rao": "approximation",
    "normal": "approximation",
    "lower-bound": "lower bound: no watermark works with fewer tokens",
}
"""What each method's number of tokens is."""


def check_tokens(num_tokens: int) -> int:
    """Validate a number of tokens."""
    if isinstance(num_tokens, bool) or int(num_tokens) != num_tokens or num_tokens < 1:
        raise ValueError(f"num_tokens must be a whole number, at least 1, got {num_tokens}")
    return int(num_tokens)


@dataclass(frozen=True)
class _Classes:
    """Texts of a two-token law by the number k of rare tokens, likeliest first."""

    log_count_K: Floats
    surprisal_K: Floats
    mass_K: Floats


def _spike_classes(delta: float, n: int) -> _Classes:
    from scipy.special import gammaln

    # Summing over all k is cheap; classes of negligible mass and count do no harm.
    k = np.arange(n + 1, dtype=np.float64)
    log_count = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    surprisal = -(k * math.log(delta) + (n - k) * math.log1p(-delta))
    return _Classes(log_count, surprisal, np.exp(log_count - surprisal))


def _sum(profile: EntropyProfile, n: int) -> SumLaw:
    # The three errors of one length are usually asked for together.
    return profile.remember("surprisal sum", lambda: sum_law(profile.surprisal, n), version=n)


def _expect(profile: EntropyProfile, n: int, function: Callable[[Floats], Floats]) -> Bracket:
    # Expectation of a falling function of the surprisal of the text.
    if profile.spike_mass is not None:
        classes = _spike_classes(profile.spike_mass, n)
        value = float(classes.mass_K @ function(classes.surprisal_K))
        return Bracket.of(value, value, value)
    return _sum(profile, n).expect_falling(function)


def ump_error(profile: EntropyProfile, num_tokens: int, alpha: float) -> Bracket:
    """Return the optimal Type II error ``E(1 - alpha / rho(X))+`` of texts of n tokens.

    Parameters
    ----------
    profile
        Law of a token.
    num_tokens
        n.
    alpha
        Type I error, in ``(0, 1)``.

    Returns
    -------
    Bracket
        Value and certain limits; all equal for two-token laws.
    """
    log_level, n = math.log(check_alpha(alpha)), check_tokens(num_tokens)
    return _expect(profile, n, lambda s: -np.expm1(np.minimum(s + log_level, 0.0)))


def sequence_gumbel_error(profile: EntropyProfile, num_tokens: int, alpha: float) -> Bracket:
    """Return the Type II error ``E (1 - alpha)^(1 / rho(X))`` of Gumbel-max over whole texts."""
    log_keep, n = math.log1p(-check_alpha(alpha)), check_tokens(num_tokens)
    return _expect(profile, n, lambda s: np.exp(log_keep * np.exp(np.clip(s, 0.0, LOG_LARGEST))))


def _agnostic_gap(mass_K: Floats, log_count_K: Floats, alpha: float) -> Floats:
    """Return ``Q_j - f_j`` at the ends of classes of texts listed likeliest first.

    Inside a class Q is linear in j and f concave, so their difference is largest at an end.
    """
    # Beyond exp(600) texts f is 1 to all digits.
    count_K = np.cumsum(np.exp(np.minimum(log_count_K, LOG_LARGEST)))
    return np.cumsum(mass_K) + np.expm1(count_K * math.log1p(-alpha))


def _agnostic(mass_K: Floats, log_count_K: Floats, alpha: float) -> float:
    return max(0.0, float(_agnostic_gap(mass_K, log_count_K, alpha).max()))


def agnostic_acceptance(delta: float, num_tokens: int, alpha: float) -> Floats:
    """Return how often the optimal coupling accepts a text with k rare tokens, float64 ``[n+1]``.

    With ``c_j = min(0, min_{i<=j} f_i - Q_i)`` the class is accepted with mass ``rho + c_end -
    c_start``; the running minimum is attained at ends of classes.
    """
    classes = _spike_classes(delta, num_tokens)
    if delta == 0.5:
        total = _agnostic(np.ones(1), np.array([num_tokens * math.log(2)]), alpha)
        return np.full(num_tokens + 1, 1 - total)
    gap = _agnostic_gap(classes.mass_K, classes.log_count_K, alpha)
    drop = np.diff(np.maximum.accumulate(np.concatenate([[0.0], gap])))
    with np.errstate(invalid="ignore", divide="ignore"):
        accepted = 1 - drop / classes.mass_K
    return np.clip(np.where(classes.mass_K > 0, accepted, 1.0), 0.0, 1.0)


def agnostic_error(profile: EntropyProfile, num_tokens: int, alpha: float) -> Bracket:
    """Return the best Type II error with independent regions fixed before the law is known.

    Parameters
    ----------
    profile, num_tokens, alpha
        As in `ump_error`.

    Returns
    -------
    Bracket
        For a mixture of laws the texts of all mixtures are pooled into classes, which gives a lower
        bound (the maximum over j is convex in the law); the upper limit is then that of
        `sequence_gumbel_error`, which is one of the schemes optimised over.
    """
    check_alpha(alpha)
    n = check_tokens(num_tokens)
    if profile.spike_mass is not None:
        c = _spike_classes(profile.spike_mass, n)
        value = _agnostic(c.mass_K, c.log_count_K, alpha)
        return Bracket.of(value, value, value)
    law = _sum(profile, n)

    def at(offset: float) -> float:
        s_W = law.values_W + offset
        with np.errstate(divide="ignore"):
            log_count_W = np.log(law.mass_W) + s_W
        return _agnostic(law.mass_W, log_count_W, alpha)

    # Larger surprisals mean more texts in each class, hence a region that hits them more often.
    value, low = at(0.0), at(law.slack) - law.unresolved
    if profile.is_single_law:
        return Bracket.of(value, low, at(-law.slack) + law.unresolved)
    return Bracket.of(value, low, sequence_gumbel_error(profile, n, alpha).high)


def lower_bound_error(profile: EntropyProfile, num_tokens: int, alpha: float) -> float:
    """Return ``max_c (1 - 1/c) P(S <= ln(1/alpha) - ln c)``: no watermark's Type II error is less.

    S is the surprisal of the text. The optimum itself (`ump_error`) is the sharper bound; this one
    shows that at a fixed error n times the entropy grows as ``ln(1/alpha)``.
    """
    log_level, n = math.log(check_alpha(alpha)), check_tokens(num_tokens)
    if profile.spike_mass is not None:
        c = _spike_classes(profile.spike_mass, n)
        s, mass, off = c.surprisal_K, c.mass_K, 0.0
    else:
        law = _sum(profile, n)
        s, mass, off = law.values_W + law.slack, law.mass_W, law.unresolved
    gain = -np.expm1(np.minimum(s + log_level, 0.0))
    return max(0.0, float(np.max(gain * (np.cumsum(mass) - off))))


# Large deviations -------------------------------------------------------------------------------


def _log_power_sum(profile: EntropyProfile, tilt: float) -> tuple[float, float, float]:
    """Return ``ln E q(X)^tilt`` and mean and variance of the surprisal under that tilt."""
    s_A = profile.surprisal_A
    exponent = -tilt * s_A
    top = float(exponent.max())
    weights = profile.weights_A * np.exp(exponent - top)
    total = float(weights.sum())
    mean = float(weights @ s_A) / total
    return top + math.log(total), mean, float(weights @ (s_A - mean) ** 2) / total


def _tilt_for_mean(profile: EntropyProfile, mean: float) -> float:
    # The tilted mean falls from the entropy (tilt 0) to the least surprisal.
    high = 1.0
    while _log_power_sum(profile, high)[1] > mean and high < 1e6:
        high *= 2
    low = 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _log_power_sum(profile, middle)[1] > mean else (low, middle)
    return high


def ump_error_estimate(
    profile: EntropyProfile,
    num_tokens: int,
    alpha: float,
    method: Literal["chernoff", "bahadur-rao"] = "chernoff",
) -> float:
    """Return the optimal Type II error by large deviations of the surprisal.

    Parameters
    ----------
    profile, num_tokens, alpha
        As in `ump_error`.
    method
        ``"chernoff"``: an upper bound, ``min_t t^t / (1+t)^(1+t) alpha^-t (E q(X)^t)^n``, because
        ``(1 - y)+ <= t^t / (1+t)^(1+t) y^-t``. ``"bahadur-rao"``: the first-order approximation
        ``alpha^-t (E q(X)^t)^n / (t (1+t) sqrt(2 pi n v))`` at the t where the tilted mean of
        the surprisal is ``ln(1/alpha)/n`` and its variance v; for surprisals not on a lattice and
        texts that usually have more than ``ln(1/alpha)`` nats, else 1 is returned.

    Returns
    -------
    float
        At most 1.
    """
    if method not in ("chernoff", "bahadur-rao"):
        raise ValueError(f"method must be 'chernoff' or 'bahadur-rao', got {method!r}")
    evidence, n = -math.log(check_alpha(alpha)), check_tokens(num_tokens)
    per_token = evidence / n
    if per_token >= profile.entropy or per_token <= float(profile.surprisal_A.min()):
        # Not a deviation below the mean, or one beyond the support.
        return 1.0 if per_token >= profile.entropy else 0.0
    tilt = _tilt_for_mean(profile, per_token)
    if method == "bahadur-rao":
        log_power, _, variance = _log_power_sum(profile, tilt)
        log_error = tilt * evidence + n * log_power
        log_error -= math.log(tilt * (1 + tilt) * math.sqrt(2 * math.pi * n * variance))
        return min(1.0, math.exp(min(log_error, 0.0)))

    def log_bound(t: float) -> float:
        log_power = _log_power_sum(profile, t)[0]
        return t * math.log(t) - (1 + t) * math.log1p(t) + t * evidence + n * log_power

    # Any t > 0 bounds; the constant only moves the best one a little.
    return min(1.0, math.exp(min(0.0, *(log_bound(tilt * c) for c in np.geomspace(0.5, 2, 21)))))


# Tokens needed ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenEstimate:
    """A number of tokens and what it is.

    Attributes
    ----------
    tokens
        Tokens; ``inf`` if no length up to `MAX_TOKENS` is enough.
    low, high
        Limits from the bracket of an FFT; equal to ``tokens`` elsewhere.
    method
        As asked.
    status
        ``"exact"``, a bound or an approximation, in words.
    """

    tokens: float
    low: float
    high: float
    method: str
    status: str


def least_tokens(
    suffices: Callable[[int], bool],
    *,
    start: int = 1,
    max_tokens: int = MAX_TOKENS,
    resolution: float = 0.0,
) -> float:
    """Return the least n that suffices, by doubling or halving from a start and bisection.

    Parameters
    ----------
    suffices
        Whether n tokens suffice; once true it stays true.
    start
        First guess.
    max_tokens
        Give up beyond.
    resolution
        Stop when n is known to this share of itself.

    Returns
    -------
    float
        A whole number, or ``inf``.
    """
    start = min(max(1, start), max_tokens)
    if suffices(start):
        high, step = start, max(1, start // 16)
        low = max(0, start - step)
        while low > 0 and suffices(low):
            high, step = low, 2 * step
            low = max(0, low - step)
    else:
        low, step = start, max(1, start // 16)
        high = low + step
        while True:
            high = min(high, max_tokens)
            if suffices(high):
                break
            if high == max_tokens:
                return math.inf
            low, step = high, 2 * step
            high = low + step
    while high - low > max(1, int(resolution * high)):
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return float(high)


def normal_guess(profile: EntropyProfile, alpha: float, beta: float) -> int:
    """Return the normal approximation of the tokens needed, as a place to start a search."""
    if profile.entropy <= 0:
        return 1
    needed = normal_tokens_needed(profile.entropy, profile.surprisal_variance, alpha, beta)
    return max(1, round(min(needed, MAX_TOKENS)))


def n_ump(
    profile: EntropyProfile | float,
    alpha: float,
    beta: float,
    method: Method = "exact",
    *,
    max_tokens: int = MAX_TOKENS,
) -> TokenEstimate:
    """Return how many tokens the uniformly most powerful watermark needs.

    Parameters
    ----------
    profile
        Law of a token, or an entropy in nats for its spike reference.
    alpha, beta
        Type I and Type II error, in ``(0, 1)``.
    method
        ``"exact"`` (closed sums, or FFT with limits), ``"chernoff"`` (enough tokens for certain),
        ``"bahadur-rao"`` and ``"normal"`` (approximations), ``"lower-bound"`` (no watermark does
        with fewer).
    max_tokens
        Longest text considered.

    Returns
    -------
    TokenEstimate

    Raises
    ------
    ValueError
        For an unknown method or errors outside ``(0, 1)``.
    """
    check_alpha(alpha)
    check_alpha(beta, "beta")
    if method not in ESTIMATES:
        raise ValueError(f"method must be one of {ESTIMATES}, got {method!r}")
    if not isinstance(profile, EntropyProfile):
        profile = EntropyProfile.from_entropy(float(profile))
    start = normal_guess(profile, alpha, beta)

    def search(error: Callable[[int], float], guess: int = start) -> float:
        return least_tokens(lambda n: error(n) <= beta, start=guess, max_tokens=max_tokens)

    if profile.entropy <= 0:
        return TokenEstimate(math.inf, math.inf, math.inf, method, STATUS[method])
    if method == "exact":
        tokens = search(lambda n: ump_error(profile, n, alpha).value)
        low = high = tokens
        if profile.spike_mass is None and math.isfinite(tokens):
            low = search(lambda n: ump_error(profile, n, alpha).low, int(tokens))
            high = search(lambda n: ump_error(profile, n, alpha).high, int(tokens))
        return TokenEstimate(tokens, low, high, method, STATUS[method])
    if method == "normal":
        tokens = float(
            math.ceil(
                normal_tokens_needed(profile.entropy, profile.surprisal_variance, alpha, beta)
            )
        )
    elif method == "lower-bound":
        tokens = search(lambda n: lower_bound_error(profile, n, alpha))
    else:
        tokens = search(lambda n: ump_error_estimate(profile, n, alpha, method))
    return TokenEstimate(tokens, tokens, tokens, method, STATUS[method])
