"""Best-of-n with verifiers that err: exact curves, their plateaus, and where votes overtake.

Every exact figure is held against simulated runs. The published comparison gives best-of-n a
perfect verifier; here its accuracy stops at the verifier's precision, and from some number of
samples on the vote, which needs no verifier, is ahead.
"""

import math

import numpy as np

from modicum.core.device import numpy_generator
from modicum.core.experiment import Claim, Figure, Result, RunContext, Table
from modicum.testtime.planner import plan
from modicum.testtime.plurality import plurality_success
from modicum.testtime.verifier_models import (
    GaussianVerifier,
    VerifierModel,
    best_of_n_success,
    crossover,
    plateau,
    verified_majority_success,
)

SETTINGS = ((0.2, 0.9, 0.1), (0.2, 0.9, 0.02), (0.4, 0.8, 0.2), (0.5, 0.7, 0.3), (0.1, 0.99, 0.01))
"""Probability of a correct sample, sensitivity, false-accept rate."""

D_PRIMES = (1.0, 2.0)
NUMBERS = (1, 2, 4, 8, 16, 32, 64)
RUNS = 50_000
QUICK_RUNS = 10_000
ERRORS = 4.5
"""Of 49 differences one is larger by chance in 3000 runs of the experiment."""

VOTE_LAW = (0.5, 0.3, 0.2)
VOTE_VERIFIER = (0.7, 0.3)
WRONG_MODE = (0.3, 0.5, 0.2)
WRONG_MODE_VERIFIER = (0.9, 0.3)


def simulate(
    p_correct: float,
    n: int,
    verifier: VerifierModel | GaussianVerifier,
    runs: int,
    rng: np.random.Generator,
) -> float:
    """Return the share of runs in which the best-scored of n samples is correct."""
    right_RN = rng.random((runs, n)) < p_correct
    if isinstance(verifier, GaussianVerifier):
        score_RN = rng.normal(size=(runs, n)) + verifier.d_prime * right_RN
    else:
        accepted_RN = rng.random((runs, n)) < np.where(right_RN, verifier.s, verifier.f)
        score_RN = accepted_RN + 0.5 * rng.random((runs, n))
    return float(right_RN[np.arange(runs), score_RN.argmax(axis=1)].mean())


def _grid(ctx: RunContext) -> tuple[list[list], float, float]:
    rng = numpy_generator(ctx.seed, "noisy_verifier")
    runs = QUICK_RUNS if ctx.quick else RUNS
    verifiers: list[tuple[float, str, VerifierModel | GaussianVerifier]] = [
        (p, f"s = {s}, f = {f}", VerifierModel(s, f)) for p, s, f in SETTINGS
    ]
    verifiers += [(0.2, f"d' = {d_prime:g}", GaussianVerifier(d_prime)) for d_prime in D_PRIMES]
    rows, worst, over = [], 0.0, -math.inf
    task = ctx.progress(len(verifiers), "best-of-n, exact and simulated")
    for p_correct, name, verifier in verifiers:
        limit = plateau(p_correct, verifier)
        for n in NUMBERS:
            exact = best_of_n_success(p_correct, n, verifier)
            measured = simulate(p_correct, n, verifier, runs, rng)
            worst = max(worst, abs(measured - exact) / math.sqrt(exact * (1 - exact) / runs))
            over = max(over, exact - limit)
            rows.append([p_correct, name, n, exact, measured, limit])
        task.advance(1)
    return rows, worst, over


def _crossovers() -> list[list]:
    rows = []
    for law, (s, f) in [
        (VOTE_LAW, VOTE_VERIFIER),
        (VOTE_LAW, (0.9, 0.1)),
        ((0.4, 0.33, 0.27), (0.9, 0.02)),
        (WRONG_MODE, WRONG_MODE_VERIFIER),
    ]:
        verifier = VerifierModel(s, f)
        rows.append(
            [
                str(law),
                s,
                f,
                plateau(law[0], verifier),
                crossover(law, s, f),
                plurality_success(law, 64),
                best_of_n_success(law[0], 64, verifier),
                verified_majority_success(law, 64, verifier),
            ]
        )
    return rows


