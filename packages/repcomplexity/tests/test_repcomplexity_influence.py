"""Influence, sensitivity and noise against their definitions; estimates against exact values."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from modicum.repcomplexity.boolean.fourier import spectrum
from modicum.repcomplexity.boolean.influence import (
    influences,
    noise_tail_bound,
    sampled_influences,
    sampled_noise_sensitivity,
    sampled_total_influence,
    sensitivities,
    total_influence,
)
from modicum.repcomplexity.boolean.sampling import INTERVALS, proportion
from modicum.repcomplexity.boolean.truth_table import TruthTable

sys.path.insert(0, str(Path(__file__).parent))
from repcomplexity_boolean_cases import SETTINGS, MajorityValues, majority, parity, tables

# A test below that compares an interval at this level with the truth fails one time in a billion.
LEVEL = 1 - 1e-9


@SETTINGS
@given(tables(max_inputs=6))
def test_influence_and_sensitivity_by_definition(table):
    m, size = table.n_inputs, 1 << table.n_inputs
    changes = np.array(
        [[table(x) != table(x ^ (1 << i)) for i in range(m)] for x in range(size)]
    ).reshape(size, m)
    assert influences(table).tolist() == (changes.sum(axis=0) / size).tolist()
    assert sensitivities(table).tolist() == changes.sum(axis=1).tolist()
    assert table.influences().tolist() == influences(table).tolist()


@SETTINGS
@given(tables(max_inputs=7))
def test_total_influence_is_that_of_the_spectrum_and_the_mean_sensitivity(table):
    assert total_influence(table) == spectrum(table).total_influence
    assert total_influence(table) == sensitivities(table).mean()


@pytest.mark.parametrize("m", [1, 3, 7, 11])
def test_majority_and_parity(m):
    expected = m * math.comb(m - 1, (m - 1) // 2) / 2 ** (m - 1)
    assert total_influence(majority(m)) == expected
    assert total_influence(parity(m)) == m
    assert influences(parity(m)).tolist() == [1.0] * m


def test_influence_of_a_constant_is_zero():
    assert total_influence(TruthTable([True])) == 0.0
    assert influences(TruthTable([True])).shape == (0,)
    assert sensitivities(TruthTable.constant(False, 3)).tolist() == [0] * 8


@pytest.mark.parametrize(
    ("n", "q", "next_bit", "reward"), [(4, 2.75, 1.75, 0.5), (8, 3.32, 1.5, 0.0625)]
)
def test_majority_mdp(n, q, next_bit, reward):
    mdp = MajorityValues(n)
    assert round(total_influence(mdp.positive_q()), 2) == q
    assert all(total_influence(mdp.next_bit(i)) == next_bit for i in range(n))
    assert all(total_influence(mdp.next_pointer_bit(k)) <= 2 for k in range(mdp.b))
    all_ones = TruthTable.from_callable(lambda x: x == (1 << n) - 1, n)
    assert total_influence(all_ones) == reward
    if n == 8:
        assert round(total_influence(mdp.positive_v()), 3) == 2.203


def test_estimates_hold_the_exact_values():
    table = majority(9)

    def function(bits):
        return bits.sum(axis=1) > 4.5

    total = sampled_total_influence(function, 9, level=LEVEL, n_samples=40_000)
    assert total.low <= total_influence(table) <= total.high
    noise = sampled_noise_sensitivity(function, 9, 0.1, level=LEVEL, n_samples=40_000)
    assert noise.low <= spectrum(table).noise_sensitivity(0.1) <= noise.high
    assert noise.high - noise.low < 0.04
    for estimate, exact in zip(
        sampled_influences(function, 9, level=LEVEL, n_samples=5000),
        influences(table),
        strict=True,
    ):
        assert estimate.low <= exact <= estimate.high


def test_estimates_of_functions_that_no_table_can_hold():
    m = 1001
    total = sampled_total_influence(lambda bits: bits.sum(axis=1) % 2, m, n_samples=1000)
    assert (total.value, total.high) == (m, m)
    total = sampled_total_influence(
        lambda bits: bits.sum(axis=1) > m / 2, m, level=LEVEL, n_samples=20_000
    )
    exact = math.exp(math.log(m) + math.lgamma(m) - 2 * math.lgamma(m / 2 + 0.5)) / 2.0 ** (m - 1)
    assert total.low <= exact <= total.high


def test_the_same_seed_draws_the_same():
    def function(bits):
        return bits[:, 0] & bits[:, 1]

    assert sampled_total_influence(function, 5, seed=3, n_samples=1000) == (
        sampled_total_influence(function, 5, seed=3, n_samples=1000)
    )


@SETTINGS
@given(tables(min_inputs=1, max_inputs=7), st.integers(2, 8))
def test_noise_bounds_the_tail(table, k):
    result = spectrum(table)
    bound = noise_tail_bound(result.noise_sensitivity(1 / k), 1 / k)
    assert result.tail(k - 1) <= bound + 1e-12


@pytest.mark.parametrize("interval", ["hoeffding", "clopper-pearson"])
@pytest.mark.parametrize("p", [0.01, 0.3, 0.5])
def test_intervals_cover(interval, p):
    n = 60
    covered = sum(
        binom.pmf(k, n, p)
        for k in range(n + 1)
        if (e := proportion(k, n, level=0.9, interval=interval)).low <= p <= e.high
    )
    assert covered >= 0.9


def test_wilson_by_its_equation():
    estimate = proportion(7, 50, interval="wilson")
    z = 1.959963984540054
    for end in (estimate.low, estimate.high):
        assert abs(estimate.value - end) == pytest.approx(z * math.sqrt(end * (1 - end) / 50))


@pytest.mark.parametrize("interval", INTERVALS)
def test_intervals_stay_between_zero_and_one(interval):
    for k in (0, 3):
        estimate = proportion(k, 3, interval=interval)
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: proportion(4, 3), "4 of 3 draws"),
        (lambda: proportion(1, 3, level=1.0), "not 1.0"),
        (lambda: proportion(1, 3, interval="normal"), "not 'normal'"),
        (lambda: sampled_total_influence(lambda b: b[:, 0], 0), "at least 1, not 0"),
        (lambda: sampled_total_influence(lambda b: b, 3), "one value per row"),
        (lambda: sampled_total_influence(lambda b: b.sum(1), 3), "0 and 1 only"),
        (lambda: sampled_noise_sensitivity(lambda b: b[:, 0], 3, 0.6), "not 0.6"),
        (lambda: noise_tail_bound(2.0, 0.1), "not 2.0"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
