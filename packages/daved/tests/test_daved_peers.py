import subprocess
import sys
from itertools import combinations, permutations

import numpy as np
import pytest

from modicum.daved.peers import PEERS, Peer, View, order_of
from modicum.daved.peers.base import LABELS, PRICES, QUERIES, VALIDATION
from modicum.daved.peers.distances import squared_distances

N, D, M, V = 24, 4, 3, 6

SEES = {
    "random": set(),
    "cheapest": {PRICES},
    "nearest": {QUERIES},
    "cosine": {QUERIES},
    "leverage": set(),
    "k_center": set(),
    "knn_shapley": {LABELS, VALIDATION},
    "knn_shapley_regression": {LABELS, VALIDATION},
    "data_oob": {LABELS},
    "lava": {LABELS, VALIDATION},
    "data_shapley": {LABELS, VALIDATION},
    "banzhaf": {LABELS, VALIDATION},
    "influence": {LABELS, VALIDATION},
    "loo": {LABELS, VALIDATION},
}
FEWER_DRAWS = {"data_oob": {"models": 20}, "banzhaf": {"sets": 200}, "data_shapley": {"orders": 10}}
# Those whose values are a function of the rows and not of drawn numbers.
DETERMINISTIC = sorted(
    set(SEES) - {"random", "cheapest", "data_oob", "data_shapley", "banzhaf", "k_center"}
)


def market(seed=0, n=N, outputs=None, duplicates=False):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, D))
    if duplicates:
        rows[1] = rows[0]
    theta = rng.normal(size=D if outputs is None else (D, outputs))
    points = rng.normal(size=(V, D))
    labels = np.round(rows @ theta + 0.1 * rng.normal(size=(rows @ theta).shape), 2)
    return View(rows, labels, rng.normal(size=(M, D)), rng.uniform(1, 5, n), points, points @ theta)


def made(name):
    return PEERS[name](**FEWER_DRAWS.get(name, {}))


def values(name, view, seed=0):
    return made(name).values(view, np.random.default_rng(seed))


def permuted(view, order):
    return View(
        view.rows_nd[order],
        view.labels_n[order],
        view.queries_md,
        view.prices_n[order],
        view.validation_rows_vd,
        view.validation_labels_v,
    )


