"""The experiment's claims hold, and its yardsticks are right."""

import math

import numpy as np
import pytest
import torch

from modicum.core.experiment import Result, RunContext
from modicum.testtime.controllers.ucb1 import UCB1
from modicum.testtime.experiments import EXPERIMENTS, glue
from modicum.testtime.experiments.expert_training import TASKS, all_strings


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> Result:
    (experiment,) = [item for item in EXPERIMENTS if item.name == "glue"]
    return glue.run(RunContext(experiment, tmp_path_factory.mktemp("glue"), seed=3))


def test_every_claim_holds(result):
    assert [claim.name for claim in result.claims if not claim.holds] == []
    measured = {claim.name: claim.measured for claim in result.claims}
    assert measured["success"] == 1
    assert measured["decisions"] == measured["actions"] == measured["dense_loop"] == 0
    assert 0 < measured["logits_float32"] < 2e-5
    assert measured["logits_float64"] < 1e-13
    assert measured["single_layer"] > 10
    assert Result.from_json(result.to_json()) == result


def test_tables_say_what_the_claims_rest_on(result):
    logits, bound, decisions, loop = result.tables
    assert max(row[8] for row in logits.rows if row[4] == "float32") == pytest.approx(
        result.claims[0].measured
    )
    # The leak falls as exp(-B): over 8 by a factor of 3,000.
    leak = {row[0]: row[1] for row in bound.rows}
    assert leak[16.0] / leak[24.0] == pytest.approx(math.exp(8), rel=0.1)
    assert sum(row[2] for row in decisions.rows) > 4000
    for row in loop.rows:
        assert row[5] == 1.0 and row[2] <= row[3] <= row[4] <= row[5]
        assert row[6] < row[7]
    assert "<svg" in result.figures[0].svg


def test_the_direct_ucb1_is_that_of_the_controllers():
    for seed in range(3):
        actions_GT, rewards_GT = glue.play_ucb1(3, 15, 4, seed)
        for actions, rewards in zip(actions_GT, rewards_GT, strict=True):
            outside = UCB1().start(3, 15)
            for action, reward in zip(actions, rewards, strict=True):
                assert outside.choose() == action
                outside.observe(int(action), float(reward))


def test_a_look_up_of_one_layer_is_right_where_single_precision_suffices():
    actions_GT, rewards_GT = glue.play_ucb1(2, 6, 20, 0)
    assert np.array_equal(glue.single_layer_decisions(actions_GT, rewards_GT, 2), actions_GT)


def test_differences_to_the_experts_are_seen():
    cell = glue.Cell(glue.Shape(2, 16, 1, 2, 9), 0, "binary", "float64")
    experts = glue.random_experts(cell.shape, 0, cell.precision)
    from modicum.testtime.construct import glue as glued

    model = glued(experts, 4, end_of_input=8)
    ids = glue.random_streams(model, 4, 0)
    with torch.no_grad():
        logits = model(ids)
    worst, disagreeing, tokens = glue.against_experts(model, experts, ids, logits)
    assert worst < 1e-12 and disagreeing == 0
    assert tokens == 4 * 4 * 6
    logits[2, 9, 4] += 30
    worst, disagreeing, _ = glue.against_experts(model, experts, ids, logits)
    assert worst == pytest.approx(30) and disagreeing == 1
    found = glue.glue_cell(cell, 4, 0, "cpu")
    assert found.tokens == tokens and found.leak < 1e-12
    # Turn codes: three digits of up to four turns, and their complements.
    assert found.width == 2 * 16 + 2 * 6 + 1 + 2


def test_rewards_are_those_of_the_tasks():
    strings = all_strings()
    for number, task in enumerate(TASKS):
        rewards = glue.reward_table(task, strings)
        assert rewards[:, number].all()
        verify = glue.verifier_of(task)
        for row in (0, 77, 200):
            for column, rule in enumerate(TASKS.values()):
                answer = torch.from_numpy(rule(strings[row : row + 1])[0].copy())
                assert verify(torch.from_numpy(strings[row]), answer) == rewards[row, column]
    # Palindromes are copied by whoever reverses them: 16 of 256.
    assert glue.reward_table("copy", strings)[:, 1].sum() == 16
    actions = glue.outside(np.array([[False, True, False]]), 5)
    assert actions[0].tolist() == [0, 1, 2, 1, 1]
