"""Learners from samples: what they see, plan and earn, and how the ratio is judged."""

import math
from dataclasses import replace

import numpy as np
import pytest

from modicum.core.experiment import Experiment, RunContext
from modicum.repcomplexity.experiments import sample_efficiency as experiment
from modicum.repcomplexity.experiments.sample_efficiency import (
    MODEL,
    Q_REAL,
    Q_ROUNDED,
    Plan,
    Scaled,
)
from modicum.repcomplexity.families import MajorityMDP
from modicum.repcomplexity.solver import solve

TINY = Plan(n=3, sizes=(16, 64), seeds=2, updates=24, longer=2)
SIZES = (1000, 2000, 4000, 8000, 16_000)


def context(path, **settings):
    made = Experiment(
        "sample_efficiency", "modicum-repcomplexity", "title", "summary", experiment.run
    )
    return RunContext(made, path, **settings)


def curves(model, real, rounded=None, seeds=4):
    """Give curves that all seeds share, from the index of the size at which each learns."""
    rounded = real if rounded is None else rounded
    names = {MODEL: model, Q_REAL: real, Q_ROUNDED: rounded}
    return {
        name: np.repeat((np.arange(len(SIZES)) >= first)[:, None] * 1.0, seeds, axis=1)
        for name, first in names.items()
    }


def judged(found):
    return experiment.claim(Plan(8, SIZES, 4, 12_000, 0), found)


def test_a_small_run_goes_on_where_it_was_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "QUICK", TINY)
    first = experiment.run(context(tmp_path))
    assert [claim.name for claim in first.claims] == ["fewer_samples"]
    assert [row[:3] for row in first.tables[0].rows] == [
        *([size, name, 24] for size in TINY.sizes for name in experiment.LEARNERS),
        [64, Q_REAL, 48],
        [64, Q_ROUNDED, 48],
    ]
    context(tmp_path).save_partial("q-16", None)
    trained = []
    by_q = experiment.by_q

    def counted(mdp, size, *rest):
        trained.append(size)
        return by_q(mdp, size, *rest)

    def no_more(*args):
        raise AssertionError("trained again")

    monkeypatch.setattr(experiment, "by_model", no_more)
    monkeypatch.setattr(experiment, "by_q", counted)
    again = experiment.run(context(tmp_path))
    assert trained == [16]
    assert again.claims == first.claims and again.tables == first.tables


def test_transitions_are_those_of_the_process_and_connected():
    mdp = MajorityMDP(4)
    data = experiment.samples(mdp, 50, np.random.default_rng(0))
    np.testing.assert_array_equal(mdp.next_codes(data.codes, data.actions), data.following)
    np.testing.assert_array_equal(mdp.rewards(data.codes, data.actions), data.rewards)
    goes_on = np.arange(1, 50) % mdp.horizon != 0
    np.testing.assert_array_equal((data.codes[1:] == data.following[:-1])[goes_on], True)
    assert set(data.actions) == {0, 1} and len(data.codes) == 50


def test_both_learners_get_the_same_transitions_and_seeds_get_others():
    first, second = (experiment.drawn(MajorityMDP(4), 30, 2, 7) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.codes, other.codes)
    assert (first[0].codes != first[1].codes).any()


@pytest.mark.parametrize("n", [3, 4])
def test_planning_in_the_true_model_earns_everything(n):
    mdp = MajorityMDP(n)
    codes, actions = experiment.all_pairs(mdp)
    following = mdp.next_codes(codes, actions).reshape(2, -1)
    rewards = mdp.rewards(codes, actions).reshape(2, -1)
    policy = experiment.plan_in(following, rewards, mdp.horizon)
    assert experiment.earned(mdp, policy) == 1.0
    # Without a reward nothing is preferred, and what starts at the goal stays there.
    idle = experiment.plan_in(following, rewards * 0, mdp.horizon)
    stays = mdp.horizon * (1 << mdp.n_control_bits) / solve(mdp).V.sum()
    assert experiment.earned(mdp, idle) == pytest.approx(stays)


def test_bits_of_observations_come_back_as_codes():
    mdp = MajorityMDP(5)
    codes = np.arange(mdp.n_states)
    np.testing.assert_array_equal(experiment.codes_of(mdp, mdp.observe(codes)), codes)
    signs = experiment.inputs(mdp, codes[:2], np.array([0, 1]))
    assert set(np.unique(signs)) == {-1, 1} and signs.shape == (2, mdp.n_state_bits + 1)


