"""Planners: how many tokens until the watermark is found, before anything is generated.

Takes next-token laws (of a model's own traffic, or of a simulated bank), or a single entropy; gives
growth per token, tokens to detection and the share of texts detected within a horizon. Works by
simulation with ideal uniforms or by closed forms; knows nothing of keys or texts.

Legend: ``N`` rows of laws, ``V`` vocabulary, ``R`` texts, ``T`` tokens, ``m`` seed symbols.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modicum.core.stats import clopper_pearson, median_interval
from modicum.core.watermark.warnings import PowerWarning
from modicum.ewatermark.baselines import (
    E_PROCESS,
    UNION_BOUND,
    e_process_times,
    peer_times,
    seal_p_values,
    union_bound_times,
)
from modicum.ewatermark.evalues import Score, make_score
from modicum.ewatermark.simulation import SimulatedTexts, log_wealth, simulate
from modicum.ewatermark.theory import (
    check_alpha,
    entropy,
    power_curve,
)

Interval = tuple[float, float]

MAX_PLAN_TOKENS = 100_000
"""Longest detection curve that `plan_from_entropy` computes."""


@dataclass(frozen=True)
class TokenPlan:
    """What to expect of a watermark.

    Attributes
    ----------
    growth
        Mean log e-value per scored token, nats; for a mixture that of its best component.
    growth_stderr
        Standard error of that mean; 0 for a closed form.
    anchor_entropy
        Mean entropy of the anchor's group masses, nats: no score can grow faster.
    total_variation
        Mean total variation between the group masses of target and anchor, the rate of mismatch.
    expected_tokens
        Mean of the tokens read until detection; tokens beyond the horizon are not counted, so it
        is a lower bound where ``detected_fraction < 1``.
    expected_stderr
        Standard error of that mean; 0 for a closed form.
    median_tokens
        Tokens after which half of the texts are detected, ``inf`` if beyond the horizon.
    median_interval
        95 % interval of the median; a point for a closed form.
    quantile_tokens
        Tokens after which a share ``power`` of the texts is detected.
    detected_fraction
        Share of texts detected within the horizon.
    detected_interval
        95 % interval of that share.
    alpha, power, horizon
        As asked.
    method
        ``"simulation"`` or ``"theory"``.

    Notes
    -----
    Tokens include the warm-up, which is read but not scored.
    """

    growth: float
    growth_stderr: float
    anchor_entropy: float
    total_variation: float
    expected_tokens: float
    expected_stderr: float
    median_tokens: float
    median_interval: Interval
    quantile_tokens: float
    detected_fraction: float
    detected_interval: Interval
    alpha: float
    power: float
    horizon: int
    method: str


def _check_sizes(power: float, horizon: int, warmup: int) -> None:
    if not 0 < power < 1:
        raise ValueError(f"power must lie in (0, 1), got {power}")
    if warmup < 0:
        raise ValueError(f"warmup must not be negative, got {warmup}")
    if horizon <= warmup:
        raise ValueError(f"horizon={horizon} must exceed the warm-up of {warmup} tokens")


def _warn_if_powerless(
    growth: float, anchor_entropy: float, score: str, *, uncertain: bool
) -> None:
    if growth > 0:
        return
    how = "the simulated growth" if uncertain else "the growth"
    warnings.warn(
        f"score={score!r} cannot detect this watermark: {how} is {growth:.4g} nats per token at "
        f"an anchor entropy of {anchor_entropy:.4g}; use score='defensive-mixture' or an anchor "
        "closer to the model",
        PowerWarning,
        stacklevel=3,
    )


def quantile(times_R: NDArray[np.float64], share: float) -> float:
    """Return the smallest time by which at least ``share`` of the texts were detected."""
    ordered = np.sort(times_R)
    return float(ordered[max(0, math.ceil(share * len(ordered)) - 1)])


def plan_tokens(
    target_NV: ArrayLike,
    anchor_NV: ArrayLike,
    *,
    num_groups: int = 16,
    score: str = "defensive-mixture",
    delta: float = 0.3,
    fraction: float = 0.3,
    gated: bool = False,
    partition: str = "hash",
    warmup: int = 4,
    alpha: float = 0.01,
    power: float = 0.9,
    horizon: int = 1000,
    num_texts: int = 400,
    rng: np.random.Generator | int = 0,
) -> TokenPlan:
    """Simulate how many tokens a watermark needs.

    Parameters
    ----------
    target_NV, anchor_NV
        Next-token laws of the model (after temperature and truncation) and of the anchor at the
        same positions of representative text, float ``[N, V]``.
    num_groups, score, delta, fraction, gated, partition, warmup
        As in `modicum.ewatermark.EWatermarkConfig`.
    alpha
        Level.
    power
        Share of texts that ``quantile_tokens`` refers to.
    horizon
        Longest text, in tokens.
    num_texts
        Texts simulated.
    rng
        Generator or seed.

    Returns
    -------
    TokenPlan

    Raises
    ------
    ValueError
        If a parameter is out of range or the laws are no laws.

    Warns
    -----
    PowerWarning
        If the growth is not positive.
    """
    check_alpha(alpha)
    _check_sizes(power, horizon, warmup)
    bet = make_score(score, num_groups, delta=delta, fraction=fraction, gated=gated)
    texts = simulate(
        target_NV,
        anchor_NV,
        num_groups=num_groups,
        num_texts=num_texts,
        num_tokens=horizon - warmup,
        rng=np.random.default_rng(rng),
        partition=partition,
    )
    times_R = e_process_times(log_wealth(bet, texts), alpha) + warmup
    growth, growth_stderr = measured_growth(bet, texts)
    anchor_entropy = float(texts.entropy_RT.mean())
    _warn_if_powerless(growth, anchor_entropy, score, uncertain=True)
    restricted = np.minimum(times_R, horizon)
    detected = int(np.isfinite(times_R).sum())
    low, high = clopper_pearson(detected, num_texts)
    return TokenPlan(
        growth=growth,
        growth_stderr=growth_stderr,
        anchor_entropy=anchor_entropy,
        total_variation=1 - float(texts.match_RT.mean()),
        expected_tokens=float(restricted.mean()),
        expected_stderr=float(restricted.std(ddof=1) / math.sqrt(num_texts))
        if num_texts > 1
        else math.nan,
        median_tokens=quantile(times_R, 0.5),
        median_interval=median_interval(times_R),
        quantile_tokens=quantile(times_R, power),
        detected_fraction=detected / num_texts,
        detected_interval=(float(low), float(high)),
        alpha=alpha,
        power=power,
        horizon=horizon,
        method="simulation",
    )


def measured_growth(score: Score, texts: SimulatedTexts) -> tuple[float, float]:
    """Return the mean log e-value per token and its standard error.

    For a score of several bets, that of the bet which grows fastest: what the mixture follows in
    the long run. Texts are independent, so the error is computed over texts.
    """
    R, T = texts.match_RT.shape
    if len(score.weights) == 1:
        per_text_RJ = log_wealth(score, texts)[:, -1:] / T
    else:
        per_text_RJ = score.log_e(texts.flat()).reshape(R, T, -1).mean(axis=1)
    best = int(per_text_RJ.mean(axis=0).argmax())
    column = per_text_RJ[:, best]
    stderr = float(column.std(ddof=1) / math.sqrt(R)) if R > 1 else math.nan
    return float(column.mean()), stderr


def law_with_entropy(nats: float, num_groups: int) -> NDArray[np.float64]:
    """Return the law of one likely symbol and ``m - 1`` equal others that has a given entropy.

    Parameters
    ----------
    nats
        Entropy, in ``(0, log m]``.
    num_groups
        Number of symbols m.

    Returns
    -------
    float64[m]
    """
    if num_groups < 2:
        raise ValueError(f"num_groups must be at least 2, got {num_groups}")
    top = math.log(num_groups)
    if not 0 < nats <= top * (1 + 1e-12):
        raise ValueError(f"the entropy must lie in (0, log {num_groups} = {top:.6g}], got {nats}")

    def law(rest: float) -> NDArray[np.float64]:
        return np.array([1 - (num_groups - 1) * rest] + [rest] * (num_groups - 1))

    # The entropy increases in the mass of the equal symbols up to the uniform law.
    low, high = 0.0, 1.0 / num_groups
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float(entropy(law(middle))) < nats else (low, middle)
    return law(high)


def plan_from_entropy(
    anchor_entropy: float,
    *,
    total_variation: float,
    num_groups: int = 2,
    score: str = "anchored",
    delta: float = 0.3,
    fraction: float = 0.3,
    warmup: int = 4,
    alpha: float = 0.01,
    power: float = 0.9,
    horizon: int = 2000,
) -> TokenPlan:
    """Compute how many tokens a watermark needs when every position is alike.

    Parameters
    ----------
    anchor_entropy
        Entropy of the anchor's group masses at every position, nats, in ``(0, log m]``.
    total_variation
        Rate of mismatch between seed and group, in ``[0, 1)``.
    num_groups, score, delta, fraction, warmup
        As in `modicum.ewatermark.EWatermarkConfig`; ``score`` is ``"anchored"`` or
        ``"defensive"``.
    alpha, power, horizon
        As in `plan_tokens`; ``horizon`` is at most `MAX_PLAN_TOKENS`.

    Returns
    -------
    TokenPlan
        Its curve never overstates the power.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Warns
    -----
    PowerWarning
        If the growth is not positive.

    Notes
    -----
    Entropy alone does not fix a law: masses are those of `law_with_entropy`, and mismatches are
    taken to be independent of the seed symbol. Both are exact when the masses are equal, that is
    at an entropy of ``log m``.
    """
    check_alpha(alpha)
    _check_sizes(power, horizon, warmup)
    if horizon > MAX_PLAN_TOKENS:
        raise ValueError(f"horizon must be at most {MAX_PLAN_TOKENS}, got {horizon}")
    if not 0 <= total_variation < 1:
        raise ValueError(f"total_variation must lie in [0, 1), got {total_variation}")
    if score not in ("anchored", "defensive"):
        raise ValueError(f"score must be 'anchored' or 'defensive', got {score!r}")
    make_score(score, num_groups, delta=delta, fraction=fraction)
    p_m = law_with_entropy(anchor_entropy, num_groups)
    if score == "anchored":
        hit_m = np.log1p(-delta / 2) - np.log(p_m)
        miss_m = math.log(delta / 2) - math.log(num_groups - 1) - np.log(p_m)
    else:
        hit_m = np.log(1 - fraction + fraction / p_m)
        miss_m = np.full(num_groups, math.log1p(-fraction))
    values = np.concatenate([hit_m, miss_m])
    masses = np.concatenate([p_m * (1 - total_variation), p_m * total_variation])
    growth = float(values @ masses)
    _warn_if_powerless(growth, anchor_entropy, score, uncertain=False)
    curve_T = np.concatenate([[0.0], power_curve(values, masses, alpha, horizon - warmup)])
    median = _first(curve_T, 0.5, warmup)
    detected = float(curve_T[-1])
    # Sum of the survival function: the mean of the stopping time cut at the horizon.
    expected = warmup + float((1 - curve_T[:-1]).sum())
    return TokenPlan(
        growth=growth,
        growth_stderr=0.0,
        anchor_entropy=float(anchor_entropy),
        total_variation=float(total_variation),
        expected_tokens=expected,
        expected_stderr=0.0,
        median_tokens=median,
        median_interval=(median, median),
        quantile_tokens=_first(curve_T, power, warmup),
        detected_fraction=detected,
        detected_interval=(detected, detected),
        alpha=alpha,
        power=power,
        horizon=horizon,
        method="theory",
    )


def _first(curve_T: NDArray[np.float64], share: float, warmup: int) -> float:
    # Sums of many products fall short of a share by rounding.
    reached = np.flatnonzero(curve_T >= share - 1e-12)
    return float(reached[0] + warmup) if len(reached) else math.inf


def match_count_stopping_law(
    least_matches_T: ArrayLike, match_probability: float
) -> NDArray[np.float64]:
    """Return ``P(stopped at t)`` for a test that stops when enough tokens have matched.

    Exact for independent matches of equal probability, by propagating the law of the number of
    matches with absorption.

    Parameters
    ----------
    least_matches_T
        Number of matches among the first t tokens at which the test stops, t = 1, ..., T; a
        number above t means that it cannot stop there.
    match_probability
        Probability of a match.

    Returns
    -------
    float64[T]
        Sums to the probability of stopping by T.
    """
    least = np.asarray(least_matches_T)
    if not 0 <= match_probability <= 1:
        raise ValueError(f"match_probability must lie in [0, 1], got {match_probability}")
    alive = np.zeros(len(least) + 2)
    alive[0] = 1.0
    stopped_T = np.zeros(len(least))
    for t, bound in enumerate(least):
        alive[1:] = (1 - match_probability) * alive[1:] + match_probability * alive[:-1]
        alive[0] *= 1 - match_probability
        at = int(np.clip(math.ceil(bound), 0, len(alive)))
        stopped_T[t] = alive[at:].sum()
        alive[at:] = 0.0
    return stopped_T


@dataclass(frozen=True)
class SchemeTokens:
    """Tokens to detection of one watermark with one sequential test.

    Attributes
    ----------
    scheme, test
        What was simulated.
    distorts
        Whether the text's law differs from the model's.
    median_tokens, median_interval
        Tokens, with a 95 % interval from order statistics; ``inf`` beyond the horizon.
    detected_fraction, detected_interval
        Share of texts detected within the horizon, with a 95 % Clopper-Pearson interval.
    times_R
        float64[R]; tokens of every text, ``inf`` where not detected.
    """

    scheme: str
    test: str
    distorts: bool
    median_tokens: float
    median_interval: Interval
    detected_fraction: float
    detected_interval: Interval
    times_R: NDArray[np.float64]

    @property
    def name(self) -> str:
        """Scheme and test in a line."""
        return f"{self.scheme}, {self.test}"


def summarise(
    scheme: str, test: str, times_R: NDArray[np.float64], *, distorts: bool = False
) -> SchemeTokens:
    """Summarise stopping times (``inf`` where none) as medians, shares and their intervals."""
    detected = int(np.isfinite(times_R).sum())
    low, high = clopper_pearson(detected, len(times_R))
    return SchemeTokens(
        scheme,
        test,
        distorts,
        quantile(times_R, 0.5),
        median_interval(times_R),
        detected / len(times_R),
        (float(low), float(high)),
        times_R,
    )


def compare_schemes(
    target_NV: ArrayLike,
    anchor_NV: ArrayLike,
    *,
    alpha: float = 0.01,
    horizon: int = 500,
    num_texts: int = 400,
    num_groups: Sequence[int] = (2, 16),
    synthid: bool = True,
    rng: np.random.Generator | int = 0,
) -> list[SchemeTokens]:
    """Put this watermark and its peers side by side on the same laws, sorted by median.

    Parameters
    ----------
    target_NV, anchor_NV
        As in `plan_tokens`. Only this watermark and SEAL use the anchor.
    alpha
        Level of every test.
    horizon
        Longest text in scored tokens; no warm-up is added to any scheme.
    num_texts
        Texts simulated per scheme.
    num_groups
        Seed symbols of this watermark, one entry per value.
    synthid
        Include SynthID-Text, the slowest to simulate.
    rng
        Generator or seed.

    Returns
    -------
    list of SchemeTokens
        Ours with the defensive mixture, SEAL on the text of the two-symbol scheme, Gumbel-max, KGW
        and SynthID-Text, the peers both as p-values with a union bound and as e-processes.
    """
    generator = np.random.default_rng(rng)
    score = make_score("defensive-mixture", 2)
    size: Any = {"num_texts": num_texts, "num_tokens": horizon}
    rows = []
    for m in dict.fromkeys((2, *num_groups)):
        texts = simulate(target_NV, anchor_NV, num_groups=m, rng=generator, **size)
        if m in num_groups:
            times_R = e_process_times(log_wealth(score, texts), alpha)
            rows.append(summarise(f"e-watermark m={m}", E_PROCESS, times_R))
        if m == 2:
            times_R = union_bound_times(seal_p_values(texts), alpha)
            rows.append(summarise("SEAL", UNION_BOUND, times_R))
    for peer in peer_times(target_NV, alpha=alpha, rng=generator, synthid=synthid, **size):
        rows.append(summarise(peer.scheme, peer.test, peer.times_R, distorts=peer.distorts))
    return sorted(rows, key=lambda row: (row.median_tokens, -row.detected_fraction))
