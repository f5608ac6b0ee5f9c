"""Decision diagrams of the library dd, for what goes beyond counting nodes.

Builds a diagram in dd's pure-Python manager, with which functions combine, are quantified and
reordered. dd's diagrams have complement edges and one leaf, which it counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modicum.repcomplexity.bits import check_limit
from modicum.repcomplexity.boolean.truth_table import TruthTable

try:
    from dd import autoref
except ImportError as error:  # pragma: no cover
    raise ImportError('dd is missing: pip install "modicum-repcomplexity[bdd]"') from error

__all__ = ["MAX_DD_INPUTS", "to_dd"]

MAX_DD_INPUTS = 20
"""Most inputs of a table that becomes a diagram: a million calls of dd."""


def to_dd(table: TruthTable, order: Sequence[int] | None = None) -> tuple[Any, Any]:
    """Build the diagram of a function.

    Parameters
    ----------
    table
        The function; input i becomes the variable ``"x{i}"``.
    order
        The inputs in the order in which they are asked for; input 0 first by default.

    Returns
    -------
    manager, node
        A new `dd.autoref.BDD` and the function in it.

    Raises
    ------
    ValueError
        If the order is no permutation of the inputs.
    ComplexityLimitError
        If there are more than `MAX_DD_INPUTS` inputs.
    """
    check_limit(
        "the number of inputs",
        table.n_inputs,
        MAX_DD_INPUTS,
        cost=f"{2.0**table.n_inputs:,.0f} objects of Python",
        alternative="count nodes with `obdd`, or fix some inputs",
    )
    chosen = list(range(table.n_inputs) if order is None else order)
    # The input asked for last becomes the lowest bit of the position.
    values = table.permute(chosen[::-1]).values
    manager = autoref.BDD()
    manager.declare(*(f"x{index}" for index in chosen))
    nodes = [manager.true if value else manager.false for value in values]
    for index in reversed(chosen):
        variable = manager.var(f"x{index}")
        pairs = zip(nodes[0::2], nodes[1::2], strict=True)
        nodes = [manager.ite(variable, high, low) for low, high in pairs]
    return manager, nodes[0]
