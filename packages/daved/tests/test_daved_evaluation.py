from dataclasses import replace

import numpy as np
import pytest

from modicum.daved import evaluation
from modicum.daved.markets import gaussian_market, priced_market
from modicum.daved.rounding import purchase


@pytest.fixture
def market():
    return gaussian_market(60, 6, 5, validation=3, rng=np.random.default_rng(0))


@pytest.mark.parametrize("k", [1, 4, 6, 11])
def test_predictions_are_those_of_the_written_out_models(market, k):
    rows, labels, queries = market.rows_nd[:k], market.labels_n[:k], market.queries_md
    np.testing.assert_allclose(
        evaluation.predict(rows, labels, queries), queries @ np.linalg.pinv(rows) @ labels
    )
    for ridge in (0.01, 3.0):
        stacked = np.vstack([rows, np.sqrt(ridge) * np.eye(6)])
        theta = np.linalg.lstsq(stacked, np.concatenate([labels, np.zeros(6)]), rcond=None)[0]
        np.testing.assert_allclose(
            evaluation.predict(rows, labels, queries, ridge=ridge), queries @ theta
        )


def test_predictions_of_many_purchases_are_those_of_each(market):
    chosen = np.random.default_rng(1).integers(60, size=(5, 4))
    for ridge in (0.0, 0.1):
        together = evaluation.predict(
            market.rows_nd[chosen],
            market.labels_n[chosen],
            market.queries_md[:, None, :],
            ridge=ridge,
        )
        for buyer in range(5):
            alone = evaluation.predict(
                market.rows_nd[chosen[buyer]],
                market.labels_n[chosen[buyer]],
                market.queries_md[buyer][None],
                ridge=ridge,
            )
            np.testing.assert_allclose(together[buyer], alone)


@pytest.mark.parametrize("k", [3, 9])
def test_labels_count_by_their_variance(market, k):
    # A row three times with variance 3 s is one with variance s.
    rows, labels = market.rows_nd[:k], market.labels_n[:k]
    variances = np.linspace(0.5, 2, k)
    once = evaluation.predict(rows, labels, market.queries_md, ridge=0.2, noise_var_k=variances)
    thrice = evaluation.predict(
        np.tile(rows, (3, 1)),
        np.tile(labels, 3),
        market.queries_md,
        ridge=0.2,
        noise_var_k=np.tile(3 * variances, 3),
    )
    np.testing.assert_allclose(once, thrice)
    even = evaluation.predict(rows, labels, market.queries_md, ridge=0.2)
    assert not np.allclose(once, even)


def test_nothing_bought_answers_zero(market):
    rows, labels = market.rows_nd[:0], market.labels_n[:0]
    for ridge in (0.0, 1.0):
        assert evaluation.predict(rows, labels, market.queries_md, ridge=ridge).tolist() == [0] * 5


def test_random_orders_are_permutations_of_their_own(market):
    orders = evaluation.random_orders(market, np.random.default_rng(0))
    assert orders.shape == (5, 60)
    assert all(sorted(order) == list(range(60)) for order in orders)
    assert len({tuple(order) for order in orders}) == 5


def test_errors_are_those_of_each_buyer_alone(market):
    priced = priced_market(market, rng=np.random.default_rng(1))
    orders = evaluation.random_orders(market, np.random.default_rng(2))
    for sold in (market, priced):
        errors = evaluation.buyer_errors(sold, orders, [0.5, 4, 25], ridge=0.3)
        assert errors.shape == (5, 3)
        for buyer in range(5):
            for column, budget in enumerate([0.5, 4, 25]):
                bought = purchase(orders[buyer], sold.prices_n, budget)
                rows, labels = sold.rows_nd[bought], sold.labels_n[bought]
                precision = np.ones(len(bought))
                if sold.noise_var_n is not None:
                    precision = 1 / sold.noise_var_n[bought]
                normal = (rows.T * precision) @ rows + 0.3 * np.eye(6)
                theta = np.linalg.solve(normal, rows.T @ (precision * labels))
                answer = sold.queries_md[buyer] @ theta
                expected = (answer - sold.answers_m[buyer]) ** 2
                assert errors[buyer, column] == pytest.approx(expected)


