"""How many evaluations a regret takes, and what the two-stage algorithm does with a budget.

Takes the constants of a function and either a budget or a regret; gives every count and radius of
the two-stage algorithm, the regret to expect, the bounds on it and what of the guarantee does not
hold. Evaluates nothing and warns nobody: `Plan.warnings` are sentences for the caller.

Source: "Stochastic Zeroth-Order Optimization under Strong Convexity and Lipschitz Hessian: Minimax
Sample Complexity" (arXiv 2406.19617), algorithm 4.
"""

import math
import operator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from modicum.zeroth import theory
from modicum.zeroth.theory import RegretTerms

ROUNDS_ROOT = 10
"""The first stage has ``T^{1/10}`` rounds and so ``T^{9/10}`` evaluations for each."""

STAGE_PART = 10
"""Each kind of estimate gets one tenth of what there is, in pairs or in samples per point."""

FLOAT_BITS = 50
"""Counts below ``2**50`` and their successors differ clearly as floats."""


class Radii(NamedTuple):
    """Radii of the estimates of the two-stage algorithm, in the units of its coordinates.

    Attributes
    ----------
    bootstrap, hessian
        Of the gradients and the Hessians of the first stage (``r_m``, ``r_H``).
    gradient, hessian_final
        Of the pairs and the Hessian of the final stage (``r_g``, ``r_H``).
    """

    bootstrap: float
    hessian: float
    gradient: float
    hessian_final: float


@dataclass(frozen=True)
class Counts:
    """How often the two-stage algorithm evaluates; whole numbers, exact for every budget.

    Attributes
    ----------
    bootstrap_rounds
        ``N = ⌊T^0.1⌋``.
    n_m, n_H
        Samples per point of a gradient, ``⌊T^0.9/(10 d)⌋``, and of a Hessian,
        ``⌊T^0.9/(10 d²)⌋``, of the first stage.
    n_g, n_H_final
        Pairs, ``⌊T/10⌋``, and samples per point of the Hessian, ``⌊T/(10 d²)⌋``, of the final
        stage.
    evaluations
        All together; at most ``T``, and about ``0.8 T`` but for ``d`` of 1 or 2.
    """

    bootstrap_rounds: int
    n_m: int
    n_H: int
    n_g: int
    n_H_final: int
    evaluations: int


@dataclass(frozen=True)
class Plan(Counts):
    """What the two-stage algorithm does with a budget, and what can be said beforehand.

    Attributes
    ----------
    dimension, noise, strong_convexity, hessian_lipschitz, distance
        As given.
    budget
        As given, or the least that is predicted to reach `eps`.
    eps
        As given, or None.
    radii
        Sampling radii.
    trust_radius
        Greatest length of a step, ``M/ρ``.
    predicted_regret
        Of the final step, for a least eigenvalue ``M`` at the minimiser.
    upper_bound, lower_bound
        What the regret does not exceed for large budgets, and what no algorithm beats.
    minimum_budget
        Least budget that the algorithm can run with at this dimension.
    guaranteed_budget
        Least budget with no warning, as a float because it is often astronomical; without a
        `distance` only the final stage counts.
    guaranteed_distance
        How far away the minimiser may surely be, ``(M/ρ) √((N - 1)/5)``; in practice much farther.
    warnings
        A sentence for each condition of the guarantee that does not hold.
    """

    dimension: int
    budget: int
    noise: float
    strong_convexity: float
    hessian_lipschitz: float
    radii: Radii
    trust_radius: float
    predicted_regret: RegretTerms
    upper_bound: float
    lower_bound: float
    minimum_budget: int
    guaranteed_budget: float
    guaranteed_distance: float
    eps: float | None = None
    distance: float | None = None
    warnings: tuple[str, ...] = field(default=())

    def rows(self) -> list[tuple[str, str]]:
        """Give the lines of the table: what it is, and the value as text."""
        bias, variance, total = self.predicted_regret
        goal = [] if self.eps is None else [("regret to reach", f"{self.eps:.4g}")]
        return [
            *goal,
            ("budget T", f"{self.budget:,}"),
            ("evaluations used", f"{self.evaluations:,}"),
            ("bootstrap rounds N", f"{self.bootstrap_rounds}"),
            ("  samples per point, gradient n_m", f"{self.n_m:,}"),
            ("  samples per point, Hessian n_H", f"{self.n_H:,}"),
            ("  radius, gradient r_m", f"{self.radii.bootstrap:.4g}"),
            ("  radius, Hessian r_H", f"{self.radii.hessian:.4g}"),
            ("  trust radius M/ρ", f"{self.trust_radius:.4g}"),
            ("final pairs n_g", f"{self.n_g:,}"),
            ("  samples per point, Hessian n_H", f"{self.n_H_final:,}"),
            ("  radius, pairs r_g", f"{self.radii.gradient:.4g}"),
            ("  radius, Hessian r_H", f"{self.radii.hessian_final:.4g}"),
            ("predicted regret", f"{total:.4g} (bias {bias:.3g}, noise {variance:.3g})"),
            ("upper bound, large T", f"{self.upper_bound:.4g}"),
            ("lower bound, any method", f"{self.lower_bound:.4g}"),
            ("least possible budget", f"{self.minimum_budget:,}"),
            ("least budget without warning", f"{self.guaranteed_budget:.4g}"),
        ]

    def table(self) -> str:
        """Give the plan as aligned text, warnings at the end."""
        rows = self.rows()
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {value}" for name, value in rows]
        return "\n".join([*lines, *(f"warning: {text}" for text in self.warnings)])

    def __str__(self) -> str:
        return self.table()


