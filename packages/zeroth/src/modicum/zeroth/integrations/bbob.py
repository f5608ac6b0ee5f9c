"""Functions 101 to 112 of COCO's suite ``bbob-noisy`` as problems.

Their noise multiplies how far a value lies above the minimum, or adds outliers, so that it fades
towards the optimum; evaluations go through COCO, exact values are computed here. The interface of
COCO tells the optimum of every function but exact values of none; those of the sphere and of
Rosenbrock's function follow from it, those of functions 113 to 130 do not.

Needs coco-experiment (``pip install "modicum-zeroth[bbob]"``).
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_torch_array

from modicum.zeroth.problems import Problem
from modicum.zeroth.problems.problem import Array, like

SUITE = "bbob-noisy"
FUNCTIONS = range(101, 113)
DIMENSIONS = (2, 3, 5, 10, 20, 40)
INSTANCES = range(1, 16)
BOUND = 5.0
"""The suite's region of interest is ``[-BOUND, BOUND]^d``; leaving it is penalised."""
PENALTY = 100.0

SHOWN = 1e-8 * 1.01
"""What COCO adds to a value that it shows without noise, being at the minimum."""
CAUCHY = {103: 10.0, 106: 10.0, 109: 1000.0, 112: 1000.0}
"""What the functions with outliers add to every value."""

NOISE = ("Gaussian", "uniform", "Cauchy")
OPTIMUM_FILE = "._bbob_problem_best_parameter.txt"
"""Where COCO writes the optimum, in the folder it is run in."""
MOST_SKIPPED = 20_000


@dataclass(frozen=True, kw_only=True, eq=False)
class NoisyBBOB(Problem):
    """A function of the suite; `noisy_bbob` makes it.

    `strong_convexity` and `hessian_lipschitz` are nan for Rosenbrock's function, which is not
    convex, and 2 and 0 for the sphere within the bounds; the penalty outside changes its curvature
    at once, from which `hessian_lipschitz` and `hessian` look away.

    Parameters
    ----------
    function, instance
        Numbers in the suite.
    """

    function: int
    instance: int

    @property
    def bounds(self) -> list[tuple[float, float]]:
        """The suite's region of interest, one ``(low, high)`` per variable."""
        return [(-BOUND, BOUND)] * self.dimension

    def evaluations(self, rng: Any = None) -> "NoisyEvaluations":
        """Give the function as COCO evaluates it, with the noise of the suite.

        Parameters
        ----------
        rng
            None, an integer or a `numpy.random.Generator`: how many of the suite's random numbers
            to skip. COCO draws the same numbers for every problem that it makes.
        """
        return NoisyEvaluations(self, rng)

    @property
    def _rosenbrock(self) -> bool:
        return (self.function - FUNCTIONS.start) // len(NOISE) % 2 == 1

    @property
    def _stretch(self) -> float:
        return max(1.0, self.dimension**0.5 / 8)

    def _fun(self, x: Array) -> Array:
        xp = array_namespace(x)
        z = x - like(self.optimum, x)
        outside = xp.clip(xp.abs(x) - BOUND, 0, None)
        penalty = PENALTY * (outside * outside).sum(-1) + self.minimum
        if not self._rosenbrock:
            return (z * z).sum(-1) + penalty
        # With z = 1 + t: z_j² - z_(j+1) without cancellation at the optimum, t = 0.
        t = self._stretch * z
        first, second = t[..., :-1], t[..., 1:]
        bend = first * (2 + first) - second
        return (100 * bend * bend + first * first).sum(-1) + penalty

    def _gradient(self, x: Array) -> Array:
        xp = array_namespace(x)
        z = x - like(self.optimum, x)
        outside = xp.clip(xp.abs(x) - BOUND, 0, None)
        penalty = 2 * PENALTY * outside * xp.sign(x)
        if not self._rosenbrock:
            return 2 * z + penalty
        t = self._stretch * z
        first, second = t[..., :-1], t[..., 1:]
        bend = first * (2 + first) - second
        edge = xp.zeros_like(t[..., :1])
        slope = xp.concat([400 * bend * (1 + first) + 2 * first, edge], axis=-1)
        return self._stretch * (slope - xp.concat([edge, 200 * bend], axis=-1)) + penalty

    def _hessian(self, x: Array) -> Array:
        xp = array_namespace(x)
        z = x - like(self.optimum, x)
        eye = like(np.eye(self.dimension), x)
        if not self._rosenbrock:
            return 2 * eye + 0 * z[..., None]
        t = self._stretch * z
        first, second = t[..., :-1], t[..., 1:]
        bend = first * (2 + first) - second
        edge = xp.zeros_like(t[..., :1])
        own = xp.concat([400 * bend + 800 * (1 + first) ** 2 + 2, edge], axis=-1)
        own = own + xp.concat([edge, edge + 200 + 0 * first], axis=-1)
        side = xp.concat([-400 * (1 + first), edge], axis=-1)[..., None] * like(
            np.eye(self.dimension, k=1), x
        )
        whole = own[..., None] * eye + side + xp.matrix_transpose(side)
        return self._stretch**2 * whole


