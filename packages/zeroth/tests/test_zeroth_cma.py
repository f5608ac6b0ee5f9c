"""The façade of pycma beside the real one."""

import math

import numpy as np
import pytest

from modicum.zeroth.integrations.cma import Result, ZerothES

SIGMA = 0.5


def noisy_quadratic(rng, optimum, sigma=SIGMA):
    def fun(x):
        return float(np.sum((np.asarray(x) - optimum) ** 2) + sigma * rng.standard_normal())

    return fun


def square(x, factor=1.0):
    return factor * float(np.sum(x**2))


def test_result_has_the_fields_of_pycma_in_its_order(FixedRadius):
    cma = pytest.importorskip("cma")
    es = cma.CMAEvolutionStrategy([0.3, 0.1], 0.5, {"verbose": -9, "seed": 3})
    theirs = es.optimize(lambda x: x[0] ** 2 + x[1] ** 2, iterations=3).result
    ours = ZerothES([0.3, 0.1], 0.5, {"maxfevals": 200, "seed": 3}, method=FixedRadius)
    ours = ours.optimize(square).result
    assert set(theirs.names) <= set(Result._fields)
    assert set(theirs.names) == set(ours.asdict)
    for place in range(-8, 0):
        name = next(
            name for name in theirs.names if theirs[place] is getattr(theirs, name)
        )  # identity: values may be equal by chance
        assert Result._fields.index(name) == place + 8
    for name in theirs.names:
        if name not in ("stop", "evaluations", "iterations", "evals_best", "runs"):
            assert np.shape(getattr(ours, name)) == np.shape(getattr(theirs, name)), name


def test_the_loop_of_pycma_runs_unchanged(FixedRadius):
    """The example of pycma's documentation, word for word but for the class and the budget."""
    optim = ZerothES(9 * [0.5], 0.3, {"maxfevals": 500, "verbose": -9}, method=FixedRadius)
    while not optim.stop():
        X = optim.ask()
        f = [square(x) for x in X]
        optim.tell(X, f)
        optim.disp(20)
    assert optim.stop() == {"maxfevals": 500}
    assert optim.result[3] == optim.countevals == 500
    assert optim.result[4] == optim.countiter
    assert len(optim.result[0]) == 9
    assert optim.result[1] == min(optim.result[1], square(optim.result[0]))


def test_one_point_at_a_time_in_any_order_gives_the_same_run(FixedRadius):
    rng = np.random.default_rng(7)
    found = []
    for popsize in (None, 7, 1):
        options = {"maxfevals": 300, "seed": 4, "popsize": popsize}
        es = ZerothES([1.0, 2.0, 3.0], 0.4, options, method=FixedRadius)
        while not es.stop():
            points = es.ask()
            assert popsize is None or len(points) <= popsize
            order = rng.permutation(len(points))
            values = [square(points[place]) for place in order]
            cut = len(order) // 2
            es.tell([points[place] for place in order[:cut]], values[:cut])
            es.tell([points[place].tolist() for place in order[cut:]], values[cut:])
        found.append(es.result.xfavorite.tobytes())
        assert es.result.evaluations == 300
    assert len(set(found)) == 1


def test_points_that_nobody_answered_are_asked_again(FixedRadius):
    options = {"maxfevals": 120, "seed": 1}
    es = ZerothES([1.0, 1.0], 0.4, options, method=FixedRadius)
    points = es.ask()
    es.tell(points[:10], [square(x) for x in points[:10]])
    again = es.ask()
    assert [x.tobytes() for x in again] == [x.tobytes() for x in points[10:]]
    # Both copies may be told; the second is another measurement or nothing.
    es.tell(again, [square(x) for x in again])
    es.optimize(square)
    assert es.stop()
    assert es.optimizer.nfev <= 120


def test_unknown_points_and_wrong_numbers_are_refused(FixedRadius):
    es = ZerothES([0.0, 0.0], 1.0, {"maxfevals": 100}, method=FixedRadius)
    points = es.ask(5)
    with pytest.raises(ValueError, match="5 points were told with 4 values"):
        es.tell(points, [0.0] * 4)
    with pytest.raises(ValueError, match="was not given by ask"):
        es.tell([[5.0, 5.0]], [0.0])
    es.tell(points[:1], [1.0])
    with pytest.raises(ValueError, match="has its value already"):
        es.tell([points[0], points[0]], [1.0, 1.0])  # both centre points are the same point once
    es.optimize(square)
    with pytest.raises(RuntimeError, match="nothing to ask any more"):
        es.ask()


def test_nan_and_none_lose_their_pair(FixedRadius):
    es = ZerothES([0.0, 0.0], 1.0, {"maxfevals": 100}, method=FixedRadius)
    points = es.ask()
    values = [square(x) for x in points]
    values[5], values[6] = math.nan, None
    es.tell(points, values)
    assert es.optimizer.lost == 2
    assert math.isfinite(es.result.fbest)
    es = ZerothES([0.0, 0.0], 1.0, {"maxfevals": 100}, method=FixedRadius)
    points = es.ask()
    es.tell(points, [math.nan] * len(points))
    assert list(es.stop()) == ["lost"]
    assert es.result.xbest is None and es.result.fbest == math.inf
    np.testing.assert_array_equal(es.result.xfavorite, [0.0, 0.0])


