"""Negative controls: reports on known processes, and claims that can fail."""

import math

import numpy as np
import pytest

from modicum.core.experiment import Experiment, RunContext
from modicum.repcomplexity.boolean.truth_table import TruthTable
from modicum.repcomplexity.experiments import controls as experiment
from modicum.repcomplexity.experiments.controls import Plan, Report
from modicum.repcomplexity.families import IrrelevantParityMDP, MajorityMDP, RandomMDP

TINY = Plan((2, 4), (4, 5), 2, 20.0, 4, 32, 2, 5)


def context(path, **settings):
    made = Experiment("controls", "modicum-repcomplexity", "title", "summary", experiment.run)
    return RunContext(made, path, **settings)


def report(answer="no difference", bits=(10, 10), reward=10, q=10, rulers=()):
    terms = {
        "transition": [[b, b] if isinstance(b, int) else b for b in bits],
        "reward": [[reward, reward]],
        "q": [[q, q] if isinstance(q, int) else q],
    }
    return Report(
        answer, [(f"ruler {i}", [1, 1], [1, 1], one) for i, one in enumerate(rulers)], terms
    )


def test_a_small_run_has_every_claim_and_goes_on_where_it_was_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "QUICK", TINY)
    monkeypatch.setattr(experiment, "find_spec", lambda _: None)
    first = experiment.run(context(tmp_path))
    assert [claim.name for claim in first.claims] == [
        "easy_n2", "easy_n4", "easy_terms", "no_side_n4", "equal_terms_n4", "no_side_n5",
        "equal_terms_n5", "no_false_finding", "no_gap",
    ]  # fmt: skip
    holds = {claim.name: claim.holds for claim in first.claims}
    # Of two bits the parity needs 2 terms, as the sum of two inputs does.
    assert not holds["easy_n2"] and holds["easy_n4"] and holds["easy_terms"]
    assert "torch is not installed" in first.text

    def no_more(*_):
        raise AssertionError("reported again")

    monkeypatch.setattr(experiment, "report_on", no_more)
    again = experiment.run(context(tmp_path))
    assert again.claims == first.claims and again.tables == first.tables


def test_the_hard_model_is_seen_and_a_hard_q_is_not_taken_for_it():
    easy = Report(**experiment.report_on(IrrelevantParityMDP(5), 20.0))
    assert easy.answer == "Q easier" and max(easy.terms["transition"]) == [16, 16]
    assert experiment.easy_claim(5, easy).holds is True
    assert experiment.easy_terms_claim({5: easy}).holds is True
    assert experiment.easy_terms_claim({6: easy}).holds is False
    hard = Report(**experiment.report_on(MajorityMDP(4), 20.0))
    assert experiment.easy_claim(4, hard).holds is False
    assert experiment.easy_terms_claim({4: hard}).holds is False


@pytest.mark.parametrize("seed", [0, 7])
def test_terms_are_those_of_the_tables(seed):
    mdp = RandomMDP(3, seed=seed)
    found = Report(**experiment.report_on(mdp, 20.0))
    codes = np.tile(np.arange(8), 2)
    actions = np.repeat([0, 1], 8)
    following = np.asarray(mdp.next_codes(codes, actions))
    rewards = np.asarray(mdp.rewards(codes, actions)) > 0
    tables = [TruthTable((following >> bit & 1).astype(bool)) for bit in range(3)]
    least = [table.min_dnf().lower for table in tables]
    assert found.terms["transition"] == [[terms, terms] for terms in least]
    # With one step to go Q* is the reward.
    assert found.terms["q"] == found.terms["reward"] == [[TruthTable(rewards).min_dnf().lower] * 2]
    assert found.sizes[0] == (max(least), max(least))
    assert found.gap() == pytest.approx(math.log2(found.terms["q"][0][0] / np.mean(least)))


def test_sizes_are_close_only_where_that_is_proved():
    assert experiment.are_close([(10, 10), (12, 12), (11, 11)])
    assert not experiment.are_close([(10, 10), (13, 13)])
    assert not experiment.are_close([(10, 13), (12, 12)])
    assert not experiment.are_close([(9, 12), (12, 12)])


