"""Bad inputs are refused by name and value; warnings come where they are due and only there."""

import warnings

import numpy as np
import pandas as pd
import pytest

from modicum.daved import validation as v
from modicum.daved.errors import DAVEDWarning, InfeasibleBudgetError


def test_names_are_listed_and_the_nearest_is_suggested():
    assert v.check_one_of("solver", "fw", ("fw", "exact")) == "fw"
    with pytest.raises(ValueError, match=r"'fw', 'exact', not 'exakt'; did you mean 'exact'\?"):
        v.check_one_of("solver", "exakt", ("fw", "exact"))
    with pytest.raises(ValueError, match="not 3"):
        v.check_one_of("solver", 3, ("fw",))


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_positive_refuses_numbers_that_are_not(value):
    with pytest.raises(ValueError, match="prior must be positive and finite, not"):
        v.check_positive("prior", value)


@pytest.mark.parametrize("value", ["1", None, True, 1j])
def test_positive_and_fraction_refuse_what_is_no_number(value):
    with pytest.raises(TypeError, match="prior must be a positive number"):
        v.check_positive("prior", value)
    with pytest.raises(TypeError, match=r"prior must be a number in \[0, 1\)"):
        v.check_fraction("prior", value)


@pytest.mark.parametrize("value", [1, 1.5, -1e-9, float("nan")])
def test_reg_lambda_is_in_the_half_open_interval(value):
    with pytest.raises(ValueError, match=r"reg_lambda must be in \[0, 1\), not"):
        v.check_fraction("reg_lambda", value)
    assert v.check_fraction("reg_lambda", 0) == 0.0


def test_counts():
    assert v.check_count("max_iter", np.int64(3)) == 3
    with pytest.raises(TypeError, match=r"max_iter must be an integer, not 2\.0"):
        v.check_count("max_iter", 2.0)
    with pytest.raises(ValueError, match="max_iter must be at least 1, not 0"):
        v.check_count("max_iter", 0)


def test_values_that_are_not_finite_are_counted_and_the_first_is_located_across_shards():
    first, second = np.zeros((3, 2)), np.zeros((4, 2), dtype=np.float32)
    v.check_finite("X", [first, second])
    second[1, 1], second[3, 0] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"X has 2 values that are NaN or infinite.* at \(4, 1\)"):
        v.check_finite("X", [first, second])
    with pytest.raises(ValueError, match=r"costs has 1 values .* the first at 2;"):
        v.check_finite("costs", np.array([1.0, 2.0, -np.inf]))


def test_the_first_bad_value_is_found_behind_the_first_chunk(monkeypatch):
    monkeypatch.setattr(v, "_VALUES_OF_A_CHUNK", 6)
    values = np.zeros((10, 3))
    values[7, 2] = np.nan
    values[9] = np.inf
    with pytest.raises(ValueError, match=r"X has 4 values .* at \(7, 2\)"):
        v.check_finite("X", values)


def test_integers_and_booleans_are_finite():
    v.check_finite("X", np.ones((2, 2), dtype=np.int8))
    v.check_finite("X", np.ones((2, 2), dtype=bool))


def test_sellers_are_counted_over_shards():
    assert v.check_sellers([np.ones((2, 3)), np.ones((5, 3))]) == (7, 3)
    with pytest.raises(ValueError, match=r"X_seller has 0 sample\(s\) \(shape=\(0, 3\)\)"):
        v.check_sellers(np.ones((0, 3)))
    with pytest.raises(ValueError, match=r"X_seller has 0 feature\(s\) \(shape=\(4, 0\)\)"):
        v.check_sellers(np.ones((4, 0)))


def test_queries():
    found = v.check_queries(np.array([[1, 2]]), 2)
    assert found.dtype == np.float64
    with pytest.raises(ValueError, match="X_buyer has 2 features, but X_seller has 3"):
        v.check_queries(np.ones((1, 2)), 3)
    with pytest.raises(ValueError, match=r"X_buyer has 0 sample\(s\)"):
        v.check_queries(np.ones((0, 2)), 2)
    with pytest.raises(ValueError, match="X_buyer has 1 rows of zeros, the first at 1"):
        v.check_queries(np.array([[0.0, 1.0], [0.0, 0.0]]), 2)
    with pytest.raises(ValueError, match="X_buyer has 1 values that are NaN"):
        v.check_queries(np.array([[np.nan, 1.0]]), 2)


def test_prices_and_noise():
    np.testing.assert_array_equal(v.check_prices(None, 3), np.ones(3))
    with pytest.raises(ValueError, match=r"costs has shape \(2,\); .* each of the 3 records"):
        v.check_prices([1, 2], 3)
    with pytest.raises(ValueError, match=r"costs has 2 values that are not positive.* -1\.0 at 1"):
        v.check_prices([1, -1, 0], 3)
    with pytest.raises(ValueError, match="noise_var has 1 values that are NaN"):
        v.check_noise([1, np.nan, 1], 3)
    with pytest.raises(ValueError, match="every variance must be above 0"):
        v.check_noise([1, 0, 1], 3)


def test_row_weights_may_be_0_but_not_all():
    np.testing.assert_array_equal(v.check_row_weight([0, 1.5], 2), [0, 1.5])
    with pytest.raises(ValueError, match=r"row_weight has shape \(2,\); .* one weight for each"):
        v.check_row_weight([1, 2], 3)
    with pytest.raises(ValueError, match=r"row_weight has 1 values below 0.* -0\.5 at 1"):
        v.check_row_weight([1, -0.5, 0], 3)
    with pytest.raises(ValueError, match="row_weight has 1 values that are NaN"):
        v.check_row_weight([1, np.nan], 2)
    with pytest.raises(ValueError, match="row_weight is 0 for all of the 2 records"):
        v.check_row_weight([0, 0], 2)


