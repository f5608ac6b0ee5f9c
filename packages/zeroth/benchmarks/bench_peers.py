"""Regret of the recommended point beside other optimisers, at equal numbers of evaluations.

Every method gets the same problems, starts, length scales and seeds; every evaluation is counted by
the benchmark's own counter and no method gets one more than the budget (`peers.py` says how each is
used). Regret is exact: the problems know their minimum.

    python packages/zeroth/benchmarks/bench_peers.py --jobs 2

rewrites the first part of ``RESULTS.md``, and with ``--dims 2,10,30 --sigmas .1,1 --budgets 1000
--section "peers over dimensions"`` the second, in at most 15 minutes (``--minutes``); ``--quick``
takes one and only prints. Runs are written to a log of JSON lines as they end; the same command
goes on from it, and one with more problems, budgets or minutes adds to it. Runs that a library's
speed would make longer than ``--cap`` seconds of CPU time are left out, and the page says which.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import multiprocessing
import os
import shlex
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import peers

from modicum.core.benchmark import preamble, table, write_section
from modicum.core.device import numpy_generator
from modicum.core.stats import median_interval
from modicum.zeroth.problems import (
    Problem,
    breast_cancer,
    hypot,
    quadratic,
    rastrigin,
    skew,
    synthetic_logistic,
)

RESULTS = Path(__file__).with_name("RESULTS.md")
LOG = Path(tempfile.gettempdir()) / "modicum-zeroth-peers.jsonl"

OURS = "adaptive"
"""The method that the others are compared with."""
DISTANCE = 1.0
CONDITION = 100.0
FAR = 3.0
"""Distance of the start where the curvature has no bound."""
BATCH = 32
FLIP = 0.1

COSTLY_SEEDS = 3
COSTLY_PROBLEMS = ("skew",)
COSTLY_CAP = 10
"""Where methods that take minutes are run, how often, and how many times longer they may take."""

FLOOR = 1e-12
"""Regrets below it are rounding errors and count as it."""
TIME_UP = "time was up"
TOO_SLOW, MISSING = "too slow", "not installed"
"""Ends of a run that say nothing of its regret."""
DIVERGED = 1e6
"""A mean or a ratio above it is shown as such."""


# Problems ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A problem with noise and what methods are told of it."""

    problem: Problem
    evaluate: Callable[[np.ndarray], np.ndarray]
    scale: float
    bounds: np.ndarray | None = None
    constants: dict[str, float] | None = None


def _with_noise(problem: Problem, sigma: float, rng: Any, largest: float | None) -> Case:
    """Add Gaussian noise; `largest` is the curvature that tuned methods are told, None for none."""
    constants = None
    if largest is not None:
        constants = {
            "strong_convexity": problem.strong_convexity,
            "hessian_lipschitz": problem.hessian_lipschitz,
            "smoothness": largest,
            "noise": sigma,
        }
    return Case(problem, problem.noisy(sigma, rng), DISTANCE, constants=constants)


def _skew(dimension: int, sigma: float, rng: Any) -> Case:
    return _with_noise(skew(dimension, shift=DISTANCE, rng=rng), sigma, rng, 3.0)


def _ill_conditioned(dimension: int, sigma: float, rng: Any) -> Case:
    scales = np.geomspace(1, CONDITION, dimension)
    problem = skew(dimension, shift=DISTANCE, rotation=True, scales=scales, rng=rng)
    return _with_noise(problem, sigma, rng, CONDITION + 2.0)


def _hypot(dimension: int, sigma: float, rng: Any) -> Case:
    problem = hypot(dimension, shift=FAR, rng=rng)
    largest = float(np.linalg.eigvalsh(problem.hessian(problem.start)).max())
    return _with_noise(problem, sigma, rng, largest)


def _quadratic(dimension: int, sigma: float, rng: Any) -> Case:
    problem = quadratic(dimension, condition=10.0, shift=DISTANCE, rotation=True, rng=rng)
    return _with_noise(problem, sigma, rng, None)


