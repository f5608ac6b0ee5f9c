from itertools import product

import numpy as np
import pytest

from modicum.daved.peers import View
from modicum.daved.peers.data_oob import DataOOB


def setting(n=40, d=3, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, d))
    return View(rows, rows @ rng.normal(size=d) + 0.1 * rng.normal(size=n))


def test_least_squares_against_all_bootstrap_samples():
    view = setting(n=4, d=2)
    models = 20000
    found = DataOOB("least_squares", models=models).values(view, np.random.default_rng(0))
    for row in range(4):
        others = [other for other in range(4) if other != row]
        scores = []
        for bag in product(others, repeat=4):
            theta = np.linalg.pinv(view.rows_nd[list(bag)]) @ view.labels_n[list(bag)]
            scores.append(-((view.rows_nd[row] @ theta - view.labels_n[row]) ** 2))
        # A row is out of (3/4)⁴ of the bags; 6 standard errors: by chance once in 10⁸.
        error = np.std(scores) / np.sqrt(models * 0.75**4 * 0.95)
        assert found[row] == pytest.approx(np.mean(scores), abs=6 * error)


def test_nearest_label_of_one_other_row_is_known_exactly():
    # Of two rows one is out of a bag only where the other fills it: the tree is its label.
    view = View(np.array([[0.0], [1.0]]), np.array([2.0, 5.0]))
    np.testing.assert_allclose(DataOOB().values(view, np.random.default_rng(0)), [-9, -9])
    same = View(view.rows_nd, np.array([1, 1]))
    classify = DataOOB(task="classification")
    np.testing.assert_allclose(classify.values(same, np.random.default_rng(0)), [1, 1])
    other = View(view.rows_nd, np.array([1, 2]))
    np.testing.assert_allclose(classify.values(other, np.random.default_rng(0)), [0, 0])


def test_weighted_trees_are_those_of_repeated_rows():
    from sklearn.tree import DecisionTreeRegressor

    view = setting(n=30, d=1)
    models = 20
    found = DataOOB(models=models).values(view, np.random.default_rng(4))
    rng = np.random.default_rng(4)
    scores = [[] for _ in range(30)]
    for _ in range(models):
        bag = rng.integers(30, size=30)
        seed = int(rng.integers(2**31))
        tree = DecisionTreeRegressor(random_state=seed).fit(view.rows_nd[bag], view.labels_n[bag])
        for row in set(range(30)) - set(bag.tolist()):
            predicted = tree.predict(view.rows_nd[row : row + 1])[0]
            scores[row].append(-((predicted - view.labels_n[row]) ** 2))
    np.testing.assert_allclose(found, [np.mean(score) for score in scores], rtol=1e-9)


@pytest.mark.parametrize("learner", ["tree", "least_squares"])
def test_a_wrong_label_is_worth_least(learner):
    view = setting(n=60)
    labels = view.labels_n.copy()
    labels[11] += 8
    found = DataOOB(learner, models=60).values(View(view.rows_nd, labels), np.random.default_rng(0))
    assert found.argmin() == 11


def test_wrong_classes_are_worth_least():
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1], 40)
    rows = rng.normal(size=(80, 2)) + 8 * classes[:, None]
    labels = classes.copy()
    labels[[3, 50]] = 1 - labels[[3, 50]]
    found = DataOOB(task="classification").values(View(rows, labels), rng)
    assert set(np.argsort(found)[:2]) == {3, 50} and found.min() >= 0 and found.max() <= 1


def test_a_row_in_every_bag_stands_in_the_middle():
    view = setting(n=6, d=2)
    rng = np.random.default_rng(1)
    bag = np.random.default_rng(1).integers(6, size=6)
    inside = np.isin(np.arange(6), bag)
    found = DataOOB("least_squares", models=1).values(view, rng)
    assert inside.any() and not inside.all()
    np.testing.assert_allclose(found[inside], found[~inside].mean())


def test_one_row_is_never_out_of_its_bag():
    found = DataOOB().values(View(np.ones((1, 2)), np.ones(1)), np.random.default_rng(0))
    np.testing.assert_array_equal(found, [0])


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"'forest'.*'tree' or 'least_squares'"):
        DataOOB("forest")
    with pytest.raises(ValueError, match=r"'ranking'.*'regression' or 'classification'"):
        DataOOB(task="ranking")
    with pytest.raises(ValueError, match="learner='tree'"):
        DataOOB("least_squares", task="classification")