def minimum_budget(dimension: int) -> int:
    """Give the least budget of the two-stage algorithm: ``(10 d²)^{10/9}``, rounded up exactly.

    Below, not even one sample per point is left for the Hessians of the first stage.

    Raises
    ------
    ValueError
        If the dimension is below 1.
    """
    # T^9 >= (10 d²)^10 in whole numbers.
    power = (STAGE_PART * _whole("dimension", dimension) ** 2) ** ROUNDS_ROOT
    root = integer_root(power, ROUNDS_ROOT - 1)
    return root if root ** (ROUNDS_ROOT - 1) == power else root + 1


def integer_root(number: int, degree: int) -> int:
    """Give the largest whole ``r`` with ``r**degree <= number``, exact for numbers of any size."""
    if number < 2:
        return number
    # Newton's method on whole numbers, from above: it falls until it has arrived.
    root = 1 << -(-number.bit_length() // degree)
    while True:
        lower = ((degree - 1) * root + number // root ** (degree - 1)) // degree
        if lower >= root:
            return root
        root = lower


def count(dimension: int, budget: int) -> Counts:
    """Give the counts of the two-stage algorithm for a budget.

    Parameters
    ----------
    dimension
        ``d``, at least 1.
    budget
        ``T``, a whole number of evaluations.

    Returns
    -------
    Counts
        Rounds, samples, pairs and their sum.

    Raises
    ------
    ValueError
        If the budget is below `minimum_budget`.
    """
    d, T = _whole("dimension", dimension), _whole("budget", budget)
    least = minimum_budget(d)
    if least > T:
        raise ValueError(
            f"two-stage in {d} dimensions needs a budget of at least {least}, (10 d²)^(10/9), for "
            f"one sample per point of a Hessian; got {T}"
        )
    rounds = integer_root(T, ROUNDS_ROOT)
    per_round = integer_root(T ** (ROUNDS_ROOT - 1), ROUNDS_ROOT)
    n_m, n_H = per_round // (STAGE_PART * d), per_round // (STAGE_PART * d**2)
    n_g, n_H_final = T // STAGE_PART, T // (STAGE_PART * d**2)
    hessian_points = 2 * d**2 + 1
    bootstrap = rounds * (2 * d * n_m + hessian_points * n_H)
    evaluations = bootstrap + hessian_points * n_H_final + 2 * n_g
    return Counts(rounds, n_m, n_H, n_g, n_H_final, evaluations)


def plan(
    dimension: int,
    budget: int | None = None,
    *,
    eps: float | None = None,
    noise: float,
    strong_convexity: float,
    hessian_lipschitz: float,
    distance: float | None = None,
) -> Plan:
    """Plan the two-stage algorithm for a budget, or find the budget for a regret.

    Parameters
    ----------
    dimension
        ``d``.
    budget
        Number of evaluations ``T``; give this or `eps`.
    eps
        Regret to reach. The budget becomes the least one whose predicted regret is at most this,
        and at least the algorithm's minimum.
    noise
        Standard deviation ``σ`` of one evaluation.
    strong_convexity
        ``M``, the least eigenvalue of any Hessian.
    hessian_lipschitz
        ``ρ``, the Lipschitz constant of the Hessian in Frobenius norm.
    distance
        ``R``, how far the minimiser may be from the start; without it nothing is said about that.

    Returns
    -------
    Plan
        Counts, radii, predictions, bounds and warnings; prints as a table.

    Raises
    ------
    ValueError
        If not exactly one of `budget` and `eps` is given, a constant is not positive and finite,
        or the budget is below the minimum ``(10 d²)^{10/9}``.
    TypeError
        If `dimension` or `budget` is no whole number.

    Notes
    -----
    Source: arXiv 2406.19617, algorithm 4. Floors of powers are computed in whole numbers, so they
    are right for every budget.
    """
    constants: dict[str, Any] = {
        "strong_convexity": strong_convexity,
        "hessian_lipschitz": hessian_lipschitz,
        "noise": noise,
    }
    for name, value in (*constants.items(), ("distance", distance), ("eps", eps)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive and finite, got {value!r}")
    d = _whole("dimension", dimension)
    if (budget is None) == (eps is None):
        raise ValueError(f"give either budget or eps, got budget={budget!r} and eps={eps!r}")
    T = _budget_for(eps, d, constants) if eps is not None else _whole("budget", budget)
    counts = count(d, T)
    M, rho = strong_convexity, hessian_lipschitz
    guaranteed, warnings = _conditions(counts, d, constants, distance)
    return Plan(
        **vars(counts),
        dimension=d,
        budget=T,
        **constants,
        distance=distance,
        eps=eps,
        radii=_radii(counts, d, rho, noise),
        trust_radius=float(theory.trust_radius(strong_convexity=M, hessian_lipschitz=rho)),
        predicted_regret=_predicted(counts.n_g, d, constants),
        upper_bound=float(theory.upper_bound(dimension=d, **constants, budget=T)),
        lower_bound=float(theory.lower_bound(dimension=d, **constants, budget=T)),
        minimum_budget=minimum_budget(d),
        guaranteed_budget=guaranteed,
        guaranteed_distance=float(
            theory.bootstrap_distance(
                strong_convexity=M, hessian_lipschitz=rho, steps=counts.bootstrap_rounds
            )
        ),
        warnings=warnings,
    )


def _predicted(pairs: int, d: int, constants: dict[str, Any]) -> RegretTerms:
    terms = theory.predicted_regret(dimension=d, **constants, pairs=pairs)
    return RegretTerms(*map(float, terms))


def _budget_for(eps: float, d: int, constants: dict[str, Any]) -> int:
    with np.errstate(over="ignore"):
        needed = theory.required_budget(eps, dimension=d, **constants, share=1 / STAGE_PART)
    if not math.isfinite(needed):
        raise ValueError(f"eps={eps!r} is too small for any budget")
    # Pairs come one in ten evaluations. Rounding in the real-valued budget may hide or add one;
    # beyond what a float resolves, one more pair changes nothing.
    pairs = max(1, math.ceil(needed / STAGE_PART) - 1)
    while _predicted(pairs, d, constants).total > eps:
        pairs += max(1, pairs >> FLOAT_BITS)
    return max(STAGE_PART * pairs, minimum_budget(d))


def _radii(counts: Counts, d: int, rho: float, sigma: float) -> Radii:
    constants = {"hessian_lipschitz": rho, "noise": sigma}
    return Radii(
        bootstrap=float(theory.radius("bootstrap", **constants, samples=counts.n_m)),
        hessian=float(theory.radius("hessian", **constants, samples=counts.n_H)),
        gradient=float(theory.radius("gradient", **constants, dimension=d, pairs=counts.n_g)),
        hessian_final=float(theory.radius("hessian", **constants, samples=counts.n_H_final)),
    )


def _conditions(
    counts: Counts, d: int, constants: dict[str, Any], distance: float | None
) -> tuple[float, tuple[str, ...]]:
    """Give the least budget without warnings, and the warnings."""
    M, rho = constants["strong_convexity"], constants["hessian_lipschitz"]
    pairs = float(theory.required_pairs(dimension=d))
    with np.errstate(over="ignore"):  # an infinite budget says enough
        samples = theory.required_samples(dimension=d, **constants)
        steps = theory.bootstrap_steps(
            strong_convexity=M, hessian_lipschitz=rho, distance=distance or 0.0
        )
        needed = [float(minimum_budget(d)), STAGE_PART * pairs]
        needed.append(float(STAGE_PART * d**2 * np.ceil(samples)))
        needed.append(float(np.ceil(steps) ** ROUNDS_ROOT))
    warnings = []
    if counts.n_g < pairs:
        warnings.append(
            f"the final gradient has n_g={counts.n_g} pairs, its guarantee needs d³={pairs:.0f} "
            f"(a budget of {needed[1]:.4g})"
        )
    if counts.n_H_final < samples:
        warnings.append(
            f"the final Hessian has n_H={counts.n_H_final} samples per point, its guarantee needs "
            f"64 ρ⁴σ²d⁶/M⁶={samples:.4g} (a budget of {needed[2]:.4g})"
        )
    if distance is not None and counts.bootstrap_rounds < steps:
        warnings.append(
            f"the first stage has N={counts.bootstrap_rounds} rounds, its worst case from distance "
            f"{distance:.4g} needs 5R²ρ²/M²+1={steps:.4g} (a budget of {needed[3]:.4g})"
        )
    return max(needed), tuple(warnings)


def _whole(name: str, value: object) -> int:
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        if not (isinstance(value, float) and value.is_integer()):
            raise TypeError(f"{name} must be a whole number, got {value!r}") from None
        number = int(value)
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {value!r}")
    return number
