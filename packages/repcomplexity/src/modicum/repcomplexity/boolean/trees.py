"""Smallest decision trees, by dynamic programming over all subcubes.

A node asks for one input, a leaf holds the value. The fewest leaves and the least depth of a
subcube follow from those of its halves: ``leaves(cube) = 1`` if f is constant on it, else the least
``leaves(cube, x_i = 0) + leaves(cube, x_i = 1)`` over the free inputs i.

Shapes: m inputs, C = 3**m subcubes, numbered as in `modicum.repcomplexity.boolean.ternary`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modicum.repcomplexity.bits import Array, check_limit
from modicum.repcomplexity.boolean.ternary import implicants
from modicum.repcomplexity.boolean.truth_table import TruthTable

__all__ = ["MAX_TREE_INPUTS", "DecisionTree", "TreeComplexity", "minimum_tree", "tree_complexity"]

MAX_TREE_INPUTS = 13
"""Most inputs for the search over all trees: 1.6 million subcubes."""


@dataclass(frozen=True)
class TreeComplexity:
    """Sizes of the smallest decision trees; not always of one and the same tree.

    Attributes
    ----------
    leaves
        The fewest leaves; one more than the fewest questions.
    depth
        The fewest questions in the worst case, the deterministic query complexity.
    """

    leaves: int
    depth: int


@dataclass(frozen=True)
class DecisionTree:
    """A node that asks for an input, or a leaf.

    Attributes
    ----------
    variable
        The input asked for; None in a leaf.
    value
        The value of a leaf; None elsewhere.
    low, high
        The trees for 0 and for 1; None in a leaf.
    """

    variable: int | None = None
    value: bool | None = None
    low: DecisionTree | None = None
    high: DecisionTree | None = None

    @property
    def leaves(self) -> int:
        """Number of leaves."""
        if self.low is None or self.high is None:
            return 1
        return self.low.leaves + self.high.leaves

    @property
    def depth(self) -> int:
        """Greatest number of questions."""
        if self.low is None or self.high is None:
            return 0
        return 1 + max(self.low.depth, self.high.depth)

    def __call__(self, codes: Array) -> np.ndarray:
        """Return the values at codes, int64 ``(…)``, as booleans."""
        codes = np.asarray(codes, dtype=np.int64)
        if self.low is None or self.high is None:
            return np.full(codes.shape, self.value, dtype=np.bool_)
        return np.where((codes >> self.variable) & 1, self.high(codes), self.low(codes))


def tree_complexity(table: TruthTable) -> TreeComplexity:
    """Return the fewest leaves and the least depth of a decision tree, both exact.

    Raises
    ------
    ComplexityLimitError
        If there are more than `MAX_TREE_INPUTS` inputs.
    """
    whole = 3**table.n_inputs - 1
    leaves = _search(table, "leaves")[0][whole]
    return TreeComplexity(int(leaves), int(_search(table, "depth")[0][whole]))


def minimum_tree(table: TruthTable, criterion: str = "leaves") -> DecisionTree:
    """Return a decision tree with the fewest leaves, or of the least depth.

    Parameters
    ----------
    table
        A function of at most `MAX_TREE_INPUTS` inputs.
    criterion
        ``"leaves"`` or ``"depth"``. Of equally good questions the one with the lowest index is
        asked.

    Raises
    ------
    ValueError
        If the criterion is unknown.
    ComplexityLimitError
        If there are too many inputs.
    """
    if criterion not in ("leaves", "depth"):
        raise ValueError(f"criterion must be 'leaves' or 'depth', not {criterion!r}")
    _, questions = _search(table, criterion)

    def grow(cube: int, point: int) -> DecisionTree:
        variable = int(questions[cube])
        if variable < 0:
            return DecisionTree(value=bool(table(point)))
        power = 3**variable
        return DecisionTree(
            variable=variable,
            low=grow(cube - 2 * power, point),
            high=grow(cube - power, point | (1 << variable)),
        )

    return grow(3**table.n_inputs - 1, 0)


def _search(table: TruthTable, criterion: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the cost of every subcube, and its best question (-1 where f is constant)."""
    m = table.n_inputs
    check_limit(
        "the number of inputs",
        m,
        MAX_TREE_INPUTS,
        cost=f"{3.0**m * 12 / 2**30:,.1f} GiB and {3.0**m * m / 1e8:,.0f} s",
        alternative="fix some inputs, or fit a tree to samples",
    )
    constant = implicants(table) | implicants(~table)
    cost = np.where(constant, 1 if criterion == "leaves" else 0, -1).astype(np.int32)
    question = np.full(cost.size, -1, dtype=np.int8)
    powers = 3 ** np.arange(m, dtype=np.int64)
    # Fewer dashes first, so that both halves are known.
    for cubes in _by_dashes(~constant, powers):
        best = np.full(cubes.size, np.iinfo(np.int32).max, dtype=np.int32)
        choice = np.full(cubes.size, -1, dtype=np.int8)
        for index in range(m):
            free = np.flatnonzero(cubes // powers[index] % 3 == 2)
            low = cost[cubes[free] - 2 * powers[index]]
            high = cost[cubes[free] - powers[index]]
            total = low + high if criterion == "leaves" else 1 + np.maximum(low, high)
            better = total < best[free]
            best[free[better]] = total[better]
            choice[free[better]] = index
        cost[cubes], question[cubes] = best, choice
    return cost, question


def _by_dashes(wanted: np.ndarray, powers: np.ndarray) -> list[np.ndarray]:
    """Group the wanted subcubes by their number of free inputs, fewest first."""
    dashes = np.zeros(1, dtype=np.int8)
    for _ in powers:
        dashes = np.concatenate((dashes, dashes, dashes + np.int8(1)))
    return [np.flatnonzero(wanted & (dashes == count)) for count in range(1, len(powers) + 1)]