def _rastrigin(dimension: int, sigma: float, rng: Any) -> Case:
    return _with_noise(rastrigin(dimension, shift=DISTANCE, rng=rng), sigma, rng, None)


def _logistic(dimension: int, sigma: float, rng: Any) -> Case:
    problem = synthetic_logistic(dimension, rng=rng)
    return Case(problem, problem.minibatch(BATCH, rng), DISTANCE)


def _labels(dimension: int, sigma: float, rng: Any) -> Case:
    problem = synthetic_logistic(dimension, flip=FLIP, rng=rng)
    return Case(problem, problem.asked_labels(rng), DISTANCE)


def _cancer(dimension: int, sigma: float, rng: Any) -> Case:
    problem = breast_cancer()
    return Case(problem, problem.minibatch(BATCH, rng), DISTANCE)


def _bbob(function: int) -> Callable[[int, float, Any], Case]:
    def make(dimension: int, sigma: float, rng: Any) -> Case:
        from modicum.zeroth.integrations.bbob import INSTANCES, noisy_bbob

        instance = int(rng.integers(INSTANCES.start, INSTANCES.stop))
        problem = noisy_bbob(function, dimension, instance)
        # COCO's usual first standard deviation of 2 per coordinate.
        scale = 2.0 * math.sqrt(dimension)
        return Case(problem, problem.evaluations(rng), scale, np.array(problem.bounds))

    return make


@dataclass(frozen=True)
class Kind:
    """A kind of problem.

    `dimensions` are the only ones it has, None for all; `sigma` says whether its noise can be set.
    """

    make: Callable[[int, float, Any], Case]
    what: str
    dimensions: tuple[int, ...] | None = None
    sigma: bool = True
    constants: bool = False


COCO_DIMENSIONS = (2, 3, 5, 10, 20, 40)
PROBLEMS = {
    "skew": Kind(_skew, "curvature 1 to 3, changing fastest at the minimum", constants=True),
    "cond100": Kind(_ill_conditioned, "the same, condition 100, rotated", constants=True),
    "hypot": Kind(_hypot, "curvature without bound, start at 3 times the scale", constants=True),
    "quadratic": Kind(_quadratic, "condition 10, rotated"),
    "logistic": Kind(_logistic, f"synthetic data, mini-batches of {BATCH}", sigma=False),
    "labels": Kind(_labels, f"synthetic data, labels err anew with {FLIP:.0%}", sigma=False),
    "cancer": Kind(_cancer, f"breast-cancer data, mini-batches of {BATCH}", (31,), sigma=False),
    "rastrigin": Kind(_rastrigin, "many local minima"),
} | {
    f"f{function}": Kind(_bbob(function), f"bbob-noisy f{function}", COCO_DIMENSIONS, sigma=False)
    for function in range(101, 113)
}
DEFAULT_PROBLEMS = "skew,cond100,hypot,logistic,rastrigin,f101,f103,f104"


# Runs --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """What seeds are pooled over."""

    problem: str
    dimension: int
    sigma: float | None
    budget: int

    @property
    def title(self) -> str:
        """Problem, dimension and noise in words."""
        noise = "" if self.sigma is None else f", noise {self.sigma:g}"
        return f"{self.problem}, d = {self.dimension}{noise}"


