"""The experiment on the tiny model: intervals, verdicts, and a run of it."""

import numpy as np
import pytest

from modicum.core.experiment import Experiment, RunContext
from modicum.pvf.experiments import trained_model
from modicum.pvf.experiments.trained_model import Outcome, held_out_prompts


def outcome(exact=1.0, calls=10.0, rows=10, seconds=0.01, count=200):
    generator = np.random.default_rng(0)
    return Outcome(
        np.arange(count) < exact * count,
        (calls + generator.integers(0, 2, count)).astype(np.int64),
        np.full(count, rows),
        seconds * generator.uniform(0.9, 1.1, 20),
    )


def outcomes(**changes):
    names = trained_model.strategies()
    return {name: changes.get(name.split()[0], outcome()) for name in names}


def test_claims_follow_what_was_measured():
    good = outcomes(pvf=outcome(calls=6, rows=18), plan=outcome(calls=7), fill=outcome(calls=8))
    claims = {claim.name: claim for claim in trained_model._claims(good, "", quick=False)}
    assert all(claim.holds for claim in claims.values())
    assert (
        claims["calls_saved"].measured == pytest.approx(100 * (1 - 6.55 / 10.55), abs=1)
        and claims["both_routes"].measured == -1
    )
    bad = outcomes(pvf=outcome(exact=0.97, calls=7), plan=outcome(calls=6), fill=outcome(calls=8))
    claims = {claim.name: claim for claim in trained_model._claims(bad, "_x", quick=False)}
    assert [claim.holds for claim in claims.values()] == [False] * 3
    assert set(claims) == {"quality_x", "calls_saved_x", "both_routes_x"}
    assert claims["quality_x"].measured == pytest.approx(-3)


@pytest.mark.parametrize(("seconds", "holds"), [(0.005, True), (0.01, None), (0.02, False)])
def test_seconds_are_judged_by_their_interval(seconds, holds):
    found = outcomes(pvf=outcome(seconds=seconds))
    claim = trained_model._seconds_claim(found, "cpu")
    assert claim.holds is holds


def test_sets_of_prompts_are_held_out_and_different():
    prompts = held_out_prompts(3, 2, 50)
    assert prompts.shape == (100, 12)
    assert not (prompts[:50] == prompts[50:]).all(-1).any()
    assert ((prompts[:, 1::3] - 3).sum(-1) % 10 == 0).all()


def test_a_run_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(trained_model, "QUICK_PROMPTS", 5)
    monkeypatch.setattr(trained_model, "QUICK_SEEDS", 2)
    monkeypatch.setattr(trained_model, "QUICK_TIMED", 2)
    experiment = Experiment("trained_model", "modicum-pvf", "t", "s", trained_model.run)
    result = trained_model.run(RunContext(experiment, tmp_path, quick=True, seed=1))
    claims = {claim.name: claim for claim in result.claims}
    assert claims["quality"].holds and claims["calls_saved"].holds
    assert claims["calls_saved"].measured > 40
    by_decoder = {row[0]: row for row in result.tables[0].rows}
    assert set(by_decoder) == set(trained_model.strategies())
    assert by_decoder["static"][4] == 32 and by_decoder["static"][8] == 32
    lines = (tmp_path / "prompts.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 8 * 10 and result.files == ["prompts.csv"]
    # The table says what the file has of each prompt.
    calls = [int(line.split(",")[5]) for line in lines if line.startswith("trained,pvf,")]
    assert by_decoder["pvf"][4] == sum(calls) / 10