class NoisyEvaluations:
    """Values that COCO evaluates one after another: ``fun(x) -> y``, vectorised.

    Parameters
    ----------
    problem
        Which function.
    rng
        As in `NoisyBBOB.evaluations`.
    """

    def __init__(self, problem: NoisyBBOB, rng: Any = None) -> None:
        self.problem = problem
        # COCO's suite must outlive its problem.
        self._suite, self._evaluate = _open(problem.function, problem.dimension, problem.instance)
        skipped = int(np.random.default_rng(rng).integers(MOST_SKIPPED))
        for _ in range(skipped):
            self._evaluate(problem.start)

    def __call__(self, x: Array) -> Array:
        """Give one noisy value for each of the points ``(…, d)``."""
        x = self.problem._points(x)
        points = x.detach().cpu().numpy() if is_torch_array(x) else x
        rows = points.reshape(-1, self.problem.dimension).astype(np.float64)
        values = np.array([self._evaluate(row) for row in rows]).reshape(points.shape[:-1])
        return like(values, x) if is_torch_array(x) else values[()]


def noisy_bbob(function: int, dimension: int, instance: int = 1) -> NoisyBBOB:
    """Make a function of the suite ``bbob-noisy``.

    Its minimum value is that without noise; the region of interest is ``[-5, 5]^d``. Start at the
    origin.

    Parameters
    ----------
    function
        101 to 103 sphere, 104 to 106 Rosenbrock's function, with moderate noise: Gaussian, uniform,
        Cauchy; 107 to 112 the same with severe noise.
    dimension
        2, 3, 5, 10, 20 or 40.
    instance
        1 to 15: shifts in the variables and in the value.

    Raises
    ------
    ValueError
        For what the suite does not have and for functions whose exact values cannot be known.
    ImportError
        Without coco-experiment.
    """
    for name, value, allowed in (
        ("function", function, FUNCTIONS),
        ("dimension", dimension, DIMENSIONS),
        ("instance", instance, INSTANCES),
    ):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, not {value!r}")
    _suite, evaluate = _open(function, dimension, instance)
    optimum = _optimum(evaluate, dimension)
    minimum = float(evaluate(optimum)) - SHOWN - CAUCHY.get(function, 0.0)
    sphere = (function - FUNCTIONS.start) // len(NOISE) % 2 == 0
    return NoisyBBOB(
        name=f"bbob-noisy f{function}",
        optimum=optimum,
        # The suite's minima have two decimals; what is left are rounding errors of the difference.
        minimum=round(minimum, 2),
        strong_convexity=2.0 if sphere else np.nan,
        hessian_lipschitz=0.0 if sphere else np.nan,
        start=np.zeros(dimension),
        function=int(function),
        instance=int(instance),
    )


def _cocoex() -> ModuleType:
    try:
        import cocoex
    except ImportError as error:
        raise ImportError(
            'the suite bbob-noisy comes with coco-experiment: pip install "modicum-zeroth[bbob]"'
        ) from error
    return cocoex


def _open(function: int, dimension: int, instance: int) -> tuple[Any, Any]:
    which = f"dimensions: {dimension} function_indices: {function - FUNCTIONS.start + 1}"
    suite = _cocoex().Suite(SUITE, f"instances: {instance}", which)
    return suite, suite.get_problem(0)


def _optimum(evaluate: Any, dimension: int) -> np.ndarray:
    """Read the optimum, which COCO writes into a file of the current folder and nowhere else.

    The process is in another folder for that moment.
    """
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            evaluate._best_parameter("print")
            return np.loadtxt(OPTIMUM_FILE).reshape(dimension)
        finally:
            os.chdir(here)
