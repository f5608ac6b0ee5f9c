"""Logistic regression from mini-batch losses only, evaluated as tensors, one call per round.

The objective draws 32 of 500 samples for every value; its noise is that of the data and changes
with the point. The points of a round are one tensor on the device, and so are the values. The same
run in NumPy, with the same directions and samples, must end at the same point.
"""

import time
from typing import Any

import numpy as np

from modicum.core.device import resolve_device
from modicum.core.experiment import Claim, Result, RunContext, Table
from modicum.core.stats import bootstrap_interval
from modicum.zeroth.methods.adaptive import Adaptive
from modicum.zeroth.problems import synthetic_logistic

DIMENSION, QUICK_DIMENSION = 50, 20
SAMPLES = 500
BATCH = 32
REGULARIZATION = 0.05
PARITY_BUDGET = 4_000
BUDGET, QUICK_BUDGET = 1_000_000, PARITY_BUDGET
SEEDS, QUICK_SEEDS = 5, 2
AGREEMENT = 1e-10
SECONDS = 60.0
"""Within which a million evaluations and everything around them should be done on two cores."""


def run_once(
    budget: int, seed: int, device: str | None, dimension: int = DIMENSION
) -> tuple[np.ndarray, float, Any]:
    """Minimise once.

    Parameters
    ----------
    budget
        Evaluations.
    seed
        Of directions and mini-batches.
    device
        Torch device, or None for NumPy.
    dimension
        Of the problem.

    Returns
    -------
    x
        The recommended point ``(d,)``, NumPy.
    seconds
        From the first question to the answer.
    recommendation
        All that is known of the point.
    """
    problem = _problem(dimension)
    fun = problem.minibatch(BATCH, rng=seed)
    optimizer = Adaptive(problem.start, budget, scale=1.0, rng=seed, device=device)
    began = time.perf_counter()
    found = optimizer.run(fun)
    return np.asarray(found.x), time.perf_counter() - began, found


def _problem(dimension: int) -> Any:
    return synthetic_logistic(dimension, samples=SAMPLES, regularization=REGULARIZATION, rng=0)


def run(ctx: RunContext) -> Result:
    """Measure regret and time in tensors, and that NumPy gives the same."""
    device = resolve_device(ctx.device)
    budget = QUICK_BUDGET if ctx.quick else BUDGET
    seeds = range(ctx.seed, ctx.seed + (QUICK_SEEDS if ctx.quick else SEEDS))
    dimension = QUICK_DIMENSION if ctx.quick else DIMENSION
    problem = _problem(dimension)
    at_start = float(problem.regret(problem.start))
    rows, regrets, times, ends = [], [], [], {}
    bar = ctx.progress(len(seeds) + 1, "runs")
    for seed in seeds:
        x, seconds, found = run_once(budget, seed, device, dimension)
        ends[budget, seed] = x
        regrets.append(float(problem.regret(x)))
        times.append(seconds)
        rows.append([seed, budget, regrets[-1], found.predicted_regret, seconds])
        bar.advance()
    in_numpy, _, _ = run_once(PARITY_BUDGET, ctx.seed, None, dimension)
    # A quick run has made this one already.
    in_tensors = ends.get((PARITY_BUDGET, ctx.seed))
    if in_tensors is None:
        in_tensors, _, _ = run_once(PARITY_BUDGET, ctx.seed, device, dimension)
    bar.advance()
    apart = float(np.abs(in_numpy - in_tensors).max())
    left = np.array(regrets) / at_start
    slowest = max(times)
    return ctx.result(
        claims=[
            Claim(
                "same_point",
                "Tensors and NumPy arrays end at the same point",
                paper=None,
                measured=apart,
                holds=apart <= AGREEMENT,
                note=f"largest difference of a coordinate after {PARITY_BUDGET:,} evaluations;"
                f" criterion: at most {AGREEMENT:.0e}",
            ),
            Claim(
                "regret_left",
                "Share of the start's regret that is left",
                paper=None,
                measured=float(left.mean()),
                interval=bootstrap_interval(left, rng=ctx.seed),
                note=f"mean over {len(left)} seeds of directions and mini-batches, {budget:,}"
                " evaluations of 32 samples each; a figure without a criterion",
            ),
            Claim(
                "seconds",
                "A million evaluations of mini-batches take less than a minute",
                paper=None,
                measured=slowest,
                holds=None if ctx.quick else slowest < SECONDS,
                unit="s",
                note=f"slowest of {len(times)} runs of {budget:,} evaluations on {device}, the"
                f" objective included; criterion: below {SECONDS:.0f} s for {BUDGET:,}",
            ),
        ],
        tables=[
            Table(
                f"Mini-batch logistic regression in {dimension} dimensions",
                ["seed", "evaluations", "regret", "predicted regret", "seconds"],
                rows,
                note=f"regret at the start {at_start:.4g}; device {device}",
            )
        ],
    )
