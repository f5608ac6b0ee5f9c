"""The experiment on block lengths: verdicts, and a run of it."""

import pytest
from pvf_answers import by_name, context, made_up

from modicum.pvf.experiments import block_size
from modicum.pvf.experiments.block_size import BLOCKS, FULL, THRESHOLD, UNLOCK, cell, claims


def found(ours_small=9.0, early=8.0, ours_large=5.0, correct=1.0):
    made = {
        cell(name, length, unlock): made_up(12 if name == THRESHOLD else 7)
        for name in (THRESHOLD, FULL)
        for length in BLOCKS
        for unlock in UNLOCK
    }
    made[cell(FULL, 8, 0)] = made_up(ours_small)
    made[cell(FULL, 8, 5)] = made_up(early, correct=correct)
    made[cell(FULL, 48, 0)] = made_up(ours_large)
    return made


def test_claims_follow_what_was_measured():
    good = by_name(claims(found()))
    assert all(claim.holds for claim in good.values())
    assert good["saving_grows"].measured == pytest.approx(100 * (9 - 5) / 12, abs=0.1)
    assert good["early_opening"].measured == pytest.approx(100 / 9, abs=0.1)


@pytest.mark.parametrize(
    ("changes", "fails"),
    [
        ({"ours_large": 9.5}, "saving_grows"),
        ({"early": 9.5}, "early_opening"),
        ({"correct": 0.99}, "answers_stay_correct"),
    ],
)
def test_claims_fail_where_they_should(changes, fails):
    judged = by_name(claims(found(**changes)))
    assert {name for name, claim in judged.items() if not claim.holds} == {fails}


def test_a_run_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(block_size, "QUICK_TASKS", 3)
    monkeypatch.setattr(block_size, "QUICK_PARTS", 1)
    result = block_size.run(context(block_size, tmp_path, seed=1))
    judged = by_name(result.claims)
    assert judged["answers_stay_correct"].holds
    rows = {tuple(row[:2]): row for row in result.tables[0].rows}
    assert set(rows) == {(length, unlock) for length in BLOCKS for unlock in UNLOCK}
    # A single block is never opened early, and one of eight tokens takes at least a call.
    assert rows[48, 0][2:4] == rows[48, 5][2:4]
    assert rows[8, 0][3] >= 6
    assert len(result.figures) == 1
