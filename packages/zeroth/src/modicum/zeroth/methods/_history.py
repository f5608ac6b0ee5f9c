"""Gradients of several rounds, carried to one centre and averaged with the best weights.

Each estimate has a variance and a bias that grows with the squared radius. Carried along a step it
also has the error of the Hessian times the step, which all estimates of one round share. Estimates
are weighted by generalised least squares with that covariance; those that contradict the new ones
get an extra variance that explains the contradiction. Knows nothing of pairs and steps.

Legend: ``K`` estimates, ``d`` dimension.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

__all__ = ["Gradient", "GradientHistory", "combine_gradients"]

ROUNDS_KEPT = 12
BIAS_MEMORY = 3.0
"""Biases of two radii that differ by this factor (natural logarithm, halved) are alike no more."""
RIDGE = 1e-13
CONTRADICTION = 2.0
"""Standard deviations of the squared distance from which old gradients contradict new ones."""


class Gradient(NamedTuple):
    """An estimate in the coordinates of the present round.

    Attributes
    ----------
    value
        ``(d,)``.
    variance
        Per coordinate.
    shared
        Variance per coordinate that all estimates of one round share.
    source
        Number of the round.
    radius_square
        Which its bias is proportional to; 0 for none.
    """

    value: np.ndarray
    variance: float
    shared: float
    source: int
    radius_square: float


class Combined(NamedTuple):
    """A weighted mean: value ``(d,)``, and per coordinate its variance and squared bias."""

    value: np.ndarray
    variance: float
    bias_square: float


@dataclass
class PastRound:
    """Gradients ``∇f`` of one round: centre, estimates, variances of ``shape ∇f``, radii."""

    number: int
    x: np.ndarray
    values: list[np.ndarray]
    variances: list[float]
    radii_square: list[float]
    inverse_shape: np.ndarray


@dataclass
class GradientHistory:
    """The rounds whose gradients may still help."""

    rounds: list[PastRound] = field(default_factory=list)

    def add(self, past: PastRound, kept: int = ROUNDS_KEPT) -> None:
        """Append a round and forget the oldest."""
        self.rounds = [*self.rounds, past][-kept:] if kept else []

    def drop_last(self) -> None:
        """Forget the newest round."""
        self.rounds = self.rounds[:-1]


def combine_gradients(
    new: list[Gradient], old: list[Gradient], bias_rate_square: float
) -> Combined:
    """Average gradients of the present round with those of rounds before.

    Parameters
    ----------
    new, old
        At least one new one; the same coordinates for all.
    bias_rate_square
        Squared length of the change of a gradient per squared radius.
    """
    dimension = len(new[0].value)
    fresh = _weigh(new, bias_rate_square)
    if not old:
        return fresh
    before = _weigh(old, bias_rate_square)
    apart = float(np.sum((fresh.value - before.value) ** 2)) / dimension
    explained = sum(part.variance + part.bias_square for part in (fresh, before))
    extra = 0.0
    if apart > explained * (1 + CONTRADICTION * math.sqrt(2 / dimension)):
        extra = apart - explained
    doubted = [item._replace(shared=item.shared + extra) for item in old]
    return _weigh([*doubted, *new], bias_rate_square)


def _weigh(items: list[Gradient], bias_rate_square: float) -> Combined:
    values_Kd = np.array([item.value for item in items])
    variance_K = np.array([item.variance for item in items])
    shared_K = np.array([item.shared for item in items])
    source_K = np.array([item.source for item in items])
    radius_K = np.array([item.radius_square for item in items])
    same_KK = source_K[:, None] == source_K[None, :]
    noise_KK = np.diag(variance_K) + np.where(same_KK, shared_K[:, None], 0.0)
    log_K = np.log(np.maximum(radius_K, np.finfo(float).tiny))
    alike_KK = np.exp(-np.abs(log_K[:, None] - log_K[None, :]) / (2 * BIAS_MEMORY))
    rate = bias_rate_square / values_Kd.shape[1]
    bias_KK = rate * np.outer(radius_K, radius_K) * alike_KK
    total_KK = noise_KK + bias_KK
    # Without noise the covariance is singular.
    largest = max(float(np.diag(total_KK).max()), np.finfo(float).tiny)
    np.einsum("kk->k", total_KK)[...] += RIDGE * largest
    weights_K = np.linalg.solve(total_KK / largest, np.ones(len(items)))
    weights_K /= weights_K.sum()
    return Combined(
        weights_K @ values_Kd,
        float(weights_K @ noise_KK @ weights_K),
        float(weights_K @ bias_KK @ weights_K),
    )
