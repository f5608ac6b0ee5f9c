"""Bounds against the exact quantities they bound, closed forms and published values."""

import math
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from modicum.repcomplexity.bits import ComplexityLimitError, popcount
from modicum.repcomplexity.boolean.bounds import (
    approximate_degree,
    cnf_width,
    dnf_width,
    hastad_parity,
    lmn_size,
    majority_dnf_terms,
    majority_influence,
    majority_mdp_dnf_terms,
    parity_dnf_terms,
    smolensky_size,
    strongest_lmn_size,
    symmetric_approximate_degree,
)
from modicum.repcomplexity.boolean.dnf import minimum_dnf
from modicum.repcomplexity.boolean.fourier import spectrum
from modicum.repcomplexity.boolean.influence import total_influence
from modicum.repcomplexity.boolean.ternary import certificate_complexity
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


@SETTINGS
@given(tables(max_inputs=7))
def test_influence_never_exceeds_the_least_width(table):
    complexity = certificate_complexity(table)
    assert dnf_width(table) <= complexity.ones + 1e-12
    assert cnf_width(table) <= complexity.zeros + 1e-12


@pytest.mark.parametrize("n", [4, 8])
def test_influence_never_exceeds_the_width_in_the_majority_mdp(n):
    table = MajorityValues(n).positive_q()
    assert 1 < dnf_width(table) <= certificate_complexity(table).ones


def test_width_bounds_of_known_functions():
    assert dnf_width(parity(5)) == cnf_width(parity(5)) == 5
    conjunction = TruthTable.from_callable(lambda x: x == 15, 4)
    # I = 8 edges of 8 per input: 4 / 8, over 2 Pr = 1 / 8.
    assert dnf_width(conjunction) == 4
    assert dnf_width(TruthTable.constant(True, 3)) == 0


