from itertools import permutations

import numpy as np
import pytest
from scipy.optimize import linprog, minimize

from modicum.daved.peers import View
from modicum.daved.peers.lava import LAVA, calibrated_gradient, class_distances
from modicum.daved.peers.sinkhorn import sinkhorn


def masses(n, seed):
    found = np.random.default_rng(seed).uniform(0.5, 1.5, n)
    return found / found.sum()


def costs(a, b, seed=0):
    return np.random.default_rng(seed).uniform(0, 2, (a, b))


def setting(n=12, v=7, d=2, seed=0):
    rng = np.random.default_rng(seed)
    rows, points, theta = rng.normal(size=(n, d)), rng.normal(size=(v, d)), rng.normal(size=d)
    return View(rows, rows @ theta, validation_rows_vd=points, validation_labels_v=points @ theta)


@pytest.mark.parametrize("epsilon", [0.02, 0.1, 1.0, 50.0])
def test_the_plan_has_its_margins_and_the_values_agree(epsilon):
    left, right, cost = masses(6, 1), masses(9, 2), costs(6, 9)
    solved = sinkhorn(cost, left, right, epsilon, max_iter=20000, tol=1e-11)
    np.testing.assert_allclose(solved.plan_ab.sum(axis=1), left, atol=1e-10)
    np.testing.assert_allclose(solved.plan_ab.sum(axis=0), right, atol=1e-12)
    independent = np.outer(left, right)
    entropy = (solved.plan_ab * np.log(solved.plan_ab / independent)).sum()
    primal = (solved.plan_ab * cost).sum() + epsilon * entropy
    assert solved.value == pytest.approx(primal, abs=1e-9)
    assert solved.error <= 1e-11


def test_the_value_is_the_best_of_the_dual():
    left, right, cost, epsilon = masses(4, 1), masses(5, 2), costs(4, 5), 0.2

    def dual(potentials):
        f, g = potentials[:4], potentials[4:]
        moved = np.exp((f[:, None] + g - cost) / epsilon) * np.outer(left, right)
        return -(f @ left + g @ right - epsilon * (moved.sum() - 1))

    best = -minimize(dual, np.zeros(9), method="BFGS", options={"gtol": 1e-9}).fun
    assert sinkhorn(cost, left, right, epsilon, tol=1e-12).value == pytest.approx(best, abs=1e-6)


def test_little_entropy_comes_to_the_linear_programme_and_much_to_the_product():
    left, right, cost = masses(5, 3), masses(6, 4), costs(5, 6)
    rows = [np.kron(np.eye(5)[i], np.ones(6)) for i in range(5)]
    cols = [np.kron(np.ones(5), np.eye(6)[j]) for j in range(6)]
    exact = linprog(cost.ravel(), A_eq=np.array(rows + cols), b_eq=np.r_[left, right]).fun
    sharp = sinkhorn(cost, left, right, 0.005, max_iter=50000, tol=1e-8)
    # The entropy of a coupling of 30 cells is at most log 30.
    assert exact - 1e-6 <= (sharp.plan_ab * cost).sum() <= exact + 0.005 * np.log(30)
    blunt = sinkhorn(cost, left, right, 1e5)
    assert blunt.value == pytest.approx(left @ cost @ right, rel=1e-4)


def test_equal_numbers_of_points_are_matched_one_to_one():
    rng = np.random.default_rng(5)
    cost = rng.uniform(0, 1, (6, 6))
    best = min(np.mean([cost[i, p[i]] for i in range(6)]) for p in permutations(range(6)))
    even = np.full(6, 1 / 6)
    solved = sinkhorn(cost, even, even, 0.005, max_iter=50000, tol=1e-8)
    assert (solved.plan_ab * cost).sum() == pytest.approx(best, abs=0.005 * np.log(36))


