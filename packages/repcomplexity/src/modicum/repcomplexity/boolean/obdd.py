"""Sizes of reduced ordered binary decision diagrams, and the best order of the inputs.

A diagram asks for the inputs in one order and has one node for every distinct subfunction that
depends on the input asked for. Sizes are counted on the truth table, level by level from the last
input: two halves that are the same subfunction need no node.

Sources: Bryant, "Graph-based algorithms for Boolean function manipulation" (1986); Friedman and
Supowit, "Finding the optimal variable ordering for binary decision diagrams" (1990); Rudell,
"Dynamic variable ordering for ordered binary decision diagrams" (1993) for sifting.

Shapes: m inputs, N = 2**m positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from modicum.repcomplexity.bits import check_limit
from modicum.repcomplexity.boolean.truth_table import TruthTable

__all__ = [
    "MAX_BEST_ORDER_INPUTS",
    "MAX_OBDD_INPUTS",
    "ORDERS",
    "Diagram",
    "Order",
    "obdd",
]

Order = str | Sequence[int]
"""One of `ORDERS`, or the inputs in the order in which they are asked for."""

ORDERS = ("natural", "reversed", "sifting", "best")
"""Named orders."""

MAX_OBDD_INPUTS = 24
"""Most inputs for one order, whose first level takes 8 bytes for each position."""

MAX_BEST_ORDER_INPUTS = 12
"""Most inputs for the best order, of 3**m table entries."""

# Fewest nodes below a level, the order that has them, and the names of the subfunctions there.
_Partial = tuple[int, tuple[int, ...], np.ndarray]


@dataclass(frozen=True)
class Diagram:
    """The size of a reduced ordered diagram.

    Attributes
    ----------
    order
        The inputs in the order in which they are asked for.
    widths
        Decision nodes that ask for each input of the order.
    optimal
        Whether no order is smaller, proved by the search over all of them.
    """

    order: tuple[int, ...]
    widths: tuple[int, ...]
    optimal: bool

    @property
    def nodes(self) -> int:
        """Number of decision nodes; the leaves are not counted."""
        return sum(self.widths)


def obdd(table: TruthTable, order: Order = "natural", *, complement_edges: bool = False) -> Diagram:
    """Return the size of the diagram of a function.

    Parameters
    ----------
    table
        A function of at most `MAX_OBDD_INPUTS` inputs, `MAX_BEST_ORDER_INPUTS` for ``"best"``.
    order
        ``"natural"`` (input 0 first), ``"reversed"``, ``"sifting"`` (each input in turn goes to its
        best place until nothing improves, from the better of the first two), ``"best"`` (exact), or
        a permutation of the inputs.
    complement_edges
        Whether an edge may negate what it points to, as in most libraries, so that a function and
        its negation share their nodes.

    Raises
    ------
    ValueError
        If the order is unknown or no permutation.
    ComplexityLimitError
        If there are too many inputs.
    """
    m = table.n_inputs
    # An array of inputs would compare with a name entry by entry.
    order = order if isinstance(order, str) else list(order)
    check_limit(
        "the number of inputs",
        m,
        MAX_BEST_ORDER_INPUTS if order == "best" else MAX_OBDD_INPUTS,
        cost=f"{3.0**m:,.0g} steps" if order == "best" else f"{2.0 ** (m - 27):,.1f} GiB",
        alternative='use "sifting"' if order == "best" and m <= MAX_OBDD_INPUTS else "fix inputs",
    )
    natural = tuple(range(m))
    if order == "natural":
        chosen = natural
    elif order == "reversed":
        chosen = natural[::-1]
    elif order == "sifting":
        chosen = _sift(table, complement_edges)
    elif order == "best":
        chosen = _best_order(table, complement_edges)
    elif not isinstance(order, str) and sorted(order) == list(natural):
        chosen = tuple(int(index) for index in order)
    else:
        raise ValueError(
            f"order must be one of {', '.join(ORDERS)} or a permutation of {m} inputs, "
            f"not {order!r}"
        )
    return Diagram(chosen, _widths(table, chosen, complement_edges), order == "best" or m <= 1)


def _leaves(table: TruthTable) -> np.ndarray:
    """Name the constants +1 (true) and −1 (false); a negated name is the negated function."""
    return np.where(table.values, 1, -1).astype(np.int64)


def _merge(
    low: np.ndarray, high: np.ndarray, first_name: int, complement_edges: bool
) -> tuple[np.ndarray, int]:
    """Name the pairs of subfunctions, and count the new names.

    Equal halves keep their name. Without complement edges negations are not used, and any
    injective naming will do.
    """
    sign = np.ones_like(low)
    if complement_edges:
        sign = np.where(high < 0, -1, 1)
        low, high = low * sign, high * sign
    names = high.copy()
    differ = np.flatnonzero(low != high)
    # Names are below 2**31 in absolute value, so that a pair is one integer.
    keys = (low[differ] << 32) + high[differ]
    distinct, which = np.unique(keys, return_inverse=True)
    names[differ] = first_name + which
    return names * sign, len(distinct)


def _widths(table: TruthTable, order: Sequence[int], complement_edges: bool) -> tuple[int, ...]:
    # The input asked for last becomes the lowest bit of the position.
    names = _leaves(table.permute(list(order)[::-1]))
    widths, next_name = [], 2
    for _ in order:
        names, width = _merge(names[0::2], names[1::2], next_name, complement_edges)
        widths.append(width)
        next_name += width
    return tuple(widths[::-1])


def _sift(table: TruthTable, complement_edges: bool) -> tuple[int, ...]:
    def size(order: tuple[int, ...]) -> int:
        return sum(_widths(table, order, complement_edges))

    natural = tuple(range(table.n_inputs))
    order = min(natural, natural[::-1], key=size)
    nodes, before = size(order), None
    while nodes != before:
        before = nodes
        for index in natural:
            others = tuple(other for other in order if other != index)
            places = [(*others[:k], index, *others[k:]) for k in range(table.n_inputs)]
            best = min(places, key=size)
            if size(best) < nodes:
                order, nodes = best, size(best)
    return order


def _best_order(table: TruthTable, complement_edges: bool) -> tuple[int, ...]:
    """Find the best order by dynamic programming over the sets of inputs asked for last.

    The width of a level depends only on which inputs come below it, not on their order.
    """
    m = table.n_inputs
    # Names stand for each assignment to the inputs outside the set, the lowest index lowest.
    layer: dict[frozenset[int], _Partial] = {frozenset(): (0, (), _leaves(table))}
    for size in range(1, m + 1):
        following: dict[frozenset[int], _Partial] = {}
        for chosen in combinations(range(m), size):
            members = frozenset(chosen)
            options = []
            for index in chosen:
                nodes, order, names = layer[members - {index}]
                place = index - sum(other < index for other in chosen)
                pairs = names.reshape(-1, 2, 1 << place)
                low, high = pairs[:, 0].ravel(), pairs[:, 1].ravel()
                # Names within a layer need to differ from the names they are made of, no more.
                first = 1 + int(np.abs(names).max())
                merged, width = _merge(low, high, first, complement_edges)
                options.append((nodes + width, (index, *order), merged))
            following[members] = min(options, key=lambda option: option[0])
        layer = following
    return layer[frozenset(range(m))][1]
