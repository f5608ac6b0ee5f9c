import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from modicum.repcomplexity.circuits.arithmetic import expand_thresholds, majority_adders
from modicum.repcomplexity.circuits.builders import model_circuit, value_circuit
from modicum.repcomplexity.circuits.circuit import Circuit, Gate
from modicum.repcomplexity.circuits.formats import (
    from_aiger,
    from_bench,
    read_circuit,
    to_aiger,
    to_bench,
    write_circuit,
)

sys.path.insert(0, str(Path(__file__).parent))
from repcomplexity_circuit_cases import circuits, random_circuit

HALF_ADDER = "aag 7 2 0 2 3\n2\n4\n6\n12\n6 13 15\n12 2 4\n14 3 5\n"


@settings(max_examples=100, deadline=None)
@given(circuits)
def test_aiger_gives_the_function_back_and_then_itself(circuit):
    table = circuit.truth_values()
    ascii_, binary = to_aiger(circuit), to_aiger(circuit, binary=True)
    for content in (ascii_, binary):
        back = from_aiger(content)
        np.testing.assert_array_equal(back.truth_values(), table)
        assert set(back.gate_counts()) <= {Gate.NOT, Gate.AND}
        assert to_aiger(back) == ascii_
        assert to_aiger(back, binary=True) == binary
    assert from_aiger(ascii_.decode()).size == int(ascii_.split()[5])


@settings(max_examples=100, deadline=None)
@given(circuits)
def test_bench_gives_function_size_and_depth_back(circuit):
    text = to_bench(circuit)
    back = from_bench(text)
    np.testing.assert_array_equal(back.truth_values(), circuit.truth_values())
    expanded = expand_thresholds(circuit)
    assert (back.size, back.depth) == (expanded.size, expanded.depth)
    assert back.size_with(count_wires=True) == expanded.size_with(count_wires=True)
    assert to_bench(from_bench(to_bench(back))) == to_bench(back)


def test_the_half_adder_of_the_aiger_report():
    circuit = from_aiger(HALF_ADDER)
    np.testing.assert_array_equal(circuit.truth_values(), [[0, 0], [1, 0], [1, 0], [0, 1]])
    assert circuit.size == 3
    # In the binary format the same in the order of numbers, two bytes for each conjunction.
    assert to_aiger(circuit, binary=True) == b"aig 5 2 0 2 3\n10\n6\n\x02\x02\x03\x02\x01\x02"


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("aag 0 0 0 0 0\n", np.zeros((1, 0))),
        ("aag 0 0 0 2 0\n0\n1\n", [[0, 1]]),
        ("aag 1 1 0 2 0\n2\n2\n3\n", [[0, 1], [1, 0]]),
        ("aag 3 2 0 1 1\n4\n2\n6\n6 4 3\ni0 first\nc\nremark\n", [[0], [1], [0], [0]]),
        ("aig 3 2 0 1 1\n7\n\x02\x02i0 x\nc\n", [[1], [1], [1], [0]]),
        ("aag 2 1 0 1 1 0 0 0 0\n2\n4\n4 2 1\n", [[0], [1]]),
    ],
)
def test_small_aiger_files(text, table):
    np.testing.assert_array_equal(from_aiger(text).truth_values(), table)


def test_numbers_above_127_take_two_bytes():
    circuit = Circuit(200)
    circuit.output(circuit.and_(circuit.in_(0), circuit.in_(199)))
    binary = to_aiger(circuit, binary=True)
    assert binary.endswith(b"\x02\x8e\x03")
    assert from_aiger(binary).gates[-1].fan_in == (199, 0)


def test_names_and_comments_are_skipped():
    for text in ("aag 1 1 0 1 0\n2\n3\n", "aig 1 1 0 1 0\n3\n"):
        circuit = from_aiger(text + "i0 request line\no0 x\nc\n2\nanything at all\n")
        assert circuit.truth_values()[:, 0].tolist() == [True, False]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "ends too early"),
        ("bench 1 2\n", "starts with aag or aig"),
        ("aag 1 1 0\n", "five numbers"),
        ("aag 1 x 0 0 0\n", "numbers, not"),
        ("aag 2 1 1 0 0\n2\n4 2\n", "combinational"),
        ("aag 1 1 0 0 0 1\n2\n2\n", "without properties"),
        ("aag 1 1 0 1 0\n2\n", "ends too early"),
        ("aag 1 1 0 1 0\n3\n2\n", "even literal in \\[2, 2\\], not 3"),
        ("aag 2 1 0 1 1\n2\n4\n2 4 4\n", "not 2"),
        ("aag 2 1 0 1 1\n2\n4\n4 5 2\n", "depends on itself"),
        ("aag 3 1 0 1 1\n2\n6\n4 2 2\n", "3 is used but never defined"),
        ("aag 2 1 0 1 1\n2\n4\n4 2\n", "3 numbers here"),
        ("aig 3 1 0 1 1\n4\n\x02\x00", "M = I \\+ A"),
        ("aig 100000000 100000000 0 0 0\n", "number of inputs"),
        ("aig 2 1 0 1 1\n4\n\x02", "ends too early"),
        ("aig 2 1 0 1 1\n4\n\x00\x02", "comes later"),
        ("aig 2 1 0 1 1\n4\n\x02\x09", "comes later"),
        ("aag 1 1 0 1 0\n2\n2\n3\n", "can follow the AIGER gates, not '3'"),
        ("aag 3 1 0 1 1\n2\n4\n4 2 2\n6 4 2\n", "can follow the AIGER gates, not '6 4 2'"),
        ("aig 1 1 0 1 0\n2\n3\n", "can follow the AIGER gates, not '3'"),
    ],
)
def test_what_is_wrong_in_an_aiger_file_is_said(text, message):
    with pytest.raises(ValueError, match=message):
        from_aiger(text)