def test_one_process_on_which_a_side_is_named_fails():
    quiet = [report(), report("inconclusive"), report()]
    claim = experiment.verdict_claim(4, quiet)
    assert claim.holds is True and claim.measured == 1
    # Exact: no failure in three.
    assert claim.interval == pytest.approx((0.025 ** (1 / 3), 1))
    for answer in ("Q easier", "model easier", "depends on the ruler"):
        claim = experiment.verdict_claim(4, [*quiet, report(answer)])
        assert claim.holds is False and claim.measured == 0.75 and f"{answer}: 1" in claim.note


def test_one_process_with_unequal_targets_fails():
    assert experiment.terms_claim(4, [report(bits=(3, 12)), report()]).holds is True
    claim = experiment.terms_claim(4, [report(bits=(3, 13)), report()])
    assert claim.holds is False and claim.measured == 0.5 and "at most 1.3" in claim.note
    claim = experiment.terms_claim(4, [report(bits=([9, 13], 10))])
    assert claim.holds is False and "1 of them bounds" in claim.note


def test_a_false_finding_fails_and_the_other_side_is_none():
    random = {4: [report("Q easier"), report()], 5: [report(), report()]}
    assert experiment.model_claim(random).holds is True
    random[5][0] = report("model easier")
    claim = experiment.model_claim(random)
    assert claim.holds is False and claim.measured == 0.25


def test_the_slope_of_the_gap():
    def random(rate, spread):
        return {
            n: [
                report(bits=(2**20, 2**20), q=round(2 ** (20 + rate * n + shift * (n - 5))))
                for shift in (-spread, 0, spread)
            ]
            for n in (4, 5, 6)
        }

    assert experiment.slopes_of(random(0.5, 0.25)) == pytest.approx([0.25, 0.5, 0.75], abs=1e-4)
    assert experiment.gap_claim(random(0.0, 0.01)).holds is True
    assert experiment.gap_claim(random(0.5, 0.01)).holds is False
    assert experiment.gap_claim(random(-0.5, 0.01)).holds is False
    # Student's quantile of two degrees of freedom is 4.3: too wide to say anything.
    assert experiment.gap_claim(random(0.05, 0.1)).holds is None
    claim = experiment.gap_claim(random(0.05, 0.01))
    assert claim.measured == pytest.approx(0.05, abs=1e-4)


def test_the_majority_process_has_a_gap_that_grows():
    # C(7, 4) = 35 terms against 5 of a bit, and C(3, 2) = 3 against 4.
    assert experiment.majority_slope() == pytest.approx((math.log2(7) - math.log2(3 / 4)) / 4)
    assert experiment.majority_slope() > 5 * experiment.FLAT


def test_verdicts_are_counted_in_the_table():
    answers = ("Q easier", "no difference", "inconclusive", "depends on the ruler")
    table = experiment.random_table({4: [report(answer, bits=(10, 14)) for answer in answers]})
    (row,) = table.rows
    cells = dict(zip(table.columns, row, strict=True))
    assert cells["terms of a bit"] == 12 and cells["of the hardest bit"] == 14
    assert cells["share with all functions close"] == 0
    assert (cells["no side"], cells["Q easier"], cells["model easier"]) == (2, 1, 0)
    assert cells["depends on the ruler"] == 1 and cells["MDPs"] == 4


def test_networks_find_the_easy_q(tmp_path):
    pytest.importorskip("torch")
    plan = Plan((), (), 0, 1.0, 8, 512, 2, 300)
    measurement = experiment.networks(context(tmp_path), plan)
    claim = experiment.network_claim(measurement, plan)
    assert claim.holds is True and claim.interval[1] < 1
    rows = {row[0]: row[1:] for row in experiment.network_table(measurement, plan).rows}
    assert list(rows) == ["next_obs", "delta", "q"]


def test_networks_on_a_hard_q_fail(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    plan = Plan((), (), 0, 1.0, 8, 2000, 2, 300)
    monkeypatch.setattr(experiment, "IrrelevantParityMDP", MajorityMDP)
    measurement = experiment.networks(context(tmp_path), plan)
    assert experiment.network_claim(measurement, plan).holds is False
