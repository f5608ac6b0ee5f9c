"""Networks on the Majority MDP: what is trained and compiled, and how claims are judged."""

import numpy as np
import pytest

from modicum.core.experiment import Experiment, RunContext
from modicum.repcomplexity.ensemble import MLPEnsemble
from modicum.repcomplexity.experiments import networks as experiment
from modicum.repcomplexity.experiments.networks import Found, Plan, Trained
from modicum.repcomplexity.families import MajorityMDP
from modicum.repcomplexity.measurement import Cell, Measurement
from modicum.repcomplexity.metrics import ErrorSums

TINY = Plan(ns=(4,), rows=10_000, seeds=2, steps=30, trained=2, unit_ns=(4, 8))


def context(path, **settings):
    made = Experiment("networks", "modicum-repcomplexity", "title", "summary", experiment.run)
    return RunContext(made, path, **settings)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(experiment, "QUICK", TINY)


def made_up(errors):
    """Give a measurement with errors of each target, the same for every seed and row."""
    cells = {}
    for target, error in errors.items():
        for seed in range(3):
            y = np.tile([-1.0, 1.0], 40)[:, None]
            sums = ErrorSums.of(y, y + error**0.5, clusters=np.arange(80) % 8)
            cells[target, experiment.WIDTH, seed] = Cell(32, 100, {"train": sums, "test": sums})
    return Measurement(cells, experiment.METRICS, {}, resamples=200)


def judged(errors, compiled=(0.0, 0.0)):
    found = Found(made_up(errors), compiled, [5, 3])
    return {claim.name: claim for claim in experiment.claims_of(8, found, TINY)}


def test_a_small_run_has_every_claim_and_goes_on_where_it_was_cut_off(tiny, tmp_path, monkeypatch):
    first = experiment.run(context(tmp_path))
    names = ["transition_n4", "change_n4", "compiled_n4", "units", "not_found_n4"]
    assert [claim.name for claim in first.claims] == names
    held = {claim.name: claim.holds for claim in first.claims}
    assert held["compiled_n4"] and held["units"]
    assert [row[:2] for row in first.tables[0].rows] == [[4, name] for name in experiment.TARGETS]

    def no_more(*args, **settings):
        raise AssertionError("trained again")

    monkeypatch.setattr(experiment, "train_one", no_more)
    monkeypatch.setattr(MLPEnsemble, "fit", no_more)
    again = experiment.run(context(tmp_path))
    assert again.claims == first.claims and again.tables == first.tables


def test_all_rows_are_taken_once_where_there_are_few():
    data = experiment.rows_of(4, 10_000, 0)
    rows = data.inputs(True)
    assert len(data) == 2**7 == len(np.unique(rows, axis=0))
    assert len(experiment.rows_of(24, 50, 0)) == 50


@pytest.mark.parametrize("n", [4, 5, 8])
def test_the_compiled_network_equals_q(n):
    data = experiment.rows_of(n, 1 << 12, 1)
    assert experiment.compiled_error(experiment.compiled(n), data, n) == (0.0, 0.0)


def test_a_network_that_is_off_in_one_row_is_seen():
    data = experiment.rows_of(4, 128, 0)
    network = experiment.compiled(4)
    network[-1].bias.data += 0.5
    error, largest = experiment.compiled_error(network, data, 4)
    assert error > 0 and largest == 0.5


def test_wires_are_the_code_of_a_row():
    mdp, data = MajorityMDP(5), experiment.rows_of(5, 64, 3)
    codes = experiment.wires(data, 5).astype(np.int64) @ (1 << np.arange(9))
    states, actions = codes & 255, codes >> 8
    np.testing.assert_array_equal(mdp.observe(states), data.observations)
    np.testing.assert_array_equal(np.eye(2)[actions], data.actions)


@pytest.mark.parametrize(("model", "q", "holds"), [(0.1, 0.3, True), (0.3, 0.1, False)])
def test_intervals_must_be_apart_in_the_right_order(model, q, holds):
    found = judged({"next_obs": model, "delta": q, "reward": 0.1, "q": q})
    assert found["transition_n8"].holds is holds
    assert found["transition_n8"].measured == pytest.approx(q / model)
    # Equal errors are not apart.
    assert found["change_n8"].holds is False


def test_an_error_of_the_compiled_network_fails():
    errors = dict.fromkeys(("next_obs", "delta", "reward", "q"), 0.1)
    assert judged(errors)["compiled_n8"].holds is True
    assert judged(errors, (0.0, 1e-6))["compiled_n8"].holds is False


def test_units_that_outgrow_the_square_fail():
    assert experiment.units_claim({4: 100, 8: 400}).holds is True
    assert experiment.units_claim({4: 100, 8: 401}).holds is False


def test_one_seed_that_finds_q_fails_the_claim():
    lost = Trained(4, np.array([0.1, 0.2]), np.array([0.3, 0.5]))
    assert experiment.trained_claim(lost, TINY).holds is True
    assert experiment.trained_claim(lost, TINY).measured == pytest.approx(0.4)
    found = Trained(4, np.array([0.1, 0.0]), np.array([0.3, 0.0]))
    assert experiment.trained_claim(found, TINY).holds is False


def test_training_lessens_the_error_and_repeats():
    data = experiment.rows_of(4, 128, 0)
    short, long = (experiment.train_one(data, [16, 16], s, 0, 0, "cpu") for s in (1, 400))
    assert long["fvu"] < short["fvu"] and 0 <= long["wrong"] <= 1
    assert experiment.train_one(data, [16, 16], 1, 0, 0, "cpu") == short
    assert experiment.train_one(data, [16, 16], 1, 0, 1, "cpu") != short
