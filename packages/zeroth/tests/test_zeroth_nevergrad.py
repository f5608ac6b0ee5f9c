"""The methods as optimizers of nevergrad, driven by nevergrad itself."""

import importlib.util
import math
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

ng = pytest.importorskip("nevergrad")

from nevergrad.common import errors  # noqa: E402

from modicum.zeroth.integrations.nevergrad import (  # noqa: E402
    ParametrizedZeroth,
    Zeroth,
    ZerothOptimizer,
    _box,
)

p = ng.p


def square(x):
    return float(np.sum(np.square(x)))


def bowl(x):
    return square(x - 1.0)


def drive(optimizer, fun, workers=1, rng=None):
    """Ask `workers` candidates at a time and tell them in a random order."""
    while optimizer.num_ask < optimizer.budget:
        asked = [optimizer.ask() for _ in range(min(workers, optimizer.budget - optimizer.num_ask))]
        if rng is not None:
            rng.shuffle(asked)
        for candidate in asked:
            optimizer.tell(candidate, fun(*candidate.args, **candidate.kwargs))
    return optimizer.provide_recommendation()


def standardized(optimizer, candidate):
    return candidate.get_standardized_data(reference=optimizer.parametrization)


# nevergrad's own doors ---------------------------------------------------------------------------


class LateExecutor:
    """Hands results out in another order than jobs came in, as nevergrad's benchmarks do."""

    def __init__(self):
        self.jobs = []

    def submit(self, fun, *args, **kwargs):
        job = Job(self, fun(*args, **kwargs))
        self.jobs.append(job)
        return job


class Job:
    def __init__(self, executor, value):
        self.executor, self.value = executor, value

    def done(self):
        if self.executor.jobs and self.executor.jobs[-1] is self:
            self.executor.jobs.pop()
            return True
        return self not in self.executor.jobs

    def result(self):
        return self.value


def test_registry_holds_it_and_nevergrad_s_own_loop_runs_it():
    """What ``nevergrad.benchmark`` does with an optimizer's name (its package needs much more)."""
    assert ng.optimizers.registry["Zeroth"] is Zeroth
    assert not Zeroth.no_parallelization and not Zeroth.one_shot and not Zeroth.recast
    rng = np.random.default_rng(12)
    optimizer = ng.optimizers.registry["Zeroth"](
        parametrization=p.Array(init=np.ones(3)), budget=400, num_workers=3
    )
    optimizer.parametrization.random_state.seed(12)
    told = []
    optimizer.register_callback("tell", lambda optimizer, candidate, loss: told.append(loss))
    ng.optimizers.base.Optimizer.minimize(
        optimizer,
        lambda x: square(x) + 0.3 * rng.standard_normal(),
        batch_mode=False,
        executor=LateExecutor(),
    )
    assert len(told) == optimizer.num_tell == 400
    (best,) = optimizer.pareto_front()
    assert square(best.value) < 1.5
    info = optimizer._info()
    assert info["lost"] == 0 and info["rounds"] > 1


def test_a_second_copy_of_the_module_keeps_the_registry():
    """As when a notebook loads it again."""
    origin = importlib.util.find_spec(ZerothOptimizer.__module__).origin
    spec = importlib.util.spec_from_file_location("second_copy", origin)
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    assert copy.Zeroth is ng.optimizers.registry["Zeroth"] is Zeroth


def test_variants_say_what_they_are():
    variant = ParametrizedZeroth(noise=0.5, scale=2.0)
    assert repr(variant) == "ParametrizedZeroth(noise=0.5, scale=2.0)"
    assert variant == ParametrizedZeroth(noise=0.5, scale=2.0) != ParametrizedZeroth()
    optimizer = variant(parametrization=2, budget=300)
    assert optimizer.name == repr(variant)
    assert optimizer.ask().value.shape == (2,)
    assert optimizer.result().noise_std == 0.5


