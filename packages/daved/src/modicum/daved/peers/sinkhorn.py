"""Entropic optimal transport between two discrete distributions, by Sinkhorn's iteration.

OT_ε(μ, ν) = min over couplings π of ⟨C, π⟩ + ε KL(π | μ⊗ν). All in logarithms, so that a small ε
does not underflow. Cuturi, "Sinkhorn Distances", NeurIPS 2013, arXiv 1306.0895. It knows nothing
about what the points are.

Shapes: a and b points of the two distributions.
"""

from dataclasses import dataclass

import numpy as np

__all__ = ["Transport", "sinkhorn"]

DEFAULT_MAX_ITER = 2000
DEFAULT_TOL = 1e-6


@dataclass(frozen=True)
class Transport:
    """A solved problem.

    Attributes
    ----------
    value
        OT_ε(μ, ν), in units of cost.
    left_a, right_b
        Potentials f and g, in units of cost: the derivatives of the value with respect to the
        masses μ and ν, up to a constant.
    plan_ab
        The coupling; its columns sum to ν exactly and its rows to μ within `error`.
    error
        Sum of absolute differences between the coupling's row sums and μ.
    iterations
        How many were run.
    """

    value: float
    left_a: np.ndarray
    right_b: np.ndarray
    plan_ab: np.ndarray
    error: float
    iterations: int


def _soft_min(costs_ab: np.ndarray, log_masses_b: np.ndarray, epsilon: float) -> np.ndarray:
    exponents_ab = log_masses_b - costs_ab / epsilon
    highest_a = exponents_ab.max(axis=1)
    sums_a = np.exp(exponents_ab - highest_a[:, None]).sum(axis=1)
    return -epsilon * (highest_a + np.log(sums_a))


def sinkhorn(
    costs_ab: np.ndarray,
    masses_a: np.ndarray,
    masses_b: np.ndarray,
    epsilon: float,
    max_iter: int = DEFAULT_MAX_ITER,
    tol: float = DEFAULT_TOL,
) -> Transport:
    """Solve one problem.

    Parameters
    ----------
    costs_ab
        Cost of moving unit mass, (a, b) float64.
    masses_a, masses_b
        Positive masses, each of sum 1.
    epsilon
        Regularisation, in units of cost, positive.
    max_iter, tol
        Stop after so many iterations or once the row sums are off by at most `tol` in all.

    Returns
    -------
    Transport
        The coupling, its value and the potentials.
    """
    log_a, log_b = np.log(masses_a), np.log(masses_b)
    right_b = np.zeros(len(masses_b))
    iterations, error = 0, np.inf
    while iterations < max_iter and error > tol:
        left_a = _soft_min(costs_ab - right_b, log_b, epsilon)
        right_b = _soft_min((costs_ab - left_a[:, None]).T, log_a, epsilon)
        iterations += 1
        logs_ab = (left_a[:, None] + right_b - costs_ab) / epsilon + log_a[:, None] + log_b
        plan_ab = np.exp(logs_ab)
        error = float(np.abs(plan_ab.sum(axis=1) - masses_a).sum())
    value = float(left_a @ masses_a + right_b @ masses_b)
    return Transport(value, left_a, right_b, plan_ab, error, iterations)
