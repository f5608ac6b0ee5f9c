"""Optimisers that the benchmark runs, each the way its own documentation recommends under noise.

An adapter takes an `Objective` (noisy values, counted, with a hard limit) and a `Task` (start,
length scale, budget, seed, region) and gives the point that its library recommends. Every value
that a library asks for counts, also those of pilot runs and re-evaluations. Where the limit stops a
library in the middle, the adapter gives what the library would recommend at that moment.

All know the start and the length `Task.scale` over which the optimum may lie away from it, as a
standard deviation ``scale/sqrt(d)`` per coordinate or as an initial radius or box; methods that are
said to be tuned also know the constants of the function, and nobody knows anything else. Libraries
are imported by the adapters that need them.
"""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from modicum.core.device import numpy_generator
from modicum.zeroth.plan import minimum_budget


class Spent(Exception):
    """The budget is spent."""


class TooSlow(Exception):
    """A run took more CPU time than it may."""


class Objective:
    """Noisy values with a counter.

    Parameters
    ----------
    evaluate
        Vectorised function of points ``(…, d)``.
    budget
        Values there are; asking for one more raises `Spent`.
    seconds
        CPU time after which asking raises `TooSlow`.
    """

    def __init__(
        self, evaluate: Callable[[np.ndarray], np.ndarray], budget: int, seconds: float = math.inf
    ) -> None:
        self.evaluate = evaluate
        self.budget = budget
        self.spent = 0
        self._end = time.process_time() + seconds

    @property
    def left(self) -> int:
        """Values left."""
        return self.budget - self.spent

    def __call__(self, x: Any) -> float:
        """Give one value at one point ``(d,)``."""
        self._take(1)
        return float(self.evaluate(np.array(x, dtype=np.float64)))

    def many(self, x: Any) -> np.ndarray:
        """Give one value for each of the points ``(n, d)``."""
        x = np.array(x, dtype=np.float64)
        self._take(len(x))
        return np.asarray(self.evaluate(x))

    def _take(self, count: int) -> None:
        if self.spent + count > self.budget:
            raise Spent
        if time.process_time() > self._end:
            raise TooSlow
        self.spent += count


@dataclass(frozen=True)
class Task:
    """What a method is told.

    Parameters
    ----------
    start
        First point ``(d,)``.
    scale
        Length over which the optimum may lie away from it.
    budget
        Number of values.
    seed
        Of the method's own randomness.
    bounds
        Region ``(d, 2)`` that is known to hold the optimum, or None.
    constants
        ``strong_convexity``, ``smoothness``, ``hessian_lipschitz`` and ``noise`` for methods that
        are tuned, None where the function has none.
    """

    start: np.ndarray
    scale: float
    budget: int
    seed: int
    bounds: np.ndarray | None = None
    constants: dict[str, float] | None = None

    @property
    def dimension(self) -> int:
        """Number of variables."""
        return len(self.start)

    @property
    def deviation(self) -> float:
        """Standard deviation per coordinate of where the optimum may lie."""
        return self.scale / math.sqrt(self.dimension)

    @property
    def box(self) -> np.ndarray:
        """Region ``(d, 2)`` for methods that must have one: the bounds, or a cube."""
        if self.bounds is not None:
            return self.bounds
        return self.start[:, None] + BOX * self.scale * np.array([-1.0, 1.0])

    @property
    def small_seed(self) -> int:
        """A seed for libraries that take 31 bits, never 0."""
        return int(numpy_generator(self.seed, "peer").integers(1, 2**31 - 1))


BOX = 1.5
"""Half the side of the cube in units of the scale, for methods that need a box: they run on
problems whose optimum lies within 1."""

Run = Callable[[Objective, Task], np.ndarray]


@dataclass(frozen=True)
class Method:
    """An optimiser of the benchmark.

    Parameters
    ----------
    run
        Spends the objective and gives the recommended point.
    tuned
        Whether it needs constants of the function.
    library
        Module that it comes from.
    least
        Gives the smallest budget that it takes in so many dimensions.
    most
        Largest budget it is run at.
    costly
        Whether it takes a second or more per hundred values at small budgets already.
    """

    run: Run
    tuned: bool = False
    library: str = "modicum.zeroth.minimize"
    least: Callable[[int], float] = lambda dimension: 0
    most: float = math.inf
    costly: bool = False

    @property
    def how(self) -> str:
        """How the library is used, the docstring of its adapter."""
        return " ".join((self.run.__doc__ or "").split())


