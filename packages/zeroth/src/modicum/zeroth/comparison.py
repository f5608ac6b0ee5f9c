"""Methods on problems at equal budget: one row per run.

Names problems (`PROBLEMS`) and methods (`METHODS`), runs one of each with `measure`, and says what
the regret of the recommended point is. Methods that know constants of the function get them from
the problem. Knows no file and draws nothing; whoever has other methods hands them in.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from modicum.zeroth import problems
from modicum.zeroth.arguments import one_of
from modicum.zeroth.minimize import method_class
from modicum.zeroth.optimizer import Optimizer
from modicum.zeroth.problems.problem import Problem

__all__ = ["METHODS", "PROBLEMS", "Case", "Row", "case", "largest_curvature", "measure"]

BATCH = 32
"""Samples of a mini-batch in the problem ``logreg``."""

FAR = 3.0
"""Distance of the optimum in the problem ``hypot``."""

CONDITION = 2
"""Decimal orders between the curvatures of the problem ``stretched``."""

SEGMENT = np.linspace(0.0, 1.0, 9)
"""Where between start and optimum the largest curvature is looked for."""

_NOISE, _METHOD = 0, 1

Method = Callable[["Case", int, int], tuple[np.ndarray, float]]
"""``method(case, budget, seed) -> (x, predicted regret)``."""


@dataclass(frozen=True)
class Case:
    """A problem with its noise.

    Attributes
    ----------
    problem
        The exact function.
    noisy
        ``noisy(seed)`` gives a vectorised noisy function.
    noise
        Standard deviation of one value at the optimum.
    """

    problem: Problem
    noisy: Callable[[int], Callable[[Any], Any]]
    noise: float


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes
    ----------
    problem, method
        Their names.
    dimension, sigma, budget, seed
        The setting.
    regret
        Exact, of the recommended point.
    predicted_regret
        What the method said; nan where it says nothing.
    evaluations
        Counted around the function.
    seconds
        Of the whole run.
    """

    problem: str
    method: str
    dimension: int
    sigma: float
    budget: int
    seed: int
    regret: float
    predicted_regret: float
    evaluations: int
    seconds: float


def _skew(dimension: int, budget: int, rng: int) -> Problem:
    return problems.skew(dimension, rng=rng)


def _stretched(dimension: int, budget: int, rng: int) -> Problem:
    scales = np.logspace(0, CONDITION, dimension)
    return problems.skew(dimension, scales=scales, rotation=True, rng=rng)


def _hard(dimension: int, budget: int, rng: int) -> Problem:
    return problems.lower_bound_instance(dimension, budget=budget, rng=rng)


def _quadratic(dimension: int, budget: int, rng: int) -> Problem:
    return problems.quadratic(dimension, rng=rng)


def _hypot(dimension: int, budget: int, rng: int) -> Problem:
    return problems.hypot(dimension, shift=FAR, rng=rng)


def _logreg(dimension: int, budget: int, rng: int) -> Problem:
    return problems.synthetic_logistic(dimension, rng=rng)


def _rastrigin(dimension: int, budget: int, rng: int) -> Problem:
    return problems.rastrigin(dimension, rng=rng)


PROBLEMS: dict[str, Callable[[int, int, int], Problem]] = {
    "skew": _skew,
    "stretched": _stretched,
    "hard": _hard,
    "quadratic": _quadratic,
    "hypot": _hypot,
    "logreg": _logreg,
    "rastrigin": _rastrigin,
}
"""By name ``(dimension, budget, rng) -> problem``: the skew function, the same with curvatures over
two orders of magnitude, the instance of the lower bound, a parabola, a function of unbounded
curvature three lengths away, logistic regression on mini-batches, and one with many minima."""


def case(name: str, dimension: int, sigma: float, budget: int, seed: int = 0) -> Case:
    """Give a problem with its noise.

    Parameters
    ----------
    name
        Key of `PROBLEMS`.
    dimension
        Number of variables.
    sigma
        Standard deviation of the Gaussian noise; ``logreg`` has the noise of its mini-batches
        instead.
    budget
        Evaluations that a run will have, on which ``hard`` depends.
    seed
        Of what is random in the problem: where the optimum is, rotations, data.

    Raises
    ------
    ValueError
        If there is no such problem.
    """
    problem = PROBLEMS[one_of("problem", name, PROBLEMS)](dimension, budget, seed)
    if isinstance(problem, problems.Logistic):
        noise = problem.minibatch(BATCH).noise(problem.optimum)
        return Case(problem, lambda seed: problem.minibatch(BATCH, rng=seed), noise)
    return Case(problem, lambda seed: problem.noisy(sigma, rng=seed), float(sigma))