def test_tensors_are_checked_where_they_are():
    torch = pytest.importorskip("torch")
    values = torch.zeros(5, 3, requires_grad=True)
    assert v.check_sellers(values) == (5, 3)
    assert v.check_sellers([values, torch.zeros(2, 3, dtype=torch.bfloat16)]) == (7, 3)
    v.check_finite("X", torch.ones(2, 2, dtype=torch.int32))
    holes = torch.zeros(5, 3)
    holes[3, 1], holes[4, 2] = torch.nan, torch.inf
    with pytest.raises(ValueError, match=r"X has 2 values .* the first at \(8, 1\)"):
        v.check_finite("X", [values, holes])


def test_a_budget_must_buy_something_and_may_be_the_cheapest_price_exactly():
    prices = np.array([2.0, 3.0])
    assert v.check_budget(2, prices) == 2.0
    with pytest.raises(InfeasibleBudgetError, match=r"budget 1\.5 buys nothing: .* 2\.0"):
        v.check_budget(1.5, prices)
    with pytest.raises(ValueError, match="budget must be positive"):
        v.check_budget(0, prices)
    with pytest.raises(TypeError, match="budget must be a positive number"):
        v.check_budget(None)


def test_groups():
    labels, codes = v.check_groups(["b", "a", "b"], 3)
    assert labels.tolist() == ["a", "b"]
    assert codes.tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match=r"groups has shape \(2,\)"):
        v.check_groups([0, 1], 3)
    with pytest.raises(ValueError, match="groups has no group for the record at 1"):
        v.check_groups([0.0, np.nan, 1.0], 3)


def test_a_lot_has_one_price():
    codes = np.array([1, 0, 1])
    np.testing.assert_array_equal(v.check_lot_prices(np.array([5.0, 2.0, 5.0]), codes), [2, 5])
    with pytest.raises(ValueError, match=r"from 4\.0 to 5\.0 in the group 'b'"):
        v.check_lot_prices(np.array([5.0, 2.0, 4.0]), codes, ["a", "b"])


def test_labels_are_refused_whatever_they_are():
    v.check_no_labels(None)
    with pytest.raises(ValueError, match="y must be None"):
        v.check_no_labels(np.zeros(3))


WARNINGS = {
    "coverage": (v.warn_coverage, (np.array([1.0, 0.5]),), (np.array([1.0, 0.99]),)),
    "rank": (v.warn_rank, (2, 3), (3, 3)),
    "queries": (v.warn_many_queries, (33,), (32,)),
    "norms": (
        v.warn_norms,
        (np.array([1.0, 1.1, 0.9, 1.05, 1.7]),),
        (np.array([1.0, 1.1, 0.9, 1.05, 1.3]),),
    ),
    "equal norms": (
        v.warn_norms,
        (np.array([1.0] * 9 + [1.001]),),
        (np.array([1.0] * 9 + [1 + 1e-12]),),
    ),
    "scales": (v.warn_scales, (np.array([1.0, 1e-13]),), (np.array([1.0, 1e-11, 0.0]),)),
    "no scale": (v.warn_scales, (np.array([1e14, 1.0]),), (np.zeros(2),)),
    "budget": (v.warn_small_budget, (9.0, 10), (10.0, 10)),
    "gains": (v.warn_few_gains, (np.array([1.0, 0.0]), 2), (np.array([1.0, 0.0]), 1)),
    "stalled": (v.warn_stalled, (False, 3, 10), (True, 3, 10)),
    "not stalled": (v.warn_stalled, (False, 3, 10), (False, 10, 10)),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_a_warning_comes_where_it_is_due_and_only_there(name):
    function, due, fine = WARNINGS[name]
    with pytest.warns(DAVEDWarning):
        function(*due)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        function(*fine)


def test_a_warning_names_the_line_of_the_caller_outside_the_package():
    with pytest.warns(DAVEDWarning) as caught:
        v.warn_rank(1, 2)
    assert caught[0].filename == __file__


def test_the_warning_on_norms_counts_rows_and_names_the_longest():
    norms = np.array([1.0, 1.1, 0.9, 1.05, 4.0, 9.0, 1.0])
    with pytest.warns(DAVEDWarning, match=r"2 rows have norms above .*, the largest 9 at 5"):
        v.warn_norms(norms)


def test_the_warning_on_coverage_names_the_first_query():
    with pytest.warns(DAVEDWarning, match=r"2 of 3 queries .* the first 0\.25 at 1"):
        v.warn_coverage(np.array([1.0, 0.25, 0.0]))


@pytest.mark.parametrize("missing", [None, pd.NA, pd.NaT, float("nan")])
def test_a_missing_group_is_named_whatever_it_is_written_as(missing):
    groups = pd.Series(["a", missing, "b"], dtype=object)
    with pytest.raises(ValueError, match="groups has no group for the record at 1"):
        v.check_groups(groups, 3)


def test_groups_that_cannot_be_sorted_are_refused_in_words():
    with pytest.raises(ValueError, match=r"groups mixes labels of types \['int', 'str'\]"):
        v.check_groups(np.array([1, "a"], dtype=object), 2)


def test_groups_of_a_frame_of_one_column_are_groups():
    labels, codes = v.check_groups(pd.DataFrame({"lot": ["b", "a", "b"]}), 3)
    assert labels.tolist() == ["a", "b"]
    assert codes.tolist() == [1, 0, 1]
