"""Codes of turns: zero where query and key belong together, far below where they do not."""

import math

import pytest
import torch

from modicum.testtime.construct.codes import CODES, turn_codes


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("turns", [1, 2, 3, 8, 31, 32, 100])
def test_products_are_zero_for_relevant_pairs_and_below_the_margin_for_others(name, turns):
    codes = turn_codes(name, turns)
    product_TT = codes.query_TC @ codes.key_TC.T
    # Row: whose query; column 0: key of the prompt, which everybody reads.
    assert (product_TT[:, 0] == 0).all()
    assert (product_TT.diag()[1:] == 0).all()
    other_TT = torch.ones(turns + 1, turns + 1).bool()
    other_TT[:, 0] = False
    other_TT.fill_diagonal_(False)
    assert (product_TT[other_TT] <= -codes.margin + 1e-12).all()
    assert 0 < codes.margin <= 1
    torch.testing.assert_close(
        codes.query_TC @ codes.outside_C, -torch.ones(turns + 1).double(), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("name", CODES)
def test_every_term_of_a_relevant_product_is_exactly_zero(name):
    codes = turn_codes(name, 21)
    assert (codes.query_TC[1:] * codes.key_TC[1:] == 0).all()


@pytest.mark.parametrize("epsilon", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("turns", [5, 60])
def test_random_signs_are_almost_orthogonal(turns, epsilon):
    codes = turn_codes("orthogonal", turns, epsilon, seed=3)
    half = codes.num_coordinates // 2
    signs_TC = codes.query_TC[:, :half] - codes.query_TC[:, half:]
    torch.testing.assert_close(signs_TC.abs(), torch.full_like(signs_TC, half**-0.5))
    product_TT = (signs_TC @ signs_TC.T).fill_diagonal_(0)
    assert product_TT.abs().max() <= epsilon + 1e-12
    assert codes.coherence == pytest.approx(float(product_TT.abs().max()))
    assert half == math.ceil(2 * math.log(2 * turns + 2) / epsilon**2)
    again = turn_codes("orthogonal", turns, epsilon, seed=3)
    assert torch.equal(again.key_TC, codes.key_TC)


def test_widths_of_the_families():
    for turns in (1, 2, 7, 8, 500):
        assert turn_codes("onehot", turns).num_coordinates == turns + 1
        digits = len(f"{turns:b}")
        assert turn_codes("binary", turns).num_coordinates == 2 * digits
    # With the logarithm: from some number of turns on narrower than one-hot.
    assert turn_codes("orthogonal", 150).num_coordinates < 100


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="onehot, orthogonal, binary, not 'hadamard'"):
        turn_codes("hadamard", 4)
    with pytest.raises(ValueError, match="turns must be at least 1, not 0"):
        turn_codes("onehot", 0)
    for epsilon in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="epsilon must be in"):
            turn_codes("orthogonal", 4, epsilon)