def test_bounds_as_pycma_takes_them(FixedRadius):
    for bounds, lower, upper in [
        ([-0.1, None], [-0.1] * 3, [math.inf] * 3),
        ([None, [0.2, 0.3, None]], [-math.inf] * 3, [0.2, 0.3, math.inf]),
        ([[-0.1, -0.2], 0.4], [-0.1, -0.2, -0.2], [0.4] * 3),
    ]:
        options = {"maxfevals": 200, "bounds": bounds, "seed": 3}
        es = ZerothES([0.0, 0.0, 0.0], 0.5, options, method=FixedRadius)
        points = []
        es.optimize(lambda x, points=points: points.append(x) or -float(np.sum(x)))
        assert (np.array(points) >= lower).all() and (np.array(points) <= upper).all()
        assert (np.abs(points) > 0.05).any()


def test_stds_begin_at_sigma0_and_follow_the_radius(FixedRadius):
    options = {"maxfevals": 2000, "CMA_stds": [1.0, 10.0], "seed": 2}
    es = ZerothES([0.0, 0.0], 0.3, options, method=FixedRadius)
    np.testing.assert_allclose(es.result.stds, [0.3, 3.0])
    assert es.optimizer.space.length == pytest.approx(0.3 * math.sqrt(10) * math.sqrt(2))
    es = ZerothES([0.0, 0.0], 0.3, options)
    fun = noisy_quadratic(np.random.default_rng(6), np.array([0.1, 1.0]))
    points = []
    while not es.stop():
        asked = es.ask()
        points.append(np.array(asked))
        es.tell(asked, [fun(x) for x in asked])
    # The sampling of the largest round, one of the last, in the metric of CMA_stds.
    largest = max(points, key=len) / [1.0, 10.0]
    spread = math.sqrt(np.sum((largest - largest.mean(axis=0)) ** 2, axis=1).mean() / 2)
    assert spread / 2 < es.sigma < spread * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (None, "needs a budget"),
        ({"maxfevals": math.inf}, "needs a budget"),
        ({"maxfevals": 10.5}, "must be an integer"),
        ({"maxfevals": 100, "maxfeval": 3}, r"no meaning here.*'maxfevals'"),
        ({"maxfevals": 100, "CMA_mirrors": 1}, "no meaning here"),
        ({"maxfevals": 100, "bounds": [1]}, r"takes \[lower, upper\]"),
        ({"maxfevals": 100, "CMA_stds": [1.0]}, "2 of them"),
        ({"maxfevals": 100, "popsize": 0}, "at least 1"),
        ({"maxfevals": 5}, "budget must be at least"),
    ],
)
def test_options_that_cannot_be_meant(options, message):
    with pytest.raises(ValueError, match=message):
        ZerothES([0.0, 0.0], 0.5, options)


def test_options_that_mean_nothing_in_pycma_either_way(FixedRadius):
    options = {"maxfevals": 200, "verb_log": 0, "popsize": math.inf, "seed": math.nan, "maxiter": 3}
    es = ZerothES([0.0, 0.0], 0.5, options, method=FixedRadius)
    es.optimize(square, min_iterations=0)
    assert es.stop()["maxiter"] == 3
    assert "maxiter" not in es.stop(ignore_list=["maxiter"])


def test_optimize_leaves_off_and_goes_on(FixedRadius):
    es = ZerothES([1.0, 1.0], 0.4, {"maxfevals": 400, "seed": 3}, method=FixedRadius)
    assert es.optimize(square, maxfun=37) is es
    assert es.countevals == 37
    es.optimize(square, iterations=2, args=(1.0,))
    seen = []
    es.optimize(square, callback=[seen.append, lambda es: None])
    assert es.countevals == 400
    assert seen and all(item is es for item in seen)
    whole = ZerothES([1.0, 1.0], 0.4, {"maxfevals": 400, "seed": 3}, method=FixedRadius)
    whole.optimize(square)
    assert whole.result.xfavorite.tobytes() == es.result.xfavorite.tobytes()
    assert len(seen) == es.countiter - 3


def test_optimize_in_processes(FixedRadius):
    found = []
    for n_jobs in (0, 2):
        es = ZerothES([1.0, 1.0], 0.4, {"maxfevals": 200, "seed": 3}, method=FixedRadius)
        found.append(es.optimize(square, n_jobs=n_jobs, args=(2.0,)).result)
    assert found[0].xfavorite.tobytes() == found[1].xfavorite.tobytes()
    assert found[0].fbest == found[1].fbest


def test_disp(FixedRadius, capsys):
    es = ZerothES([1.0, 1.0], 0.4, {"maxfevals": 100}, method=FixedRadius)
    assert es.disp(0) is es
    assert capsys.readouterr().out == ""
    es.optimize(square, verb_disp=1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Iterat #Fevals")
    assert [int(line.split()[1]) for line in lines[1:]] == [50, 100]
    quiet = ZerothES([1.0, 1.0], 0.4, {"maxfevals": 100, "verbose": -9}, method=FixedRadius)
    quiet.optimize(square, verb_disp=1)
    assert capsys.readouterr().out == ""


def test_quality_on_a_noisy_quadratic():
    optimum = np.array([0.6, -0.4, 0.3, 0.1])
    rng = np.random.default_rng(11)
    es = ZerothES(np.zeros(4), 0.4, {"maxfevals": 3000, "seed": 5})
    es.optimize(noisy_quadratic(rng, optimum))
    regret = square(es.result.xfavorite - optimum)
    assert regret < square(optimum) / 10
    # xbest is the luckiest of 3000 values: its value is far below what any point has.
    assert es.result.fbest < -SIGMA
    assert regret < square(es.result.xbest - optimum)