def test_bench_by_hand_in_any_order_with_other_spellings():
    circuit = from_bench(
        """# c17 has six of these
        INPUT(a)
        input( b )
        OUTPUT(y)
        OUTPUT(a)
        OUTPUT(one)
        y = NAND(n, b)   # uses what comes later
        n = nxor(a, b)
        one = VDD
        none = gnd
        OUTPUT(z)
        z = nor(none, i, m)
        i = INV(a)
        m = BUF(none)
        """
    )
    a, b = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
    y = 1 - (a == b) * b
    np.testing.assert_array_equal(circuit.truth_values(), np.stack([y, a, y**0, a], 1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("INPUT(a)\nOUTPUT(y)\n", "'y' is used but never defined"),
        ("y = AND(a, a)\nOUTPUT(y)", "'a' is used but never defined"),
        ("INPUT(a)\na = NOT(a)", "defines 'a' again"),
        ("INPUT(a)\nINPUT(a)", "defines 'a' again"),
        ("INPUT(a)\ny = NOT(a)\ny = NOT(a)", "line 3 of the BENCH file defines 'y' again"),
        ("INPUT(a)\ny = NOT(z)\nz = NOT(y)\nOUTPUT(y)", "depends on itself"),
        ("INPUT(a)\nq = DFF(a)", "line 2 of the BENCH file has an unknown gate DFF"),
        ("INPUT(a)\ny = NOT(a, a)", "NOT of 2 wires"),
        ("INPUT(a)\ny = AND()", "AND of 0 wires"),
        ("INPUT(a)\ny = AND(a,, a)", "line 2 of the BENCH file leaves out a wire"),
        ("INPUT(a)\ny = NOT(a,)", "line 2 of the BENCH file leaves out a wire"),
        ("INPUT a", "line 1 of the BENCH file is not understood"),
    ],
)
def test_what_is_wrong_in_a_bench_file_is_said(text, message):
    with pytest.raises(ValueError, match=message):
        from_bench(text)


@pytest.mark.parametrize("suffix", ["aag", "aig", "bench"])
def test_files_are_written_and_read_by_their_suffix(tmp_path, suffix):
    circuit = value_circuit(5)
    path = write_circuit(circuit, tmp_path / f"value.{suffix}")
    np.testing.assert_array_equal(read_circuit(path).truth_values(), circuit.truth_values())
    with pytest.raises(ValueError, match=r"path must end in \.aag, \.aig, \.bench"):
        write_circuit(circuit, tmp_path / "value.txt")


def test_names_of_bench_files_may_hold_almost_anything():
    circuit = from_bench("INPUT(a.b[0])\nINPUT(INPUT)\nOUTPUT(y$%)\ny$% = nand(a.b[0], INPUT)\n")
    assert circuit.truth_values()[:, 0].tolist() == [True, True, True, False]


def test_thousands_of_definitions_are_read():
    n = 10_000
    lines = [f"aag {2 * n} {n} 0 1 {n}", *(str(2 * i + 2) for i in range(n)), str(4 * n)]
    lines += [f"{2 * (n + i + 1)} {2 * (n + i)} {2 * i + 2}" for i in range(n)]
    assert from_aiger("\n".join(lines)).size == n
    ports = "".join(f"INPUT(a{i})\n" for i in range(n))
    assert from_bench(f"{ports}OUTPUT(a7)\n").n_inputs == n


def test_and_inverter_sizes():
    # A model's terms share nothing; a term of k literals takes k − 1 conjunctions.
    circuit = model_circuit(4)
    wires, gates = circuit.size_with(count_wires=True), circuit.size
    assert from_aiger(to_aiger(circuit)).size <= wires - gates
    circuit = majority_adders(7)
    xors = circuit.gate_counts()[Gate.XOR]
    assert from_aiger(to_aiger(circuit)).size <= circuit.size + 2 * xors


def test_a_long_chain_is_no_recursion():
    names = [f"g{i}" for i in range(5000)]
    lines = [f"{b} = NOT({a})" for a, b in pairwise(names)]
    text = "\n".join(["OUTPUT(g4999)", *reversed(lines), "INPUT(g0)"])
    np.testing.assert_array_equal(from_bench(text).truth_values(), [[1], [0]])


def test_cirbo_reads_what_is_written():
    cirbo = pytest.importorskip("cirbo.core.circuit")
    for seed in range(20):
        circuit = random_circuit(seed, n_inputs=4).simplify()
        if any(gate.kind is Gate.CONST for gate in circuit.gates):
            continue
        theirs = cirbo.Circuit.from_bench_string(to_bench(circuit))
        # Their rows count with the first input as the most significant bit.
        table = np.array(theirs.get_truth_table()).T.astype(bool)
        reversed_ = [int(f"{row:04b}"[::-1], 2) for row in range(16)]
        np.testing.assert_array_equal(table, circuit.truth_values()[reversed_])
