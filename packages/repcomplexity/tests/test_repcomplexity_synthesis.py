import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from modicum.repcomplexity.bits import ComplexityLimitError, popcount
from modicum.repcomplexity.boolean.dnf import minimum_cnf, minimum_dnf
from modicum.repcomplexity.boolean.truth_table import TruthTable
from modicum.repcomplexity.circuits.circuit import Circuit, Gate
from modicum.repcomplexity.circuits.synthesis import SizeInterval, min_circuit, min_depth_circuit

pytest.importorskip("pysat")
sys.path.insert(0, str(Path(__file__).parent))
from repcomplexity_circuit_cases import random_circuit


def weight(m):
    return popcount(np.arange(1 << m))


def check(interval, table, gates=frozenset({Gate.AND, Gate.OR, Gate.XOR, Gate.NOT})):
    """A found circuit computes the function with as many gates as the interval says."""
    np.testing.assert_array_equal(interval.circuit.truth_values()[:, 0], table)
    assert interval.circuit.size == interval.upper >= interval.lower
    assert set(interval.circuit.gate_counts()) <= gates


def sizes_of_all_functions(m, most, basis):
    """The gates of each function of m inputs that needs few, by making all sets of gates."""
    full = (1 << (1 << m)) - 1
    inputs = [sum(1 << x for x in range(1 << m) if x >> i & 1) for i in range(m)]
    sizes = {f: 0 for x in (0, *inputs) for f in (x, x ^ full)}
    sets = {frozenset()}
    for size in range(1, most + 1):
        following = set()
        for gates in sets:
            for a, b in combinations([*inputs, *gates], 2):
                for f in (a & b, a & ~b, ~a & b, a | b, *([a ^ b] if basis == "B2" else [])):
                    sizes.setdefault(f, size)
                    sizes.setdefault(f ^ full, size)
                    if size < most:
                        following.add(gates | {f})
        sets = following
    return sizes


@pytest.mark.parametrize("basis", ["B2", "U2"])
def test_all_functions_of_three_inputs_have_the_size_that_enumeration_finds(basis):
    sizes = sizes_of_all_functions(3, 4, basis)
    for code in range(256):
        table = np.array([code >> x & 1 for x in range(8)])
        interval = min_circuit(table, basis)
        assert interval.proved
        assert interval.upper == sizes[code] if code in sizes else interval.upper > 4
        check(interval, table)
        assert all(len(gate.fan_in) <= 2 for gate in interval.circuit.gates)


