"""Test problems with known minimum and known constants, for NumPy and torch alike."""

from modicum.zeroth.problems.problem import NoisyValues, Problem, Separable
from modicum.zeroth.problems.skew import Skew, skew

__all__ = ["NoisyValues", "Problem", "Separable", "Skew", "skew"]
