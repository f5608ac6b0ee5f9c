"""The sampler in real studies: in memory, in SQLite, with threads, after crashes."""

import copy
import math
import pickle
import random
import time
import warnings

import numpy as np
import pytest

optuna = pytest.importorskip("optuna")

import sqlalchemy  # noqa: E402
from optuna.distributions import CategoricalDistribution, FloatDistribution  # noqa: E402
from optuna.trial import TrialState  # noqa: E402

from modicum.zeroth.errors import ZerothWarning  # noqa: E402
from modicum.zeroth.integrations.optuna import ZerothSampler  # noqa: E402

POINT = "modicum-zeroth:point"
SPACE = {"rate": FloatDistribution(1e-4, 1.0, log=True), "x": FloatDistribution(-2.0, 3.0)}


@pytest.fixture(autouse=True)
def quiet():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    yield
    optuna.logging.set_verbosity(before)


def value_of(rate, x):
    """Smallest at rate 10^-1.5, x = 1; without noise, so that resumed runs can be compared."""
    return (math.log10(rate) + 1.5) ** 2 + (x - 1.0) ** 2


def objective(trial):
    rate = trial.suggest_float("rate", 1e-4, 1.0, log=True)
    x = trial.suggest_float("x", -2.0, 3.0)
    return value_of(rate, x)


def sampler(FixedRadius, budget=300, seed=3, **settings):
    settings = {
        "search_space": SPACE,
        "method": FixedRadius,
        "radius": 0.05,
        "step": 0.02,
    } | settings
    return ZerothSampler(budget, seed=seed, **settings)


def trials_of(study):
    return study.get_trials(deepcopy=False)


def points(study):
    return [trial.system_attrs.get(POINT) for trial in trials_of(study)]


def params(study):
    return [tuple(sorted(trial.params.items())) for trial in trials_of(study)]


def point_of(trial):
    """The point of a trial under way; it has one once its first parameter is asked for."""
    return points(trial.study)[trial.number]


# One process ------------------------------------------------------------------------------------


def test_the_study_stops_when_the_budget_is_spent(FixedRadius):
    study = optuna.create_study(sampler=sampler(FixedRadius))
    study.optimize(objective, n_trials=1000)
    assert len(trials_of(study)) == 300
    assert points(study) == list(range(300))
    best = study.sampler.recommendation(study)
    assert value_of(**best) < 0.5 * value_of(rate=1e-2, x=0.5)
    result = study.sampler.result(study)
    assert result.params == best and result.nfev == 300 and result.success


def test_the_first_trial_finds_the_parameters(FixedRadius):
    found = sampler(FixedRadius, search_space=None, x0={"x": 2.0})
    study = optuna.create_study(sampler=found)
    with pytest.raises(RuntimeError, match="no trial of the study is finished"):
        found.recommendation(study)
    study.optimize(objective, n_trials=1000)
    # One evaluation more would be half a pair.
    assert len(trials_of(study)) == 299
    assert points(study) == [None, *range(298)]
    # It is the start: x0 where given, else the middle of the range, of its logarithm for log ones.
    assert study.trials[0].params == {"rate": pytest.approx(1e-2), "x": 2.0}
    assert study.trials[1].params == study.trials[0].params


def test_log_and_linear_axes_cover_their_ranges(FixedRadius):
    space = {"a": FloatDistribution(1e-6, 1e2, log=True), "b": FloatDistribution(10.0, 30.0)}
    found = sampler(FixedRadius, search_space=space, radius=0.45, x0={"a": 1e-2})
    study = optuna.create_study(sampler=found)

    def flat(trial):
        trial.suggest_float("a", 1e-6, 1e2, log=True)
        trial.suggest_float("b", 10.0, 30.0)
        return 0.0

    study.optimize(flat, n_trials=300)
    logs = np.log10([trial.params["a"] for trial in study.trials])
    linear = np.array([trial.params["b"] for trial in study.trials])
    assert -6 <= logs.min() < -5 and 1 < logs.max() <= 2
    assert abs(np.median(logs) + 2) < 0.5
    assert 10 <= linear.min() < 12 and 28 < linear.max() <= 30
    assert study.trials[0].params == {"a": pytest.approx(1e-2), "b": 20.0}


