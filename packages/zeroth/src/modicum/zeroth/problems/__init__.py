"""Test problems with known minimum and known constants, for NumPy and torch alike."""

from modicum.zeroth.problems.cubic import (
    SeparableCubic,
    WorstCubic,
    separable_cubic,
    worst_cubic,
)
from modicum.zeroth.problems.hypot import Hypot, hypot
from modicum.zeroth.problems.logistic import (
    AskedLabels,
    Logistic,
    MiniBatch,
    breast_cancer,
    logistic,
    synthetic_logistic,
)
from modicum.zeroth.problems.lower_bound import LowerBoundInstance, lower_bound_instance
from modicum.zeroth.problems.multimodal import Rastrigin, rastrigin
from modicum.zeroth.problems.problem import NoisyValues, Problem, Separable
from modicum.zeroth.problems.quadratic import Quadratic, quadratic
from modicum.zeroth.problems.quartic import Quartic, quartic
from modicum.zeroth.problems.skew import Skew, skew

__all__ = [
    "AskedLabels",
    "Hypot",
    "Logistic",
    "LowerBoundInstance",
    "MiniBatch",
    "NoisyValues",
    "Problem",
    "Quadratic",
    "Quartic",
    "Rastrigin",
    "Separable",
    "SeparableCubic",
    "Skew",
    "WorstCubic",
    "breast_cancer",
    "hypot",
    "logistic",
    "lower_bound_instance",
    "quadratic",
    "quartic",
    "rastrigin",
    "separable_cubic",
    "skew",
    "synthetic_logistic",
    "worst_cubic",
]
