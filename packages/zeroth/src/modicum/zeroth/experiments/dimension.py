"""Random directions on a sphere against coordinate differences, each at its best radius.

At the minimum, with the Hessian known, the regret of one Newton step is half the squared error of
the gradient in the metric of the inverse Hessian. Both estimators get as many evaluations; that of
the sphere should cost in proportion to the dimension, that of coordinates to its power 5/3.

Legend: ``D`` dimensions, ``B`` resamples.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from modicum.core.device import numpy_generator
from modicum.core.experiment import Claim, Figure, Result, RunContext, Table
from modicum.core.stats import SlopeResult, bootstrap_interval
from modicum.zeroth import estimators, theory
from modicum.zeroth.experiments._regret import ends, exponent, resampled_means
from modicum.zeroth.problems import Skew, skew

DIMENSIONS = (4, 8, 16, 32, 64)
PAIRS, QUICK_PAIRS = 100_000, 10_000
COORDINATES, QUICK_COORDINATES = 768, 256
"""Seeds times dimension: small dimensions, whose regret scatters most, get most seeds."""

NOISE = 1.0
HESSIAN_LIPSCHITZ = 1.0
CURVATURE = 2.0
"""Of the test function at its minimum, in every direction."""

SPHERE_SLOPE, SPHERE_RANGE = 1.0, (0.9, 1.25)
COORDINATE_SLOPE, COORDINATE_RANGE = 5 / 3, (1.5, 1.85)
LEAST_RATIO = 5.0
FORMULA_RANGE = (0.85, 1.15)

Samples = dict[int, np.ndarray]
"""Regrets ``(seeds,)`` by dimension."""


def regret_of(gradient: np.ndarray) -> float:
    """Give the regret of the Newton step with this gradient from the minimum, Hessian known."""
    return float(gradient @ gradient) / (2 * CURVATURE)


def sphere_regret(problem: Skew, pairs: int, rng: np.random.Generator) -> float:
    """Estimate the gradient at the minimum from pairs on a sphere and give the regret."""
    radius = theory.radius(
        hessian_lipschitz=HESSIAN_LIPSCHITZ, noise=NOISE, dimension=problem.dimension, pairs=pairs
    )
    found = estimators.gradient(
        problem.noisy(NOISE, rng), problem.optimum, radius, pairs, rng=rng, vectorized=True
    )
    return regret_of(found.gradient)


def coordinate_regret(problem: Skew, pairs: int, rng: np.random.Generator) -> float:
    """Estimate the gradient at the minimum from as many coordinate differences."""
    samples = pairs // problem.dimension
    radius = theory.radius(
        "coordinate", hessian_lipschitz=HESSIAN_LIPSCHITZ, noise=NOISE, samples=samples
    )
    found = estimators.coordinate_gradient(
        problem.noisy(NOISE, rng), problem.optimum, radius, samples, vectorized=True
    )
    return regret_of(found.gradient)


def sphere_formula(dimension: int, pairs: int) -> float:
    """Give the exact regret of the sphere on a cubic."""
    terms = theory.predicted_regret(
        dimension=dimension,
        strong_convexity=CURVATURE,
        hessian_lipschitz=HESSIAN_LIPSCHITZ,
        noise=NOISE,
        pairs=pairs,
    )
    return float(terms.total)


def coordinate_formula(dimension: int, pairs: int) -> float:
    """Give the exact regret of coordinate differences on a cubic that is worst for them."""
    samples = pairs // dimension
    radius = theory.radius(
        "coordinate", hessian_lipschitz=HESSIAN_LIPSCHITZ, noise=NOISE, samples=samples
    )
    bias = theory.coordinate_bias_bound(hessian_lipschitz=HESSIAN_LIPSCHITZ, radius=radius)
    variance = theory.coordinate_variance(noise=NOISE, samples=samples, radius=radius)
    return float(dimension * (bias**2 + variance)) / (2 * CURVATURE)


METHODS: Mapping[str, tuple[Callable[..., float], Callable[[int, int], float]]] = {
    "sphere": (sphere_regret, sphere_formula),
    "coordinates": (coordinate_regret, coordinate_formula),
}


def measure(
    ctx: RunContext, pairs: int, coordinates: int, dimensions: Sequence[int] = DIMENSIONS
) -> dict[str, Samples]:
    """Give the regrets of both estimators by dimension."""
    found: dict[str, Samples] = {name: {} for name in METHODS}
    task = ctx.progress(len(METHODS) * len(dimensions), "dimensions")
    for dimension in dimensions:
        problem = skew(dimension, hessian_lipschitz=HESSIAN_LIPSCHITZ)
        for name, (regret, _) in METHODS.items():
            found[name][dimension] = np.array(
                [
                    regret(problem, pairs, numpy_generator(ctx.seed, name, dimension, index))
                    for index in range(max(2, coordinates // dimension))
                ]
            )
            task.advance(1)
    return found


def slope(samples: Samples, seed: int) -> SlopeResult:
    """Fit the exponent of the mean regret; the interval is that of a bootstrap over seeds."""
    rng = numpy_generator(seed, "slope")
    return exponent(list(samples), list(samples.values()), rng)


def claims(found: dict[str, Samples], pairs: int, seed: int) -> list[Claim]:
    """Hold the slopes, the ratio and the formula to what was said beforehand."""
    largest = max(found["sphere"])
    rng = numpy_generator(seed, "ratio")
    sphere, coordinates = found["sphere"][largest], found["coordinates"][largest]
    ratio = float(coordinates.mean() / sphere.mean())
    ratios_B = resampled_means(coordinates, rng) / resampled_means(sphere, rng)
    shares = [
        regrets.mean() / sphere_formula(dimension, pairs)
        for dimension, regrets in found["sphere"].items()
    ]
    share = float(np.exp(np.mean(np.log(shares))))
    share_B = np.exp(
        np.mean(
            [
                np.log(resampled_means(regrets, rng) / sphere_formula(dimension, pairs))
                for dimension, regrets in found["sphere"].items()
            ],
            axis=0,
        )
    )
    return [
        _slope_claim(
            "sphere_slope",
            "Regret of random directions on a sphere grows in proportion to the dimension.",
            SPHERE_SLOPE,
            slope(found["sphere"], seed),
            SPHERE_RANGE,
        ),
        _slope_claim(
            "coordinate_slope",
            "Regret of coordinate differences grows as the dimension to the power 5/3.",
            COORDINATE_SLOPE,
            slope(found["coordinates"], seed),
            COORDINATE_RANGE,
        ),
        Claim(
            "ratio",
            f"In {largest} dimensions coordinate differences have several times the regret.",
            "d^(2/3), up to a factor",
            ratio,
            ends(ratios_B),
            ratio >= LEAST_RATIO,
            "coordinates / sphere",
            f"Ratio of means; holds from {LEAST_RATIO:g} on. 95 %, bootstrap over seeds.",
        ),
        Claim(
            "formula",
            "The formula for the regret of the sphere is right.",
            1.0,
            share,
            ends(share_B),
            FORMULA_RANGE[0] <= share <= FORMULA_RANGE[1],
            "measured / formula",
            f"Geometric mean over dimensions; holds within {FORMULA_RANGE[0]} to "
            f"{FORMULA_RANGE[1]}. 95 %, bootstrap over seeds.",
        ),
    ]


def _slope_claim(
    name: str, statement: str, paper: float, fit: SlopeResult, allowed: tuple[float, float]
) -> Claim:
    return Claim(
        name,
        statement,
        paper,
        fit.slope,
        fit.interval,
        allowed[0] <= fit.slope <= allowed[1],
        "exponent",
        f"Slope of log mean regret; holds within {allowed[0]} to {allowed[1]}. 95 %, bootstrap over"
        " seeds.",
    )


def rows(found: dict[str, Samples], pairs: int) -> list[list[Any]]:
    """Give a row per estimator and dimension."""
    listed: list[list[Any]] = []
    for name, samples in found.items():
        for dimension, regrets in samples.items():
            low, high = bootstrap_interval(regrets, rng=0)
            formula = METHODS[name][1](dimension, pairs)
            mean = float(regrets.mean())
            listed.append([name, dimension, len(regrets), mean, low, high, formula, mean / formula])
    return listed


def _figure(table_rows: list[list[Any]], found: dict[str, Samples], seed: int) -> list[Figure]:
    from modicum.zeroth import plots

    curves, theory_lines = {}, {}
    for name in found:
        _, dimensions, _, mean, low, high, formula, _ = zip(
            *(row for row in table_rows if row[0] == name), strict=True
        )
        curves[name] = (dimensions, mean, low, high)
        theory_lines[f"formula, {name}"] = (dimensions, formula)
    try:
        figure = plots.regret_curves(
            curves,
            slopes={name: slope(samples, seed) for name, samples in found.items()},
            theory=theory_lines,
            xlabel="dimension",
        )
    except ImportError:
        # matplotlib is optional; tables and claims stand without it.
        return []
    return [
        Figure.from_matplotlib(
            figure,
            "Regret against the dimension",
            "One Newton step from the minimum, Hessian known, equal evaluations.",
            "Two rising lines in a log-log plot, that of coordinate differences much steeper",
        )
    ]


def run(ctx: RunContext) -> Result:
    """Estimate gradients at the minimum over dimensions and fit the exponents."""
    pairs = QUICK_PAIRS if ctx.quick else PAIRS
    found = measure(ctx, pairs, QUICK_COORDINATES if ctx.quick else COORDINATES)
    table_rows = rows(found, pairs)
    columns = ["directions", "dimension", "seeds", "mean regret", "95 % low", "95 % high"]
    columns += ["formula", "measured / formula"]
    note = f"{2 * pairs:,} evaluations each, noise {NOISE:g}; each at its own best radius."
    return ctx.result(
        claims=claims(found, pairs, ctx.seed),
        tables=[Table("Regret of one step from the minimum", columns, table_rows, note)],
        figures=_figure(table_rows, found, ctx.seed),
    )