def test_an_entropy_that_underflows_without_logarithms():
    cost = costs(5, 5) * 1e4
    even = np.full(5, 0.2)
    solved = sinkhorn(cost, even, even, 1.0, max_iter=5)
    assert np.isfinite(solved.value) and np.isfinite(solved.left_a).all()
    assert solved.iterations == 5 and solved.error > 1e-6


@pytest.mark.parametrize("epsilon", [0.1, 0.5])
def test_the_calibrated_gradient_is_the_slope_of_the_transport(epsilon):
    n, step = 8, 1e-4
    cost, even, right = costs(n, 6, seed=7), np.full(n, 1 / n), masses(6, 8)
    tight = {"max_iter": 50000, "tol": 1e-13}
    gradient = calibrated_gradient(sinkhorn(cost, even, right, epsilon, **tight).left_a)
    for row in range(n):
        direction = np.full(n, -1 / (n - 1))
        direction[row] = 1
        up = sinkhorn(cost, even + step * direction, right, epsilon, **tight).value
        down = sinkhorn(cost, even - step * direction, right, epsilon, **tight).value
        assert gradient[row] == pytest.approx((up - down) / (2 * step), abs=1e-5)
    assert gradient.sum() == pytest.approx(0, abs=1e-12)
    assert np.ptp(gradient) > 0.1


def test_a_constant_in_the_potential_does_not_matter():
    potential = np.random.default_rng(0).normal(size=9)
    np.testing.assert_allclose(calibrated_gradient(potential + 5), calibrated_gradient(potential))
    np.testing.assert_allclose(
        calibrated_gradient(potential)[0], potential[0] - potential[1:].mean()
    )


def test_values_of_the_peer_are_slopes_from_scratch():
    view = setting()
    n, step, weight = 12, 1e-4, 0.7
    cost = np.array(
        [
            [
                ((x - z) ** 2).sum() + weight * (y - t) ** 2
                for z, t in zip(view.validation_rows_vd, view.validation_labels_v, strict=True)
            ]
            for x, y in zip(view.rows_nd, view.labels_n, strict=True)
        ]
    )
    peer = LAVA(label_weight=weight, regularization=0.2)
    np.testing.assert_allclose(peer.costs(view), cost)
    found = peer.values(view, np.random.default_rng(0))
    even = np.full(7, 1 / 7)
    for row in (0, 5, 11):
        direction = np.full(n, -1 / (n - 1))
        direction[row] = 1
        value = [
            sinkhorn(
                cost,
                np.full(n, 1 / n) + sign * step * direction,
                even,
                0.2 * cost.mean(),
                max_iter=50000,
                tol=1e-12,
            ).value
            for sign in (1, -1)
        ]
        assert found[row] == pytest.approx(-(value[0] - value[1]) / (2 * step), abs=1e-3)


def test_classes_are_as_far_apart_as_their_features():
    # Two classes that are one cloud and its shift: the best coupling moves each point by it.
    cloud = np.random.default_rng(0).normal(size=(6, 2))
    shift = np.array([3.0, -1.0])
    rows = np.concatenate([cloud, 9 * np.ones((2, 2))])
    points = np.concatenate([cloud + shift, cloud])
    found = class_distances(
        rows, np.array(["a"] * 6 + ["b"] * 2), points, np.repeat([3, 7], 6), epsilon=0.01
    )
    assert found.shape == (2, 2)
    assert found[0, 0] == pytest.approx(10, rel=1e-2)
    assert found[0, 1] == pytest.approx(0, abs=1e-3)
    # All of a cloud moves to one place: there is one coupling only, without entropy.
    own = np.mean(((cloud - 9) ** 2).sum(axis=1)) - found_self(cloud, 0.01) / 2
    assert found[1, 1] == pytest.approx(own, rel=1e-6)


def found_self(rows, epsilon):
    cost = ((rows[:, None] - rows) ** 2).sum(axis=-1)
    even = np.full(len(rows), 1 / len(rows))
    return sinkhorn(cost, even, even, epsilon, max_iter=50000, tol=1e-10).value