@pytest.mark.parametrize(
    ("table", "size"),
    [
        (weight(3) >= 2, 4),
        (weight(4) % 2, 3),
        (weight(5) % 2, 4),
        (weight(5) == 5, 4),
        # Four threshold functions, whose refutations of six gates are the hard part.
        (weight(4) >= 2, 7),
        (weight(4) >= 3, 7),
        # Equality of two numbers of two bits: two parities and a NOR.
        (np.array([x % 4 == x // 4 for x in range(16)]), 3),
        (np.zeros(8), 0),
        (np.ones(1), 0),
        (np.array([1, 1, 0, 0]), 0),
    ],
)
def test_known_numbers_of_gates(table, size):
    interval = min_circuit(table)
    assert (interval.lower, interval.upper) == (size, size)
    check(interval, table)


@pytest.mark.parametrize(
    ("table", "size"), [(weight(2) % 2, 3), (weight(3) % 2, 6), (weight(3) >= 2, 4)]
)
def test_without_parities_schnorr_s_bound_is_met(table, size):
    # C. P. Schnorr, 1974: the parity of n bits takes 3 (n - 1) gates of U2.
    interval = min_circuit(table, basis="U2")
    assert (interval.lower, interval.upper) == (size, size)
    check(interval, table, {Gate.AND, Gate.OR, Gate.NOT})


def test_inputs_that_do_not_matter_are_left_out():
    codes = np.arange(1 << 9)
    table = (codes >> 7 & 1) ^ (codes >> 2 & codes & 1)
    interval = min_circuit(TruthTable(table))
    assert (interval.lower, interval.upper) == (2, 2)
    assert interval.circuit.n_inputs == 9
    check(interval, table)


@pytest.mark.parametrize(
    "search", [min_circuit, lambda t, time_limit: min_depth_circuit(t, 4, time_limit=time_limit)]
)
def test_no_time_gives_an_interval_that_holds_a_circuit(search):
    table = np.random.default_rng(1).integers(0, 2, 32)
    interval = search(table, time_limit=0.0)
    assert not interval.proved
    assert interval.lower < interval.upper
    check(interval, table)


def test_a_little_time_keeps_the_interval_valid():
    table = weight(5) >= 3
    interval = min_circuit(table, time_limit=1.0)
    assert 4 <= interval.lower <= 10 <= interval.upper <= 12
    check(interval, table)


def prime_implicants(table, m):
    """All maximal subcubes, (mask, value), on which a function is 1."""
    cubes = {
        (mask, value)
        for mask in range(1 << m)
        for value in range(1 << m)
        if value & ~mask == 0 and all(table[x] for x in range(1 << m) if x & mask == value)
    }
    return [
        (mask, value)
        for mask, value in cubes
        if not any((mask ^ 1 << i, value & ~(1 << i)) in cubes for i in range(m) if mask >> i & 1)
    ]


def fewest_gates_of_depth_two(table, m):
    """Try all sets of prime implicants of a function and of its negation, by size."""
    best = None
    for function in (table, ~table):
        primes = prime_implicants(function, m)
        for sets in (combinations(primes, k) for k in range(1, len(primes) + 1)):
            covers = [
                sum(mask.bit_count() > 1 for mask, _ in chosen) + (len(chosen) > 1)
                for chosen in sets
                if all(
                    any(x & mask == value for mask, value in chosen)
                    for x in np.flatnonzero(function)
                )
            ]
            if covers:
                best = min(covers if best is None else [best, *covers])
    return best


@pytest.mark.parametrize("seed", range(8))
def test_depth_two_has_no_more_gates_than_the_fewest_terms(seed):
    # The fewest gates and the fewest terms may be different forms: a term of one literal, of which
    # there are 4 at most, is no gate, and the gate on top is no term.
    table = TruthTable(np.random.default_rng(seed).integers(0, 2, 16))
    forms = [minimum_dnf(table), minimum_cnf(table)]
    interval = min_depth_circuit(table, 2)
    assert interval.proved
    assert interval.upper <= min(form.gates for form in forms)
    assert interval.upper >= min(form.lower for form in forms) - 4 + 1


@pytest.mark.parametrize("seed", range(12))
def test_depth_two_is_the_smallest_normal_form(seed):
    table = np.random.default_rng(seed).integers(0, 2, 8).astype(bool)
    interval = min_depth_circuit(table, 2)
    assert interval.proved
    assert interval.upper == fewest_gates_of_depth_two(table, 3)
    assert interval.circuit.depth <= 2
    check(interval, table, {Gate.AND, Gate.OR, Gate.NOT})


@pytest.mark.parametrize(
    ("table", "depth", "size"),
    [
        (weight(3) >= 2, 2, 4),
        (weight(3) % 2, 2, 5),
        (weight(4) % 2, 2, 9),
        # Parity has no smaller circuit of depth 3 at four bits, where blocks of two need 9, too.
        (weight(4) % 2, 3, 9),
        (weight(4) >= 2, 2, 5),
        (weight(4) == 0, 2, 1),
        (weight(4) < 4, 3, 1),
        (np.array([0, 1]), 2, 0),
        (np.ones(4), 2, 0),
    ],
)
def test_known_numbers_of_gates_of_bounded_depth(table, depth, size):
    interval = min_depth_circuit(table, depth)
    assert (interval.lower, interval.upper) == (size, size)
    assert interval.circuit.depth <= depth
    check(interval, table, {Gate.AND, Gate.OR, Gate.NOT})


def test_a_third_level_pays():
    x0, x1, x2, x3, x4 = (np.arange(32) >> i & 1 == 1 for i in range(5))
    table = (x4 & (x0 | x1) & (x2 | x3)) | (~x4 & x0 & x1 & x2)
    flat, deep = min_depth_circuit(table, 2), min_depth_circuit(table, 3)
    # Two sums, two products and the sum of those, against one gate more in two levels.
    assert (flat.lower, flat.upper, deep.lower, deep.upper) == (6, 6, 5, 5)
    assert deep.circuit.depth == 3
    check(flat, table)
    check(deep, table)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="basis must be one of 'B2', 'U2', not 'B3'"):
        min_circuit([0, 1], basis="B3")
    with pytest.raises(ValueError, match="depth must be at least 2, not 1"):
        min_depth_circuit([0, 1], 1)
    with pytest.raises(ComplexityLimitError, match="inputs that the function depends on is 6"):
        min_circuit(weight(6) % 2)
    circuit = Circuit(1)
    circuit.output(circuit.in_(0))
    assert SizeInterval(0, 0, circuit).proved


def test_a_missing_extra_is_named(monkeypatch):
    from modicum.repcomplexity.integrations.cirbo import to_cirbo

    monkeypatch.setitem(sys.modules, "pysat.solvers", None)
    monkeypatch.setitem(sys.modules, "cirbo.core.circuit", None)
    with pytest.raises(ImportError, match=r'pip install "modicum-repcomplexity\[sat\]"'):
        min_circuit(weight(3) >= 2)
    with pytest.raises(ImportError, match=r'pip install "modicum-repcomplexity\[cirbo\]"'):
        to_cirbo(Circuit(1))


def test_circuits_travel_to_cirbo_and_back():
    pytest.importorskip("cirbo")
    from modicum.repcomplexity.integrations.cirbo import from_cirbo, simplify, to_cirbo

    for seed in range(30):
        circuit = random_circuit(seed, n_inputs=4)
        table = circuit.truth_values()
        theirs = to_cirbo(circuit)
        reversed_ = [int(f"{row:04b}"[::-1], 2) for row in range(16)]
        np.testing.assert_array_equal(np.array(theirs.get_truth_table()).T, table[reversed_])
        np.testing.assert_array_equal(from_cirbo(theirs).truth_values(), table)
        np.testing.assert_array_equal(simplify(circuit, heavy=seed % 2 == 0).truth_values(), table)


@pytest.mark.parametrize("code", [0xE8, 0x96, 0x1E, 0x16, 0xD7, 0x18])
def test_cirbo_finds_the_same_number_of_gates_for_three_inputs(code):
    pytest.importorskip("cirbo")
    from modicum.repcomplexity.integrations.cirbo import find_circuit

    table = np.array([code >> x & 1 for x in range(8)], dtype=bool)
    size = min_circuit(table).upper
    np.testing.assert_array_equal(find_circuit(table, size).truth_values()[:, 0], table)
    assert find_circuit(table, size - 1) is None
    with pytest.raises(ValueError, match="basis must be one of 'B2', 'U2', not 'B3'"):
        find_circuit(table, size, "B3")


@pytest.mark.slow
def test_cirbo_finds_the_same_number_of_gates_for_four_inputs():
    pytest.importorskip("cirbo")
    from modicum.repcomplexity.integrations.cirbo import find_circuit

    rng = np.random.default_rng(0)
    refuted = 0
    for _ in range(50):
        table = rng.integers(0, 2, 16).astype(bool)
        interval = min_circuit(table, time_limit=600)
        assert interval.proved
        assert find_circuit(table, interval.upper) is not None
        # Their refutations of five gates take minutes each.
        if interval.upper <= 5:
            assert find_circuit(table, interval.upper - 1) is None
            refuted += 1
    assert refuted == 32


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_a_time_limit_that_is_none_is_refused(seconds):
    with pytest.raises(ValueError, match="time_limit must be at least 0"):
        min_circuit([0, 1, 1, 0], time_limit=seconds)
    with pytest.raises(ValueError, match="time_limit must be at least 0"):
        min_depth_circuit([0, 1, 1, 0], 2, time_limit=seconds)
