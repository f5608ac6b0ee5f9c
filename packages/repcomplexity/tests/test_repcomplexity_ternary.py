"""Implicants, primes and certificates against brute force over all terms."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given

from modicum.repcomplexity.bits import ComplexityLimitError
from modicum.repcomplexity.boolean.influence import sensitivities
from modicum.repcomplexity.boolean.ternary import (
    MAX_TERNARY_INPUTS,
    certificate_complexity,
    certificate_sizes,
    implicants,
    primes,
    ternary_codes,
)
from modicum.repcomplexity.boolean.truth_table import TruthTable

sys.path.insert(0, str(Path(__file__).parent))
from repcomplexity_boolean_cases import SETTINGS, majority, parity, random_table, tables

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def points(digits):
    """The codes in a subcube given by its digits, input 0 first."""
    choices = [(0, 1) if digit == 2 else (digit,) for digit in digits]
    return [sum(bit << i for i, bit in enumerate(bits)) for bits in itertools.product(*choices)]


def brute_implicants(table):
    """Digits of every subcube on which the function is true, in the order of their numbers."""
    cubes = itertools.product(range(3), repeat=table.n_inputs)
    digits = [cube[::-1] for cube in cubes]
    return digits, [all(table(x) for x in points(cube)) for cube in digits]


@SETTINGS
@given(tables(max_inputs=4))
def test_implicants_primes_and_certificates_by_brute_force(table):
    m = table.n_inputs
    digits, holds = brute_implicants(table)
    assert implicants(table).tolist() == holds
    implied = {cube for cube, hold in zip(digits, holds, strict=True) if hold}
    expected = [
        cube
        for cube in digits
        if cube in implied
        and not any(cube[i] != 2 and (*cube[:i], 2, *cube[i + 1 :]) in implied for i in range(m))
    ]
    found = primes(table)
    assert len(found) == len(expected)
    for term, cube in enumerate(expected):
        assert sorted(found.inputs(term)) == sorted(points(cube))
        assert found.widths[term] == m - cube.count(2)
    assert found.table() == table
    zeros = {c for c, hold in zip(digits, brute_implicants(~table)[1], strict=True) if hold}
    sizes = certificate_sizes(table)
    for x in range(1 << m):
        cubes = implied if table(x) else zeros
        assert sizes[x] == min(m - cube.count(2) for cube in cubes if x in points(cube))
    complexity = certificate_complexity(table)
    values = table.values
    assert complexity.ones == max(sizes[values].tolist(), default=0)
    assert complexity.zeros == max(sizes[~values].tolist(), default=0)
    assert complexity.both == max(complexity.ones, complexity.zeros)


@SETTINGS
@given(tables(max_inputs=6))
def test_sensitivity_is_at_most_the_certificate(table):
    assert (sensitivities(table) <= certificate_sizes(table)).all()


@pytest.mark.parametrize("m", [3, 7])
def test_majority_and_parity(m):
    half = (m + 1) // 2
    complexity = certificate_complexity(majority(m))
    assert (complexity.zeros, complexity.ones) == (half, half)
    assert set(primes(majority(m)).widths.tolist()) == {half}
    assert certificate_complexity(parity(m)).both == m
    assert len(primes(parity(m))) == 2 ** (m - 1)


@pytest.mark.parametrize("m", [0, 3])
def test_constants(m):
    true, false = TruthTable.constant(True, m), TruthTable.constant(False, m)
    assert len(primes(false)) == 0
    assert primes(true).widths.tolist() == [0]
    assert certificate_complexity(true) == certificate_complexity(false)
    assert certificate_complexity(true).both == 0


def test_subcubes_of_single_points_hold_the_values():
    table = random_table(7, seed=0)
    codes = np.arange(128)
    assert np.array_equal(implicants(table)[ternary_codes(codes, 7)], table.values)


def test_chosen_terms_keep_their_literals():
    terms = primes(majority(3))
    assert terms[[1]].inputs(0).tolist() == terms.inputs(1).tolist()
    assert len(terms[:2]) == 2


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("m", [0, 1, 9])
def test_tensors_agree_with_arrays(m, device):
    table = random_table(m, seed=m, probability=0.7)
    holds = implicants(table.to_torch(device))
    assert holds.device.type == device
    assert np.array_equal(holds.cpu().numpy(), implicants(table))
    here, there = primes(table), primes(table.to_torch(device))
    assert np.array_equal(here.care, there.care)
    assert np.array_equal(here.polarity, there.polarity)


def test_tensors_have_a_power_of_two_of_values():
    with pytest.raises(ValueError, match=r"power of two of them, not \(3,\)"):
        implicants(torch.tensor([True, False, True]))


def test_limits():
    table = TruthTable.constant(True, MAX_TERNARY_INPUTS + 1)
    for routine in (implicants, primes, certificate_complexity):
        with pytest.raises(ComplexityLimitError, match=r"0\.1 GiB for all subcubes; fix some"):
            routine(table)
