from itertools import combinations, permutations, product
from math import comb

import numpy as np
import pytest

from modicum.daved.peers import PEERS, View
from modicum.daved.peers.banzhaf import maximum_sample_reuse
from modicum.daved.peers.data_shapley import shapley_from_orders
from modicum.daved.peers.knn_shapley import shapley_of_matches, shapley_of_means
from modicum.daved.peers.loo import leave_one_out
from modicum.daved.peers.utility import RidgeUtility, Utility


def utility_of(view, ridge):
    points = view.validation_rows_vd, view.validation_labels_v
    return RidgeUtility(view.rows_nd, view.labels_n, *points, ridge)


class Table(Utility):
    def __init__(self, n, function):
        self.n = n
        self.function = function

    def of(self, indices):
        return self.function(tuple(sorted(int(i) for i in indices)))


def subsets(items):
    items = list(items)
    return [chosen for size in range(len(items) + 1) for chosen in combinations(items, size)]


def shapley(n, function):
    found = np.zeros(n)
    for row in range(n):
        for chosen in subsets(set(range(n)) - {row}):
            added = function(tuple(sorted((*chosen, row)))) - function(chosen)
            found[row] += added / (n * comb(n - 1, len(chosen)))
    return found


def banzhaf(n, function):
    return np.array(
        [
            np.mean(
                [
                    function(tuple(sorted((*chosen, row)))) - function(chosen)
                    for chosen in subsets(set(range(n)) - {row})
                ]
            )
            for row in range(n)
        ]
    )


def setting(n=8, d=3, v=4, seed=0, outputs=None):
    rng = np.random.default_rng(seed)
    rows, points = rng.normal(size=(n, d)), rng.normal(size=(v, d))
    theta = rng.normal(size=d if outputs is None else (d, outputs))
    noise = rng.normal(size=(rows @ theta).shape)
    return View(
        rows,
        rows @ theta + 0.3 * noise,
        validation_rows_vd=points,
        validation_labels_v=points @ theta,
    )


def ridge_error(view, ridge, chosen):
    """The utility from scratch: augmented least squares, no normal equations."""
    rows = view.rows_nd
    penalty = ridge * np.mean([x @ x for x in rows])
    labels = view.labels_n.reshape(len(rows), -1)
    targets = view.validation_labels_v.reshape(len(view.validation_rows_vd), -1)
    d = rows.shape[1]
    left = np.vstack([rows[list(chosen)], np.sqrt(penalty) * np.eye(d)])
    right = np.vstack([labels[list(chosen)], np.zeros((d, labels.shape[1]))])
    theta = np.linalg.pinv(left) @ right
    return -np.mean(((view.validation_rows_vd @ theta - targets) ** 2).sum(axis=1))


@pytest.mark.parametrize("neighbours", [1, 2, 3, 5, 8, 11])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 8])
def test_matches_against_all_subsets(n, neighbours):
    rng = np.random.default_rng(n * 100 + neighbours)
    matches = rng.integers(2, size=n).astype(float)

    def utility(chosen):
        return matches[list(chosen[:neighbours])].sum() / neighbours

    found = shapley_of_matches(matches, neighbours)
    np.testing.assert_allclose(found, shapley(n, utility), atol=1e-12)
    assert found.sum() == pytest.approx(utility(range(n)))


@pytest.mark.parametrize("neighbours", [1, 2, 3, 5, 8, 11])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 8])
def test_means_against_all_subsets(n, neighbours):
    rng = np.random.default_rng(n * 100 + neighbours)
    labels, target = rng.normal(size=n), rng.normal()

    def utility(chosen):
        return -((labels[list(chosen[:neighbours])].sum() / neighbours - target) ** 2)

    found = shapley_of_means(labels, target, neighbours)
    np.testing.assert_allclose(found, shapley(n, utility), atol=1e-12)
    assert found.sum() == pytest.approx(utility(range(n)) - utility([]))