@dataclass(frozen=True)
class Run:
    """One method, one seed."""

    cell: Cell
    method: str
    seed: int

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes it the same run in a log."""
        return (*asdict(self.cell).values(), self.method, self.seed)


def play(run: Run, cap: float) -> dict[str, Any]:
    """Do a run and say how it ended.

    Returns
    -------
    dict
        Fields of the run, ``regret`` (None if the point is not finite), ``evaluations``,
        ``seconds`` of CPU time and ``status``: "ok", `TOO_SLOW`, `MISSING` or what went wrong.
    """
    cell = run.cell
    rng = numpy_generator(run.seed, "peers", cell.problem, cell.dimension)
    case = PROBLEMS[cell.problem].make(cell.dimension, cell.sigma or 0.0, rng)
    task = peers.Task(
        case.problem.start, case.scale, cell.budget, run.seed, case.bounds, case.constants
    )
    method = peers.METHODS[run.method]
    status, x = "ok", np.full(cell.dimension, np.nan)
    # Loading a library is nothing that a run takes.
    with contextlib.suppress(ImportError):
        import_module(method.library)
    objective = peers.Objective(case.evaluate, cell.budget, cap)
    begin = time.process_time()
    try:
        with np.errstate(all="ignore"):
            x = method.run(objective, task)
    except peers.TooSlow:
        status = TOO_SLOW
    except ImportError:
        status = MISSING
    # A library that fails is a result like any other, and must not end the benchmark.
    except Exception as error:
        status = f"{type(error).__name__}: {error}"
    seconds = time.process_time() - begin
    with np.errstate(all="ignore"):
        regret = float(case.problem.regret(np.asarray(x, dtype=float)))
    record = {**asdict(cell), "method": run.method, "seed": run.seed}
    record |= {"regret": regret if math.isfinite(regret) else None}
    return record | {"evaluations": objective.spent, "seconds": seconds, "status": status}


def warm_up() -> None:
    """Set up a process that runs: libraries warn a lot, and must not share cores."""
    warnings.simplefilter("ignore")


class Log:
    """JSON lines of finished runs.

    Parameters
    ----------
    path
        Read if it exists, written to at the end of every run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[tuple[Any, ...], dict[str, Any]] = {}
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for line in text.splitlines():
            # The last line of a run that was cut off may be half there.
            with contextlib.suppress(json.JSONDecodeError):
                self._take(json.loads(line))
        if text and not text.endswith("\n"):
            self._write("\n")

    def add(self, record: dict[str, Any]) -> None:
        """Keep a record and write it down."""
        self._take(record)
        self._write(json.dumps(record) + "\n")

    def _write(self, text: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)

    def _take(self, record: dict[str, Any]) -> None:
        names = ("problem", "dimension", "sigma", "budget", "method", "seed")
        self.records[tuple(record[name] for name in names)] = record

    def seconds_per_evaluation(self, method: str, dimension: int) -> float:
        """Give the CPU time of a value at the largest budget known, nan if none is."""
        known = [
            (record["budget"], record["seconds"] / max(1, record["evaluations"]))
            for record in self.records.values()
            if (record["method"], record["dimension"]) == (method, dimension)
        ]
        largest = max((budget for budget, _ in known), default=0)
        # The fastest: the first run of a process imports the library.
        return min((cost for budget, cost in known if budget == largest), default=math.nan)


def cells(options: argparse.Namespace) -> list[Cell]:
    """Give the cells in the order they are run, small budgets first."""
    found = []
    for budget in sorted(options.budgets):
        for name in options.problems:
            kind = PROBLEMS[name]
            dims = options.dims if kind.dimensions is None else kind.dimensions
            wanted = dims if len(dims) == 1 else [d for d in options.dims if d in dims]
            for dimension in wanted:
                for sigma in options.sigmas if kind.sigma else [None]:
                    found.append(Cell(name, dimension, sigma, budget))
    return found


def left_out(method: str, cell: Cell, log: Log, cap: float) -> str:
    """Say why a method is not run, or nothing."""
    chosen = peers.METHODS[method]
    if chosen.tuned and not PROBLEMS[cell.problem].constants:
        return "needs constants that the problem does not have"
    if chosen.costly and cell.problem not in COSTLY_PROBLEMS:
        return f"takes minutes and is run only on {', '.join(COSTLY_PROBLEMS)}"
    if cell.budget < chosen.least(cell.dimension):
        return f"needs {chosen.least(cell.dimension):,.0f} evaluations"
    if cell.budget > chosen.most:
        return f"is run only up to {chosen.most:,} evaluations"
    seconds = cell.budget * log.seconds_per_evaluation(method, cell.dimension)
    if seconds > cap_of(method, cap):
        return f"would take more than {cap:g} s a run"
    return ""


