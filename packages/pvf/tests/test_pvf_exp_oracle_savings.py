"""The experiment on exact posteriors: verdicts, and a run of it that goes on where it stopped."""

import pytest
from pvf_answers import by_name, context, made_up

from modicum.pvf.experiments import oracle_savings
from modicum.pvf.experiments.oracle_savings import FILL, FULL, ONE_DRAFT, PLAN, THRESHOLD, claims

GOOD = {
    THRESHOLD: made_up(13),
    PLAN: made_up(10, 20),
    FILL: made_up(7, 22),
    FULL: made_up(6, 21),
    ONE_DRAFT: made_up(8, 15),
}


def judged(quick=False, **changes):
    names = {"threshold": THRESHOLD, "plan": PLAN, "fill": FILL, "pvf": FULL, "one": ONE_DRAFT}
    found = {**GOOD, **{names[name]: answer for name, answer in changes.items()}}
    return by_name(claims(0.8, found, quick=quick))


def test_claims_follow_what_was_measured():
    good = judged()
    assert all(claim.holds for claim in good.values())
    assert good["calls_saved_0.8"].measured == pytest.approx(100 * (1 - 6 / 13), abs=0.1)
    assert good["order_0.8"].measured == pytest.approx(100)
    assert good["rows_price_0.8"].measured == pytest.approx(21 / 13, abs=0.01)


@pytest.mark.parametrize(
    ("changes", "fails"),
    [
        ({"pvf": made_up(6, 21, correct=0.95)}, {"quality_0.8"}),
        ({"pvf": made_up(9, 30)}, {"calls_saved_0.8", "order_0.8"}),
        ({"fill": made_up(5, 22)}, {"order_0.8"}),
        ({"one": made_up(14, 22)}, {"one_draft_0.8"}),
        ({"pvf": made_up(6, 12)}, {"rows_price_0.8"}),
    ],
)
def test_claims_fail_where_they_should(changes, fails):
    assert {name for name, claim in judged(**changes).items() if not claim.holds} == fails


def test_a_quick_run_leaves_open_what_its_interval_does():
    few = {"pvf": made_up(6, 21, correct=0.9, count=20), "threshold": made_up(13, count=20)}
    few |= {name: made_up(8, count=20) for name in ("plan", "fill", "one")}
    assert judged(quick=True, **few)["quality_0.8"].holds is None
    assert judged(quick=False, **few)["quality_0.8"].holds is False


def test_a_run_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(oracle_savings, "QUICK_TASKS", 3)
    monkeypatch.setattr(oracle_savings, "QUICK_PARTS", 1)
    result = oracle_savings.run(context(oracle_savings, tmp_path, seed=3))
    found = by_name(result.claims)
    assert len(found) == 10
    for right in ("0.8", "0.6"):
        assert (
            found[f"quality_{right}"].measured == 0 and found[f"calls_saved_{right}"].measured > 30
        )
    rows = {row[0]: row for row in result.tables[0].rows}
    assert set(rows) == set(oracle_savings.strategies(oracle_savings.draw_ledgers(0, 0.8, 0, 1)))
    assert rows["static"][5] == 48 and rows[FULL][5] < rows[THRESHOLD][5]
    assert len(result.figures) == 2

    def refuse(*args):
        raise AssertionError("all parts are on disk")

    monkeypatch.setattr(oracle_savings, "play", refuse)
    again = oracle_savings.run(context(oracle_savings, tmp_path, seed=3))
    assert again.claims == result.claims