def test_maximise_is_the_mirror_image(FixedRadius):
    studies = []
    for direction, sign in (("minimize", 1.0), ("maximize", -1.0)):
        study = optuna.create_study(direction=direction, sampler=sampler(FixedRadius))
        study.optimize(lambda trial, sign=sign: sign * objective(trial))
        studies.append(study)
    assert params(studies[0]) == params(studies[1])
    least, most = (study.sampler.result(study) for study in studies)
    assert most.fun == -least.fun and most.params == least.params
    trials = [study.sampler.recommended_trial(study) for study in studies]
    assert trials[1].value == -trials[0].value


def test_recommended_trial_can_be_added(FixedRadius):
    study = optuna.create_study(sampler=sampler(FixedRadius, budget=100))
    study.optimize(objective, n_trials=20)
    with pytest.raises(RuntimeError, match="no round is finished"):
        study.sampler.recommended_trial(study)
    study.optimize(objective)
    study.add_trial(study.sampler.recommended_trial(study))
    added = study.trials[-1]
    assert added.state == TrialState.COMPLETE
    assert added.params == study.sampler.recommendation(study)
    assert added.user_attrs["modicum-zeroth:recommendation"] is True
    assert added.user_attrs["modicum-zeroth:value_std"] == 0.5
    # Or evaluated afresh; neither disturbs the run.
    study.enqueue_trial(study.sampler.recommendation(study))
    study.optimize(objective, n_trials=1)
    assert study.trials[-1].params == added.params
    assert points(study)[-2:] == [None, None]


def test_enqueued_trials_take_no_point_of_the_method(FixedRadius):
    plain, mixed = (optuna.create_study(sampler=sampler(FixedRadius)) for _ in range(2))
    plain.optimize(objective, n_trials=100)
    for number in range(5):
        mixed.enqueue_trial({"rate": 0.5, "x": float(number) / 5})
    mixed.enqueue_trial({"x": 1.5})  # the method fills in the rest
    mixed.optimize(objective, n_trials=106)
    assert points(mixed) == [None] * 6 + list(range(100))
    assert params(mixed)[6:] == params(plain)
    assert mixed.trials[5].params == {"rate": pytest.approx(1e-2), "x": 1.5}


@pytest.mark.filterwarnings("ignore:PartialFixedSampler is experimental")
def test_a_sampler_that_fixes_a_parameter_in_between(FixedRadius):
    inner = sampler(FixedRadius)
    study = optuna.create_study(sampler=optuna.samplers.PartialFixedSampler({"x": 1.0}, inner))
    with pytest.warns(ZerothWarning, match="'rate'"):
        study.optimize(objective, n_trials=5)
    assert {trial.params["x"] for trial in trials_of(study)} == {1.0}
    assert points(study) == [None] * 5


def test_an_interrupted_last_round_counts_if_little_of_it_is_missing(FixedRadius):
    found = []
    for trials in (100, 97, 80):
        study = optuna.create_study(sampler=sampler(FixedRadius, budget=100))
        study.optimize(objective, n_trials=trials)
        found.append(study.sampler.result(study))
        assert study.sampler.recommendation(study) == found[-1].params
    assert [result.nit for result in found] == [2, 2, 1]
    assert found[1].lost == 3 and found[1].params != found[2].params


def test_ask_and_tell_by_hand_in_any_order(FixedRadius):
    study = optuna.create_study(sampler=sampler(FixedRadius))
    other = optuna.create_study(sampler=sampler(FixedRadius))
    other.optimize(objective)
    rng = np.random.default_rng(5)
    while len(trials_of(study)) < 300:
        trials = [study.ask() for _ in range(10)]
        values = [objective(trial) for trial in trials]
        for place in rng.permutation(10):
            study.tell(trials[place], values[place])
    assert points(study) == list(range(300))
    assert study.sampler.recommendation(study) == other.sampler.recommendation(other)


# Trials that fail -------------------------------------------------------------------------------


def test_a_failed_point_is_tried_again(FixedRadius):
    study = optuna.create_study(sampler=sampler(FixedRadius))
    failing = {7, 8, 60}

    def flaky(trial):
        value = objective(trial)
        if trial.number in failing:
            raise OSError("cluster is away")
        return value

    study.optimize(flaky, catch=(OSError,))
    found = points(study)
    assert found[7:11] == [7, 7, 7, 8]
    assert study.trials[9].params == study.trials[7].params
    result = study.sampler.result(study)
    # Tried again means paid again: the budget holds, the last round is smaller.
    assert (result.lost, result.retried) == (0, 3)
    assert len(trials_of(study)) <= 300


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_a_point_that_always_fails_loses_its_pair(value, FixedRadius):
    study = optuna.create_study(sampler=sampler(FixedRadius, retries=1))

    def broken(trial):
        found = objective(trial)
        return value if point_of(trial) == 5 else found

    study.optimize(broken)
    assert points(study).count(5) == 2
    assert study.sampler.result(study).lost == 1