@pytest.mark.parametrize("outputs", [None, 2])
def test_both_peers_against_all_subsets_over_several_validation_points(outputs):
    view = setting(n=7, outputs=outputs, seed=3)
    labels = np.random.default_rng(1).integers(3, size=view.labels_n.shape)
    targets = np.random.default_rng(2).integers(3, size=view.validation_labels_v.shape)
    view = View(
        view.rows_nd,
        labels,
        validation_rows_vd=view.validation_rows_vd,
        validation_labels_v=targets,
    )
    points = list(zip(view.validation_rows_vd, targets.reshape(4, -1), strict=True))

    def nearest(point, chosen):
        return sorted(chosen, key=lambda row: np.linalg.norm(view.rows_nd[row] - point))[:2]

    flat = labels.reshape(7, -1)

    def accuracy(chosen):
        hits = [[(flat[row] == t).all() for row in nearest(p, chosen)] for p, t in points]
        return np.mean([sum(hit) / 2 for hit in hits])

    def fit(chosen):
        return -np.mean(
            [((flat[nearest(p, chosen)].sum(axis=0) / 2 - t) ** 2).sum() for p, t in points]
        )

    for name, utility in (("knn_shapley", accuracy), ("knn_shapley_regression", fit)):
        found = PEERS[name](neighbours=2).values(view, np.random.default_rng(0))
        np.testing.assert_allclose(found, shapley(7, utility), atol=1e-12)


def test_exact_matches_of_continuous_labels_say_nothing_and_the_regression_does():
    view = setting(n=30, seed=5)
    rng = np.random.default_rng(0)
    assert (PEERS["knn_shapley"]().values(view, rng) == 0).all()
    assert np.unique(PEERS["knn_shapley_regression"]().values(view, rng)).size == 30


@pytest.mark.parametrize("ridge", [1e-4, 0.01, 1.0])
@pytest.mark.parametrize("outputs", [None, 2])
def test_the_ridge_utility_against_augmented_least_squares(ridge, outputs):
    view = setting(seed=7, outputs=outputs)
    utility = utility_of(view, ridge)
    for chosen in subsets(range(6)):
        assert utility.of(chosen) == pytest.approx(ridge_error(view, ridge, chosen), rel=1e-7)
    order = [5, 2, 0, 7, 1, 3, 6, 4]
    along = list(utility.along(order))
    np.testing.assert_allclose(along, list(Utility.along(utility, order)), rtol=1e-7)
    np.testing.assert_allclose(utility.without_each(), Utility.without_each(utility), rtol=1e-7)


def test_nothing_bought_predicts_zero():
    view = setting()
    assert utility_of(view, 0.1).of([]) == pytest.approx(-np.mean(view.validation_labels_v**2))


def test_all_orders_give_the_exact_shapley_values():
    table = {
        chosen: value
        for chosen, value in zip(
            subsets(range(5)), np.random.default_rng(0).normal(size=32), strict=True
        )
    }
    found = shapley_from_orders(Table(5, table.__getitem__), permutations(range(5)))
    np.testing.assert_allclose(found, shapley(5, table.__getitem__), atol=1e-12)


def test_all_sets_give_the_exact_banzhaf_values():
    table = {
        chosen: value
        for chosen, value in zip(
            subsets(range(6)), np.random.default_rng(0).normal(size=64), strict=True
        )
    }
    members = np.array(list(product([False, True], repeat=6)))
    utilities = np.array([table[tuple(np.flatnonzero(row))] for row in members])
    found = maximum_sample_reuse(members, utilities)
    np.testing.assert_allclose(found, banzhaf(6, table.__getitem__), atol=1e-12)


def test_a_row_in_all_sets_or_in_none_is_worth_nothing_known():
    members = np.array([[True, False, True], [True, False, False]])
    np.testing.assert_array_equal(maximum_sample_reuse(members, np.array([3.0, 1.0])), [0, 0, 2])


def test_leaving_out_of_any_set_function_is_two_calls_each():
    table = {
        chosen: value
        for chosen, value in zip(
            subsets(range(5)), np.random.default_rng(3).normal(size=32), strict=True
        )
    }
    found = leave_one_out(Table(5, table.__getitem__))
    full = tuple(range(5))
    expected = [table[full] - table[tuple(i for i in full if i != row)] for row in full]
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("outputs", [None, 2])
def test_leave_one_out_against_refits(outputs):
    view = setting(seed=11, outputs=outputs)
    full = ridge_error(view, 0.01, range(8))
    expected = [full - ridge_error(view, 0.01, set(range(8)) - {row}) for row in range(8)]
    found = PEERS["loo"]().values(view, np.random.default_rng(0))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("outputs", [None, 2])
