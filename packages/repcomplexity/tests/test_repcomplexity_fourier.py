"""Spectra against their definition, closed forms and least squares."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modicum.repcomplexity.bits import popcount
from modicum.repcomplexity.boolean.fourier import (
    fvu_by_degree,
    sampled_coefficient,
    spectrum,
    walsh_hadamard,
)
from modicum.repcomplexity.boolean.truth_table import TruthTable
from modicum.repcomplexity.families import MajorityMDP
from modicum.repcomplexity.solver import solve

sys.path.insert(0, str(Path(__file__).parent))
from repcomplexity_boolean_cases import (
    SETTINGS,
    MajorityValues,
    majority,
    parity,
    random_table,
    tables,
)

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def characters(m):
    """(-1)^{|S & x|} at [S, x]."""
    codes = np.arange(1 << m)
    return 1 - 2 * (popcount(codes[:, None] & codes) & 1)


@SETTINGS
@given(tables(max_inputs=6))
def test_the_spectrum_is_its_definition(table):
    size = 1 << table.n_inputs
    signs = 1 - 2 * table.values.astype(int)
    result = spectrum(table)
    expected = characters(table.n_inputs) @ signs
    assert result.sums.dtype == np.int32
    assert np.array_equal(result.sums, expected)
    assert np.array_equal(result.coefficients, expected / size)
    degrees = popcount(np.arange(size))
    for k in range(table.n_inputs + 1):
        assert result.weights[k] == (expected[degrees == k] ** 2).sum() / size**2
        assert result.tail(k) == (expected[degrees > k] ** 2).sum() / size**2
    assert result.degree == max(degrees[expected != 0])
    assert sum(result.squares) == 4**table.n_inputs


@SETTINGS
@given(st.integers(0, 8), st.data())
def test_twice_the_transform_multiplies_by_the_size(m, data):
    values = data.draw(st.lists(st.integers(-1000, 1000), min_size=1 << m, max_size=1 << m))
    twice = walsh_hadamard(walsh_hadamard(values))
    assert twice.tolist() == [value << m for value in values]


@pytest.mark.parametrize("m", [3, 14, 15, 17, 20])
def test_rows_and_passes_agree_with_the_axis_by_axis_transform(m):
    values = np.random.default_rng(m).integers(-5, 6, size=1 << m)
    expected = values.copy()
    for index in range(m):
        pairs = expected.reshape(-1, 2, 1 << index)
        expected = np.stack((pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]), 1).reshape(-1)
    before = values.copy()
    assert np.array_equal(walsh_hadamard(values), expected)
    assert np.array_equal(values, before)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("m", [0, 1, 7, 16])
def test_arrays_and_tensors_have_equal_spectra(m, device):
    values = random_table(m, seed=m).values
    signs = 1 - 2 * values.astype(np.int32)
    tensor = walsh_hadamard(torch.from_numpy(signs).to(device))
    assert tensor.dtype == torch.int32
    assert tensor.device.type == device
    assert np.array_equal(tensor.cpu().numpy(), walsh_hadamard(signs))
    floats = np.random.default_rng(m).standard_normal(1 << m)
    np.testing.assert_allclose(
        walsh_hadamard(torch.from_numpy(floats).to(device)).cpu().numpy(),
        walsh_hadamard(floats),
        atol=1e-9,
    )
    integers = np.random.default_rng(m).integers(0, 9, 1 << m)
    np.testing.assert_array_equal(
        fvu_by_degree(torch.from_numpy(integers).to(device)), fvu_by_degree(integers)
    )


@pytest.mark.gpu
@pytest.mark.parametrize("m", [12, 22])
def test_spectrum_on_a_device_is_that_of_the_host(m):
    table = random_table(m, seed=1)
    here, there = spectrum(table), spectrum(table, device="cuda")
    assert there.sums.device.type == "cuda"
    assert there.squares == here.squares
    assert np.array_equal(there.sums.cpu().numpy(), here.sums)
    assert np.array_equal(there.coefficients.cpu().numpy(), here.coefficients)


def test_booleans_count_and_large_integers_take_64_bits():
    assert walsh_hadamard([True, True]).tolist() == [2, 0]
    assert walsh_hadamard(torch.tensor([True, True])).tolist() == [2, 0]
    large = walsh_hadamard(np.array([2**40, 1]))
    assert large.dtype == np.int64
    assert large.tolist() == [2**40 + 1, 2**40 - 1]
    assert walsh_hadamard(torch.tensor([2**40, 1])).tolist() == [2**40 + 1, 2**40 - 1]


def test_a_tensor_of_one_value_is_not_handed_back_itself():
    value = torch.tensor([1.0])
    walsh_hadamard(value)[0] = 5.0
    assert value.item() == 1.0


def test_majority_of_seven():
    result = spectrum(majority(7))
    assert result.total_influence == 2.1875
    assert [round(result.tail(k), 5) for k in (1, 3, 5)] == [0.31641, 0.17969, 0.09766]
    assert np.array_equal(result.weights[::2], np.zeros(4))
    assert result.degree == 7


@pytest.mark.parametrize("m", [1, 4, 9])
def test_parity_has_all_its_weight_at_the_top(m):
    result = spectrum(parity(m))
    assert result.weights.tolist() == [0.0] * m + [1.0]
    assert result.total_influence == m
    assert result.tail(m - 1) == 1.0
    assert result.noise_sensitivity(0.1) == pytest.approx(0.5 - 0.5 * 0.8**m)


@pytest.mark.parametrize("value", [False, True])
@pytest.mark.parametrize("m", [0, 3])
def test_constants(value, m):
    result = TruthTable.constant(value, m).fourier()
    assert (result.degree, result.tail(0), result.total_influence) == (0, 0.0, 0.0)
    assert result.coefficients[0] == (-1.0 if value else 1.0)


@SETTINGS
@given(tables(max_inputs=6), st.floats(0, 1))
def test_noise_sensitivity_is_the_chance_of_a_change(table, delta):
    m = table.n_inputs
    codes = np.arange(1 << m)
    flips = popcount(codes[:, None] ^ codes)
    chance = delta**flips * (1 - delta) ** (m - flips) / (1 << m)
    changes = table.values[:, None] != table.values
    assert spectrum(table).noise_sensitivity(delta) == pytest.approx((chance * changes).sum())


@pytest.mark.parametrize("kind", ["integers", "floats"])
def test_best_polynomials_are_the_least_squares_fits(kind):
    m, rng = 6, np.random.default_rng(3)
    values = rng.integers(-4, 9, 1 << m) if kind == "integers" else rng.standard_normal(1 << m)
    basis, degrees = characters(m).T, popcount(np.arange(1 << m))
    variance = values.var()
    for k, fvu in enumerate(fvu_by_degree(values)):
        columns = basis[:, degrees <= k].astype(float)
        fit = columns @ np.linalg.lstsq(columns, values.astype(float), rcond=None)[0]
        assert fvu == pytest.approx(((values - fit) ** 2).mean() / variance, abs=1e-12)


def test_fraction_of_variance_knows_no_units():
    values = np.random.default_rng(0).standard_normal(256)
    reference = fvu_by_degree(values)
    np.testing.assert_allclose(fvu_by_degree(1e200 * values), reference, atol=1e-12)
    np.testing.assert_allclose(fvu_by_degree(1e-200 * values), reference, atol=1e-12)
    np.testing.assert_allclose(fvu_by_degree(values + 100), reference, atol=1e-9)


@pytest.mark.parametrize("constant", [0, 3, 0.1, 0.0])
def test_degree_zero_fits_a_constant_target(constant):
    assert fvu_by_degree(np.full(1024, constant)).tolist() == [0.0] * 11


@pytest.mark.parametrize("n", [4, 8])
def test_the_majority_values_are_those_of_the_package(n):
    mine, mdp = MajorityValues(n), MajorityMDP(n)
    codes = np.arange(1 << mine.m)
    action, control, representation = mine.split(codes)
    states = mdp.encode(control, representation)
    assert np.array_equal(solve(mdp, method="dynamic_programming").Q[states, action], mine.q())


@pytest.mark.parametrize(
    ("n", "expected"),
    [(8, (0.514, 0.358, 0.225, 0.094)), (16, (0.480, 0.344, 0.249, 0.141))],
)
def test_variance_of_the_majority_values_beyond_low_degrees(n, expected):
    fvu = fvu_by_degree(MajorityValues(n).q())
    assert [round(float(fvu[k]), 3) for k in (1, 2, 3, 4)] == list(expected)


def test_tails_of_the_majority_mdp_with_16_bits():
    mdp = MajorityValues(16)
    result = spectrum(mdp.positive_q())
    assert round(result.tail(4), 3) == 0.325
    assert round(result.total_influence, 2) == 4.17
    assert round(spectrum(mdp.next_bit(0)).tail(4), 3) == 0.023
    assert all(spectrum(mdp.next_pointer_bit(k)).tail(4) <= 0.1 for k in range(4))


# At level 1 - 1e-9 each of the assertions below fails with a probability of at most 1e-9.
def test_sampled_coefficients_hold_the_exact_ones():
    table = majority(9)
    exact = spectrum(table).coefficients

    def function(bits):
        return bits.sum(axis=1) > 4.5

    for subset in ((), (2,), (0, 1, 2)):
        estimate = sampled_coefficient(function, 9, subset, level=1 - 1e-9, n_samples=20_000)
        truth = exact[sum(1 << i for i in subset)]
        assert estimate.low <= truth <= estimate.high
        assert estimate.high - estimate.low < 0.1


def test_sampled_coefficients_of_100_inputs():
    estimate = sampled_coefficient(lambda bits: bits[:, 7] ^ bits[:, 90], 100, (7, 90))
    assert (estimate.value, estimate.high) == (1.0, 1.0)
    assert sampled_coefficient(lambda bits: bits[:, 7], 100, (8,), seed=1) == sampled_coefficient(
        lambda bits: bits[:, 7], 100, (8,), seed=1
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: walsh_hadamard([1, 2, 3]), "power of two"),
        (lambda: walsh_hadamard(torch.ones(2, 2)), "one-dimensional"),
        (lambda: walsh_hadamard([2**62, 2**62]), "do not fit an int64"),
        (lambda: fvu_by_degree([0.0, np.nan]), "finite"),
        (lambda: fvu_by_degree([0.0, 1.0, 2.0]), "power of two"),
        (lambda: spectrum(parity(2)).tail(-1), "not -1"),
        (lambda: spectrum(parity(2)).noise_sensitivity(1.5), "not 1.5"),
        (lambda: sampled_coefficient(lambda b: b[:, 0], 3, (3,)), r"not \[3\]"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
