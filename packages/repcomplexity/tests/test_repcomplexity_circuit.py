import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from modicum.repcomplexity.bits import ComplexityLimitError
from modicum.repcomplexity.circuits.circuit import Circuit, Gate

sys.path.insert(0, str(Path(__file__).parent))
from repcomplexity_circuit_cases import all_rows, circuits, random_circuit


def test_the_example_of_the_class_counts_one_gate():
    c = Circuit(n_inputs=3)
    g = c.and_(c.in_(0), ~c.in_(1))
    c.output(g)
    assert (c.size, c.depth) == (1, 1)
    assert c.size_with(count_not=True) == 2
    assert c.depth_with(count_not=True) == 2
    assert c.size_with(count_wires=True) == 2
    assert c.size_with(count_wires=True, count_not=True) == 3
    np.testing.assert_array_equal(c.truth_values()[:, 0], [0, 1, 0, 0, 0, 1, 0, 0])


def test_every_gate_computes_what_its_name_says():
    rows = all_rows(5)
    weight = rows.sum(1)
    c = Circuit(5)
    wires = c.inputs()
    c.output(c.and_(*wires), c.or_(*wires), c.xor(*wires), c.majority(*wires))
    c.output(*(c.threshold(k, *wires) for k in range(-1, 8)))
    c.output(c.majority(*wires[:4]), c.threshold(3, wires[0], wires[0], wires[1], wires[2]))
    expected = [weight == 5, weight > 0, weight % 2 == 1, weight > 2]
    expected += [weight >= k for k in range(-1, 8)]
    expected += [rows[:, :4].sum(1) > 2, 2 * rows[:, 0] + rows[:, 1] + rows[:, 2] >= 3]
    np.testing.assert_array_equal(c(rows), np.stack(expected, 1))


def test_gates_of_none_and_of_one_wire_are_no_gates():
    c = Circuit(1)
    x = c.in_(0)
    c.output(c.and_(), c.or_(), c.xor(), c.majority(), c.threshold(0), c.threshold(1))
    c.output(c.and_(x), c.or_(x), c.xor(x), c.majority(x), c.threshold(1, x), ~~x)
    assert c.size == c.depth == 0
    np.testing.assert_array_equal(
        c.truth_values(), [[1, 0, 0, 0, 1, 0] + [0] * 6, [1, 0, 0, 0, 1, 0] + [1] * 6]
    )


def test_size_and_depth_leave_out_what_no_output_needs():
    c = Circuit(4)
    a, b, x, y = c.inputs()
    c.and_(a, b, x, y)
    c.output((a & b) | x)
    assert (c.size, c.depth) == (2, 2)
    assert c.gate_counts() == {Gate.AND: 1, Gate.OR: 1}
    assert c.circuit_class == "AC0"
    c.output(c.majority(a, b, x))
    assert c.circuit_class == "TC0"


@settings(max_examples=80, deadline=None)
@given(circuits)
def test_rows_arrays_tensors_and_the_table_agree(circuit):
    rows = all_rows(circuit.n_inputs)
    table = circuit.truth_values()
    np.testing.assert_array_equal(circuit(rows), table)
    np.testing.assert_array_equal(circuit(rows.astype(float)), table)
    np.testing.assert_array_equal(circuit(torch.from_numpy(rows)).numpy(), table)
    np.testing.assert_array_equal(circuit(rows[0]), table[0])


def test_leading_axes_and_no_outputs():
    circuit = random_circuit(3, n_inputs=4)
    bits = np.random.default_rng(0).integers(0, 2, (2, 3, 4))
    assert circuit(bits).shape == (2, 3, circuit.n_outputs)
    assert Circuit(4)(bits).shape == (2, 3, 0)
    assert Circuit(4)(torch.from_numpy(bits)).shape == (2, 3, 0)
    assert Circuit(4).truth_values().shape == (16, 0)


@settings(max_examples=150, deadline=None)
@given(circuits)
def test_simplify_keeps_the_function_and_shrinks(circuit):
    simple = circuit.simplify()
    np.testing.assert_array_equal(simple.truth_values(), circuit.truth_values())
    assert simple.n_inputs == circuit.n_inputs
    assert simple.size <= circuit.size
    assert simple.depth <= circuit.depth
    again = simple.simplify()
    assert (again.size, again.depth) == (simple.size, simple.depth)


