"""Smallest decision trees against recursion by definition and known values."""

import functools
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from modicum.repcomplexity.bits import ComplexityLimitError
from modicum.repcomplexity.boolean.fourier import spectrum
from modicum.repcomplexity.boolean.ternary import certificate_complexity
from modicum.repcomplexity.boolean.trees import DecisionTree, minimum_tree, tree_complexity
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


@functools.cache
def leaves_and_depth(number, m):
    """By definition, on truth tables as integers: the recursion over the first question."""
    size = 1 << m
    if number in (0, (1 << size) - 1):
        return 1, 0
    table = TruthTable.from_int(number, m)
    halves = [
        [leaves_and_depth(table.restrict({i: v}).to_int(), m - 1) for v in (0, 1)] for i in range(m)
    ]
    return (
        min(low[0] + high[0] for low, high in halves),
        min(1 + max(low[1], high[1]) for low, high in halves),
    )


@SETTINGS
@given(tables(max_inputs=4))
def test_sizes_by_definition_and_trees_that_have_them(table):
    leaves, depth = leaves_and_depth(table.to_int(), table.n_inputs)
    complexity = tree_complexity(table)
    assert (complexity.leaves, complexity.depth) == (leaves, depth)
    codes = np.arange(1 << table.n_inputs)
    small, shallow = minimum_tree(table), minimum_tree(table, "depth")
    assert np.array_equal(small(codes), table.values)
    assert np.array_equal(shallow(codes), table.values)
    assert small.leaves == leaves
    assert shallow.depth == depth


@SETTINGS
@given(tables(max_inputs=6))
def test_depth_lies_between_certificates_and_their_product(table):
    depth = tree_complexity(table).depth
    complexity = certificate_complexity(table)
    assert complexity.both <= depth
    if not table.is_constant():
        assert depth <= complexity.zeros * complexity.ones
    assert spectrum(table).degree <= depth


@pytest.mark.parametrize("m", [1, 4, 7])
def test_parity_needs_the_whole_tree(m):
    assert tree_complexity(parity(m)).leaves == 2**m
    assert tree_complexity(parity(m)).depth == m


@pytest.mark.parametrize("m", [1, 3, 5, 7])
def test_majority_must_see_every_input_in_the_worst_case(m):
    assert tree_complexity(majority(m)).depth == m


def test_all_trees_of_the_majority_mdp_with_four_bits():
    mdp = MajorityValues(4)
    # Ask for a, then for the pointer, then once for the bit: 2 · (1 + 2 + 1) leaves.
    assert tree_complexity(mdp.next_bit(0)).leaves == 8
    assert tree_complexity(mdp.positive_q()).leaves > 22


@pytest.mark.parametrize("m", [0, 3])
def test_constants_are_leaves(m):
    for value in (False, True):
        tree = minimum_tree(TruthTable.constant(value, m))
        assert tree == DecisionTree(value=value)
        assert (tree.leaves, tree.depth) == (1, 0)


def test_ten_inputs():
    table = random_table(10, seed=0)
    tree = minimum_tree(table)
    assert np.array_equal(tree(np.arange(1024)), table.values)
    assert tree.leaves == tree_complexity(table).leaves
    # Any tree can be grown from the halves of any first question.
    for index in range(10):
        halves = [tree_complexity(table.restrict({index: v})).leaves for v in (0, 1)]
        assert tree.leaves <= sum(halves)
    assert tree.leaves == sum(
        tree_complexity(table.restrict({tree.variable: v})).leaves for v in (0, 1)
    )


def test_bad_arguments():
    with pytest.raises(ValueError, match="not 'nodes'"):
        minimum_tree(parity(2), "nodes")
    with pytest.raises(ComplexityLimitError, match="fit a tree to samples"):
        tree_complexity(TruthTable.constant(True, 14))