def _figure() -> list[Figure]:
    from modicum.testtime import plots

    verifier = VerifierModel(*VOTE_VERIFIER)
    numbers = [n for n in range(1, 129) if n < 9 or n % 8 == 0]
    try:
        figure = plots.accuracy_curves(
            {
                "self-consistency": (numbers, [plurality_success(VOTE_LAW, n) for n in numbers]),
                "best-of-n": (
                    numbers,
                    [best_of_n_success(VOTE_LAW[0], n, verifier) for n in numbers],
                ),
                "verified majority": (
                    numbers,
                    [verified_majority_success(VOTE_LAW, n, verifier) for n in numbers],
                ),
            }
        )
    except ImportError:
        return []
    s, f = VOTE_VERIFIER
    return [
        Figure.from_matplotlib(
            figure,
            "Votes overtake best-of-n",
            f"Exact, p = {VOTE_LAW}, verifier with s = {s}, f = {f}.",
            "Three accuracy curves; best-of-n flattens and is overtaken by the vote",
        )
    ]


def run(ctx: RunContext) -> Result:
    """Compute and simulate the grid, the plateaus and the crossovers."""
    rows, worst, over = _grid(ctx)
    crossed = crossover(VOTE_LAW, *VOTE_VERIFIER)
    refused = plan("best_of_n", p_correct=0.2, delta=0.05, verifier=VerifierModel(0.9, 0.02))
    verified = verified_majority_success(WRONG_MODE, 64, VerifierModel(*WRONG_MODE_VERIFIER))
    runs = QUICK_RUNS if ctx.quick else RUNS
    claims = [
        Claim(
            "exact_is_simulated",
            "Exact success of best-of-n with a noisy verifier agrees with simulation.",
            None,
            worst,
            None,
            worst <= ERRORS,
            unit="standard errors",
            note=f"largest of {len(rows)} differences over {runs} runs each; holds up to {ERRORS}",
        ),
        Claim(
            "plateau",
            "Best-of-n never passes the verifier's precision, however many samples are drawn.",
            None,
            over,
            None,
            over <= 1e-12,
            note="largest excess over the limit on the grid",
        ),
        Claim(
            "refusal",
            "The planner says that no number of samples suffices where precision is too low.",
            None,
            refused.limit,
            None,
            not refused.feasible and refused.limit < 0.95,
            note="limit for p = 0.2, s = 0.9, f = 0.02, asked for success 0.95",
        ),
        Claim(
            "crossover",
            "With a noisy verifier the vote overtakes best-of-n at a finite number of samples.",
            None,
            math.nan if crossed is None else float(crossed),
            None,
            crossed is not None,
            unit="samples",
            note=f"p = {VOTE_LAW}, s = {VOTE_VERIFIER[0]}, f = {VOTE_VERIFIER[1]}, exact",
        ),
        Claim(
            "wrong_mode",
            "The vote among accepted samples finds the correct answer where the plain vote "
            "converges to a wrong one.",
            None,
            verified,
            None,
            verified > 0.9 and plurality_success(WRONG_MODE, 64) < 0.1,
            note=f"success at 64 samples, p = {WRONG_MODE}, s = {WRONG_MODE_VERIFIER[0]}, "
            f"f = {WRONG_MODE_VERIFIER[1]}, exact",
        ),
    ]
    columns = ["p correct", "verifier", "n", "exact", "simulated", "limit"]
    crossing = ["p", "s", "f", "limit", "crossover", "vote 64", "best of 64", "verified 64"]
    return ctx.result(
        claims=claims,
        tables=[
            Table("Best-of-n with a noisy verifier", columns, rows),
            Table("Vote, best-of-n and verified majority", crossing, _crossovers()),
        ],
        figures=_figure(),
    )