def test_influence_against_finite_differences_of_a_weighted_fit(outputs):
    view, ridge, step = setting(seed=29, outputs=outputs), 0.05, 1e-5
    rows, labels = view.rows_nd, view.labels_n.reshape(8, -1)
    targets = view.validation_labels_v.reshape(4, -1)
    penalty = ridge * np.mean([x @ x for x in rows])

    def weighted(row, weight):
        roots = np.ones((8, 1))
        roots[row] = np.sqrt(weight)
        left = np.vstack([roots * rows, np.sqrt(penalty) * np.eye(3)])
        theta = np.linalg.pinv(left) @ np.vstack([roots * labels, np.zeros((3, labels.shape[1]))])
        return -np.mean(((view.validation_rows_vd @ theta - targets) ** 2).sum(axis=1))

    slopes = [(weighted(j, 1 + step) - weighted(j, 1 - step)) / (2 * step) for j in range(8)]
    found = PEERS["influence"](ridge=ridge).values(view, np.random.default_rng(0))
    np.testing.assert_allclose(found, slopes, rtol=1e-6, atol=1e-9)


def test_data_shapley_comes_to_the_exact_values_within_its_own_standard_error():
    view, ridge = setting(seed=13), 0.1
    exact = shapley(8, lambda chosen: ridge_error(view, ridge, chosen))
    orders = 4000
    found = PEERS["data_shapley"](orders=orders, truncation=0, ridge=ridge).values(
        view, np.random.default_rng(1)
    )
    utility = utility_of(view, ridge)
    rng = np.random.default_rng(2)
    added = np.zeros((300, 8))
    for number in range(300):
        order = rng.permutation(8)
        added[number, order] = np.diff([utility.of([]), *utility.along(order)])
    error = added.std(axis=0, ddof=1) / np.sqrt(orders)
    # 6 standard errors on 8 values: passed by chance less than once in 10⁷.
    assert (np.abs(found - exact) < 6 * error).all()
    assert (6 * error < np.ptp(exact) / 3).all()
    # What all rows add is shared out to the last, whatever orders were drawn.
    assert found.sum() == pytest.approx(utility.of(range(8)) - utility.of([]))


def test_truncation_leaves_out_what_comes_after_the_utility_is_near_the_whole():
    calls = []

    class Steps(Utility):
        n = 4

        def of(self, indices):
            calls.append(len(indices))
            return min(len(indices), 2) + 0.01 * len(indices)

    found = shapley_from_orders(Steps(), [[0, 1, 2, 3], [3, 2, 1, 0]], truncation=0.05)
    np.testing.assert_allclose(found, [0.505, 0.505, 0.505, 0.505])
    # The empty set, all rows, then two prefixes of each order.
    assert calls == [0, 4, 1, 2, 1, 2]


def test_truncated_values_are_near_the_full_ones_for_the_same_orders():
    view = setting(n=60, seed=17)
    full = PEERS["data_shapley"](orders=50, truncation=0).values(view, np.random.default_rng(0))
    cut = PEERS["data_shapley"](orders=50).values(view, np.random.default_rng(0))
    assert np.corrcoef(full, cut)[0, 1] > 0.99 and not np.array_equal(full, cut)


def test_banzhaf_comes_to_the_exact_values_within_its_own_standard_error():
    view, ridge, sets = setting(seed=19), 0.1, 20000
    exact = banzhaf(8, lambda chosen: ridge_error(view, ridge, chosen))
    found = PEERS["banzhaf"](sets=sets, ridge=ridge).values(view, np.random.default_rng(1))
    spread = np.std([ridge_error(view, ridge, chosen) for chosen in subsets(range(8))])
    # The difference of two means of about sets / 2 draws each, of at most this deviation.
    error = 2 * spread / np.sqrt(sets) * 1.05
    assert (np.abs(found - exact) < 6 * error).all()
    assert 6 * error < np.ptp(exact) / 2


@pytest.mark.parametrize(
    "name", ["data_shapley", "banzhaf", "loo", "influence", "knn_shapley_regression"]
)
def test_a_wrong_label_is_worth_less_than_nearly_every_right_one(name):
    view = setting(n=40, v=30, seed=23)
    labels = view.labels_n.copy()
    labels[7] += 20
    spoilt = View(
        view.rows_nd,
        labels,
        validation_rows_vd=view.validation_rows_vd,
        validation_labels_v=view.validation_labels_v,
    )
    found = PEERS[name]().values(spoilt, np.random.default_rng(0))
    assert (found < found[7]).sum() <= 1