def test_failures_at_the_very_end_do_not_hang(FixedRadius):
    study = optuna.create_study(sampler=sampler(FixedRadius, budget=100))
    study.optimize(
        lambda trial: objective(trial) + (math.nan if trial.number >= 97 else 0.0), n_trials=110
    )
    assert study.sampler.result(study).nfev <= 100
    assert value_of(**study.sampler.recommendation(study)) < 3


def test_too_many_failures_end_the_run(FixedRadius):
    study = optuna.create_study(sampler=sampler(FixedRadius, retries=0))
    study.optimize(
        lambda trial: objective(trial) + (math.nan if trial.number % 2 else 0.0), n_trials=290
    )
    assert len(trials_of(study)) == 50
    result = study.sampler.result(study)
    assert not result.success and result.status == 3
    assert result.params == {"rate": pytest.approx(1e-2), "x": 0.5}


def test_pruned_trials(FixedRadius):
    def pruned(trial):
        value = objective(trial)
        trial.report(value + 100.0, 0)
        trial.report(value, 1)
        if point_of(trial) == 9:
            raise optuna.TrialPruned
        return value

    study = optuna.create_study(sampler=sampler(FixedRadius))
    with pytest.warns(ZerothWarning, match="pruned trial is a lost pair"):
        study.optimize(pruned)
    assert study.sampler.result(study).lost == 1
    assert points(study).count(9) == 1
    study = optuna.create_study(sampler=sampler(FixedRadius, consider_pruned_trials=True))
    study.optimize(pruned)
    assert study.sampler.result(study).lost == 0
    plain = optuna.create_study(sampler=sampler(FixedRadius))
    plain.optimize(objective)
    assert study.sampler.recommendation(study) == plain.sampler.recommendation(plain)


# Other parameters -------------------------------------------------------------------------------


def mixed_objective(trial):
    kind = trial.suggest_categorical("kind", ["a", "b"])
    depth = trial.suggest_int("depth", 1, 5)
    step = trial.suggest_float("step", 0.0, 1.0, step=0.25)
    return objective(trial) + (kind == "a") + depth + step


def test_other_parameters_are_drawn_and_said_so(FixedRadius):
    study = optuna.create_study(sampler=sampler(FixedRadius, search_space=None))
    with pytest.warns(ZerothWarning) as caught:
        study.optimize(mixed_objective, n_trials=60)
    messages = [str(item.message) for item in caught]
    assert sorted(message.split("'")[1] for message in messages) == ["depth", "kind", "step"]
    assert all("RandomSampler" in message for message in messages)
    assert {trial.params["kind"] for trial in study.trials} == {"a", "b"}
    assert {trial.params["depth"] for trial in study.trials} == {1, 2, 3, 4, 5}
    assert set(study.sampler.recommendation(study)) == {"rate", "x"}
    assert points(study) == [None, *range(59)]


def test_the_other_sampler_and_the_warning_can_be_chosen(FixedRadius):
    other = optuna.samplers.GridSampler({"kind": ["b"], "depth": [2], "step": [0.5]}, seed=1)
    found = sampler(FixedRadius, independent_sampler=other, warn_independent_sampling=False)
    study = optuna.create_study(sampler=found)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        study.optimize(mixed_objective, n_trials=1)
    assert study.trials[0].params["kind"] == "b"


def test_conditional_and_moving_parameters(FixedRadius):
    study = optuna.create_study(sampler=sampler(FixedRadius, retries=0))

    def strange(trial):
        rate = trial.suggest_float("rate", 1e-4, 1.0, log=True)
        low = -2.0 if trial.number != 4 else 2.5
        x = trial.suggest_float("x", low, 3.0)  # once, the point lies outside
        if trial.number % 3 == 0:
            trial.suggest_float("extra", 0.0, 1.0)
        return value_of(rate, x)

    with pytest.warns(ZerothWarning) as caught:
        study.optimize(strange)
    assert {str(item.message).split("'")[1] for item in caught} == {"extra", "x"}
    assert study.sampler.result(study).lost == 1


# Storages, threads, processes --------------------------------------------------------------------


