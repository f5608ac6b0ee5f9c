"""Seconds until a design is near the optimum, by solver, and greedy purchases beside naive ones.

All solvers get the same rows and queries in one process and take turns. The optimum is the lower
bound that the exact program's dual solution proves. Of a solver that goes step by step the clock
stops at the first weights that are near enough; a program has one answer, and its time counts for
every accuracy that the answer has.

    python packages/daved/benchmarks/bench_solvers.py

rewrites its part of ``RESULTS.md`` in about four minutes; ``--quick`` takes half a minute and only
prints.

Shapes: n rows, d features, m queries, k rows bought.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from modicum.core.benchmark import medians, preamble, table, write_section
from modicum.core.device import numpy_generator
from modicum.daved.design import objective, pseudo_inverse
from modicum.daved.markets import gaussian_market
from modicum.daved.pool import ArrayPool
from modicum.daved.solvers.base import Problem, Solver, Step
from modicum.daved.solvers.exact import Exact
from modicum.daved.solvers.frank_wolfe import FrankWolfe
from modicum.daved.solvers.greedy import Greedy, default_prior
from modicum.daved.solvers.multiplicative import Multiplicative

RESULTS = Path(__file__).with_name("RESULTS.md")
ACCURACIES = (1e-1, 1e-2, 1e-3, 1e-4)
REPEATS = 3
LIMIT, QUICK_LIMIT = 8.0, 1.0
"""Most seconds of a run of a solver that goes step by step."""
LONG = 4.0
"""Seconds after which a method is not run again."""
STEPS = 10**6
DIRECT_ROWS = 1000
"""Most rows that the direct form is given: with 5,000 of 30 features it had no answer in a minute
of Clarabel's."""

EXACT, DIRECT = "exact program", "cvxpy, matrix_frac"


@dataclass(frozen=True)
class Setting:
    """Size of a problem."""

    n: int
    d: int
    m: int

    def __str__(self) -> str:
        return f"n = {self.n:,}, d = {self.d}, m = {self.m}"

    def problem(self) -> Problem:
        """Give rows and queries of the published Gaussian market."""
        rng = numpy_generator(0, "benchmark of solvers", str(self))
        market = gaussian_market(self.n, self.d, self.m, validation=0, rng=rng)
        return Problem(ArrayPool(market.rows_nd), market.queries_md)


SETTINGS = (
    Setting(200, 5, 4),
    Setting(500, 10, 1),
    Setting(1000, 30, 1),
    Setting(1000, 30, 8),
    Setting(5000, 30, 1),
    Setting(20_000, 30, 1),
)
QUICK_SETTINGS = SETTINGS[:2]

STEPWISE: dict[str, Callable[[], Solver]] = {
    "Frank-Wolfe, line search": lambda: FrankWolfe("line_search", STEPS, 0.0),
    "Frank-Wolfe, open loop": lambda: FrankWolfe("open_loop", STEPS, 0.0),
    "multiplicative": lambda: Multiplicative(STEPS, 0.0),
}


class Enough(Exception):
    """The run is near enough to the optimum, or too long."""


@dataclass
class Run:
    """What one run of one method came to.

    Attributes
    ----------
    reached
        By accuracy the seconds after which the design had it.
    excess
        Objective over optimum, less 1, at the end.
    steps
        Steps made; None where there are none.
    seconds
        All of the run.
    """

    reached: dict[float, float] = field(default_factory=dict)
    excess: float = float("inf")
    steps: int | None = None
    seconds: float = 0.0

    def note(self, excess: float, seconds: float) -> None:
        """Take in a design."""
        self.excess, self.seconds = excess, seconds
        for accuracy in ACCURACIES:
            if excess <= accuracy:
                self.reached.setdefault(accuracy, seconds)


def run_stepwise(make: Callable[[], Solver], problem: Problem, best: float, limit: float) -> Run:
    run, start = Run(), time.perf_counter()

    def look(step: Step) -> None:
        run.steps = step.iteration
        run.note(step.objective / best - 1, time.perf_counter() - start)
        if run.excess <= min(ACCURACIES) or run.seconds > limit:
            raise Enough

    try:
        design = make().solve(problem, look)
    except Enough:
        return run
    run.note(design.objective / best - 1, time.perf_counter() - start)
    return run


def run_exact(problem: Problem, best: float) -> Run:
    run, start = Run(), time.perf_counter()
    design = Exact().solve(problem)
    run.note(design.objective / best - 1, time.perf_counter() - start)
    return run


def run_direct(problem: Problem, best: float) -> Run:
    """Let cvxpy minimise the objective as it is written down, a semidefinite program."""
    import cvxpy

    run, start = Run(), time.perf_counter()
    rows_nd = problem.pool.rows(np.arange(problem.pool.n))
    weights = cvxpy.Variable(len(rows_nd), nonneg=True)
    column = cvxpy.reshape(weights, (len(rows_nd), 1), order="C")
    information = rows_nd.T @ cvxpy.multiply(column, rows_nd)
    loss = cvxpy.matrix_frac(problem.queries_md.T, information) / len(problem.queries_md)
    cvxpy.Problem(cvxpy.Minimize(loss), [cvxpy.sum(weights) == 1]).solve(solver=cvxpy.CLARABEL)
    seconds = time.perf_counter() - start
    # Its weights may be a little below 0, and its own value is not that of the weights.
    found_n = np.maximum(np.asarray(weights.value), 0)
    inverse_dd = pseudo_inverse(problem.pool.gram(found_n / found_n.sum())).matrix
    run.note(objective(inverse_dd, problem.queries_md) / best - 1, seconds)
    return run