def test_the_registry_has_every_peer_and_loads_only_those_asked_for():
    assert set(PEERS) == set(SEES) and len(PEERS) == len(SEES)
    assert all(PEERS[name].name == name for name in PEERS)
    code = (
        "import sys; from modicum.daved.peers import PEERS; 'lava' in PEERS, list(PEERS);"
        "assert not any(m.startswith('modicum.daved.peers.') and m[20:] != 'base'"
        " for m in sys.modules), sys.modules;"
        "PEERS['data_oob'](); assert 'modicum.daved.peers.data_oob' in sys.modules;"
        "assert not {'sklearn', 'scipy', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_peer_is_answered_with_the_known_ones():
    with pytest.raises(KeyError, match=r"no peer 'shapely'.*data_shapley"):
        PEERS["shapely"]
    assert "shapely" not in PEERS and PEERS.get("shapely") is None


@pytest.mark.parametrize("name", SEES)
def test_each_declares_what_it_sees_and_is_shown_nothing_else(name):
    assert PEERS[name].sees == SEES[name]
    full = market()
    bare = full.restricted(PEERS[name].sees)
    shown = {
        LABELS: bare.labels_n,
        QUERIES: bare.queries_md,
        PRICES: bare.prices_n,
        VALIDATION: bare.validation_rows_vd,
    }
    assert {kind for kind, value in shown.items() if value is not None} == SEES[name]
    assert (bare.validation_labels_v is None) == (VALIDATION not in SEES[name])
    np.testing.assert_array_equal(values(name, full), values(name, bare))


def test_a_peer_cannot_peek():
    class Spy(Peer):
        name = "spy"
        sees = frozenset({QUERIES})

        def _values(self, view, rng):
            assert view.labels_n is None and view.prices_n is None
            assert view.validation_rows_vd is None and view.validation_labels_v is None
            return view.rows_nd @ view.queries_md[0]

    view = market()
    found = Spy().values(view, np.random.default_rng(0))
    np.testing.assert_array_equal(found, view.rows_nd @ view.queries_md[0])


@pytest.mark.parametrize("name", sorted(name for name, seen in SEES.items() if seen))
def test_what_is_missing_is_named(name):
    expected = f"peer '{name}' needs {', '.join(sorted(SEES[name]))}, and got None"
    with pytest.raises(ValueError, match=expected):
        values(name, View(market().rows_nd))


@pytest.mark.parametrize("name", SEES)
def test_rank_is_an_order_of_all_rows_by_value_and_the_same_for_the_same_seed(name):
    view = market()
    asked = (view.rows_nd, view.labels_n, view.queries_md, view.prices_n)
    asked += (view.validation_rows_vd, view.validation_labels_v)
    order = made(name).rank(*asked, np.random.default_rng(3))
    assert order.dtype == np.int64 and sorted(order) == list(range(N))
    found = values(name, view, seed=3)
    assert found.shape == (N,) and found.dtype == np.float64 and np.isfinite(found).all()
    assert (np.diff(found[order]) <= 0).all()
    np.testing.assert_array_equal(order, made(name).rank(*asked, np.random.default_rng(3)))


@pytest.mark.parametrize("name", SEES)
@pytest.mark.parametrize("outputs", [None, 1, 2])
def test_labels_of_several_outputs_and_duplicate_rows_are_taken(name, outputs):
    assert np.isfinite(values(name, market(outputs=outputs, duplicates=True))).all()
    if outputs == 1:
        one, flat = market(outputs=1), market(outputs=1)
        flat = View(
            flat.rows_nd,
            flat.labels_n[:, 0],
            flat.queries_md,
            flat.prices_n,
            flat.validation_rows_vd,
            flat.validation_labels_v[:, 0],
        )
        np.testing.assert_allclose(values(name, one), values(name, flat), rtol=1e-12)


@pytest.mark.parametrize("name", [*DETERMINISTIC, "k_center"])
def test_the_order_in_which_rows_lie_does_not_matter(name):
    view = market(seed=1)
    order = np.random.default_rng(5).permutation(N)
    np.testing.assert_allclose(
        values(name, permuted(view, order)), values(name, view)[order], rtol=1e-8, atol=1e-10
    )


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_duplicates_have_the_same_value(name):
    view = market(seed=2, duplicates=True)
    labels = view.labels_n.copy()
    labels[1] = labels[0]
    view = View(view.rows_nd, labels, *list(vars(view).values())[2:])
    found = values(name, view)
    # Nearest neighbours break ties by index, and equal labels make that invisible.
    assert found[0] == pytest.approx(found[1], rel=1e-9)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("k_center", "limit"),
        ("knn_shapley", "neighbours"),
        ("knn_shapley_regression", "neighbours"),
        ("data_oob", "models"),
        ("lava", "regularization"),
        ("data_shapley", "orders"),
        ("data_shapley", "ridge"),
        ("banzhaf", "sets"),
        ("banzhaf", "ridge"),
        ("influence", "ridge"),
        ("loo", "ridge"),
    ],
)
@pytest.mark.parametrize("value", [0, -1])
def test_settings_that_must_be_positive_are_named(name, setting, value):
    with pytest.raises(ValueError, match=f"{setting} is {value}: give a positive number"):
        PEERS[name](**{setting: value})


@pytest.mark.parametrize(
    ("name", "setting"), [("data_shapley", "truncation"), ("lava", "label_weight")]
)
def test_settings_that_may_be_zero_and_no_less(name, setting):
    assert np.isfinite(PEERS[name](**{setting: 0}).values(market(), np.random.default_rng(0))).all()
    with pytest.raises(ValueError, match=rf"{setting} is -0\.1: give 0"):
        PEERS[name](**{setting: -0.1})


def test_ties_go_to_the_smallest_index():
    np.testing.assert_array_equal(order_of([1, 3, 2, 3, 1]), [1, 3, 2, 0, 4])


def test_squared_distances():
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(5, 3)), rng.normal(size=(4, 3))
    brute = [[((x - z) ** 2).sum() for z in right] for x in left]
    np.testing.assert_allclose(squared_distances(left, right), brute)
    far = left + 1e8
    assert (squared_distances(far, far) >= 0).all()


