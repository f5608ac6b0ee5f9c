"""Diagram sizes against distinct cofactors, all orders and another library."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.repcomplexity.bits import ComplexityLimitError
from modicum.repcomplexity.boolean.obdd import obdd
from modicum.repcomplexity.boolean.truth_table import TruthTable

sys.path.insert(0, str(Path(__file__).parent))
from repcomplexity_boolean_cases import SETTINGS, MajorityValues, majority, parity, tables


def distinct_cofactors(table, order, complement_edges):
    """Nodes of each level by definition: subfunctions that depend on the input asked for."""
    widths = []
    for level, index in enumerate(order):
        nodes = set()
        for bits in itertools.product((0, 1), repeat=level):
            rest = table.restrict(dict(zip(order, bits, strict=False)))
            place = sum(other < index for other in order[level:])
            if place in rest.support():
                twin = (~rest).to_int() if complement_edges else rest.to_int()
                nodes.add(min(rest.to_int(), twin))
        widths.append(len(nodes))
    return tuple(widths)


@SETTINGS
@given(st.data(), st.booleans())
def test_nodes_are_distinct_subfunctions(data, complement_edges):
    table = data.draw(tables(max_inputs=5))
    order = tuple(data.draw(st.permutations(range(table.n_inputs))))
    diagram = obdd(table, order, complement_edges=complement_edges)
    assert diagram.order == order
    assert diagram.widths == distinct_cofactors(table, order, complement_edges)
    assert diagram.nodes == sum(diagram.widths)


@SETTINGS
@given(tables(max_inputs=4), st.booleans())
def test_the_best_order_is_the_best_of_all(table, complement_edges):
    orders = itertools.permutations(range(table.n_inputs))
    least = min(obdd(table, order, complement_edges=complement_edges).nodes for order in orders)
    best = obdd(table, "best", complement_edges=complement_edges)
    assert best.nodes == least
    assert best.optimal
    sifted = obdd(table, "sifting", complement_edges=complement_edges)
    simple = (
        obdd(table, name, complement_edges=complement_edges) for name in ("natural", "reversed")
    )
    assert least <= sifted.nodes <= min(diagram.nodes for diagram in simple)


def test_orders_can_matter_exponentially():
    # Wegener: pairs that are asked for together need 2 nodes each, apart 2**(k+1) − 2 in all.
    pairs = TruthTable.from_callable(lambda x: (x & (x >> 5) & 31) > 0, 10)
    assert obdd(pairs).nodes == 2**6 - 2
    assert obdd(pairs, "sifting").nodes == 10
    assert pairs.obdd_size("best") == 10


@pytest.mark.parametrize("m", [1, 4, 9])
def test_symmetric_functions(m):
    assert obdd(parity(m)).nodes == 2 * m - 1
    assert obdd(parity(m), complement_edges=True).nodes == m
    if m % 2:
        half = (m + 1) // 2
        assert obdd(majority(m)).nodes == half * half


@pytest.mark.parametrize("m", [0, 2])
def test_constants_have_no_nodes(m):
    diagram = obdd(TruthTable.constant(True, m), "best")
    assert (diagram.nodes, diagram.widths) == (0, (0,) * m)


@pytest.mark.parametrize(
    ("n", "next_bit", "natural", "descending", "best"),
    [(4, 5, (38, 35), (38, 35), (29, 25)), (8, 6, (228, 225), (227, 224), (206, 205))],
)
def test_diagrams_of_the_majority_mdp_are_small(n, next_bit, natural, descending, best):
    mdp = MajorityValues(n)
    table = mdp.positive_q()
    assert obdd(mdp.next_bit(0)).nodes == next_bit

    def sizes(order):
        return tuple(obdd(table, order, complement_edges=edges).nodes for edges in (False, True))

    # With the one leaf that libraries count, descending bits of x have 36 and 225 nodes.
    control = list(range(1 + mdp.b))
    assert sizes("natural") == natural
    assert sizes(control + list(range(mdp.m - 1, mdp.b, -1))) == descending
    assert sizes("best") == best


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_dd_has_as_many_nodes(data):
    pytest.importorskip("dd", reason="needs dd")
    from modicum.repcomplexity.integrations.bdd import to_dd

    table = data.draw(tables(min_inputs=1, max_inputs=5))
    order = data.draw(st.permutations(range(table.n_inputs)))
    manager, node = to_dd(table, order)
    # dd counts its one leaf.
    assert len(node) - 1 == obdd(table, order, complement_edges=True).nodes
    for x in range(1 << table.n_inputs):
        bits = {f"x{i}": bool((x >> i) & 1) for i in range(table.n_inputs)}
        assert (manager.let(bits, node) == manager.true) == bool(table(x))


@pytest.mark.parametrize("order", ["random", (0, 0, 1), (0, 1)])
def test_unknown_orders(order):
    with pytest.raises(ValueError, match="permutation of 3 inputs"):
        obdd(majority(3), order)


def test_orders_may_be_arrays():
    table = TruthTable.from_hex("d1e8", m=4)
    for order in ([2, 0, 3, 1], (2, 0, 3, 1)):
        assert obdd(table, np.array(order)) == obdd(table, order)


def test_large_tables_are_no_diagrams_of_dd():
    pytest.importorskip("dd", reason="needs dd")
    from modicum.repcomplexity.integrations.bdd import MAX_DD_INPUTS, to_dd

    with pytest.raises(ComplexityLimitError, match="objects of Python"):
        to_dd(TruthTable.constant(True, MAX_DD_INPUTS + 1))


def test_limits():
    with pytest.raises(ComplexityLimitError, match='use "sifting"'):
        obdd(TruthTable.constant(True, 13), "best")
    with pytest.raises(ComplexityLimitError, match="fix inputs"):
        obdd(TruthTable.constant(True, 25))
