"""Samples against the gap: votes need 1/gap^2, a perfect verifier 1/gap, each on its worst case.

All numbers are exact (least n of the planners); three gaps are simulated as well, so that the exact
probabilities are held against draws. A second part shows what the published rates do not say: on
one and the same instance the two strategies need far more similar numbers.
"""

import math

import numpy as np

from modicum.core.device import numpy_generator
from modicum.core.experiment import Claim, Figure, Result, RunContext, Table
from modicum.core.stats import clopper_pearson, log_log_slope
from modicum.testtime.planner import plan

GAPS = (0.4, 0.2, 0.1, 0.05, 0.025, 0.0125)
SUCCESSES = (0.75, 0.9, 0.95, 0.99)
FAMILY_GAPS = (0.08, 0.04, 0.02, 0.01)
EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
SIMULATED = (0.2, 0.1, 0.05)
RUNS = 20_000
SHOWN = 0.9
VOTE_SLOPE, VERIFIER_SLOPE = 2.0, 1.0
VOTE_TOLERANCE, VERIFIER_TOLERANCE, SUM_TOLERANCE = 0.06, 0.08, 0.12
ERRORS = 3.0
"""Simulations must be within this many standard errors; of six, one is not by chance in 1 of 62."""


def samples_needed(gap: float, success: float) -> tuple[int, int]:
    """Return the votes on two answers and the verified samples on ``p_correct = gap``."""
    vote = plan("self_consistency", p=[(1 + gap) / 2, (1 - gap) / 2], delta=1 - success)
    best = plan("best_of_n", p_correct=gap, delta=1 - success)
    assert vote.n is not None and best.n is not None
    return vote.n, best.n


def family(gap: float, exponent: float) -> tuple[list[float], float]:
    """Return the two leading answers and the mass that never repeats, ``p1 = (2 gap)^a / 2``."""
    lead = 0.5 * (2 * gap) ** exponent
    rival = lead - gap
    law = [lead, rival] if rival > 1e-12 else [lead]
    return law, 1.0 - math.fsum(law)


def simulate_vote(gap: float, n: int, runs: int, rng: np.random.Generator) -> int:
    """Return in how many runs n votes elect the better of two answers, ties by a coin."""
    right_R = rng.binomial(n, (1 + gap) / 2, runs)
    return int(np.sum(2 * right_R > n) + np.sum((2 * right_R == n) & (rng.random(runs) < 0.5)))


def simulate_best(p_correct: float, n: int, runs: int, rng: np.random.Generator) -> int:
    """Return in how many runs one of n samples is correct."""
    return int(np.sum(rng.binomial(n, p_correct, runs) > 0))


def _slopes(table: dict[float, list[tuple[int, int]]]) -> list[Claim]:
    claims = []
    for column, (name, paper, tolerance, what) in enumerate(
        [
            ("votes", VOTE_SLOPE, VOTE_TOLERANCE, "Votes needed grow as 1/gap^2"),
            ("verified", VERIFIER_SLOPE, VERIFIER_TOLERANCE, "Verified samples grow as 1/gap"),
        ]
    ):
        slopes = {
            success: -log_log_slope(GAPS, [row[column] for row in rows]).slope
            for success, rows in table.items()
        }
        worst = max(slopes.values(), key=lambda slope: abs(slope - paper))
        claims.append(
            Claim(
                f"slope_{name}",
                f"{what} on the worst instance of the strategy.",
                paper,
                slopes[SHOWN],
                (min(slopes.values()), max(slopes.values())),
                abs(worst - paper) <= tolerance,
                note=f"log-log slope at success {SHOWN}; range over success {SUCCESSES}, exact; "
                f"holds if all are within {tolerance}",
            )
        )
    return claims


def _constant(table: dict[float, list[tuple[int, int]]]) -> Claim:
    from scipy.special import ndtri

    measured = table[SHOWN][-1][0] * GAPS[-1] ** 2
    expected = float(ndtri(SHOWN)) ** 2
    return Claim(
        "constant_votes",
        "Votes times gap^2 tend to the squared normal quantile of the success probability.",
        expected,
        measured,
        None,
        abs(measured - expected) <= 0.01 * expected,
        note=f"at success {SHOWN} and gap {GAPS[-1]}; holds within 1 %",
    )


