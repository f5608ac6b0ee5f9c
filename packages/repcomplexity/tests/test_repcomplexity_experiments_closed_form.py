"""Closed forms against dynamic programming: processes, counts, and claims that can fail."""

import numpy as np
import pytest

from modicum.core.experiment import Experiment, RunContext
from modicum.repcomplexity.experiments import closed_form as experiment
from modicum.repcomplexity.families import MajorityMDP, ParityMDP
from modicum.repcomplexity.solver import solve

TINY = experiment.Plan((2, 3, 5), 2, 2, (2, 4), (2, 4), (4,))


def context(path, **settings):
    made = Experiment("closed_form", "modicum-repcomplexity", "title", "summary", experiment.run)
    return RunContext(made, path, **settings)


def test_a_small_run_holds(monkeypatch, tmp_path):
    monkeypatch.setattr(experiment, "QUICK", TINY)
    result = experiment.run(context(tmp_path, seed=7))
    assert [claim.holds for claim in result.claims] == [True] * 5
    values, seconds = result.tables
    assert values.rows[0][:3] == [2, 8, int(solve(MajorityMDP(2)).V.sum())]
    assert [row[:3] for row in seconds.rows] == [[4, 64, 6]]


def test_known_values_are_in_the_table():
    rows = experiment.value_table(experiment.Plan((8,), 0, 0, (), (16,), ())).rows
    assert rows[0][:3] == [8, 2048, 4392] and round(rows[0][3], 4) == 0.7227
    assert round(rows[1][3], 4) == 0.6910 and round(rows[1][4], 4) == 2.3009


def test_processes_are_different_and_repeat():
    made = experiment.majority_processes(TINY, 0)
    assert len(made) == 3 * 3 * 2
    again = experiment.majority_processes(TINY, 0)
    for one, other in zip(made, again, strict=True):
        assert one.reward_state == other.reward_state
        np.testing.assert_array_equal(one.control, other.control)
    other = experiment.majority_processes(TINY, 1)
    assert any(
        (a.control != b.control).any() or a.reward_state != b.reward_state
        for a, b in zip(made, other, strict=True)
    )


@pytest.mark.parametrize("values", [1, 2, 5, 16])
def test_random_cycles_are_one_cycle_and_uniform(values):
    rng = np.random.default_rng(3)
    seen = set()
    for _ in range(200):
        images = experiment.random_cycle(values, rng)
        place, length = images[0], 1
        while place:
            place, length = images[place], length + 1
        assert length == values
        seen.add(tuple(images))
    if values == 5:
        # 24 cycles; the probability to miss one in 200 draws is below 24 (23/24)^200 = 0.5 %, and
        # the draws are the same in every run.
        assert len(seen) == 24


def test_a_wrong_formula_is_counted(monkeypatch):
    mdp = ParityMDP(4)
    assert experiment.differences(mdp) == (16 * 7, 0)
    right = ParityMDP.steps_to_reward
    monkeypatch.setattr(ParityMDP, "steps_to_reward", lambda self, codes: right(self, codes) + 1)
    assert experiment.differences(mdp)[1] > 0
    claim = experiment.equal_claim("parity", "Parity MDP", (4,), [(112, 0), (112, 3)])
    assert claim.holds is False and claim.measured == 3


def test_claims_fail_at_a_single_state():
    assert experiment.parity_claim({4: 0, 6: 0}).holds is True
    assert experiment.parity_claim({4: 0, 6: 1}).holds is False
    assert experiment.short_claim({4: 1, 6: 1}).holds is True
    assert experiment.short_claim({4: 1, 6: 2}).holds is False
    assert experiment.majority_claim({4: (32, 0)}).holds is True
    assert experiment.majority_claim({4: (32, 1)}).holds is False


def test_a_shorter_horizon_has_another_threshold(monkeypatch):
    # One step less, and fewer of the other bits may be wrong.
    assert experiment.majority_errors(4) == (4 * 8, 0)
    monkeypatch.setattr(experiment, "MajorityMDP", lambda n: MajorityMDP(n, horizon=n + n // 2 - 1))
    assert experiment.majority_errors(4)[1] > 0
