"""Negative controls: verdicts of small processes, and claims that can fail."""

import numpy as np
import pytest

from modicum.core.experiment import Experiment, RunContext
from modicum.repcomplexity.experiments import controls as experiment
from modicum.repcomplexity.experiments.controls import Plan

TINY = Plan((3, 4), (2, 3), 3, 5.0, 5, 2, 150)


def context(path, **settings):
    made = Experiment("controls", "modicum-repcomplexity", "title", "summary", experiment.run)
    return RunContext(made, path, **settings)


def test_a_small_run_has_every_claim_and_goes_on_where_it_was_cut_off(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(experiment, "QUICK", TINY)
    first = experiment.run(context(tmp_path))
    assert [claim.name for claim in first.claims] == [
        "easy_q", "easy_q_learned", "random_equal", "random_within", "random_verdict",
        "no_growing_gap",
    ]  # fmt: skip
    assert first.claims[0].holds is True
    assert [row[:2] for row in first.tables[1].rows] == [[2, 3], [3, 3]]

    def no_more(*_, **__):
        raise AssertionError("reported again")

    monkeypatch.setattr(experiment, "complexity_report", no_more)
    again = experiment.run(context(tmp_path))
    assert again.claims == first.claims and again.tables == first.tables


def test_without_torch_there_is_what_needs_none(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "QUICK", TINY)
    monkeypatch.setattr(experiment, "find_spec", lambda name: None)
    assert "easy_q_learned" not in [c.name for c in experiment.run(context(tmp_path)).claims]


@pytest.mark.parametrize("n", [3, 5])
def test_the_easy_side_is_seen_by_every_ruler_that_is_not_a_tie(n):
    found = experiment.easy(n, 5.0)
    assert found["answer"] == "Q easier"
    # The parity of n bits needs half of its inputs' values; x_0 or a needs two terms.
    assert found["rulers"]["depth-2 terms"] == [2 ** (n - 1), 2]
    assert found["rulers"]["influence"] == [n, 2]


def test_seeds_of_two_runs_are_different():
    assert not set(experiment.seeds_of(0, TINY)) & set(experiment.seeds_of(1, TINY))
    one, other = (experiment.random(3, seed, 5.0) for seed in (0, 1))
    assert one != other and one == experiment.random(3, 0, 5.0)


def tables(ratios, answers=None):
    """Give tables whose next states need `ratios` times the terms of Q*."""
    answers = answers or ["no difference"] * len(ratios)
    return [
        {"answer": answer, "transition": [10 * r, 10 * r], "reward": [10, 10], "q": [9, 11]}
        for r, answer in zip(ratios, answers, strict=True)
    ]


def test_ratios_are_of_middles_of_intervals():
    np.testing.assert_allclose(experiment.log_ratios(tables([1.0, 2.0])), [0, np.log(2)])


@pytest.mark.parametrize(("ratios", "holds"), [([0.95, 1.05] * 5, True), ([1.3, 1.35] * 5, False)])
def test_sizes_must_be_equal_on_average(ratios, holds):
    claim = experiment.equal_claim(5, tables(ratios))
    assert claim.holds is holds
    assert claim.measured == pytest.approx(np.exp(np.mean(np.log(ratios))))


def test_one_table_that_is_off_fails():
    assert experiment.within_claim(5, tables([1.0, 1.2])).holds is True
    off = experiment.within_claim(5, tables([1.0, 1.21, 0.83]))
    assert off.holds is False and off.measured == pytest.approx(1 / 3)
    # Clopper-Pearson for 1 of 3.
    assert off.interval == pytest.approx((0.008404, 0.905701), abs=1e-5)


def test_one_side_taken_fails():
    neither = experiment.verdict_claim(5, tables([1, 1], ["inconclusive", "no difference"]))
    assert neither.holds is True and neither.measured == 1
    for side in ("model easier", "Q easier"):
        one = experiment.verdict_claim(5, tables([1, 1], ["inconclusive", side]))
        assert one.holds is False and one.measured == 0.5


@pytest.mark.parametrize(
    ("by_n", "holds"),
    [
        ({3: [1.0] * 9, 4: [1.0] * 9, 5: [1.01] * 9}, True),
        ({3: [1.0] * 9, 4: [0.5] * 9, 5: [0.25] * 9}, False),
        ({3: [1.0] * 8, 4: [0.5, 2.0] * 4}, None),
    ],
)
def test_a_gap_that_grows_fails(by_n, holds):
    claim = experiment.gap_claim({n: tables(ratios) for n, ratios in by_n.items()})
    assert claim.holds is holds
    if holds is False:
        assert claim.measured == pytest.approx(-1)