def test_scaled_targets_come_back_and_constants_are_zero():
    rng = np.random.default_rng(0)
    targets = np.column_stack([rng.normal(5, 3, 40), np.full(40, 2.0)])
    scaled = Scaled.of(targets)
    assert scaled.values[:, 0].std() == pytest.approx(1, abs=1e-5)
    assert (scaled.values[:, 1] == 0).all()
    np.testing.assert_allclose(scaled.back(scaled.values), targets, rtol=1e-5)


class _Table:
    """In the place of networks: remembers the mean target of every input."""

    def __init__(self, problems, specs, *, lr, device):
        self.inputs = [problem.inputs for problem in problems]
        self.targets = [problem.targets for problem in problems]

    def retarget(self, problem, targets):
        self.targets[problem] = targets

    def fit(self, steps, batch_size):
        assert steps >= 1

    def predict(self, index, inputs):
        kinds, inverse = np.unique(self.inputs[index], axis=0, return_inverse=True)
        sums = np.zeros((len(kinds), self.targets[index].shape[1]))
        np.add.at(sums, inverse, self.targets[index])
        means = sums / np.bincount(inverse)[:, None]
        row_of = {row.tobytes(): mean for row, mean in zip(kinds, means, strict=True)}
        return np.stack([row_of[row.tobytes()] for row in inputs])


def test_learners_that_remember_every_pair_earn_everything(monkeypatch):
    monkeypatch.setattr(experiment, "MLPEnsemble", _Table)
    mdp = MajorityMDP(3)
    # Of 64 pairs, none is missing from 4000 uniform ones but with probability 64 · e^-62.
    model = experiment.by_model(mdp, 4000, 2, 100, 0, "cpu")
    values = experiment.by_q(mdp, 4000, 2, 100, 0, "cpu")
    assert model == {MODEL: [1.0, 1.0]}
    assert values == {Q_REAL: [1.0, 1.0], Q_ROUNDED: [1.0, 1.0]}


def test_networks_learn_a_small_process():
    mdp = MajorityMDP(2)
    model = experiment.by_model(mdp, 500, 2, 600, 0, "cpu")
    values = experiment.by_q(mdp, 500, 2, 1500, 0, "cpu")
    assert min(model[MODEL]) == 1.0 and min(values[Q_REAL]) > 0.9


def test_the_interquartile_mean_leaves_out_both_ends():
    assert experiment.interquartile_mean(np.array([-9.0, 1, 2, 3, 4, 5, 6, 99])) == 3.5


@pytest.mark.parametrize(
    ("first", "measured", "holds"),
    [
        ((0, 2), 4.0, True),
        ((1, 2), 2.0, False),
        ((2, 1), 0.5, False),
        ((0, 5), 16.0, True),
        # It never learns: at least twice as many, perhaps four times.
        ((3, 5), 2.0, None),
        ((5, 2), 0.0, False),
        ((5, 5), 0.0, False),
    ],
)
def test_the_ratio_of_samples_is_judged(first, measured, holds):
    claim = judged(curves(*first))
    assert claim.measured == measured and claim.holds is holds


def test_the_better_of_both_fitted_q_counts():
    claim = judged(curves(0, 4, 1))
    assert claim.measured == 2 and claim.holds is False


def test_seeds_that_differ_leave_the_claim_open():
    found = curves(0, 2)
    found[Q_REAL][1] = [1, 0.9, 0.9, 0.8]
    claim = judged(found)
    assert claim.interval is not None and claim.interval[0] < 4 <= claim.measured
    assert claim.holds is None


def test_the_longer_run_is_told():
    plan = replace(TINY, sizes=SIZES)
    note = experiment.claim(plan, curves(0, 5), {Q_REAL: [0.5] * 4, Q_ROUNDED: [0.25] * 4}).note
    assert "2 times the updates and 16000 samples, the better fitted Q earns 50.0%" in note
    assert "more than 16000" in note and "lower bound" in note


def test_learnt_means_from_the_first_size_that_is_enough():
    means = np.array([[0.1, 0.95, 0.2], [0.96, 0.1, 0.3]])
    assert experiment.first_size([10, 20], means).tolist() == [20, 10, math.inf]