def test_much_entropy_leaves_the_distance_of_the_means():
    # The limit of the divergence of squared distances; without correction it would be their mean.
    rng = np.random.default_rng(3)
    rows, points = rng.normal(size=(20, 3)), rng.normal(size=(15, 3)) + 2
    found = class_distances(rows, np.zeros(20), points, np.zeros(15), epsilon=1e5)
    apart = np.square(rows.mean(axis=0) - points.mean(axis=0)).sum()
    assert found[0, 0] == pytest.approx(apart, rel=1e-3)


def test_a_class_whose_rows_differ_from_the_points_of_the_class_is_far_from_itself():
    # The label of the second cloud is the one of points elsewhere: where its class is, not its name
    # counts.
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(size=(15, 2)), rng.normal(size=(15, 2)) + 8])
    points = np.concatenate([rng.normal(size=(10, 2)), rng.normal(size=(10, 2)) - 8])
    labels, targets = np.repeat([0, 1], 15), np.repeat([0, 1], 10)
    view = View(rows, labels, validation_rows_vd=points, validation_labels_v=targets)
    features = LAVA("classification", label_weight=0.0).costs(view)
    of_labels = LAVA("classification").costs(view) - features
    assert of_labels[-1, -1] > of_labels[-1, 0] > 10 * of_labels[0, 0]


def test_classes_of_the_same_single_point_are_not_apart():
    same = View(
        np.ones((2, 3)),
        np.array([0, 1]),
        validation_rows_vd=np.ones((2, 3)),
        validation_labels_v=np.array([0, 1]),
    )
    np.testing.assert_array_equal(LAVA("classification").costs(same), np.zeros((2, 2)))


def test_labels_of_classes_may_be_words():
    rng = np.random.default_rng(0)
    numbers = np.repeat([0, 1], 10)
    rows = rng.normal(size=(20, 2)) + 5 * numbers[:, None]
    points = rng.normal(size=(6, 2)) + 5 * np.repeat([0, 1], 3)[:, None]
    words = np.array(["cat", "dog"])
    by_number = View(
        rows, numbers, validation_rows_vd=points, validation_labels_v=np.repeat([0, 1], 3)
    )
    by_word = View(
        rows,
        words[numbers],
        validation_rows_vd=points,
        validation_labels_v=np.repeat(words, 3),
    )
    peer = LAVA(task="classification")
    np.testing.assert_array_equal(peer.values(by_number, rng), peer.values(by_word, rng))


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_wrong_labels_are_worth_least(task):
    rng = np.random.default_rng(1)
    classes = np.repeat([0, 1], 20)
    rows = rng.normal(size=(40, 2)) + 6 * classes[:, None]
    points = rng.normal(size=(20, 2)) + 6 * np.repeat([0, 1], 10)[:, None]
    labels = classes.copy()
    labels[[4, 33]] = 1 - labels[[4, 33]]
    view = View(rows, labels, validation_rows_vd=points, validation_labels_v=np.repeat([0, 1], 10))
    peer = LAVA(task=task, label_weight=60.0 if task == "regression" else 1.0)
    assert set(np.argsort(peer.values(view, rng))[:2]) == {4, 33}


def test_one_row_and_rows_that_cost_nothing_have_no_slope():
    rng = np.random.default_rng(0)
    single = View(
        np.ones((1, 2)),
        np.ones(1),
        validation_rows_vd=np.zeros((3, 2)),
        validation_labels_v=np.ones(3),
    )
    np.testing.assert_array_equal(LAVA().values(single, rng), [0])
    same = View(
        np.ones((4, 2)),
        np.ones(4),
        validation_rows_vd=np.ones((3, 2)),
        validation_labels_v=np.ones(3),
    )
    np.testing.assert_array_equal(LAVA().values(same, rng), np.zeros(4))


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match=r"'ranking'.*'regression' or 'classification'"):
        LAVA(task="ranking")