def test_who_buys_their_own_query_without_noise_has_no_error(market):
    rows = np.vstack([market.rows_nd, market.queries_md])
    labels = np.concatenate([market.labels_n, market.answers_m])
    held = replace(market, rows_nd=rows, labels_n=labels, prices_n=np.ones(65))
    orders = [[60 + buyer] for buyer in range(5)]
    np.testing.assert_allclose(evaluation.buyer_errors(held, np.array(orders), [1]), 0, atol=1e-25)


def test_every_buyer_needs_an_order(market):
    with pytest.raises(ValueError, match="5 buyers and 1 orders"):
        evaluation.buyer_errors(market, [np.arange(60)], [3])


def test_ratio_of_means_and_its_interval():
    rng = np.random.default_rng(0)
    baseline = rng.exponential(size=(200, 4))
    half = evaluation.error_ratio(baseline / 2, baseline, rng=np.random.default_rng(1))
    # The same buyers for both: a constant ratio has no spread.
    assert half.value == pytest.approx(0.5)
    assert (half.low, half.high) == pytest.approx((0.5, 0.5))
    other = rng.exponential(size=(200, 4))
    ratio = evaluation.error_ratio(other, baseline, rng=np.random.default_rng(1))
    assert ratio.value == pytest.approx(other.mean() / baseline.mean())
    # Delta method: the standard error of a ratio of independent means.
    mine, theirs = other.mean(axis=1), baseline.mean(axis=1)
    spread = (mine - ratio.value * theirs).std() / theirs.mean() / np.sqrt(200)
    assert ratio.high - ratio.low == pytest.approx(2 * 1.96 * spread, rel=0.15)
    assert ratio.low < ratio.value < ratio.high
    with pytest.raises(ValueError, match=r"errors \(200, 3\) and baseline \(200, 4\)"):
        evaluation.error_ratio(other[:, :3], baseline, rng=rng)


def test_ratio_over_folds_allows_for_the_folds():
    rng = np.random.default_rng(0)
    folds = np.repeat(np.arange(40), 5)
    # What a fold's sellers have to offer counts for all its buyers, and for the baseline not.
    luck = rng.exponential(size=40)[folds]
    baseline = 1 + 0.1 * rng.random((200, 1))
    mine = luck[:, None] + 0.1 * rng.random((200, 1))
    by_buyer = evaluation.error_ratio(mine, baseline, rng=np.random.default_rng(1))
    by_fold = evaluation.error_ratio(mine, baseline, folds_m=folds, rng=np.random.default_rng(1))
    assert by_fold.value == by_buyer.value
    # The spread of means of 40 folds, where that of 200 buyers is smaller by the root of 5.
    spread = luck[::5].std() / np.sqrt(40) / baseline.mean()
    assert by_fold.high - by_fold.low == pytest.approx(2 * 1.96 * spread, rel=0.15)
    assert by_buyer.high - by_buyer.low == pytest.approx(2 * 1.96 * spread / np.sqrt(5), rel=0.15)
    with pytest.raises(ValueError, match=r"folds_m must have the shape \(200,\).*not \(40,\)"):
        evaluation.error_ratio(mine, baseline, folds_m=np.arange(40), rng=rng)


def test_folds_of_unequal_size_are_drawn_from_themselves():
    folds = np.array([7, 3, 7, 7, 3, 9])
    drawn, counts = evaluation._drawn_in_folds(folds, 3000, np.random.default_rng(0))
    assert drawn.shape == counts.shape == (3000, 9)
    sizes = {3: 2, 7: 3, 9: 1}
    seen = set()
    for buyers, counted in zip(drawn.reshape(-1, 3), counts.reshape(-1, 3), strict=True):
        kept = buyers[counted]
        (fold,) = set(folds[kept])
        assert len(kept) == sizes[fold]
        seen |= set(kept.tolist())
    assert seen == set(range(6))


def test_one_fold_is_as_none():
    rng = np.random.default_rng(0)
    mine, baseline = rng.exponential(size=(2, 300, 2))
    one = evaluation.error_ratio(mine, baseline, folds_m=np.zeros(300, dtype=int), rng=rng)
    none = evaluation.error_ratio(mine, baseline, rng=rng)
    assert one.value == none.value
    assert (one.low, one.high) == pytest.approx((none.low, none.high), rel=0.03)