def sqlite(path):
    """A storage in a file that does not wait for the disk."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    hurry = "PRAGMA synchronous = OFF"
    sqlalchemy.event.listen(
        storage.engine, "connect", lambda connection, _: connection.execute(hurry)
    )
    storage.engine.dispose()
    return storage


def test_a_study_from_sqlite_goes_on_bit_for_bit(tmp_path, FixedRadius):
    settings = {"budget": 56, "pairs": 6}
    whole = optuna.create_study(sampler=sampler(FixedRadius, **settings))
    whole.optimize(objective)
    for part in (17, 14, 1000):
        study = optuna.create_study(
            study_name="s",
            storage=sqlite(tmp_path / "study.db"),
            load_if_exists=True,
            sampler=sampler(FixedRadius, **settings),
        )
        study.optimize(objective, n_trials=part)
    assert params(study) == params(whole)
    assert study.sampler.recommendation(study) == whole.sampler.recommendation(whole)
    # A sampler without a seed takes over the study's.
    fresh = sampler(FixedRadius, seed=None, **settings)
    loaded = optuna.load_study(study_name="s", storage=study._storage, sampler=fresh)
    assert fresh.recommendation(loaded) == whole.sampler.recommendation(whole)
    for changes, message in [
        ({"seed": 4}, "seed = 3"),
        ({"budget": 200}, "budget = 56"),
        ({"scale": 0.1}, "scale = 0.1666"),
        ({"x0": {"x": 1.0}}, "x0 = {}"),
        ({"retries": 1}, "retries = 2"),
        ({"radius": 0.1}, "options"),
    ]:
        with pytest.raises(ValueError, match=message):
            sampler(FixedRadius, **(settings | changes)).recommendation(loaded)


def test_failures_and_dead_trials_survive_a_resume(FixedRadius):
    storage = optuna.storages.InMemoryStorage()
    whole = optuna.create_study(sampler=sampler(FixedRadius))

    def flaky(trial):
        value, point = objective(trial), point_of(trial)
        if point in (11, 55) and points(trial.study).count(point) < 3:
            raise OSError
        return value

    whole.optimize(flaky, catch=(OSError,))
    study = optuna.create_study(study_name="s", storage=storage, sampler=sampler(FixedRadius))
    for part in (12, 1, 80, 1000):
        study = optuna.load_study(study_name="s", storage=storage, sampler=sampler(FixedRadius))
        study.optimize(flaky, n_trials=part, catch=(OSError,))
    assert points(study) == points(whole)
    assert params(study) == params(whole)

    # A process that dies leaves a running trial behind; its point is measured again.
    dead = optuna.create_study(study_name="d", storage=storage, sampler=sampler(FixedRadius))
    dead.optimize(objective, n_trials=10)
    objective(dead.ask())
    dead = optuna.load_study(study_name="d", storage=storage, sampler=sampler(FixedRadius))
    dead.optimize(objective)
    assert points(dead).count(10) == 2 and points(dead)[50:52] == [10, 50]
    assert dead.sampler.result(dead).success


def test_threads(FixedRadius):
    study = optuna.create_study(sampler=sampler(FixedRadius))
    study.optimize(objective, n_jobs=4)
    found = points(study)
    given = [number for number in found if number is not None]
    assert set(given) >= set(range(150))
    assert len(given) <= 300
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
    result = study.sampler.result(study)
    assert result.success and result.lost == 0
    # Made anew from the storage, the run is the same: late values say that they are.
    fresh = sampler(FixedRadius)
    again = optuna.load_study(study_name=study.study_name, storage=study._storage, sampler=fresh)
    assert fresh.recommendation(again) == study.sampler.recommendation(study)


@pytest.mark.parametrize("seed", range(6))
def test_a_run_of_threads_with_failures_is_the_same_when_made_anew(seed, FixedRadius):
    """Regression: failures of a round were counted before the round's trials were."""
    settings = {"budget": 200, "pairs": 4, "seed": seed}
    study = optuna.create_study(sampler=sampler(FixedRadius, **settings))
    rng = random.Random(seed)

    def flaky(trial):
        value = objective(trial)
        time.sleep(0.001 * rng.random())
        if rng.random() < 0.04:
            raise OSError
        return value

    study.optimize(flaky, n_jobs=6, catch=(OSError,))
    fresh = sampler(FixedRadius, **settings)
    again = optuna.load_study(study_name=study.study_name, storage=study._storage, sampler=fresh)
    live, made_anew = study.sampler.result(study), fresh.result(again)
    assert made_anew.params == live.params
    for name in ("nfev", "retried", "lost", "status"):
        assert made_anew[name] == live[name]