def cap_of(method: str, cap: float) -> float:
    """Give the most seconds of CPU time of a run of a method."""
    return cap * COSTLY_CAP if peers.METHODS[method].costly else cap


def runs_of(cell: Cell, options: argparse.Namespace) -> list[Run]:
    """Give all runs of a cell, costly methods with fewer seeds."""
    return [
        Run(cell, method, seed)
        for method in options.methods
        for seed in range(
            min(options.seeds, COSTLY_SEEDS) if peers.METHODS[method].costly else options.seeds
        )
    ]


def do_all(options: argparse.Namespace, log: Log) -> dict[tuple[str, str, int], str]:
    """Do what is not in the log yet; give what was left out by method, title and budget."""
    reasons: dict[tuple[str, str, int], str] = {}
    end = time.monotonic() + 60 * options.minutes
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, context, initializer=warm_up) as pool:
        # A level at a time: what small budgets took says which large ones would take too long.
        for budget in sorted(options.budgets):
            todo = []
            for cell in cells(options):
                if cell.budget != budget:
                    continue
                for run in runs_of(cell, options):
                    reason = left_out(run.method, cell, log, options.cap)
                    if reason:
                        reasons[run.method, cell.title, budget] = reason
                    elif run.key not in log.records:
                        todo.append(run)
            todo.sort(key=lambda run: peers.METHODS[run.method].costly)
            for run in _play_until(end, pool, todo, options, log):
                reasons[run.method, run.cell.title, budget] = TIME_UP
    return reasons


def _play_until(
    end: float, pool: Executor, todo: list[Run], options: argparse.Namespace, log: Log
) -> list[Run]:
    """Do runs in order, never many more at a time than there are processes; give those left."""
    waiting = iter(todo)
    open_runs: dict[Future[dict[str, Any]], Run] = {}
    done, left = 0, []
    for run in waiting:
        if time.monotonic() > end:
            left = [run, *waiting]
            break
        open_runs[pool.submit(play, run, cap_of(run.method, options.cap))] = run
        if len(open_runs) >= 2 * options.jobs:
            done += _collect(open_runs, log, FIRST_COMPLETED)
            _say(done, len(todo), run)
    while open_runs:
        done += _collect(open_runs, log, FIRST_COMPLETED)
    return left


def _collect(open_runs: dict[Future[dict[str, Any]], Run], log: Log, when: str) -> int:
    finished, _ = wait(open_runs, return_when=when)
    for future in finished:
        del open_runs[future]
        log.add(future.result())
    return len(finished)


def _say(done: int, number: int, run: Run) -> None:
    if sys.stderr.isatty():
        place = f"{run.cell.title}, {run.cell.budget:,}: {run.method}"
        print(f"\r\x1b[K{done}/{number} {place}", end="", file=sys.stderr, flush=True)


# The page ----------------------------------------------------------------------------------------


def regrets(log: Log, cell: Cell, method: str, options: argparse.Namespace) -> dict[int, float]:
    """Give regrets by seed; infinite where the point was not finite or the library failed."""
    found = {}
    for run in runs_of(cell, options):
        record = log.records.get(run.key)
        if (
            run.method == method
            and record is not None
            and record["status"]
            not in (
                TOO_SLOW,
                MISSING,
            )
        ):
            regret = record["regret"]
            found[run.seed] = math.inf if regret is None else max(regret, FLOOR)
    return found


def number(value: float) -> str:
    """Format a regret or a ratio."""
    return "diverges" if not value < DIVERGED else f"{value:.2g}"


def cell_text(values: Iterable[float]) -> str:
    """Give median, range that holds the true median with 95 % where there is one, and mean."""
    sample = np.array(list(values))
    if not len(sample):
        return ""
    return f"{median_text(sample)} ({number(float(np.mean(sample)))})"


def median_text(sample: Sequence[float]) -> str:
    """Give the median and its interval, which few values do not have."""
    low, high = median_interval(sample)
    ends = f" [{number(low)}, {number(high)}]" if low > -math.inf else ""
    return number(float(np.median(sample))) + ends


