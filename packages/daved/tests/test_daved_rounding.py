"""Purchases against their definition and against enumeration."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.daved.errors import InfeasibleBudgetError
from modicum.daved.rounding import (
    Rules,
    at_floor,
    duplicate_codes,
    extend,
    pick_ranking,
    purchase,
    sample_ranking,
    topk_ranking,
)

PRICES = np.array([3.0, 1.0, 4.0, 1.0, 5.0])


def slow_walk(ranking, prices, budget, fill, allowed=lambda bought, row: True):
    """The definition, in whole cents."""
    bought, left = [], round(budget * 100)
    for row in ranking:
        if not allowed(bought, row):
            continue
        price = round(prices[row] * 100)
        if price <= left:
            bought.append(int(row))
            left -= price
        elif not fill:
            break
    return bought


def test_ranking_by_weight_breaks_ties_by_the_smallest_index():
    assert topk_ranking(np.array([0.1, 0.3, 0.1, 0.3])).tolist() == [1, 3, 0, 2]


def test_values_decide_between_equal_weights_and_rounding_in_them_does_not():
    weights = np.array([0.1, 0.3, 0.1, 0.3, 0.1])
    values = np.array([1.0, 5.0, 2.0, 6.0, 2.0 * (1 - 1e-15)])
    assert topk_ranking(weights, values).tolist() == [3, 1, 2, 4, 0]
    assert topk_ranking(weights, -values).tolist() == [1, 3, 0, 2, 4]
    assert topk_ranking(weights, np.zeros(5)).tolist() == topk_ranking(weights).tolist()
    assert extend(np.array([4]), weights, values).tolist() == [4, 3, 1, 2, 0]
    assert pick_ranking(np.array([0, 0]), weights, values).tolist() == [0, 3, 1, 2, 4]


def test_filling_skips_what_does_not_fit_and_not_filling_stops_there():
    ranking = np.array([0, 2, 1, 3, 4])
    assert purchase(ranking, PRICES, 5).tolist() == [0, 1, 3]
    assert purchase(ranking, PRICES, 5, Rules(fill=False)).tolist() == [0]


def test_a_budget_may_be_spent_to_the_last_cent_although_sums_of_prices_round():
    prices = np.full(4, 0.1)
    assert 0.1 + 0.1 + 0.1 > 0.3
    assert len(purchase(np.arange(4), prices, 0.3)) == 3
    assert len(purchase(np.arange(4), prices, 0.3, Rules(strict=True))) == 2
    assert len(purchase(np.arange(4), np.ones(4), 3, Rules(strict=True))) == 2


def test_only_what_is_ranked_is_bought():
    assert purchase(np.array([4, 1]), PRICES, 100).tolist() == [4, 1]
    assert purchase(np.array([], dtype=int), PRICES, 100).tolist() == []


@given(data=st.data())
@settings(derandomize=True, deadline=None, max_examples=150)
def test_a_purchase_is_its_definition_and_leaves_nothing_affordable(data):
    n = data.draw(st.integers(1, 12))
    cents = data.draw(st.lists(st.integers(1, 60), min_size=n, max_size=n))
    prices = np.array(cents) / 100
    budget = data.draw(st.integers(1, 300)) / 100
    fill = data.draw(st.booleans())
    ranking = np.array(data.draw(st.permutations(range(n))))
    most = data.draw(st.one_of(st.none(), st.integers(1, 3)))
    groups = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    copies = np.array(data.draw(st.lists(st.integers(0, 5), min_size=n, max_size=n)))
    unique = data.draw(st.booleans())

    def allowed(bought, row):
        members = sum(groups[other] == groups[row] for other in bought)
        seen = unique and any(copies[other] == copies[row] for other in bought)
        return (most is None or members < most) and not seen

    rules = Rules(fill=fill, groups=groups, max_per_group=most, copies=copies if unique else None)
    found = purchase(ranking, prices, budget, rules).tolist()
    assert found == slow_walk(ranking, prices, budget, fill, allowed)
    assert prices[found].sum() <= budget * (1 + 1e-9)
    if fill:
        left = budget - prices[found].sum()
        rest = [row for row in range(n) if row not in found and allowed(found, row)]
        assert all(prices[row] > left - 1e-9 for row in rest)


@given(data=st.data())
@settings(derandomize=True, deadline=None, max_examples=150)
def test_minimums_are_met_exactly_when_some_purchase_meets_them(data):
    n = data.draw(st.integers(2, 9))
    prices = np.array(data.draw(st.lists(st.integers(1, 9), min_size=n, max_size=n)), float)
    groups = np.array(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    groups = np.unique(groups, return_inverse=True)[1]
    fewest = data.draw(st.integers(1, 2))
    if np.bincount(groups).min() < fewest:
        fewest = 1
    budget = data.draw(st.integers(1, 40))
    ranking = np.array(data.draw(st.permutations(range(n))))
    size = fewest * (groups.max() + 1)
    feasible = any(
        prices[list(rows)].sum() <= budget
        and (np.bincount(groups[list(rows)], minlength=groups.max() + 1) == fewest).all()
        for rows in combinations(range(n), size)
    )
    rules = Rules(groups=groups, min_per_group=fewest)
    if not feasible:
        with pytest.raises(InfeasibleBudgetError, match="does not buy"):
            purchase(ranking, prices, budget, rules)
        return
    found = purchase(ranking, prices, budget, rules)
    assert np.bincount(groups[found], minlength=groups.max() + 1).min() >= fewest
    assert prices[found].sum() <= budget
    places = [ranking.tolist().index(row) for row in found]
    assert places == sorted(places)


def test_minimums_take_the_best_of_a_group_that_leaves_the_others_affordable():
    # 0 and 2 would cost 9 of 8: the second best of the first group makes room for the other.
    prices, groups = np.array([6.0, 5.0, 3.0]), np.array([0, 0, 1])
    rules = Rules(groups=groups, min_per_group=1)
    assert purchase(np.array([0, 1, 2]), prices, 8, rules).tolist() == [1, 2]
    assert purchase(np.array([0, 1, 2]), prices, 9, rules).tolist() == [0, 2]


def test_minimums_with_copies_count_different_rows():
    groups, copies = np.array([0, 0, 0, 1]), np.array([7, 7, 8, 9])
    rules = Rules(groups=groups, min_per_group=2, copies=copies)
    with pytest.raises(ValueError, match="group 1 has 1 records that can be bought"):
        purchase(np.arange(4), np.ones(4), 4, rules)
    rules = Rules(groups=np.zeros(4, dtype=int), min_per_group=3, copies=copies)
    assert purchase(np.arange(4), np.ones(4), 3, rules).tolist() == [0, 2, 3]


def test_minimums_that_share_copies_are_not_met_by_counting_one_twice():
    rules = Rules(groups=np.array([0, 1]), min_per_group=1, copies=np.array([5, 5]))
    with pytest.raises(InfeasibleBudgetError, match="different records"):
        purchase(np.arange(2), np.ones(2), 2, rules)


def test_samples_are_drawn_in_proportion_without_replacement():
    weights = np.array([0.5, 0.3, 0.2, 0.0])
    rng = np.random.default_rng(0)
    draws = 20_000
    pairs = np.zeros((3, 3))
    for _ in range(draws):
        ranking = sample_ranking(weights, rng)
        assert ranking[-1] == 3
        pairs[ranking[0], ranking[1]] += 1
    for first in range(3):
        for second in range(3):
            if first == second:
                assert pairs[first, second] == 0
                continue
            expected = weights[first] * weights[second] / (1 - weights[first])
            # Six standard deviations: by chance less than once in 10⁸ for each pair.
            error = 6 * np.sqrt(expected * (1 - expected) / draws)
            assert abs(pairs[first, second] / draws - expected) < error


def test_samples_put_the_rows_at_the_floor_last_and_repeat_with_the_seed():
    weights = np.array([100.0, 1.0, 1.0, 90.0, 0.0])
    late = np.array([True, False, False, False, False])
    rankings = [sample_ranking(weights, np.random.default_rng(s), late) for s in range(50)]
    assert all(ranking[3:].tolist() == [0, 4] for ranking in rankings)
    again = sample_ranking(weights, np.random.default_rng(7), late)
    np.testing.assert_array_equal(rankings[7], again)


def test_the_scale_of_weights_changes_no_sample():
    weights = np.random.default_rng(1).random(20)
    one, other = (sample_ranking(t * weights, np.random.default_rng(2)) for t in (1.0, 8.0))
    np.testing.assert_array_equal(one, other)


def test_the_floor_is_told_despite_rounding():
    found = at_floor(np.array([0.1 + 0.2, 0.3, 0.31]), 0.3)
    assert found.tolist() == [True, True, False]


def test_picks_come_in_order_of_their_first_time_and_others_by_weight():
    weights = np.array([0.1, 0.4, 0.2, 0.3, 0.0])
    assert pick_ranking(np.array([2, 0, 2, 0]), weights).tolist() == [2, 0, 1, 3, 4]
    assert pick_ranking(np.array([], dtype=int), weights).tolist() == [1, 3, 2, 0, 4]
    assert extend(np.array([4]), weights).tolist() == [4, 1, 3, 2, 0]


def test_copies_are_equal_in_every_feature():
    codes = duplicate_codes(np.array([[1, 2], [2, 1], [1, 2], [1, 2.0000001]]))
    assert codes[0] == codes[2]
    assert len(set(codes.tolist())) == 3


def test_quotas_need_groups():
    with pytest.raises(ValueError, match="min_per_group needs groups"):
        purchase(np.arange(2), np.ones(2), 2, Rules(min_per_group=1))


def test_purchase_skips_what_is_too_dear_or_stops_there():
    prices = np.array([3.0, 1.0, 5.0, 2.0, 1.0])
    order = np.array([3, 2, 0, 4, 1])
    assert purchase(order, prices, 6).tolist() == [3, 0, 4]
    assert purchase(order, prices, 6, Rules(fill=False)).tolist() == [3]
    assert purchase(order, prices, 7, Rules(fill=False)).tolist() == [3, 2]
    assert purchase(order, prices, 0.5).tolist() == []
    assert purchase(order, prices, 1e9).tolist() == order.tolist()
    # Three times 0.1 is more than 0.3 in floating point, and is bought all the same.
    dimes = np.full(3, 0.1)
    assert len(purchase(np.arange(3), dimes, 0.3)) == 3
    assert len(purchase(np.arange(3), dimes, 0.3, Rules(fill=False))) == 3


def test_any_purchase_stays_in_its_budget_and_exhausts_it():
    rng = np.random.default_rng(0)
    for _ in range(50):
        prices = rng.uniform(0.1, 3, size=30)
        order, budget = rng.permutation(30), rng.uniform(0.1, 20)
        for fill in (True, False):
            bought = purchase(order, prices, budget, Rules(fill=fill))
            assert prices[bought].sum() <= budget * (1 + 1e-9)
            assert len(set(bought)) == len(bought)
        filled = purchase(order, prices, budget)
        left = budget - prices[filled].sum()
        assert np.delete(prices, filled).min(initial=np.inf) > left