def test_minimize_with_an_executor(FixedRadius):
    found = []
    for workers in (1, 4):
        optimizer = ZerothOptimizer(
            p.Array(init=[1.0, 2.0]), budget=200, num_workers=workers, method=FixedRadius
        )
        optimizer.parametrization.random_state.seed(12)
        with ThreadPoolExecutor(workers) as executor:
            point = optimizer.minimize(square, executor=executor, batch_mode=False)
        assert optimizer.num_ask == optimizer.num_tell == 200
        found.append(square(point.value))
    assert max(found) < 0.5 * 5.0


def test_a_seed_between_constructor_and_first_ask_counts(FixedRadius):
    first = []
    for seed in (1, 1, 2):
        optimizer = ZerothOptimizer(3, budget=100, method=FixedRadius)
        optimizer.parametrization.random_state.seed(seed)
        first.append(drive(optimizer, bowl).value.tobytes())
    assert first[0] == first[1] != first[2]


def test_order_and_number_of_workers_do_not_change_the_course(FixedRadius):
    """With a round of 50 points, 5 workers never wait: the course is the same."""
    found = []
    for workers in (1, 5):
        optimizer = ZerothOptimizer(3, budget=200, num_workers=workers, method=FixedRadius)
        optimizer.parametrization.random_state.seed(3)
        drive(optimizer, bowl, workers, np.random.default_rng(workers))
        found.append(optimizer.recommend().value.tobytes())
        assert optimizer._info() == {"rounds": 4, "lost": 0, "repeated": 0}
    assert found[0] == found[1]


def test_waiting_workers_measure_again_and_the_budget_holds(FixedRadius):
    optimizer = ZerothOptimizer(2, budget=200, num_workers=7, method=FixedRadius)
    drive(optimizer, bowl, 7)
    # Rounds of 50: 8 batches of 7 make 56, so 6 of them come a second time, and the last round is
    # smaller by what they cost.
    info = optimizer._info()
    assert info["repeated"] > 6 and info["lost"] == 0 and info["rounds"] == 4
    assert optimizer._turns.optimizer.nfev <= 200
    assert optimizer._turns.done


def test_a_candidate_that_is_never_told_does_not_block(FixedRadius):
    optimizer = ZerothOptimizer(2, budget=150, method=FixedRadius)
    lost = optimizer.ask()
    drive(optimizer, bowl)
    assert optimizer._info()["rounds"] >= 2
    assert optimizer._info()["repeated"] == 1
    optimizer.tell(lost, bowl(lost.value))  # late, and harmless


# Losses -----------------------------------------------------------------------------------------


def test_nan_and_infinite_losses_lose_their_pair(FixedRadius):
    optimizer = ZerothOptimizer(2, budget=150, method=FixedRadius)
    for number in range(150):
        candidate = optimizer.ask()
        if number in (10, 70):
            with pytest.warns(errors.LossTooLargeWarning) if number == 10 else _quiet():
                optimizer.tell(candidate, math.nan if number == 10 else math.inf)
        else:
            optimizer.tell(candidate, bowl(candidate.value))
    assert optimizer._info()["lost"] == 2
    assert bowl(optimizer.recommend().value) < 1.0


class _quiet:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False


def test_a_second_loss_of_a_candidate_is_averaged_with_the_first(FixedRadius):
    optimizer = ZerothOptimizer(2, budget=100, method=FixedRadius)
    first = optimizer.ask()
    optimizer.tell(first, 1.0)
    optimizer.tell(first, 3.0)
    for _ in range(49):
        candidate = optimizer.ask()
        optimizer.tell(candidate, 0.0)
    values, _ = optimizer._turns.optimizer.updates[0]
    assert values[0] == 2.0 and not values[1:].any()


def test_standard_deviations_reach_the_method(FixedRadius):
    optimizer = ZerothOptimizer(2, budget=100, method=FixedRadius)
    for number in range(50):
        optimizer.tell(optimizer.ask(), 1.0, sigma=0.5 + number)
    _, sigma = optimizer._turns.optimizer.updates[0]
    np.testing.assert_array_equal(sigma, 0.5 + np.arange(50))