def test_random_orders_are_all_equally_likely():
    view = View(np.zeros((3, 1)))
    rng = np.random.default_rng(0)
    drawn = [tuple(order_of(PEERS["random"]().values(view, rng))) for _ in range(6000)]
    # 1000 each are expected with standard deviation 29: 6 of them is passed once in 10⁸.
    assert all(abs(drawn.count(order) - 1000) < 174 for order in permutations(range(3)))


def test_cheapest_buys_from_the_lowest_price_and_mixes_equal_prices():
    prices = np.array([3.0, 1.0, 2.0, 1.0, 1.0])
    view = View(np.zeros((5, 1)), prices_n=prices)
    firsts = set()
    for seed in range(40):
        order = order_of(values("cheapest", view, seed))
        np.testing.assert_array_equal(prices[order], [1, 1, 1, 2, 3])
        firsts.add(int(order[0]))
    assert firsts == {1, 3, 4}
    free = PEERS["cheapest"]().rank(
        np.zeros((5, 1)), None, None, None, None, None, np.random.default_rng(0)
    )
    assert sorted(free) == [0, 1, 2, 3, 4]


def test_nearest_and_cosine_against_loops():
    view = market()
    near = [min(np.linalg.norm(x - q) for q in view.queries_md) for x in view.rows_nd]
    np.testing.assert_allclose(values("nearest", view), -np.array(near))
    cosine = [
        np.mean([abs(x @ q) / np.linalg.norm(x) / np.linalg.norm(q) for q in view.queries_md])
        for x in view.rows_nd
    ]
    np.testing.assert_allclose(values("cosine", view), cosine)
    scaled = View(-3 * view.rows_nd, queries_md=0.1 * view.queries_md)
    np.testing.assert_allclose(values("cosine", scaled), cosine)


def test_a_row_of_zeros_is_parallel_to_nothing():
    view = View(np.array([[0.0, 0.0], [1.0, 1.0]]), queries_md=np.array([[2.0, 2.0]]))
    np.testing.assert_allclose(values("cosine", view), [0, 1])


@pytest.mark.parametrize("rank", [1, 3, 4])
def test_leverage_against_the_hat_matrix(rank):
    rng = np.random.default_rng(rank)
    rows = rng.normal(size=(N, rank)) @ rng.normal(size=(rank, 4))
    found = values("leverage", View(rows))
    np.testing.assert_allclose(found, np.diag(rows @ np.linalg.pinv(rows)), atol=1e-10)
    assert found.sum() == pytest.approx(rank)
    mixed = View(rows @ rng.normal(size=(4, 4)))
    np.testing.assert_allclose(values("leverage", mixed), found, atol=1e-8)


def test_k_center_is_within_twice_the_smallest_radius_for_every_number_of_centres():
    for seed in range(5):
        rows = np.random.default_rng(seed).normal(size=(8, 2))
        distances = np.sqrt(squared_distances(rows, rows))
        order = order_of(values("k_center", View(rows)))
        assert order[0] == np.linalg.norm(rows - rows.mean(axis=0), axis=1).argmin()
        for k in range(1, 8):
            best = min(
                distances[list(centres)].min(axis=0).max() for centres in combinations(range(8), k)
            )
            assert distances[order[:k]].min(axis=0).max() <= 2 * best + 1e-12


def test_k_center_against_a_loop_and_with_a_limit():
    rows = market(seed=4).rows_nd
    distances = np.sqrt(squared_distances(rows, rows))
    bought = [int(np.linalg.norm(rows - rows.mean(axis=0), axis=1).argmin())]
    while len(bought) < N:
        rest = [row for row in range(N) if row not in bought]
        bought.append(max(rest, key=lambda row: distances[bought, row].min()))
    np.testing.assert_array_equal(order_of(values("k_center", View(rows))), bought)
    limited = order_of(PEERS["k_center"](limit=5).values(View(rows), np.random.default_rng(0)))
    np.testing.assert_array_equal(limited[:5], bought[:5])
    rest = distances[bought[:5]].min(axis=0)[limited[5:]]
    assert sorted(limited) == list(range(N)) and (np.diff(rest) <= 0).all()


def test_k_center_buys_every_row_once_where_all_are_the_same():
    order = order_of(values("k_center", View(np.ones((6, 2)))))
    assert sorted(order) == list(range(6))
