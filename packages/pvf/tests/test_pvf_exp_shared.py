"""What experiments share: intervals, verdicts, tasks and how their answers are judged."""

import numpy as np
import pytest
from pvf_answers import made_up

from modicum.pvf import Threshold, TopK
from modicum.pvf.experiments import EXPERIMENTS, _shared
from modicum.pvf.experiments._shared import (
    Answers,
    answers,
    draw_ledgers,
    gain,
    joined,
    model_of,
    paired,
    random_network,
    reached,
    saved,
    share,
    verdict,
    verified,
)


def test_a_gain_counts_the_tasks_that_only_one_got_right():
    ours, theirs = np.zeros(400, dtype=bool), np.zeros(400, dtype=bool)
    ours[:30] = theirs[10:40] = True
    points, (low, high) = gain(ours, theirs)
    assert points == 0 and low == -high and 2 < high < 6
    points, (low, high) = gain(np.ones(500, dtype=bool), np.ones(500, dtype=bool))
    # Nothing differs: below 1 - (0.0125)^(1/500), 0.87 points, by the exact intervals.
    assert points == 0 and low == -high and 0.8 < high < 0.9


def test_what_is_saved_is_a_share_of_the_total():
    theirs = np.array([10, 20, 30, 40])
    assert saved(theirs // 2, theirs) == (50.0, (50.0, 50.0))
    percent, (low, high) = saved(np.array([10, 10, 10, 10]), theirs)
    assert percent == pytest.approx(60) and low < 60 < high


def test_a_paired_interval_resamples_tasks_together():
    values_N = np.arange(50.0) ** 2
    value, (low, high) = paired(50, lambda at: values_N[at].sum(-1) - values_N[at].sum(-1))
    assert (value, low, high) == (0, 0, 0)
    value, (low, high) = paired(50, lambda at: values_N[at].mean(-1))
    assert low < value == values_N.mean() < high


def test_a_share_is_in_percent():
    right_N = np.arange(200) < 50
    value, low, high = share(right_N)
    assert value == 25 and 19 < low < 25 < high < 32


@pytest.mark.parametrize(
    ("ends", "quick", "expected"),
    [((1, 3), True, True), ((-1, 3), True, None), ((-1, 3), False, False), ((-3, 0), True, False)],
)
def test_a_verdict_is_that_of_the_low_end(ends, quick, expected):
    assert verdict(ends, 0, quick=quick) is expected


@pytest.mark.parametrize(
    ("value", "quick", "expected"),
    [(1, True, True), (-1, True, None), (-1, False, False), (-4, True, False)],
)
def test_a_number_is_reached_by_the_value(value, quick, expected):
    assert reached(value, (value - 2, value + 2), 0, quick=quick) is expected


def test_parts_are_put_together_in_order():
    parts = [{"x": made_up(calls, count=3).to_dict()} for calls in (5, 9)]
    whole = joined(parts)["x"]
    assert isinstance(whole, Answers) and whole.correct.dtype == bool
    assert whole.calls.tolist() == [490, 500, 510, 890, 900, 910]


def test_tasks_of_a_part_are_the_same_every_time_and_others_in_another():
    prompts = [
        [task.prompt for task in draw_ledgers(*key, 4)]
        for key in ((0, 0.8, 0), (0, 0.8, 0), (0, 0.8, 1), (1, 0.8, 0))
    ]
    assert prompts[0] == prompts[1]
    assert len({tuple(one) for one in prompts}) == 3


def test_answers_are_judged_and_counted():
    tasks = draw_ledgers(0, 0.8, 0, 3)
    model = model_of(tasks)
    static = answers(model, tasks, TopK())
    assert static.correct.all() and static.valid.all()
    assert static.calls.tolist() == static.rows.tolist() == [48] * 3
    # Certainty of a half is no certainty: words of different styles are committed together.
    hasty = answers(model, tasks, Threshold(0.5))
    assert not hasty.correct.any() and (hasty.calls < static.calls).all()
    ours = answers(model, tasks, verified(tasks), batch_size=2)
    assert ours.correct.all() and (ours.rows > ours.calls).all()
    assert (ours.passed == ours.drafts).all() and ours.drafts.all()


def test_a_random_network_is_sure_of_some_tokens_only():
    model = random_network(0)
    ids = np.random.default_rng(0).integers(1, 32, (8, 20))
    confidence = model(_shared.torch.tensor(ids)).softmax(-1).amax(-1)
    assert 0.05 < (confidence > 0.9).float().mean() < 0.95


def test_figures_are_left_out_without_matplotlib():
    def fails():
        raise ImportError("plots need matplotlib")

    assert _shared.drawn(fails, "t", "c", "a") == []


def test_all_experiments_are_listed_and_say_what_they_do():
    names = [experiment.name for experiment in EXPERIMENTS]
    assert len(set(names)) == len(names) == 7
    assert all(experiment.package == "modicum-pvf" for experiment in EXPERIMENTS)
    assert all(experiment.title and experiment.summary for experiment in EXPERIMENTS)