def test_strangers_are_refused(FixedRadius):
    optimizer = ZerothOptimizer(2, budget=100, method=FixedRadius)
    optimizer.ask()
    stranger = optimizer.parametrization.spawn_child(new_value=np.ones(2))
    with pytest.raises(errors.TellNotAskedNotSupportedError, match="asked for"):
        optimizer.tell(stranger, 1.0)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"budget": None}, ValueError, "budget is needed"),
        ({"budget": 3}, ValueError, "budget must be at least"),
        ({"budget": 1000, "method": "newton"}, ValueError, "method must be one of"),
        ({"budget": 1000, "noise": -1.0}, ValueError, "noise must be positive"),
        ({"budget": 1000, "options": {"colour": 1}}, ValueError, "no option 'colour'"),
    ],
)
def test_settings_that_cannot_be_meant(settings, error, message):
    with pytest.raises(error, match=message):
        ZerothOptimizer(2, **settings)


def test_constraints_other_than_bounds_are_refused(FixedRadius):
    parametrization = p.Instrumentation(p.Array(shape=(2,)), y=p.Scalar())
    parametrization.register_cheap_constraint(_positive)
    with pytest.raises(errors.UnsupportedExperiment, match="put them into the loss"):
        ZerothOptimizer(parametrization, budget=100, method=FixedRadius)


def _positive(value):
    return value[1]["y"] > 0


# Parametrizations -------------------------------------------------------------------------------


def parametrizations():
    yield "array", p.Array(init=np.ones((2, 3))), 6
    yield "bounded", p.Array(shape=(2,), lower=-1.0, upper=[2.0, 3.0]), 2
    yield "uneven", p.Array(init=[1.0, 2.0]).set_bounds([-1.0, -0.5], [3.0, 2.5]), 2
    yield "clipped", p.Array(init=[0.5]).set_bounds(0.0, None, method="clipping"), 1
    yield "constraint", p.Array(init=[1.0, 2.0]).set_bounds(-1, 3, method="constraint"), 2
    yield "mirrored", -p.Array(init=[1.0, 2.0]).set_bounds(-1, 3), 2
    yield "scalar", p.Scalar(init=1.0, lower=0.5), 1
    yield "log", p.Log(lower=1e-4, upper=1.0), 1
    yield "open log", p.Log(init=1.0, lower=0.01), 1
    yield "integer", p.Scalar(lower=0, upper=10).set_integer_casting(), 1
    yield (
        "instrumentation",
        p.Instrumentation(
            p.Array(shape=(2,), lower=-1, upper=1), 5, y=p.Log(lower=0.1, upper=10.0), z=p.Scalar()
        ),
        4,
    )
    yield "dict", p.Dict(b=p.Scalar(lower=-1, upper=2), a=p.Array(shape=(2,)), c="text"), 3
    yield "tuple", p.Tuple(*(p.Scalar(lower=-1.0 - k, upper=1.0) for k in range(11))), 11


CASES = [pytest.param(case, dimension, id=name) for name, case, dimension in parametrizations()]


def leaves(parameter):
    """Values of all data parameters, by place."""
    if isinstance(parameter, p.Array | p.Scalar):
        return [(parameter, np.asarray(parameter.value, dtype=float))]
    return [item for part in getattr(parameter, "_content", {}).values() for item in leaves(part)]


@pytest.mark.parametrize(("case", "dimension"), CASES)
def test_every_point_is_inside_the_bounds_and_none_is_bent(case, dimension, FixedRadius):
    settings = {"method": FixedRadius, "options": {"radius": 2.5}}
    optimizer = ZerothOptimizer(case.copy(), budget=100, **settings)
    optimizer.parametrization.random_state.seed(5)
    assert optimizer.dimension == dimension
    seen = []
    for _ in range(50):
        candidate = optimizer.ask()
        for leaf, value in leaves(candidate):
            ends = [end for end in leaf.bounds if end is not None]
            if len(ends) == 2:
                ends = [np.minimum(*ends), np.maximum(*ends)]  # a mirrored parameter swaps them
            assert leaf.bounds[0] is None or (value >= ends[0] - 1e-12).all()
            assert leaf.bounds[1] is None or (value <= ends[-1] + 1e-12).all()
        # What nevergrad makes of a point is what the method asked: nothing bounced or clipped.
        (number,) = candidate._meta.values()
        asked = optimizer._turns.point(number)
        seen.append(standardized(optimizer, candidate))
        np.testing.assert_allclose(seen[-1], asked, atol=1e-12)
        optimizer.tell(candidate, float(np.sum(seen[-1])))
    assert (np.ptp(seen, axis=0) > 0.1).all()
    assert np.isfinite(standardized(optimizer, optimizer.recommend())).all()


