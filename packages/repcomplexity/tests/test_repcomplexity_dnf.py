"""Minimum normal forms against exhaustive search, closed forms and exact values."""

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modicum.repcomplexity.bits import ComplexityLimitError, popcount
from modicum.repcomplexity.boolean.dnf import (
    dnf_bounds,
    independent_ones,
    is_unate,
    isop,
    minimum_cnf,
    minimum_dnf,
    restricted_dnf_bound,
)
from modicum.repcomplexity.boolean.ternary import certificate_complexity, primes
from modicum.repcomplexity.boolean.truth_table import TruthTable

sys.path.insert(0, str(Path(__file__).parent))
from repcomplexity_boolean_cases import (
    SETTINGS,
    MajorityValues,
    majority,
    parity,
    random_table,
    tables,
)


def fewest_terms(m):
    """Terms that every function of m inputs needs, by breadth-first search over disjunctions."""
    cubes = []
    for digits in itertools.product(range(3), repeat=m):
        inside = range(1 << m)
        for i, digit in enumerate(digits):
            inside = [x for x in inside if digit == 2 or (x >> i) & 1 == digit]
        cubes.append(sum(1 << x for x in inside))
    distance = np.full(1 << (1 << m), -1)
    distance[0], frontier, terms = 0, np.array([0]), 0
    while frontier.size:
        terms += 1
        reached = np.unique(frontier[:, None] | np.array(cubes))
        frontier = reached[distance[reached] < 0]
        distance[frontier] = terms
    return distance


@pytest.mark.parametrize("m", [0, 1, 2, 3])
def test_every_function_of_few_inputs(m):
    expected = fewest_terms(m)
    for number, terms in enumerate(expected):
        table = TruthTable.from_int(number, m)
        dnf, cnf = minimum_dnf(table), minimum_cnf(~table)
        assert (dnf.lower, dnf.upper, dnf.proved) == (terms, terms, True)
        assert (cnf.lower, cnf.upper, cnf.proved) == (terms, terms, True)
        assert (dnf.form, cnf.form) == ("dnf", "cnf")
        assert dnf.table() == table
        assert cnf.table() == ~table


def test_random_functions_of_four_inputs():
    expected = fewest_terms(4)
    for number in np.random.default_rng(0).integers(0, 1 << 16, 200):
        table = TruthTable.from_int(int(number), 4)
        dnf = minimum_dnf(table)
        assert (dnf.lower, dnf.upper) == (expected[number],) * 2
        assert dnf.table() == table
        bounds = dnf_bounds(table)
        assert bounds.lower <= expected[number] <= bounds.upper


def test_cyclic_cores_go_to_the_integer_program():
    # Every prime of the cycle x -> y -> z has two ones, and every one two primes.
    cycle = TruthTable.from_callable(lambda x: (x != 0) & (x != 7), 3)
    dnf = minimum_dnf(cycle)
    assert (len(primes(cycle)), dnf.lower, dnf.upper, dnf.method) == (6, 3, 3, "milp")


@SETTINGS
@given(tables(max_inputs=6))
def test_forms_compute_the_function(table):
    for form in (minimum_dnf(table), minimum_cnf(table), dnf_bounds(table)):
        assert form.table() == table
        assert form.lower <= form.upper
    dnf = minimum_dnf(table)
    assert dnf.proved
    bounds = dnf_bounds(table)
    assert bounds.lower <= dnf.upper <= bounds.upper
    complexity = certificate_complexity(table)
    assert dnf.width >= complexity.ones
    assert minimum_cnf(table).width >= complexity.zeros


@SETTINGS
@given(tables(max_inputs=6))
def test_irredundant_sums_of_products(table):
    terms = isop(table)
    assert terms.table() == table
    known = {(int(c), int(p)) for c, p in zip(*_pairs(primes(table)), strict=True)}
    assert all((int(c), int(p)) in known for c, p in zip(*_pairs(terms), strict=True))
    for dropped in range(len(terms)):
        kept = terms[np.arange(len(terms)) != dropped]
        assert kept.table() != table


def _pairs(terms):
    return terms.care, terms.polarity


@SETTINGS
@given(tables(max_inputs=6))
def test_no_prime_covers_two_independent_ones(table):
    chosen = independent_ones(table)
    terms = primes(table)
    assert all(table(x) for x in chosen)
    covered = (chosen[:, None] & terms.care) == terms.polarity
    assert (covered.sum(axis=0) <= 1).all()
    assert chosen.size >= (table.count_ones() > 0)


@SETTINGS
@given(st.data())
def test_fixing_inputs_never_needs_more_terms(data):
    table = data.draw(tables(min_inputs=1, max_inputs=6))
    fixed = data.draw(st.dictionaries(st.integers(0, table.n_inputs - 1), st.integers(0, 1)))
    assert minimum_dnf(table.restrict(fixed)).lower <= minimum_dnf(table).upper
    assert minimum_cnf(table.restrict(fixed)).lower <= minimum_cnf(table).upper


def test_unate_functions_need_all_their_primes():
    expected, unate = fewest_terms(3), 0
    for number in range(1 << 8):
        table = TruthTable.from_int(number, 3)
        if is_unate(table) and not table.is_constant():
            dnf = minimum_dnf(table)
            assert (dnf.method, dnf.lower, dnf.upper) == ("unate", expected[number], len(dnf.terms))
            unate += 1
    # The unate functions of 3 variables (OEIS A245079), without the two constants.
    assert unate == 104 - 2


