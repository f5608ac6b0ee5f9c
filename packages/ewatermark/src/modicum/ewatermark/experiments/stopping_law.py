"""Growth and stopping time against theory, and what sequential testing costs.

The law of the stopping time is measured on simulated couplings; the comparison of sequential with
fixed horizons is computed exactly, without sampling.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modicum.core.experiment import Claim, Figure, Result, RunContext, Table, write_atomic
from modicum.core.stats import spending_levels
from modicum.ewatermark.baselines import e_process_times
from modicum.ewatermark.evalues import AnchoredScore
from modicum.ewatermark.plan import match_count_stopping_law
from modicum.ewatermark.simulation import log_wealth, simulate
from modicum.ewatermark.theory import expected_stopping_time, growth_rate, optimal_growth

SETTINGS = ((0.5, 0.3), (0.7, 0.1))
"""Mass of the anchor's likelier symbol, and l1 distance of the target, which is the tolerance."""

LEVELS = (1e-2, 1e-5, 1e-10, 1e-20, 1e-40, 1e-80, 1e-120)
NUM_RUNS = 10_000
RUNS_AT_ONCE = 1000

HORIZON_ALPHA = 0.02
MISMATCH_RATES = (0.05, 0.15, 0.30)
HORIZON_TOKENS = 1500
"""Tokens up to which exact laws are computed; the mass beyond is below 1e-9 in every row."""


@dataclass(frozen=True)
class Ratios:
    """Mean stopping times over ``log(1/alpha) / J*`` with standard errors, and measured growth."""

    ratio_L: NDArray[np.float64]
    stderr_L: NDArray[np.float64]
    upper_L: NDArray[np.float64]
    growth: float
    growth_stderr: float