@pytest.mark.parametrize("m", range(1, 8))
def test_terms_of_parity_and_majority(m):
    assert parity_dnf_terms(m) == minimum_dnf(parity(m)).lower
    assert majority_dnf_terms(m) == minimum_dnf(majority(m)).lower
    if m % 2:
        assert majority_dnf_terms(m) == math.comb(m, (m + 1) // 2)
        assert majority_influence(m) == total_influence(majority(m))


def test_influence_of_majority_grows_as_a_square_root():
    assert majority_influence(7) == 2.1875
    assert majority_influence(1001) == pytest.approx(math.sqrt(2002 / math.pi), rel=1e-3)


def test_terms_of_the_values_of_the_majority_mdp():
    assert [majority_mdp_dnf_terms(n) for n in (8, 16, 32)] == [35, 6435, 300_540_195]
    assert majority_mdp_dnf_terms(8) <= minimum_dnf(MajorityValues(8).positive_v()).lower


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("q", [3, 5])
def test_smolensky_by_exact_counting(depth, q):
    n, best = 400, 0.0
    total = 2**n
    for trials in range(1, 60):
        degree = ((q - 1) * trials) ** depth
        if degree > n:
            break
        covered = sum(math.comb(n, i) for i in range((n + degree) // 2 + 1))
        missed = Fraction(total - covered, total) * q**trials
        best = max(best, math.log2(missed) if missed else 0.0)
    assert smolensky_size(n, depth, q, log2=True) == pytest.approx(max(0.0, best), abs=1e-9)
    assert smolensky_size(n, depth, q) == pytest.approx(2 ** max(0.0, best))


def test_smolensky_says_next_to_nothing_where_tables_exist():
    assert smolensky_size(100, 2) == 1
    assert round(smolensky_size(1000, 2), 1) == 3.3
    assert round(smolensky_size(10**4, 3), 1) == 2.3
    sizes = [smolensky_size(10**k, 2, log2=True) for k in range(4, 13, 2)]
    assert sizes == sorted(sizes)
    # Below the floats the tail is bounded by its greatest term.
    assert smolensky_size(10**12, 2, log2=True) > 2000
    with pytest.raises(OverflowError, match="pass log2=True"):
        smolensky_size(10**12, 2)


def test_no_constant_depth_bound_exceeds_a_known_circuit():
    for m in range(1, 20):
        gates_of_dnf = parity_dnf_terms(m) + 1
        assert smolensky_size(m, 2) <= gates_of_dnf
        assert hastad_parity(m, 2) <= gates_of_dnf


def test_hastad():
    assert hastad_parity(100, 3) == 2.0
    assert hastad_parity(10**6, 2, log2=True) == pytest.approx(10**5)


def test_linial_mansour_nisan():
    assert lmn_size(1.0, 40**2, 2) == 2.0
    assert lmn_size(1.0, 39, 1) > lmn_size(0.5, 39, 1)
    assert lmn_size(0.0, 10**9, 2) == 1
    # The inequality turned around is the tail bound again.
    size = lmn_size(0.3, 10**6, 2)
    assert 2 * size * 2 ** (-math.sqrt(10**6) / 20) == pytest.approx(0.3)
    for table in (majority(9), parity(9), random_table(9, seed=0)):
        assert strongest_lmn_size(spectrum(table), 2) == 1
    assert strongest_lmn_size(spectrum(parity(9)), 2, log2=True) == 0


def every_sign_pattern_error(table, k):
    """Least error of degree k from the dual side: the best polynomial cannot beat any witness."""
    from scipy.optimize import linprog

    m = table.n_inputs
    codes = np.arange(1 << m)
    low = [s for s in range(1 << m) if s.bit_count() <= k]
    characters = np.array([[1 - 2 * ((int(x) & s).bit_count() & 1) for x in codes] for s in low])
    # Maximise <f, psi> over psi = a − b of l1 norm 1 that is orthogonal to low degrees.
    f = table.values.astype(float)
    result = linprog(
        np.concatenate((-f, f)),
        A_eq=np.vstack((np.hstack((characters, -characters)), np.ones(2 << m))),
        b_eq=np.append(np.zeros(len(low)), 1.0),
    )
    return -result.fun


@pytest.mark.parametrize("seed", range(6))
def test_approximate_degree_agrees_with_its_dual(seed):
    table = random_table(4, seed)
    found = approximate_degree(table)
    errors = [every_sign_pattern_error(table, k) for k in range(5)]
    expected = min(k for k, error in enumerate(errors) if error <= 1 / 3 + 1e-6)
    assert found.degree == expected
    assert found.error == pytest.approx(errors[expected], abs=1e-6)
    assert found.error_below == pytest.approx(errors[expected - 1], abs=1e-6)
    assert found.degree <= spectrum(table).degree


@pytest.mark.parametrize("m", [3, 5])
def test_both_linear_programs_agree_on_symmetric_functions(m):
    # Negating an input keeps the approximate degree and hides the symmetry.
    for number in range(1 << (m + 1)):
        per_weight = [(number >> k) & 1 for k in range(m + 1)]
        if m == 5 and number % 7:
            continue
        weights = popcount(np.arange(1 << m))
        table = TruthTable(np.array(per_weight)[weights])
        hidden = table.negate_inputs(1)
        small, full = symmetric_approximate_degree(per_weight), approximate_degree(hidden)
        assert small.degree == full.degree
        assert small.error == pytest.approx(full.error, abs=1e-6)


@pytest.mark.parametrize("m", [1, 4, 30, 100])
def test_parity_has_full_approximate_degree(m):
    found = symmetric_approximate_degree([k % 2 for k in range(m + 1)])
    assert found.degree == m
    assert found.error == 0
    assert found.error_below == pytest.approx(0.5, abs=1e-6)


def test_a_degree_whose_error_is_the_tolerance_counts():
    # The best line for OR of three alternates at weights 0, 1, 3 with error exactly 1/3.
    found = symmetric_approximate_degree([0, 1, 1, 1])
    assert found.degree == 1
    assert found.error == pytest.approx(1 / 3, abs=1e-6)


def test_or_needs_about_a_square_root():
    degrees = [symmetric_approximate_degree([0] + [1] * m).degree for m in (16, 64, 196)]
    for m, degree in zip((16, 64, 196), degrees, strict=True):
        # Chebyshev polynomials give sqrt(m) from above, Markov's inequality the bound below.
        assert math.sqrt(m / 6) <= degree <= math.sqrt(m) + 1
    assert degrees[2] > degrees[1] > degrees[0]


@pytest.mark.parametrize("value", [0, 1])
def test_constants_have_degree_zero(value):
    for m in (0, 3):
        found = symmetric_approximate_degree([value] * (m + 1))
        assert found.degree == 0
        assert found.error == pytest.approx(0, abs=1e-9)
        assert approximate_degree(TruthTable.constant(bool(value), m)).degree == 0


def test_degree_is_that_of_the_polynomial_without_tolerance():
    for seed in range(5):
        table = random_table(4, seed, probability=0.3)
        assert approximate_degree(table, 0.0).degree == spectrum(table).degree


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hastad_parity(10, 1), "depth must be at least 2, not 1"),
        (lambda: smolensky_size(10, 2, 2), "odd prime, not 2"),
        (lambda: smolensky_size(10, 2, 9), "odd prime, not 9"),
        (lambda: smolensky_size(0, 2), "n_inputs must be at least 1"),
        (lambda: lmn_size(1.2, 3, 2), "tail"),
        (lambda: lmn_size(0.2, -1, 2), "k must be at least 0"),
        (lambda: majority_influence(4), "odd, not 4"),
        (lambda: majority_mdp_dnf_terms(6), "power of two"),
        (lambda: parity_dnf_terms(0), "at least 1, not 0"),
        (lambda: approximate_degree(parity(2), 0.5), r"epsilon must be in \[0, 1/2\), not 0.5"),
        (lambda: symmetric_approximate_degree([0, 2]), "0 and 1 only"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_limits():
    with pytest.raises(ComplexityLimitError, match="2,048 columns"):
        approximate_degree(random_table(11, seed=0))
    with pytest.raises(ComplexityLimitError, match="not enough"):
        symmetric_approximate_degree([0] * 202)
    assert approximate_degree(majority(11)).degree > 1