@pytest.mark.parametrize(("case", "dimension"), CASES)
def test_box_is_where_values_reach_their_bounds(case, dimension):
    """Independent of how the box was found: go to its ends and look at the values."""
    box = _box(case)
    if box is None:
        assert all(leaf.bounds == (None, None) for leaf, _ in leaves(case))
        return
    assert len(box) == dimension
    for side in (0, 1):
        ends = np.array(box)[:, side]
        child = case.spawn_child().set_standardized_data(np.where(np.isfinite(ends), ends, 0.3))
        touched = 0
        for leaf, value in leaves(child):
            for bound in leaf.bounds:
                if bound is not None:
                    near = np.abs(value - bound) <= 1e-6 * (1 + np.abs(bound))
                    touched += int(np.sum(near))
        assert touched == np.isfinite(ends).sum()


@pytest.mark.parametrize("method", ["arctan", "tanh"])
def test_bounds_by_a_transform_are_no_box(method):
    assert _box(p.Array(init=[1.0, 2.0]).set_bounds(-1, 3, method=method)) is None


def test_random_choices_are_noise(FixedRadius):
    parametrization = p.Instrumentation(kind=p.Choice(["good", "bad"]), x=p.Scalar())

    def loss(kind, x):
        return (x - 0.5) ** 2 + (kind == "bad")

    optimizer = ZerothOptimizer(parametrization, budget=400, method=FixedRadius)
    optimizer.parametrization.random_state.seed(8)
    best = drive(optimizer, loss)
    assert best.kwargs["kind"] == "good"


def test_dump_and_load_in_the_middle(tmp_path, FixedRadius):
    whole, half = (ZerothOptimizer(2, budget=200, method=FixedRadius) for _ in range(2))
    for optimizer in (whole, half):
        optimizer.parametrization.random_state.seed(4)
    drive(whole, bowl)
    for _ in range(73):
        candidate = half.ask()
        half.tell(candidate, bowl(candidate.value))
    half.dump(tmp_path / "optimizer.pkl")
    loaded = ZerothOptimizer.load(tmp_path / "optimizer.pkl")
    drive(loaded, bowl)
    assert loaded.recommend().value.tobytes() == whole.recommend().value.tobytes()
    assert pickle.loads(pickle.dumps(loaded)).num_ask == 200


# What it is for ---------------------------------------------------------------------------------


def test_recommendation_before_anything_was_told():
    optimizer = Zeroth(p.Array(init=[3.0, 4.0]), budget=500)
    np.testing.assert_array_equal(optimizer.recommend().value, [3.0, 4.0])
    optimizer.ask()
    np.testing.assert_allclose(optimizer.provide_recommendation().value, [3.0, 4.0])


def test_recommendation_is_the_model_s_not_the_best_sample():
    optimum = np.array([0.5, -0.4, 0.3])
    rng = np.random.default_rng(3)
    optimizer = Zeroth(p.Array(shape=(3,)).set_bounds(-3, 3), budget=2000)
    optimizer.parametrization.random_state.seed(9)
    best = drive(optimizer, lambda x: square(x - optimum) + 0.5 * rng.standard_normal())
    regret = square(best.value - optimum)
    assert regret < square(optimum) / 8
    lucky = optimizer.current_bests["minimum"].parameter.value
    assert not np.array_equal(best.value, lucky)
    assert regret < square(lucky - optimum)
    assert optimizer.result().fun_std > 0


def test_asking_beyond_the_budget_gives_the_recommendation():
    optimizer = Zeroth(2, budget=200)
    rng = np.random.default_rng(1)
    drive(optimizer, lambda x: square(x) + 0.1 * rng.standard_normal())
    extra = optimizer.ask()
    np.testing.assert_array_equal(extra.value, optimizer.recommend().value)
    optimizer.tell(extra, 0.0)
    np.testing.assert_array_equal(extra.value, optimizer.recommend().value)