@pytest.mark.parametrize("m", [3, 5, 7, 9])
def test_majority(m):
    terms = math.comb(m, (m + 1) // 2)
    assert (minimum_dnf(majority(m)).upper, minimum_dnf(majority(m)).method) == (terms, "unate")
    negated = majority(m).negate_inputs((1 << m) - 2)
    assert minimum_dnf(negated).upper == terms
    assert minimum_cnf(majority(m)).upper == terms


@pytest.mark.parametrize("m", [2, 5, 8])
def test_parity(m):
    dnf = minimum_dnf(parity(m))
    assert (dnf.lower, dnf.upper, dnf.width) == (2 ** (m - 1), 2 ** (m - 1), m)
    assert dnf.gates == 2 ** (m - 1) + 1
    assert dnf_bounds(parity(m)).proved


def test_gates_of_small_forms():
    x, y = TruthTable.variable(0, 2), TruthTable.variable(1, 2)
    assert [minimum_dnf(f).gates for f in (x, ~x, x & y, x | y, x ^ y)] == [0, 0, 1, 1, 3]


@pytest.mark.parametrize("m", [0, 4])
def test_constants(m):
    false, true = TruthTable.constant(False, m), TruthTable.constant(True, m)
    for form, terms in (
        (minimum_dnf(false), 0),
        (minimum_dnf(true), 1),
        (minimum_cnf(true), 0),
        (minimum_cnf(false), 1),
    ):
        assert (form.lower, form.upper, form.width, form.gates) == (terms, terms, 0, 0)
        assert form.method == "constant"
    assert dnf_bounds(true).proved
    assert dnf_bounds(false).proved


def test_bounds_of_functions_with_too_many_inputs_for_a_search():
    # The parity of six inputs, or all of the other twelve: 32 terms and one.
    table = TruthTable.from_callable(lambda x: (popcount(x & 63) & 1) | (x >> 6 == 4095), 18)
    bounds = dnf_bounds(table)
    assert (bounds.lower, bounds.upper) == (33, 33)
    assert bounds.table() == table


def test_without_time_there_is_an_interval():
    table = random_table(9, seed=0)
    exact = minimum_dnf(table)
    hurried = minimum_dnf(table, time_limit=1e-9)
    assert exact.proved
    assert hurried.table() == table
    assert hurried.lower <= exact.upper <= hurried.upper
    assert hurried.lower > 0.8 * exact.upper
    assert not hurried.proved


@pytest.mark.parametrize("time_limit", [0, -1.0, math.nan])
def test_time_limits_are_positive(time_limit):
    with pytest.raises(ValueError, match="time_limit must be positive"):
        minimum_dnf(parity(2), time_limit=time_limit)


def test_limits():
    with pytest.raises(ComplexityLimitError, match="fix some inputs, or use `dnf_bounds`"):
        minimum_dnf(TruthTable.constant(True, 17))
    with pytest.raises(ComplexityLimitError, match="up to 4,194,304 terms"):
        isop(TruthTable.constant(True, 23))
    single = TruthTable.from_callable(lambda x: x == 5, 18)
    assert isop(single).widths.tolist() == [18]


def sizes(table):
    return minimum_dnf(table).upper, minimum_cnf(table).upper


def model_sizes(mdp):
    yield [sizes(mdp.next_bit(i)) for i in range(mdp.n)]
    yield [sizes(mdp.next_pointer_bit(k)) for k in range(mdp.b)]
    yield sizes(TruthTable.from_callable(lambda x: x == (1 << mdp.n) - 1, mdp.n))


def test_majority_mdp_with_four_bits():
    mdp = MajorityValues(4)
    bits, pointer, reward = model_sizes(mdp)
    assert bits == [(4, 4)] * 4
    assert pointer == [(2, 2), (3, 3)]
    assert reward == (1, 4)
    assert sizes(mdp.positive_q()) == (22, 22)
    assert [minimum_dnf(TruthTable((mdp.q() >> k) & 1)).upper for k in range(3)] == [19, 14, 8]


def test_majority_mdp_with_eight_bits():
    mdp = MajorityValues(8)
    bits, pointer, reward = model_sizes(mdp)
    assert bits == [(5, 5)] * 8
    assert pointer == [(2, 2), (3, 3), (4, 4)]
    assert reward == (1, 8)
    dnf, cnf = minimum_dnf(mdp.positive_q()), minimum_cnf(mdp.positive_q())
    assert (dnf.lower, dnf.upper) == (456, 456)
    assert (cnf.lower, cnf.upper) == (490, 490)
    assert minimum_dnf(mdp.positive_v()).upper == 174
    value_bits = [minimum_dnf(TruthTable((mdp.q() >> k) & 1)) for k in range(4)]
    assert [(bit.lower, bit.upper) for bit in value_bits] == [(k, k) for k in (617, 453, 194, 32)]


@pytest.mark.parametrize(("n", "terms"), [(4, 3), (8, 35), (16, 6435)])
def test_values_of_the_majority_mdp_restrict_to_majority(n, terms):
    mdp = MajorityValues(n)
    # Pointer 0 comes to the last bit last; while that bit is missing, the others vote.
    fixed = {k: 0 for k in range(mdp.b)} | {mdp.b + n - 1: 0}
    others = mdp.positive_v().restrict(fixed)
    assert others == TruthTable.from_callable(lambda x: popcount(x) >= n // 2, n - 1)
    assert minimum_dnf(others).upper == terms
    assert restricted_dnf_bound(mdp.positive_v(), fixed) == terms
    assert terms == math.comb(n - 1, n // 2)