def test_simplify_propagates_constants_and_shares():
    c = Circuit(3)
    a, b, x = c.inputs()
    c.output((a & b) | (b & a), c.and_(a, ~a, x), c.threshold(2, a, c.const(1), b), c.xor(a, b, a))
    c.output(c.threshold(2, a, ~a, b, x), c.xor(~a, b), ~c.xor(a, b))
    simple = c.simplify()
    # a AND b, a OR b, b OR x, a XOR b; the rest are constants, inputs and negations.
    assert simple.gate_counts() == {Gate.NOT: 1, Gate.AND: 1, Gate.OR: 2, Gate.XOR: 1}
    np.testing.assert_array_equal(simple.truth_values(), c.truth_values())


@settings(max_examples=40, deadline=None)
@given(circuits, circuits)
def test_embed_composes(inner, outer):
    c = Circuit(inner.n_inputs)
    middle = c.embed(inner, c.inputs())
    wires = [middle[i % len(middle)] for i in range(outer.n_inputs)]
    c.output(*c.embed(outer, wires))
    rows = all_rows(c.n_inputs)
    between = inner(rows)[:, [i % len(middle) for i in range(outer.n_inputs)]]
    np.testing.assert_array_equal(c(rows), outer(between))


def propagate(clauses, values):
    """Unit propagation; returns the values, or None at a conflict."""
    values = dict(values)
    changed = True
    while changed:
        changed = False
        for clause in clauses:
            open_ = [lit for lit in clause if abs(lit) not in values]
            if any(values.get(abs(lit)) == (lit > 0) for lit in clause):
                continue
            if not open_:
                return None
            if len(open_) == 1:
                values[abs(open_[0])] = open_[0] > 0
                changed = True
    return values


@settings(max_examples=30, deadline=None)
@given(circuits)
def test_cnf_has_one_model_per_row_found_by_unit_propagation(circuit):
    cnf = circuit.to_cnf()
    rows = all_rows(circuit.n_inputs)
    table = circuit.truth_values()
    for row in {0, len(rows) // 2, len(rows) // 3, len(rows) - 1}:
        values = propagate(cnf.clauses, zip(cnf.inputs, rows[row].tolist(), strict=True))
        assert values is not None
        assert len(values) == cnf.n_variables
        got = [values[abs(lit)] == (lit > 0) for lit in cnf.outputs]
        np.testing.assert_array_equal(got, table[row])


def test_dimacs_by_hand():
    c = Circuit(2)
    c.output(~(c.in_(0) & ~c.in_(1)))
    assert c.to_cnf().to_dimacs() == (
        "c inputs 1 2\nc outputs -3\np cnf 3 3\n-3 1 0\n-3 -2 0\n3 -1 2 0\n"
    )


def test_a_solver_proves_majority_equal_to_a_threshold():
    solvers = pytest.importorskip("pysat.solvers")
    c = Circuit(7)
    different = c.xor(c.majority(*c.inputs()), c.threshold(4, *c.inputs()[::-1]))
    c.output(different)
    cnf = c.to_cnf()
    with solvers.Solver("g4", bootstrap_with=cnf.clauses) as solver:
        assert not solver.solve(assumptions=[cnf.outputs[0]])
        assert solver.solve(assumptions=[-cnf.outputs[0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: Circuit(-1), "n_inputs must be 0 or more, not -1"),
        (lambda c: c.in_(2), r"i must be in \[0, 2\), not 2"),
        (lambda c: c.const(2), "value must be 0 or 1, not 2"),
        (lambda c: c.and_(Circuit(2).in_(0)), "another circuit"),
        (lambda c: c(np.zeros((3, 4))), r"shape \(…, 2\), not \(3, 4\)"),
        (lambda c: c(np.array([0.5, 1.0])), "0 and 1 only"),
        (lambda c: c.embed(Circuit(3), c.inputs()), "inputs must be 3 nodes, not 2"),
        (lambda c: Circuit(40).truth_values(), "above the limit"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(Circuit(2))


def test_a_simplified_circuit_shares_its_negations():
    c = Circuit(2)
    c.output(~(c.in_(0) & ~c.in_(1)))
    simple = c.simplify()
    before = len(simple.gates)
    x = simple.in_(1)
    assert (~~~x).index == (~x).index
    assert len(simple.gates) == before
    assert simple.size_with(count_not=True) == 3
    assert simple.depth_with(count_not=True) == 3


def test_a_large_table_is_refused_before_it_is_unpacked():
    c = Circuit(31)
    c.output(c.in_(0))
    with pytest.raises(ComplexityLimitError, match=r"2 GiB.*truth_table_words"):
        c.truth_values()


def test_a_wire_has_no_truth_value_and_a_number_is_no_wire():
    c = Circuit(2)
    with pytest.raises(TypeError, match="no truth value"):
        _ = c.in_(0) and c.in_(1)
    with pytest.raises(TypeError, match="expected a node"):
        c.and_(c.in_(0), 1)
