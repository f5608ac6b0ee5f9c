"""What an optimiser costs per evaluation beside the objective, ours and others' in turns.

The objective is a parabola that is free, so what is measured is the library. Each library is used
as its documentation shows: ours with a vectorised function, with a scalar one and by ask and tell;
the others by ask and tell, or by their one call where they have no other.

    python packages/zeroth/benchmarks/bench_overhead.py

rewrites its part of ``RESULTS.md`` in about twenty minutes; ``--dry-run`` measures little and only
prints.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shlex
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np

from modicum.core.benchmark import medians, preamble, table, write_section
from modicum.core.device import one_thread
from modicum.zeroth import Adaptive, minimize

RESULTS = Path(__file__).with_name("RESULTS.md")
SEED = 0
DIMENSIONS = (2, 20, 100)
NOISE = 1.0
CHUNK = 64
"""Points that our optimiser is asked for at once in the row that asks in parts."""


def noise_of(count: int) -> np.ndarray:
    return np.random.default_rng(SEED).normal(0.0, NOISE, count)


class Parabola:
    """A noisy parabola whose noise was drawn before, one value or many at a time."""

    def __init__(self, budget: int) -> None:
        self.noise = noise_of(budget)
        self.at = 0

    def one(self, x: np.ndarray) -> float:
        """Give a value of one point."""
        self.at += 1
        return float(x @ x + self.noise[self.at % len(self.noise)])

    def many(self, x_ND: np.ndarray) -> np.ndarray:
        """Give the values of points."""
        count = len(x_ND)
        values = np.einsum("nd,nd->n", x_ND, x_ND)
        values += np.resize(np.roll(self.noise, -self.at), count)
        self.at += count
        return values


def ours_vectorised(dimension: int, budget: int) -> None:
    fun = Parabola(budget).many
    minimize(fun, np.ones(dimension), budget, vectorized=True, rng=SEED, return_trace=False)


def ours_scalar(dimension: int, budget: int) -> None:
    minimize(Parabola(budget).one, np.ones(dimension), budget, rng=SEED)


def ours_in_parts(dimension: int, budget: int) -> None:
    fun = Parabola(budget).many
    optimizer = Adaptive(np.ones(dimension), budget, rng=SEED)
    while not optimizer.done:
        candidates = optimizer.ask(CHUNK)
        optimizer.tell(candidates, fun(candidates.points))


def cma_es(dimension: int, budget: int) -> None:
    import cma

    fun = Parabola(budget).one
    es = cma.CMAEvolutionStrategy(
        np.ones(dimension), 0.5, {"maxfevals": budget, "verbose": -9, "seed": SEED + 1}
    )
    spent = 0
    while spent < budget:
        points = es.ask()
        es.tell(points, [fun(x) for x in points])
        spent += len(points)


def nevergrad(name: str) -> Callable[[int, int], None]:
    def run(dimension: int, budget: int) -> None:
        import nevergrad as ng

        fun = Parabola(budget).one
        start = ng.p.Array(init=np.ones(dimension))
        optimizer = ng.optimizers.registry[name](start, budget=budget)
        for _ in range(budget):
            candidate = optimizer.ask()
            optimizer.tell(candidate, fun(candidate.value))
        optimizer.provide_recommendation()

    return run


def optuna_tpe(dimension: int, budget: int) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    fun = Parabola(budget).one
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=SEED))
    space = {f"x{i}": optuna.distributions.FloatDistribution(-5, 5) for i in range(dimension)}
    for _ in range(budget):
        trial = study.ask(space)
        study.tell(trial, fun(np.array(list(trial.params.values()))))


def noisyopt_spsa(dimension: int, budget: int) -> None:
    from noisyopt import minimizeSPSA

    fun = Parabola(budget).one
    minimizeSPSA(fun, np.ones(dimension), niter=budget // 2, paired=False, a=0.1, c=0.1)


def scipy_cobyqa(dimension: int, budget: int) -> None:
    from scipy.optimize import minimize as scipy_minimize

    scipy_minimize(
        Parabola(budget).one, np.ones(dimension), method="COBYQA", options={"maxfev": budget}
    )


# Each with the evaluations of a run: enough that the first ones do not count.
ROWS: Mapping[str, tuple[Callable[[int, int], None], int]] = {
    "modicum, vectorised": (ours_vectorised, 100_000),
    f"modicum, ask and tell {CHUNK}": (ours_in_parts, 100_000),
    "modicum, one at a time": (ours_scalar, 100_000),
    "noisyopt SPSA": (noisyopt_spsa, 10_000),
    "cma 4 (default population)": (cma_es, 5_000),
    "nevergrad TBPSA": (nevergrad("TBPSA"), 1_000),
    "nevergrad SPSA": (nevergrad("SPSA"), 1_000),
    "nevergrad NGOpt": (nevergrad("NGOpt"), 300),
    "SciPy COBYQA": (scipy_cobyqa, 150),
    "Optuna TPE": (optuna_tpe, 100),
}
LIBRARIES = ("cma", "nevergrad", "noisyopt", "scipy", "optuna")
DRY_SHARE = 20


def measure(repeats: int, share: int) -> list[list[str]]:
    rows: dict[str, list[str]] = {name: [name] for name in ROWS}
    for dimension in DIMENSIONS:
        calls = {}
        for name, (run, budget) in ROWS.items():
            evaluations = max(budget // share, 10 * dimension + 100 if "modicum" in name else 20)
            calls[name] = (lambda run=run, b=evaluations, d=dimension: run(d, b), evaluations)
        seconds = medians({name: call for name, (call, _) in calls.items()}, repeats)
        for name, (_, evaluations) in calls.items():
            rows[name].append(f"{1e6 * seconds[name] / evaluations:.3g}")
            print(f"d={dimension} {name}: {rows[name][-1]} µs", file=sys.stderr)
    return list(rows.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dry-run", action="store_true", help="measure little and only print")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    with one_thread(), contextlib.redirect_stdout(io.StringIO()):
        rows = measure(args.repeats, DRY_SHARE if args.dry_run else 1)
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    command = shlex.join(["python", "packages/zeroth/benchmarks/bench_overhead.py", *sys.argv[1:]])
    how = (
        f"microseconds per evaluation of a free objective, median of {args.repeats} runs in turns,"
        f" one thread; {versions}; seed {SEED}"
    )
    lines = [
        *preamble(command, how),
        *table(["library", *(f"d = {dimension}" for dimension in DIMENSIONS)], rows),
        "",
        "A run has "
        + ", ".join(f"{budget:,} ({name})" for name, (_, budget) in ROWS.items())
        + " evaluations.",
    ]
    print("\n".join(lines))
    if not args.dry_run:
        write_section(RESULTS, "overhead", lines)


if __name__ == "__main__":
    main()