def _simulated(ctx: RunContext) -> tuple[list[Claim], Table]:
    rng = numpy_generator(ctx.seed, "separation")
    rows, worst = [], 0.0
    for gap in SIMULATED:
        votes, verified = samples_needed(gap, SHOWN)
        vote = plan("self_consistency", p=[(1 + gap) / 2, (1 - gap) / 2], delta=1 - SHOWN)
        best = plan("best_of_n", p_correct=gap, delta=1 - SHOWN)
        for name, n, exact, hits in [
            ("votes", votes, vote.achieved, simulate_vote(gap, votes, RUNS, rng)),
            ("verified", verified, best.achieved, simulate_best(gap, verified, RUNS, rng)),
        ]:
            low, high = clopper_pearson(hits, RUNS)
            worst = max(worst, abs(hits / RUNS - exact) / math.sqrt(exact * (1 - exact) / RUNS))
            rows.append([name, gap, n, exact, hits / RUNS, float(low), float(high)])
    claim = Claim(
        "exact_is_simulated",
        "Exact success probabilities agree with simulation.",
        None,
        worst,
        None,
        worst <= ERRORS,
        unit="standard errors",
        note=f"largest of {len(rows)} differences over {RUNS} runs each; holds up to {ERRORS:g}",
    )
    columns = ["strategy", "gap", "n", "exact success", "simulated", "95 % low", "95 % high"]
    return [claim], Table("Exact and simulated success", columns, rows)


def _families(ctx: RunContext) -> tuple[Claim, Table]:
    rows, worst = [], 0.0
    task = ctx.progress(len(EXPONENTS), "families of instances")
    for exponent in EXPONENTS:
        votes, verified = [], []
        for gap in FAMILY_GAPS:
            law, tail = family(gap, exponent)
            vote = plan("self_consistency", p=law, tail=tail, delta=1 - SHOWN)
            best = plan("best_of_n", p_correct=law[0], delta=1 - SHOWN)
            votes.append(vote.n or 0)
            verified.append(best.n or 0)
        vote_slope = -log_log_slope(FAMILY_GAPS, votes).slope
        flat = len(set(verified)) == 1
        best_slope = 0.0 if flat else -log_log_slope(FAMILY_GAPS, verified).slope
        worst = max(worst, abs(vote_slope + best_slope - 2), key=abs)
        ratio = votes[-1] / verified[-1]
        rows.append([exponent, vote_slope, best_slope, vote_slope + best_slope, ratio])
        task.advance(1)
    claim = Claim(
        "one_instance",
        "On one and the same family of instances, p1 ~ gap^a, the two exponents sum to 2: where "
        "the correct answer is rare, votes need as few samples as a verifier.",
        None,
        worst,
        None,
        worst <= SUM_TOLERANCE,
        note=f"largest distance of the sum of slopes from 2 over a = {EXPONENTS}; holds up to "
        f"{SUM_TOLERANCE}",
    )
    columns = ["a", "slope of votes", "slope of verified", "sum", f"ratio at gap {FAMILY_GAPS[-1]}"]
    return claim, Table("Families p1 = (2 gap)^a / 2", columns, rows)


def _figures(table: dict[float, list[tuple[int, int]]]) -> list[Figure]:
    from modicum.testtime import plots

    try:
        figure = plots.samples_against_gap(
            {
                "votes, two answers": (GAPS, [row[0] for row in table[SHOWN]]),
                "perfect verifier, p = gap": (GAPS, [row[1] for row in table[SHOWN]]),
            }
        )
    except ImportError:
        return []
    return [
        Figure.from_matplotlib(
            figure,
            "Samples against the gap",
            f"Least number for success {SHOWN}, each strategy on its worst instance, exact.",
            "Two straight lines in a log-log plot, of slopes two and one",
        )
    ]


def run(ctx: RunContext) -> Result:
    """Compute the numbers, simulate three gaps, compare on families of instances."""
    task = ctx.progress(len(SUCCESSES) * len(GAPS), "exact numbers")
    table: dict[float, list[tuple[int, int]]] = {}
    for success in SUCCESSES:
        table[success] = []
        for gap in GAPS:
            table[success].append(samples_needed(gap, success))
            task.advance(1)
    simulated, simulated_table = _simulated(ctx)
    family_claim, family_table = _families(ctx)
    rows = [
        [success, gap, votes, verified, votes * gap**2, verified * gap]
        for success, numbers in table.items()
        for gap, (votes, verified) in zip(GAPS, numbers, strict=True)
    ]
    columns = ["success", "gap", "votes", "verified", "votes * gap^2", "verified * gap"]
    return ctx.result(
        claims=[*_slopes(table), _constant(table), *simulated, family_claim],
        tables=[Table("Least numbers, exact", columns, rows), simulated_table, family_table],
        figures=_figures(table),
    )