def largest_curvature(problem: Problem) -> float:
    """Give the largest eigenvalue of the Hessian between start and optimum."""
    points = problem.start + SEGMENT[:, None] * (problem.optimum - problem.start)
    return float(np.linalg.eigvalsh(np.asarray(problem.hessian(points))).max())


def constants(found: Case) -> dict[str, float]:
    """Give what a method that knows the function's constants is told."""
    known = {
        "noise": found.noise,
        "strong_convexity": found.problem.strong_convexity,
        "hessian_lipschitz": found.problem.hessian_lipschitz,
    }
    # The Hessian of a parabola does not change, and no radius is too large.
    return {name: value for name, value in known.items() if value > 0}


def _spend(optimizer: Optimizer, found: Case, seed: int) -> tuple[np.ndarray, float]:
    recommendation = optimizer.run(found.noisy(_stream(seed, _NOISE)))
    return np.asarray(recommendation.x), float(recommendation.predicted_regret)


def _stream(seed: int, purpose: int) -> int:
    return int(np.random.SeedSequence([seed, purpose]).generate_state(1)[0])


def _knowing(name: str, *, known: bool = False, smooth: bool = False, **options: Any) -> Method:
    """Give a method that is told the function's constants, or nothing."""

    def run(found: Case, budget: int, seed: int) -> tuple[np.ndarray, float]:
        told: dict[str, Any] = constants(found) if known else {}
        if smooth:
            told["smoothness"] = largest_curvature(found.problem)
        start = found.problem.start
        rng = _stream(seed, _METHOD)
        optimizer = method_class(name)(start, budget, scale=1.0, rng=rng, **told, **options)
        return _spend(optimizer, found, seed)

    return run


METHODS: dict[str, Method] = {
    "adaptive": _knowing("adaptive"),
    "adaptive-known": _knowing("adaptive", known=True),
    "two-stage": _knowing("two-stage", known=True),
    "zosgd": _knowing("zosgd"),
    "zosgd-tuned": _knowing("zosgd", known=True, smooth=True),
    "spsa": _knowing("spsa"),
    "spsa-asymptotic": _knowing("spsa", gains="asymptotic"),
    "kernel": _knowing("kernel"),
    "mezo": _knowing("mezo"),
}
"""By name ``(case, budget, seed) -> (x, predicted regret)``. ``-known`` and ``two-stage`` are told
the noise, the strong convexity and the Lipschitz constant of the Hessian; ``-tuned`` the largest
curvature as well; all others only that the optimum is about a length of 1 away."""


def measure(
    problem: str,
    method: str,
    *,
    dimension: int,
    sigma: float,
    budget: int,
    seed: int,
    methods: Mapping[str, Method] = METHODS,
) -> Row:
    """Run one method on one problem once.

    Parameters
    ----------
    problem, method
        Keys of `PROBLEMS` and `methods`.
    dimension, sigma, budget
        The setting.
    seed
        Of problem, noise and method, which have streams of their own.
    methods
        What there is to choose from.

    Returns
    -------
    Row
        The regret and what it cost.

    Raises
    ------
    ValueError
        For names that do not exist, and settings that the method refuses.
    """
    run = methods[one_of("method", method, methods)]
    found = case(problem, dimension, sigma, budget, seed)
    counted = _Counted(found)
    began = time.perf_counter()
    x, predicted = run(counted.case, budget, seed)
    seconds = time.perf_counter() - began
    regret = float(found.problem.regret(x))
    return Row(
        problem, method, dimension, sigma, budget, seed, regret, predicted, counted.calls, seconds
    )


class _Counted:
    """A case whose noisy functions count the points that they are asked for."""

    def __init__(self, found: Case) -> None:
        self.calls = 0

        def noisy(seed: int) -> Callable[[Any], Any]:
            fun = found.noisy(seed)

            def counting(points: Any) -> Any:
                self.calls += 1 if points.ndim == 1 else len(points)
                return fun(points)

            return counting

        self.case = Case(found.problem, noisy, found.noise)