@dataclass
class Comparison:
    """One method beside ours: ratios of regrets by cell and seed."""

    ratios: list[float]
    by_budget: dict[int, list[float]]
    wins: int = 0
    losses: int = 0


def compare(log: Log, options: argparse.Namespace, method: str) -> Comparison:
    """Pair a method's regrets with ours, seed by seed; wins and losses are ours, by medians."""
    result = Comparison([], defaultdict(list))
    for cell in cells(options):
        ours = regrets(log, cell, OURS, options)
        theirs = regrets(log, cell, method, options)
        seeds = sorted(ours.keys() & theirs.keys())
        if not seeds:
            continue
        pairs = [(theirs[seed], ours[seed]) for seed in seeds]
        ratios = [
            1.0 if math.isinf(their) and math.isinf(our) else their / our for their, our in pairs
        ]
        result.ratios += ratios
        result.by_budget[cell.budget] += ratios
        their_median, our_median = np.median(np.array(pairs), axis=0)
        result.wins += bool(our_median < their_median)
        result.losses += bool(our_median > their_median)
    return result


def summary(log: Log, options: argparse.Namespace) -> list[str]:
    """Give the table of ratios."""
    budgets = sorted(options.budgets)
    rows = []
    for method in options.methods:
        if method == OURS:
            continue
        found = compare(log, options, method)
        if not found.ratios:
            rows.append([method, "", "", "", *[""] * len(budgets)])
            continue
        rows.append(
            [
                method,
                median_text(found.ratios),
                str(found.wins),
                str(found.losses),
                *[
                    number(float(np.median(found.by_budget[budget])))
                    if found.by_budget[budget]
                    else ""
                    for budget in budgets
                ],
            ]
        )
    header = ["method", f"regret / regret of {OURS}", "wins", "losses"]
    return table([*header, *[f"at {budget:,}" for budget in budgets]], rows)


def details(log: Log, options: argparse.Namespace) -> list[str]:
    """Give a table of regrets for each problem."""
    lines: list[str] = []
    budgets = sorted(options.budgets)
    titles = {cell.title: cell for cell in cells(options)}
    for title, first in titles.items():
        rows = []
        for method in options.methods:
            texts = [
                cell_text(regrets(log, cell, method, options).values())
                for cell in (Cell(first.problem, first.dimension, first.sigma, b) for b in budgets)
            ]
            if any(texts):
                rows.append([method, *texts])
        what = PROBLEMS[first.problem].what
        header = ["regret: median [95 %] (mean)", *[f"{budget:,}" for budget in budgets]]
        lines += ["", f"**{title}**: {what}.", "", *table(header, rows)]
    return lines


def gaps(
    log: Log, options: argparse.Namespace, reasons: dict[tuple[str, str, int], str]
) -> list[str]:
    """Say what was not run, what was cut off and what failed."""
    budgets_of: dict[tuple[str, str], set[int]] = defaultdict(set)
    for (method, _, budget), reason in reasons.items():
        budgets_of[method, reason].add(budget)
    methods_of: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (method, reason), budgets in budgets_of.items():
        at = ", ".join(f"{budget:,}" for budget in sorted(budgets))
        methods_of[reason, at].append(method)
    lines = [
        f"- Not run at {at} on some or all problems, as each {reason}: {'; '.join(methods)}."
        if reason != TIME_UP
        else f"- Not run at {at} on some or all problems, as {reason}: {'; '.join(methods)}."
        for (reason, at), methods in methods_of.items()
    ]
    failures: dict[tuple[str, str], int] = defaultdict(int)
    for cell in cells(options):
        for run in runs_of(cell, options):
            record = log.records.get(run.key)
            if record is not None and record["status"] != "ok":
                failures[run.method, record["status"]] += 1
    lines += [
        f"- {method}: {count} runs ended with `{' '.join(status.split())[:160]}`."
        for (method, status), count in failures.items()
    ]
    return ["", "Not run, cut off or failed:", "", *lines] if lines else []