# This package ------------------------------------------------------------------------------------


def _minimize(objective: Objective, task: Task, method: str, **settings: Any) -> np.ndarray:
    from modicum.zeroth.errors import ZerothWarning
    from modicum.zeroth.minimize import minimize

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZerothWarning)
        found = minimize(
            objective.many,
            task.start,
            task.budget,
            scale=task.scale,
            method=method,
            bounds=None if task.bounds is None else task.bounds.tolist(),
            vectorized=True,
            rng=task.seed,
            return_trace=False,
            **settings,
        )
    return np.asarray(found.x)


def _least(dimension: int) -> float:
    from modicum.zeroth.methods.adaptive import Adaptive

    return Adaptive(np.zeros(dimension), 10**9).minimum_budget()


def _known(task: Task) -> dict[str, float]:
    constants = dict(task.constants or {})
    constants.pop("smoothness", None)
    return constants


def adaptive(objective: Objective, task: Task) -> np.ndarray:
    """Call `minimize` as it stands: start, budget, scale and, where there are any, bounds."""
    return _minimize(objective, task, "adaptive")


def adaptive_known(objective: Objective, task: Task) -> np.ndarray:
    """Call `minimize` with the three constants."""
    return _minimize(objective, task, "adaptive", **_known(task))


def two_stage(objective: Objective, task: Task) -> np.ndarray:
    """Run the two-stage algorithm, which needs the three constants."""
    return _minimize(objective, task, "two-stage", **_known(task))


def zosgd(objective: Objective, task: Task) -> np.ndarray:
    """Run averaged two-point gradient descent without constants; steps from probing pairs."""
    return _minimize(objective, task, "zosgd", options=WHOLE)


def zosgd_tuned(objective: Objective, task: Task) -> np.ndarray:
    """Run averaged two-point gradient descent with all constants and the largest curvature."""
    constants = task.constants or {}
    options = {"smoothness": constants["smoothness"], **WHOLE}
    return _minimize(objective, task, "zosgd", options=options, **_known(task))


def spsa_practical(objective: Objective, task: Task) -> np.ndarray:
    """Run SPSA with exponents .602 and .101 and Spall's rule for the factors."""
    return _minimize(objective, task, "spsa", options={"gains": "practical", **WHOLE})


def spsa_asymptotic(objective: Objective, task: Task) -> np.ndarray:
    """Run SPSA with exponents 1 and 1/6 and Spall's rule for the factors."""
    return _minimize(objective, task, "spsa", options={"gains": "asymptotic", **WHOLE})


def kernel(objective: Objective, task: Task) -> np.ndarray:
    """Run averaged gradient descent with a smoothing kernel of order 3, without constants."""
    return _minimize(objective, task, "kernel", options=WHOLE)


WHOLE = {"final_share": 0.0}
"""Baselines spend nothing on the value at their point: the benchmark asks for the point alone."""


# pycma -------------------------------------------------------------------------------------------

FACTOR = 10
"""Of the larger population."""
RE_EVALUATIONS = [1, 1, 100]
"""Least, first and largest number of values per point of the noise handler."""


def _strategy(task: Task, population: int | None = None) -> Any:
    import cma

    options: dict[str, Any] = {"verbose": -9, "verb_log": 0, "seed": task.small_seed}
    if task.bounds is not None:
        options["bounds"] = task.bounds.T.tolist()
    if population is not None:
        options["popsize"] = population
    return cma.CMAEvolutionStrategy(task.start, task.deviation, options)


def _evolve(objective: Objective, strategy: Any) -> np.ndarray:
    # Its conditions to stop are for functions without noise; the budget is the only one here.
    with contextlib.suppress(Spent):
        while True:
            x = strategy.ask()
            strategy.tell(x, objective.many(x).tolist())
    return np.asarray(strategy.result.xfavorite)


def cma_es(objective: Objective, task: Task) -> np.ndarray:
    """Run pycma by ask and tell, default population, standard deviation scale/sqrt(d).

    Recommends ``result.xfavorite``, the mean of the distribution, as its documentation says for
    noisy functions. Runs until the budget is spent, whatever its own conditions to stop.
    """
    return _evolve(objective, _strategy(task))


