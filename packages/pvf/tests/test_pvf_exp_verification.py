"""The experiment on tests of drafts: tables that contradict, verdicts, and a run of it."""

import numpy as np
import pytest
import torch
from pvf_answers import by_name, context, made_up

from modicum.pvf import PVF, infill
from modicum.pvf.experiments import verification
from modicum.pvf.experiments.verification import (
    FILL_ONLY,
    MASK,
    NONE,
    PLAN_TESTED,
    PLAN_UNTESTED,
    SIGMAS,
    TESTED,
    UNTESTED,
    claims,
    contradicting,
    play_tables,
    rejected,
)


def judged(tables=None, **changes):
    coherent = {
        "pvf, sequential": changes.get("sequential", made_up()),
        "pvf, base": changes.get("base", made_up(correct=0)),
        FILL_ONLY.format(NONE): changes.get("none", made_up(correct=0, valid=0)),
    }
    noisy = {
        TESTED: changes.get("tested", made_up(correct=0.6, passed=3)),
        UNTESTED: changes.get("untested", made_up(correct=0.5)),
        PLAN_TESTED: made_up(correct=0.6, passed=3),
        PLAN_UNTESTED: made_up(correct=0.5),
    }
    found = {0.0: coherent, **dict.fromkeys(SIGMAS, noisy)}
    return by_name(claims(found, tables or play_tables(0, 5)))


def test_claims_follow_what_was_measured():
    good = judged()
    assert all(claim.holds for claim in good.values())
    assert good["testing_plans_1"].measured == pytest.approx(10)
    assert good["rejections_2"].measured == pytest.approx(25)
    assert good["coherent_plans_pass"].interval[0] == 0


@pytest.mark.parametrize(
    ("changes", "fails"),
    [
        ({"sequential": made_up(correct=0.99)}, {"sequential_is_correct"}),
        ({"sequential": made_up(passed=3)}, {"coherent_plans_pass"}),
        ({"base": made_up(correct=0.5)}, {"base_row_is_not"}),
        ({"none": made_up(valid=0.5)}, {"untested_fills_are_not_valid"}),
        ({"tested": made_up(correct=0.6)}, {"rejections_1", "rejections_2"}),
        ({"untested": made_up(correct=0.9)}, {"testing_plans_1", "testing_plans_2"}),
        (
            {"tables": {"rejected": [1, 0], "kept": [1, 0], "kept untested": [0, 0]}},
            {"contradiction_is_seen"},
        ),
    ],
)
def test_claims_fail_where_they_should(changes, fails):
    assert {name for name, claim in judged(**changes).items() if claim.holds is False} == fails


def test_a_small_difference_leaves_the_test_of_plans_undecided():
    assert judged(untested=made_up(correct=0.61))["testing_plans_1"].holds is None


def test_rejections_are_a_share_of_the_drafts():
    percent, (low, high) = rejected(made_up(drafts=5, passed=4))
    assert percent == pytest.approx(20) and low < 20 < high


def test_a_plan_overturns_what_a_table_was_certain_of():
    model, plan, certain = contradicting(np.random.default_rng(3))
    before = model.forward(torch.tensor([[MASK] * 3]), None, torch.arange(3)[None])[0]
    second = int(before[1].argmax())
    assert int(before[0].argmax()) == plan
    canvases = torch.tensor([[MASK, second, MASK], [plan, second, MASK]])
    without, given = model.forward(canvases, None, torch.arange(3).expand(2, -1)).softmax(-1)
    assert int(without[2].argmax()) == certain != int(given[2].argmax())
    assert without[2].max() > 0.9 and given[2].max() > 0.9
    out = infill(model, [MASK] * 3, strategy=PVF(plan_vocab=[plan], routes=("plan",)))
    assert out.stats[0].nfe_plan_failed == 1 and int(out.sequences[0, 2]) == certain


def test_a_run_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(verification, "QUICK_TASKS", 4)
    monkeypatch.setattr(verification, "QUICK_PARTS", 1)
    monkeypatch.setattr(verification, "QUICK_TABLES", 5)
    result = verification.run(context(verification, tmp_path, seed=1))
    found = by_name(result.claims)
    for name in ("sequential_is_correct", "base_row_is_not", "coherent_plans_pass"):
        assert found[name].holds
    assert found["contradiction_is_seen"].holds and found["rejections_2"].holds
    assert len(result.tables) == 4
    drafts = {tuple(row[:2]): row[2:4] for row in result.tables[-1].rows}
    assert drafts[2.0, UNTESTED][1] == 0 < drafts[2.0, TESTED][1] <= drafts[2.0, TESTED][0]