def page(
    log: Log, options: argparse.Namespace, reasons: dict[tuple[str, str, int], str]
) -> list[str]:
    """Give the section of the page of results."""
    short = {name: method for name, method in peers.METHODS.items() if name in options.methods}
    return [
        *summary(log, options),
        "",
        f"Ratios: regret of a method over that of {OURS}, which is told the start, the scale and "
        "the budget; median over problems, dimensions, noises, budgets and seeds, paired by all of "
        "them, with a distribution-free 95 % interval. Wins and losses are those of "
        f"{OURS}, by the medians of a problem at a budget. Tuned methods are told constants of the "
        "function.",
        *details(log, options),
        *gaps(log, options, reasons),
        "",
        "How each is used:",
        "",
        *[f"- {name}: {method.how}" for name, method in short.items()],
    ]


# The command -------------------------------------------------------------------------------------


def _numbers(kind: Callable[[float], Any]) -> Callable[[str], list[Any]]:
    return lambda text: [kind(float(part)) for part in text.split(",")]


def _names(known: Iterable[str], separator: str) -> Callable[[str], list[str]]:
    allowed = list(known)

    def read(text: str) -> list[str]:
        names = [part.strip() for part in text.split(separator)]
        for name in names:
            if name not in allowed:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {separator.join(allowed)}")
        return names

    return read


QUICK = ["--problems", "skew,rastrigin", "--budgets", "300,1000", "--seeds", "2"]
QUICK += ["--minutes", "0.8", "--cap", "10"]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    read_problems = _names(PROBLEMS, ",")
    default = read_problems(DEFAULT_PROBLEMS)
    add("--problems", type=read_problems, default=default, help="by comma")
    add("--dims", type=_numbers(int), default=[10], help="by comma")
    add("--sigmas", type=_numbers(float), default=[1.0], help="noise, where it can be set")
    add("--budgets", type=_numbers(int), default=[300, 1_000, 10_000], help="by comma")
    read_methods = _names(peers.METHODS, ";")
    add("--methods", type=read_methods, default=list(peers.METHODS), help="by semicolon")
    add("--seeds", type=int, default=5, help="runs per method and problem")
    add("--cap", type=float, default=20.0, help="most seconds of CPU time of a run")
    add("--minutes", type=float, default=14.0, help="no run starts after so many")
    add("--jobs", type=int, default=2, help="processes")
    add("--log", type=Path, default=LOG, help="JSON lines to go on from")
    add("--fresh", action="store_true", help="forget the log")
    add("--quick", action="store_true", help="a minute; the page stays")
    add("--dry-run", action="store_true", help="the page stays")
    add("--section", default="peers", help="part of the page to rewrite")
    options = parser.parse_args(arguments)
    if options.quick:
        fast = [name for name, method in peers.METHODS.items() if not method.costly]
        given = list(sys.argv[1:] if arguments is None else arguments)
        given.remove("--quick")
        options = parser.parse_args([*QUICK, "--methods", ";".join(fast), "--dry-run", *given])
        if options.log == LOG:
            options.log = LOG.with_stem(LOG.stem + "-quick")
    if OURS not in options.methods:
        options.methods.insert(0, OURS)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and write its page."""
    # Processes share the cores; they must not take more than one each.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    options = parse(arguments)
    if options.fresh:
        options.log.unlink(missing_ok=True)
    log = Log(options.log)
    given = sys.argv[1:] if arguments is None else list(arguments)
    command = shlex.join(["python", "packages/zeroth/benchmarks/bench_peers.py", *given])
    libraries = ("cma", "nevergrad", "noisyopt", "cobyqa", "optuna", "botorch", "coco-experiment")
    how = (
        f"{options.seeds} seeds ({min(options.seeds, COSTLY_SEEDS)} for BoTorch and Optuna); "
        + ", ".join(f"{name} {version(name)}" for name in libraries)
    )
    head = preamble(command, how)
    lines = [*head, *page(log, options, do_all(options, log))]
    print("\n".join(lines))
    if not options.dry_run:
        write_section(RESULTS, options.section, lines)


if __name__ == "__main__":
    main()