def race(setting: Setting, limit: float) -> dict[str, list[Run]]:
    """Let all methods take turns on one problem."""
    problem = setting.problem()
    design = Exact().solve(problem)
    best = design.objective - design.gap
    methods: dict[str, Callable[[], Run]] = {
        name: partial(run_stepwise, make, problem, best, limit) for name, make in STEPWISE.items()
    }
    methods[EXACT] = partial(run_exact, problem, best)
    if setting.n <= DIRECT_ROWS:
        methods[DIRECT] = partial(run_direct, problem, best)
    runs: dict[str, list[Run]] = {name: [] for name in methods}
    for _ in range(REPEATS):
        for name, method in methods.items():
            if sum(run.seconds for run in runs[name]) < LONG:
                runs[name].append(method())
    return runs


def seconds_to(runs: Sequence[Run], accuracy: float) -> float | None:
    """Give the median seconds to an accuracy; None where a run did not come to it."""
    found = [run.reached.get(accuracy) for run in runs]
    known = [seconds for seconds in found if seconds is not None]
    return statistics.median(known) if len(known) == len(found) else None


def section(setting: Setting, runs: dict[str, list[Run]]) -> list[str]:
    """Give the table of one problem."""
    rows = []
    for name, mine in runs.items():
        cells = []
        for accuracy in ACCURACIES:
            taken, exact = seconds_to(mine, accuracy), seconds_to(runs[EXACT], accuracy)
            text = "" if taken is None else f"{taken:.2g}"
            if taken is not None and exact is not None and name != EXACT:
                text += f" ({taken / exact:.2g})"
            cells.append(text)
        last = mine[-1]
        steps = "" if last.steps is None else f"{last.steps:,}"
        rows.append([name, *cells, f"{max(last.excess, 0):.0e}", steps, f"{last.seconds:.2g}"])
    program = "linear program, HiGHS" if setting.m == 1 else "second-order cone program, Clarabel"
    header = ["solver", *(f"to {accuracy:g}" for accuracy in ACCURACIES)]
    header += ["excess at the end", "steps", "seconds in all"]
    return [f"**{setting}** (exact program: {program})", "", *table(header, rows), ""]


# Greedy purchases --------------------------------------------------------------------------------


def naive_greedy(problem: Problem, count: int) -> list[int]:
    """Buy like `Greedy`, with the variance of every possible next purchase from scratch."""
    pool, queries_md = problem.pool, problem.queries_md
    rows_nd = pool.rows(np.arange(pool.n))
    information_dd = default_prior(pool.gram(), pool.n) * np.eye(pool.d)
    bought: list[int] = []
    for _ in range(count):
        tried_ndd = information_dd + rows_nd[:, :, None] * rows_nd[:, None, :]
        solved_ndm = np.linalg.solve(tried_ndd, queries_md.T[None])
        variance_n = np.einsum("md,ndm->n", queries_md, solved_ndm)
        variance_n[bought] = np.inf
        row = int(np.argmin(variance_n))
        bought.append(row)
        information_dd = information_dd + np.outer(rows_nd[row], rows_nd[row])
    return bought


GREEDY_SETTINGS = ((SETTINGS[2], 10), (SETTINGS[3], 30), (SETTINGS[4], 10))


def greedy_section(settings: Sequence[tuple[Setting, int]]) -> list[str]:
    rows = []
    for setting, count in settings:
        base = setting.problem()
        problem = Problem(base.pool, base.queries_md, budget=float(count))
        design = Greedy().solve(problem)
        assert design.order is not None
        same = "yes" if naive_greedy(problem, count) == design.order.tolist() else "no"
        taken = medians(
            {
                "ours": partial(Greedy().solve, problem),
                "naive": partial(naive_greedy, problem, count),
            },
            REPEATS,
        )
        ratio = taken["naive"] / taken["ours"]
        row = [str(setting), str(count), f"{taken['ours']:.2g}", f"{taken['naive']:.2g}"]
        rows.append([*row, f"{ratio:.0f}", same])
    header = ["problem", "purchases", "rank-one updates, s", "every variance anew, s"]
    return [
        "**Greedy purchases**",
        "",
        *table([*header, "ratio", "same purchases"], rows),
    ]


NOTE = (
    "Seconds to a relative excess over the optimum, median of the turns; in brackets over the "
    "seconds of the exact program. Empty: not reached in {limit:g} seconds, or not by the answer. "
    f"A method that took {LONG:g} seconds or more is run once. The direct form has at most "
    f"{DIRECT_ROWS:,} rows; cvxpy's compilation counts, imports do not. Clarabel's tolerances are "
    "1e-11 in the exact program and its own, 1e-8, in the direct form."
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and write its section."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small problems; the page stays")
    parser.add_argument("--dry-run", action="store_true", help="the page stays")
    options = parser.parse_args(arguments)
    given = sys.argv[1:] if arguments is None else list(arguments)
    command = shlex.join(["python", "packages/daved/benchmarks/bench_solvers.py", *given])
    libraries = ", ".join(f"{name} {version(name)}" for name in ("cvxpy", "clarabel"))
    limit = QUICK_LIMIT if options.quick else LIMIT
    lines = [*preamble(command, f"one thread; {libraries}"), NOTE.format(limit=limit), ""]
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.filterwarnings("ignore", message="Solution may be inaccurate")
        # The first call of cvxpy imports it.
        Exact().solve(QUICK_SETTINGS[0].problem())
        for setting in QUICK_SETTINGS if options.quick else SETTINGS:
            lines += section(setting, race(setting, limit))
        lines += greedy_section(GREEDY_SETTINGS[:1] if options.quick else GREEDY_SETTINGS)
    print("\n".join(lines))
    if not (options.quick or options.dry_run):
        write_section(RESULTS, "solvers", lines)


if __name__ == "__main__":
    main()