def cma_large(objective: Objective, task: Task) -> np.ndarray:
    """Run pycma with ten times the default population, its usual remedy against noise.

    Otherwise as with the default population; where the budget is less than five such generations,
    a fifth of the budget.
    """
    default = 4 + int(3 * math.log(task.dimension))
    size = min(FACTOR * default, max(default, objective.left // 5))
    return _evolve(objective, _strategy(task, size))


def cma_noise_handler(objective: Objective, task: Task) -> np.ndarray:
    """Run pycma with ``NoiseHandler(d, [1, 1, 100])`` in the loop of its documentation.

    Points are re-evaluated and the step size raised where ranks change; values are medians of up
    to 100 evaluations. Recommends the mean of the distribution.
    """
    import cma

    strategy = _strategy(task)
    handler = cma.NoiseHandler(task.dimension, RE_EVALUATIONS)
    with contextlib.suppress(Spent):
        while True:
            x, values = strategy.ask_and_eval(objective, evaluations=handler.evaluations)
            strategy.tell(x, values)
            strategy.sigma *= handler(x, values, objective, strategy.ask)
    return np.asarray(strategy.result.xfavorite)


# nevergrad ---------------------------------------------------------------------------------------


def _nevergrad(objective: Objective, task: Task, name: str) -> np.ndarray:
    import nevergrad

    array = nevergrad.p.Array(init=task.start).set_mutation(sigma=task.deviation)
    if task.bounds is not None:
        array.set_bounds(*task.bounds.T)
    array.function.deterministic = False
    array.random_state = np.random.RandomState(task.small_seed)
    optimizer = nevergrad.optimizers.registry[name](array, budget=task.budget, num_workers=1)
    for _ in range(task.budget):
        candidate = optimizer.ask()
        optimizer.tell(candidate, objective(candidate.value))
    return np.asarray(optimizer.provide_recommendation().value)


def nevergrad_tbpsa(objective: Objective, task: Task) -> np.ndarray:
    """Run nevergrad's TBPSA, which its documentation recommends for noise.

    Standard deviation scale/sqrt(d), function declared not to be deterministic; recommends
    ``provide_recommendation()``, for TBPSA the mean of the distribution.
    """
    return _nevergrad(objective, task, "TBPSA")


def nevergrad_ngopt(objective: Objective, task: Task) -> np.ndarray:
    """Run nevergrad's NGOpt, which chooses an algorithm, the function declared not deterministic.

    Standard deviation scale/sqrt(d); recommends ``provide_recommendation()``.
    """
    return _nevergrad(objective, task, "NGOpt")


def nevergrad_spsa(objective: Objective, task: Task) -> np.ndarray:
    """Run nevergrad's SPSA; its gains are fixed in the code (c = 0.1, a = 1e-5) and cannot be set.

    Standard deviation scale/sqrt(d) is the unit of its variables; recommends
    ``provide_recommendation()``, the average of the iterates.
    """
    return _nevergrad(objective, task, "SPSA")


def nevergrad_one_plus_one(objective: Objective, task: Task) -> np.ndarray:
    """Run nevergrad's OptimisticNoisyOnePlusOne, an evolution strategy with re-evaluations.

    Standard deviation scale/sqrt(d); recommends ``provide_recommendation()``, the point with the
    lowest pessimistic value.
    """
    return _nevergrad(objective, task, "OptimisticNoisyOnePlusOne")


# noisyopt ----------------------------------------------------------------------------------------

PROBES = 10
"""Pairs from which the gains of noisyopt's SPSA are chosen."""
FIRST_STEP = 0.1
"""Mean change of a coordinate in its first step, in units of the scale."""


@contextlib.contextmanager
def _global_seed(seed: int) -> Iterator[None]:
    """Seed NumPy's global state, from which noisyopt draws, and put it back."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)


def noisyopt_spsa(objective: Objective, task: Task) -> np.ndarray:
    """Run noisyopt's minimizeSPSA with factors after Spall 1998, as its documentation says.

    Exponents are its defaults, .602 and .101; c is the scale, its default where that is 1; a such
    that the first step changes a coordinate by a tenth of the scale, from ten pairs, which count.
    ``paired=False``; recommends ``x``, the last iterate.
    """
    from noisyopt import minimizeSPSA

    rng = numpy_generator(task.seed, "probes")
    probes = min(PROBES, task.budget // 20)
    c = task.scale
    signs = rng.choice([-1.0, 1.0], (probes, task.dimension))
    slope = objective.many(task.start + c * signs) - objective.many(task.start - c * signs)
    magnitude = float(np.abs(slope).mean()) / (2 * c)
    # One value is for the function at the end, which noisyopt reports.
    steps = (objective.left - 1) // 2
    a = FIRST_STEP * task.scale * (0.01 * steps + 1) ** 0.602 / magnitude
    with _global_seed(task.small_seed), np.errstate(all="ignore"):
        found = minimizeSPSA(
            objective, task.start.copy(), bounds=task.bounds, niter=steps, paired=False, a=a, c=c
        )
    return np.asarray(found.x)


def noisyopt_compass(objective: Objective, task: Task) -> np.ndarray:
    """Run noisyopt's minimizeCompass with error control: values repeated until they differ.

    Defaults (30 values per point at first, level .05), first pattern of the size of the scale,
    ``paired=False``, and a target size of 0 that the budget always comes before. Recommends the
    incumbent when the budget is spent.
    """
    from noisyopt import minimizeCompass

    with _global_seed(task.small_seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = minimizeCompass(
                objective,
                task.start.copy(),
                bounds=task.bounds,
                deltainit=task.scale,
                deltatol=0.0,
                paired=False,
            )
        except Spent as spent:
            return _local(spent, "minimizeCompass", "x")
    return np.asarray(found.x)


def _local(error: Exception, function: str, name: str) -> np.ndarray:
    """Read a variable of a function through which an exception came."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_name == function:
            return np.asarray(trace.tb_frame.f_locals[name])
        trace = trace.tb_next
    raise LookupError(f"{function} is not in the traceback") from error


# COBYQA ------------------------------------------------------------------------------------------

MODELS = 10
"""Interpolation sets that the values of the averaged variant make up."""


def _cobyqa(objective: Objective, task: Task, repeats: int) -> np.ndarray:
    from cobyqa import minimize
    from scipy.optimize import Bounds

    def mean(x: np.ndarray) -> float:
        return float(objective.many(np.tile(x, (repeats, 1))).mean())

    bounds = None if task.bounds is None else Bounds(*task.bounds.T)
    options = {"maxfev": objective.left // repeats, "radius_init": task.scale}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(minimize(mean, task.start, bounds=bounds, options=options).x)


def cobyqa(objective: Objective, task: Task) -> np.ndarray:
    """Run COBYQA with single values; its documentation has no advice for noise.

    First trust radius the scale, the rest by default. Recommends ``x``, the point with the least
    value; it may stop before the budget is spent.
    """
    return _cobyqa(objective, task, 1)


def cobyqa_averaged(objective: Objective, task: Task) -> np.ndarray:
    """Run COBYQA on means of so many values that the budget makes ten interpolation sets.

    Otherwise as with single values.
    """
    return _cobyqa(objective, task, max(1, task.budget // (MODELS * (2 * task.dimension + 1))))


# Optuna ------------------------------------------------------------------------------------------

FINAL_SHARE = 0.2
"""Share of the budget for re-evaluations of the best trials."""
MOST_FINALISTS, FEWEST_REPEATS = 10, 10
"""How many trials are evaluated again at most, and how often at least."""


def _optuna(objective: Objective, task: Task, sampler: Any) -> np.ndarray:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    box = task.box
    names = [f"x{j}" for j in range(task.dimension)]
    space = {
        name: optuna.distributions.FloatDistribution(*ends)
        for name, ends in zip(names, box, strict=True)
    }
    study = optuna.create_study(sampler=sampler)
    study.enqueue_trial(dict(zip(names, task.start, strict=True)))
    for _ in range(round((1 - FINAL_SHARE) * task.budget)):
        trial = study.ask(space)
        study.tell(trial, objective([trial.params[name] for name in names]))
    finalists = max(1, min(MOST_FINALISTS, objective.left // FEWEST_REPEATS))
    best = sorted(study.trials, key=lambda trial: trial.value)[:finalists]
    points = np.array([[trial.params[name] for name in names] for trial in best])
    repeats = objective.left // len(points)
    values = objective.many(np.repeat(points, repeats, 0)).reshape(len(points), repeats)
    return points[values.mean(1).argmin()]


def optuna_tpe(objective: Objective, task: Task) -> np.ndarray:
    """Run Optuna's multivariate TPE in a cube, the start as first trial.

    ``best_trial`` would be a lucky one; as Optuna's recipe says, the best trials are evaluated
    again: a fifth of the budget goes to the best ten (fewer where that is less than ten values
    each), and the one with the best mean of the new values is recommended.
    """
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import TPESampler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        sampler = TPESampler(multivariate=True, seed=task.small_seed)
    return _optuna(objective, task, sampler)


def optuna_gp(objective: Objective, task: Task) -> np.ndarray:
    """Run Optuna's GPSampler in a cube, which fits the noise, the start as first trial.

    Recommends as with TPE: a fifth of the budget for new values of the best trials.
    """
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import GPSampler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        sampler = GPSampler(seed=task.small_seed, deterministic_objective=False)
    return _optuna(objective, task, sampler)


# BoTorch -----------------------------------------------------------------------------------------

BATCH = 10
"""Points per fit of the Gaussian process."""
RESTARTS, RAW_SAMPLES = 4, 128
"""Of the optimisation of the acquisition function."""


def botorch_noisy_ei(objective: Objective, task: Task) -> np.ndarray:
    """Run BoTorch: SingleTaskGP with fitted noise and qLogNoisyExpectedImprovement in a cube.

    As in its tutorial for noisy functions: inputs normalised, values standardised, first 2 (d + 1)
    Sobol points and the start, then batches of ten. Recommends the minimiser of the posterior mean.
    """
    import torch
    from botorch.acquisition import PosteriorMean
    from botorch.acquisition.logei import qLogNoisyExpectedImprovement
    from botorch.optim import optimize_acqf
    from botorch.utils.sampling import draw_sobol_samples

    torch.manual_seed(task.small_seed)
    bounds = torch.from_numpy(np.ascontiguousarray(task.box.T))
    first = 2 * (task.dimension + 1)
    x = draw_sobol_samples(bounds, n=first, q=1, seed=task.small_seed).squeeze(1)
    x = torch.cat([torch.from_numpy(task.start)[None], x])[: objective.left]
    y = -torch.from_numpy(objective.many(x.numpy()))[:, None]
    search = {"num_restarts": RESTARTS, "raw_samples": RAW_SAMPLES}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while objective.left:
            model = _fitted(x, y, bounds)
            acquisition = qLogNoisyExpectedImprovement(model, x, prune_baseline=True)
            size = min(BATCH, objective.left)
            new, _ = optimize_acqf(acquisition, bounds, q=size, sequential=True, **search)
            x = torch.cat([x, new])
            y = torch.cat([y, -torch.from_numpy(objective.many(new.numpy()))[:, None]])
        model = _fitted(x, y, bounds)
        best, _ = optimize_acqf(PosteriorMean(model), bounds, q=1, **search)
    return best[0].numpy()


def _fitted(x: Any, y: Any, bounds: Any) -> Any:
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from botorch.models.transforms import Normalize, Standardize
    from gpytorch.mlls import ExactMarginalLogLikelihood

    model = SingleTaskGP(
        x,
        y,
        input_transform=Normalize(x.shape[1], bounds=bounds),
        outcome_transform=Standardize(1),
    )
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    return model


METHODS = {
    "adaptive": Method(adaptive, least=_least),
    "adaptive, known": Method(adaptive_known, tuned=True, least=_least),
    "two-stage": Method(two_stage, tuned=True, least=minimum_budget),
    "ZOSGD, tuned": Method(zosgd_tuned, tuned=True),
    "ZOSGD": Method(zosgd),
    "SPSA (.602, .101)": Method(spsa_practical),
    "SPSA (1, 1/6)": Method(spsa_asymptotic),
    "KernelZO": Method(kernel),
    "cma": Method(cma_es, library="cma"),
    "cma, population × 10": Method(cma_large, library="cma"),
    "cma, noise handler": Method(cma_noise_handler, library="cma"),
    "nevergrad TBPSA": Method(nevergrad_tbpsa, library="nevergrad"),
    "nevergrad NGOpt": Method(nevergrad_ngopt, library="nevergrad"),
    "nevergrad SPSA": Method(nevergrad_spsa, library="nevergrad"),
    "nevergrad OptimisticNoisy(1+1)": Method(nevergrad_one_plus_one, library="nevergrad"),
    "noisyopt SPSA": Method(noisyopt_spsa, library="noisyopt"),
    "noisyopt Compass": Method(noisyopt_compass, library="noisyopt"),
    "COBYQA": Method(cobyqa, library="cobyqa"),
    "COBYQA, averaged": Method(cobyqa_averaged, library="cobyqa"),
    "Optuna TPE": Method(optuna_tpe, library="optuna", most=1_000, costly=True),
    "Optuna GP": Method(optuna_gp, library="optuna", most=300, costly=True),
    "BoTorch noisy EI": Method(
        botorch_noisy_ei, library="botorch.acquisition", most=300, costly=True
    ),
}