def laws(mass: float, delta: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a binary anchor and a target at l1 distance delta, each ``[1, 2]``."""
    shift = delta / 2
    return np.array([[mass, 1 - mass]]), np.array([[mass - shift, 1 - mass + shift]])


def horizon_of(mass: float, delta: float, alpha: float) -> int:
    """Return a length that every text reaches the threshold in, up to a chance below 1e-9.

    Ten standard deviations of the log-wealth above the mean time, plus room for short texts.
    """
    anchor, target = laws(mass, delta)
    growth = float(growth_rate(anchor, target, delta=delta)[0])
    mean = -math.log(alpha) / growth
    # Largest difference between two log e-values of one token.
    spread = math.log((1 - delta / 2) / (delta / 2) * max(mass, 1 - mass) / min(mass, 1 - mass))
    deviation = spread * math.sqrt(delta / 2 * (1 - delta / 2))
    return math.ceil(mean + 10 * deviation * math.sqrt(mean) / growth + 120)


def measure_ratios(
    mass: float, delta: float, levels: tuple[float, ...], num_runs: int, seed: int, task: Any = None
) -> Ratios:
    """Simulate couplings with a binary anchor and stop each at every level.

    Parameters
    ----------
    mass, delta
        As in `SETTINGS`.
    levels
        Decreasing levels alpha.
    num_runs
        Independent texts.
    seed
        Seed.
    task
        Progress bar, advanced by runs.
    """
    anchor, target = laws(mass, delta)
    score = AnchoredScore(2, delta)
    num_tokens = horizon_of(mass, delta, levels[-1])
    rng = np.random.default_rng([seed, round(1000 * mass), round(1000 * delta)])
    times_LR: list[NDArray[np.float64]] = []
    growth_R = []
    for at in range(0, num_runs, RUNS_AT_ONCE):
        runs = min(RUNS_AT_ONCE, num_runs - at)
        texts = simulate(
            target, anchor, num_groups=2, num_texts=runs, num_tokens=num_tokens, rng=rng
        )
        log_e_RT = log_wealth(score, texts)
        times_LR.append(np.stack([e_process_times(log_e_RT, alpha) for alpha in levels]))
        growth_R.append(log_e_RT[:, -1] / num_tokens)
        if task is not None:
            task.advance(runs)
    times = np.concatenate(times_LR, axis=1)
    growth = np.concatenate(growth_R)
    optimum = float(optimal_growth(anchor[0], delta))
    scale_L = optimum / -np.log(np.array(levels))
    largest_gain = math.log((1 - delta / 2) / min(mass, 1 - mass))
    upper = [expected_stopping_time(a, optimum, largest_gain).upper for a in levels]
    return Ratios(
        ratio_L=times.mean(axis=1) * scale_L,
        stderr_L=times.std(axis=1, ddof=1) / math.sqrt(num_runs) * scale_L,
        upper_L=np.array(upper) * scale_L,
        growth=float(growth.mean()),
        growth_stderr=float(growth.std(ddof=1) / math.sqrt(num_runs)),
    )


@dataclass(frozen=True)
class Horizon:
    """Exact tokens to detection at one mismatch rate; lengths of fixed tests known in advance."""

    growth: float
    lower: float
    e_mean: float
    e_median: int
    e_p95: int
    union_mean: float
    union_median: int
    union_p95: int
    fixed_half: int
    fixed_95: int
    missing: float


def e_process_boundary(mismatch: float, alpha: float, num_tokens: int) -> NDArray[np.int64]:
    """Return the least number of matches at which the e-process of a fair anchor has stopped.

    With two equal masses and the best tolerance a match pays ``2 (1 - tau)`` and a mismatch
    ``2 tau``, so the wealth depends on the number of matches only.
    """
    tokens_T = np.arange(1, num_tokens + 1)
    hit, miss = math.log(2 * (1 - mismatch)), math.log(2 * mismatch)
    # Rounding must not turn an exact hit of the threshold into a miss.
    need_T = (-math.log(alpha) - tokens_T * miss) / (hit - miss) - 1e-9
    return np.ceil(need_T).astype(np.int64)


def union_boundary(alpha: float, num_tokens: int) -> NDArray[np.int64]:
    """Return the least number of matches with binomial p-value below ``alpha / (t (t + 1))``."""
    from scipy.special import bdtrc

    levels = np.asarray(spending_levels(alpha, np.arange(1, num_tokens + 1)))
    least, found = 0, []
    for t, level in enumerate(levels, start=1):
        # P(Bin(t, 1/2) >= k) grows with t while the level falls, so k never decreases.
        while least <= t and (least == 0 or bdtrc(least - 1, t, 0.5) >= level):
            least += 1
        found.append(least)
    return np.array(found, dtype=np.int64)


def fixed_length(mismatch: float, alpha: float, power: float) -> int:
    """Return the smallest length at which the exact binomial test has the power asked for."""
    from scipy.special import bdtrc

    for n in range(1, HORIZON_TOKENS):
        counts = np.arange(1, n + 1)
        passing = counts[bdtrc(counts - 1, n, 0.5) <= alpha]
        if len(passing) and bdtrc(passing[0] - 1, n, 1 - mismatch) >= power:
            return n
    raise ValueError(f"no length below {HORIZON_TOKENS} has power {power} at {mismatch}")


def exact_ratio(mismatch: float, alpha: float) -> float:
    """Return ``E[tau] J* / log(1/alpha)`` of a fair anchor at its best tolerance, exactly."""
    num_tokens = horizon_of(0.5, 2 * mismatch, alpha)
    boundary_T = e_process_boundary(mismatch, alpha, num_tokens)
    mean, _, _ = _moments(match_count_stopping_law(boundary_T, 1 - mismatch))
    return mean * float(optimal_growth([0.5, 0.5], 2 * mismatch)) / -math.log(alpha)


def _moments(stopped_T: NDArray[np.float64]) -> tuple[float, int, int]:
    tokens_T = np.arange(1, len(stopped_T) + 1)
    cumulative = np.cumsum(stopped_T)
    median, p95 = (int(np.searchsorted(cumulative, x) + 1) for x in (0.5, 0.95))
    return float(tokens_T @ stopped_T), median, p95


def horizons(mismatch: float) -> Horizon:
    """Compute one row of the comparison."""
    hit = 1 - mismatch
    e_T = match_count_stopping_law(e_process_boundary(mismatch, HORIZON_ALPHA, HORIZON_TOKENS), hit)
    union_T = match_count_stopping_law(union_boundary(HORIZON_ALPHA, HORIZON_TOKENS), hit)
    growth = float(optimal_growth([0.5, 0.5], 2 * mismatch))
    return Horizon(
        growth,
        -math.log(HORIZON_ALPHA) / growth,
        *_moments(e_T),
        *_moments(union_T),
        fixed_length(mismatch, HORIZON_ALPHA, 0.5),
        fixed_length(mismatch, HORIZON_ALPHA, 0.95),
        1 - float(min(e_T.sum(), union_T.sum())),
    )


def _ratio_claims(
    ratios: dict[tuple[float, float], Ratios], levels: tuple[float, ...]
) -> list[Claim]:
    far = [i for i, alpha in enumerate(levels) if alpha <= 1e-20]
    claims = []
    for (mass, delta), r in ratios.items():
        label = f"p = {mass:g}, δ = {delta:g}"
        name = f"p{round(100 * mass)}_delta{round(100 * delta)}"
        worst = max(far, key=lambda i: abs(r.ratio_L[i] - 1))
        error = 1.96 * float(r.stderr_L[worst])
        measured = float(r.ratio_L[worst])
        claims.append(
            Claim(
                f"stopping_law_{name}",
                f"E[τ] approaches log(1/α)/J* ({label}): the ratio at the worst of "
                f"α ≤ {levels[far[0]]:g}.",
                1.0,
                measured,
                (measured - error, measured + error),
                abs(measured - 1) <= 0.015,
                "E[τ]·J*/log(1/α)",
                f"At α = {levels[worst]:g}; 95 % normal interval. Holds if within 1.5 % of 1. "
                "Published as a limit.",
            )
        )
        inside = bool(
            np.all(r.ratio_L >= 1 - 3 * r.stderr_L)
            and np.all(r.ratio_L <= r.upper_L + 3 * r.stderr_L)
        )
        low = float((r.ratio_L).min())
        at = int(r.ratio_L.argmin())
        claims.append(
            Claim(
                f"wald_bounds_{name}",
                f"At every α the mean lies between log(1/α)/J* and the bound that adds the largest "
                f"gain of one token ({label}); the smallest ratio is shown.",
                None,
                low,
                (low - 1.96 * float(r.stderr_L[at]), low + 1.96 * float(r.stderr_L[at])),
                inside,
                "E[τ]·J*/log(1/α)",
                "Holds if within both bounds by three standard errors.",
            )
        )
        anchor, _ = laws(mass, delta)
        optimum = float(optimal_growth(anchor[0], delta))
        share, error = r.growth / optimum, 1.96 * r.growth_stderr / optimum
        claims.append(
            Claim(
                f"growth_{name}",
                f"The measured growth per token equals J* = {optimum:.6f} nats ({label}).",
                1.0,
                share,
                (share - error, share + error),
                abs(share - 1) <= 2 * error,
                "measured / J*",
                "95 % normal interval. Holds if within four standard errors of 1.",
            )
        )
    return claims


def _horizon_claims(rows: dict[float, Horizon]) -> list[Claim]:
    middle = rows[0.15]
    return [
        Claim(
            "price_of_the_union_bound",
            "With the same matches, the e-process needs fewer tokens on average than the binomial "
            "p-value with a union bound, at every mismatch rate; the largest ratio is shown.",
            None,
            max(r.e_mean / r.union_mean for r in rows.values()),
            None,
            all(r.e_mean < r.union_mean and r.e_p95 < r.union_p95 for r in rows.values()),
            "ratio of means",
            "Exact. Holds if mean and 95 % quantile are smaller in every row.",
        ),
        Claim(
            "loss_fixed_length",
            "A loss: if the length is known in advance, a fixed test of power 0.95 needs fewer "
            "tokens than the 95 % quantile of the e-process (mismatch rate 0.15).",
            None,
            middle.fixed_95 / middle.e_p95,
            None,
            middle.fixed_95 < middle.e_p95,
            "ratio of tokens",
            f"Exact: {middle.fixed_95} against {middle.e_p95} tokens; on average the e-process "
            f"stops after {middle.e_mean:.1f}.",
        ),
    ]


def run(ctx: RunContext) -> Result:
    """Measure the stopping law and compute the comparison of horizons."""
    levels = tuple(a for a in LEVELS if not ctx.quick or a >= 1e-20)
    task = ctx.progress(NUM_RUNS * len(SETTINGS) + len(MISMATCH_RATES), "stopping law")
    ratios = {
        setting: measure_ratios(*setting, levels, NUM_RUNS, ctx.seed, task) for setting in SETTINGS
    }
    rows = {}
    for mismatch in MISMATCH_RATES:
        rows[mismatch] = horizons(mismatch)
        task.advance(1)
    law_cells: list[list[Any]] = [
        [
            mass,
            delta,
            alpha,
            *(float(x[i]) for x in (r.ratio_L, r.stderr_L, r.upper_L)),
            exact_ratio(delta / 2, alpha) if mass == 0.5 else None,
        ]
        for (mass, delta), r in ratios.items()
        for i, alpha in enumerate(levels)
    ]
    law = Table(
        "Mean stopping time over its limit",
        ["p", "δ", "α", "E[τ]·J*/log(1/α)", "standard error", "upper bound", "exact"],
        law_cells,
        f"{NUM_RUNS} texts, binary anchor (p, 1 − p), target at l1 distance δ. The exact value is "
        "computed where both symbols are equally likely.",
    )
    horizon = Table(
        f"Sequential against fixed length, binary fair anchor, α = {HORIZON_ALPHA}",
        [
            "mismatch rate",
            "J*",
            "log(1/α)/J*",
            "e-process mean",
            "median",
            "95 %",
            "union bound mean",
            "its median",
            "its 95 %",
            "fixed length, power 0.5",
            "fixed length, power 0.95",
        ],
        [
            [
                tau,
                r.growth,
                r.lower,
                r.e_mean,
                r.e_median,
                r.e_p95,
                r.union_mean,
                r.union_median,
                r.union_p95,
                r.fixed_half,
                r.fixed_95,
            ]
            for tau, r in rows.items()
        ],
        "Exact laws of the stopping times. A fixed length only serves who knows it in advance.",
    )
    lines = ["p,delta,alpha,ratio,stderr,upper", *(",".join(map(repr, c[:6])) for c in law_cells)]
    write_atomic(ctx.out / "stopping_law.csv", "\n".join(lines) + "\n")
    return ctx.result(
        claims=[*_ratio_claims(ratios, levels), *_horizon_claims(rows)],
        tables=[law, horizon],
        figures=_figures(ratios, levels),
        files=["stopping_law.csv"],
        text=(
            "The anchored score grows at J* = H(p) − H(ν) nats per token when the text is as far "
            "from the anchor as the tolerance allows, and no valid score can guarantee more. By "
            "Wald's identity the mean stopping time exceeds log(1/α)/J* by at most what the last "
            "token overshoots."
        ),
    )


def _figures(ratios: dict[tuple[float, float], Ratios], levels: tuple[float, ...]) -> list[Figure]:
    from modicum.ewatermark import plots

    deltas = np.linspace(0.01, 0.95, 95)
    curves, measured = {}, {}
    for mass in (0.5, 0.6, 0.7, 0.8):
        name = f"p = {mass:g}"
        anchor = np.array([mass, 1 - mass])
        curves[name] = np.array([float(optimal_growth(anchor, d)) for d in deltas])
        points = [(d, r.growth) for (p, d), r in ratios.items() if p == mass]
        if points:
            at, growth = zip(*points, strict=True)
            measured[name] = (np.array(at), np.array(growth))
    fractions, taus = np.linspace(0.02, 0.97, 48), np.linspace(0, 0.45, 46)
    fair = np.array([0.5, 0.5])
    growth_YX = np.array(
        [
            [
                float(
                    growth_rate(fair, np.array([0.5 - t, 0.5 + t]), score="defensive", fraction=a)
                )
                for a in fractions
            ]
            for t in taus
        ]
    )
    lines = {f"p = {p:g}, δ = {d:g}": (r.ratio_L, r.stderr_L) for (p, d), r in ratios.items()}
    try:
        return [
            Figure.from_matplotlib(
                plots.ratio_lines(levels, lines),
                "Mean stopping time over its limit",
                "Falls to 1 as α falls; bars are 95 % intervals.",
            ),
            Figure.from_matplotlib(
                plots.growth_lines(deltas, curves, measured),
                "Guaranteed growth J* for a binary anchor (p, 1 − p)",
                "Lines: theory; points: measured on simulated couplings. Below 0 the anchored "
                "score cannot detect.",
            ),
            Figure.from_matplotlib(
                plots.growth_map(
                    fractions, taus, growth_YX, xlabel="fraction a", ylabel="mismatch rate τ"
                ),
                "Growth of the defensive score, fair binary anchor",
                "Blue grows, red shrinks. The mixture follows the best column of each row.",
            ),
        ]
    except ImportError:
        # matplotlib is optional; tables and claims stand without it.
        return []
