"""Solvers: each gives design weights, or an order of purchase, for one pool and one set of queries.

One algorithm, one file; `base` says what a solver takes and gives.
"""

from modicum.daved.solvers.base import Design, Problem, Solver, Step

__all__ = ["Design", "Problem", "Solver", "Step"]