def test_two_samplers_on_one_storage_share_the_work(FixedRadius):
    storage = optuna.storages.InMemoryStorage()
    optuna.create_study(study_name="s", storage=storage)
    studies = [
        optuna.load_study(study_name="s", storage=storage, sampler=sampler(FixedRadius))
        for _ in range(2)
    ]
    for _ in range(150):
        trials = [(study, study.ask()) for study in studies]
        values = [objective(trial) for _, trial in trials]
        for (study, trial), value in reversed(list(zip(trials, values, strict=True))):
            study.tell(trial, value)
    found = points(studies[0])
    assert found == list(range(300))
    alone = optuna.create_study(sampler=sampler(FixedRadius))
    alone.optimize(objective)
    for study in studies:
        assert study.sampler.recommendation(study) == alone.sampler.recommendation(alone)


def test_workers_that_wait_measure_again(FixedRadius):
    study = optuna.create_study(sampler=sampler(FixedRadius))
    held = study.ask()
    late = objective(held)
    for _ in range(55):
        trial = study.ask()
        study.tell(trial, objective(trial))
    found = points(study)
    assert found[:50] == list(range(50))
    assert found[50] == 0  # all others of the round have their value
    assert found[51:] == list(range(50, 55))
    study.tell(held, late)
    assert study.sampler.result(study).retried == 1
    fresh = sampler(FixedRadius)
    again = optuna.load_study(study_name=study.study_name, storage=study._storage, sampler=fresh)
    assert fresh.recommendation(again) == study.sampler.recommendation(study)


def test_pickle_and_copy(FixedRadius):
    study = optuna.create_study(sampler=sampler(FixedRadius, method="spsa", radius=None, step=None))
    study.optimize(objective, n_trials=30)
    for clone in (pickle.loads(pickle.dumps(study.sampler)), copy.deepcopy(study.sampler)):
        assert clone.recommendation(study) == study.sampler.recommendation(study)


# What cannot be meant ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": 2}, "budget must be at least"),
        ({"budget": 10.5}, "must be an integer"),
        ({"scale": 0.0}, "scale must be positive"),
        ({"scale": {"y": 1.0}}, "scale has y; the float parameters are rate, x"),
        ({"x0": {"y": 1.0}}, "x0 has y"),
        ({"x0": {"x": 4.0}}, "between -2.0 and 3.0"),
        ({"search_space": {}}, "empty"),
        ({"search_space": {"k": CategoricalDistribution([1, 2])}}, "'k' is Categorical"),
        ({"search_space": {"k": FloatDistribution(1.0, 1.0)}}, "single value"),
        ({"method": "newton"}, "method must be one of"),
        ({"colour": 1}, "no option 'colour'"),
    ],
)
def test_settings_that_cannot_be_meant(settings, message, FixedRadius):
    with pytest.raises(ValueError, match=message):
        sampler(FixedRadius, **settings)


def test_several_objectives_are_refused(FixedRadius):
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler(FixedRadius))
    with pytest.raises(ValueError, match="multi-objective"):
        objective(study.ask())


def test_a_scale_per_parameter(FixedRadius):
    found = sampler(FixedRadius, scale={"x": 0.5}, x0={"x": 0.5}, radius=0.2)
    study = optuna.create_study(sampler=found)
    study.optimize(objective, n_trials=50)
    shares = np.array(
        [
            ((math.log10(trial.params["rate"]) + 4) / 4, (trial.params["x"] + 2) / 5)
            for trial in study.trials
        ]
    )
    spread = shares[2:].std(axis=0)
    assert spread[1] / spread[0] == pytest.approx(3.0, rel=0.3)


# What it is for ---------------------------------------------------------------------------------


def test_quality_on_a_noisy_function():
    rng = np.random.default_rng(2)
    found = ZerothSampler(1000, search_space=SPACE, seed=7)
    study = optuna.create_study(sampler=found)
    study.optimize(lambda trial: objective(trial) + 0.3 * rng.standard_normal())
    assert len(trials_of(study)) in (999, 1000)  # half a pair is not spent
    best = found.recommendation(study)
    start = value_of(rate=1e-2, x=0.5)
    assert value_of(**best) < start / 8
    # The best value seen is the luckiest of many, far below what any point has.
    assert study.best_value < -0.3
    assert value_of(**best) < start / 2 and study.best_params != best


def test_a_method_that_does_not_exist_is_refused_at_once():
    with pytest.raises(ValueError, match=r"method must be one of .*not 'foo'"):
        ZerothSampler(budget=1000, method="foo")
