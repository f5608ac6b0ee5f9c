"""The experiment on stopping rules in miniature: it runs, resumes, and its claims can fail."""

from modicum.core.experiment import Experiment, Result, RunContext, run_experiments
from modicum.testtime.experiments import stopping_validity
from modicum.testtime.stopping import BetaStop

EXPERIMENT = Experiment(
    "stopping_validity", "modicum-testtime", "Stopping", "Errors.", stopping_validity.run
)
SMALL = tuple(
    stopping_validity.Case(c.name, c.p, c.level, min(c.cap, 80), c.null, c.tail)
    for c in stopping_validity.CASES
)


def shrink(monkeypatch, runs=60):
    monkeypatch.setattr(stopping_validity, "QUICK_RUNS", runs)
    monkeypatch.setattr(stopping_validity, "CASES", SMALL)
    monkeypatch.setattr(stopping_validity, "EXACT_GAPS", (0.001, 0.2, 0.6))


def test_experiment_runs(tmp_path, monkeypatch):
    shrink(monkeypatch)
    (result,) = run_experiments([EXPERIMENT], tmp_path, quick=True)
    assert result.status == "ok", result.error
    folder = tmp_path / "modicum-testtime" / "stopping_validity"
    assert Result.load(folder / "result.json").to_json() == result.to_json()
    assert (folder / "stopping.csv").read_text().count("\n") == len(result.tables[0].rows) + 1
    claims = {claim.name: claim for claim in result.claims}
    assert len(claims) == 12
    assert all(claim.statement.endswith(".") for claim in result.claims)
    assert claims["exact_error_ppr"].holds and claims["curtailed_is_lossless"].holds
    assert not any(claims[name].holds is False for name in claims if name.startswith("error_"))
    # Every rule on every law that it can be used on: three laws less for the two with a table.
    assert len(result.tables[0].rows) == 7 * 8 - 2
    (figure,) = result.figures
    assert figure.svg and "BetaStop" in figure.svg


def test_what_was_done_is_not_done_again(tmp_path, monkeypatch):
    shrink(monkeypatch, 20)
    ctx = RunContext(EXPERIMENT, tmp_path)
    first = stopping_validity.simulated(ctx, 20, lambda n: None)
    monkeypatch.delattr(stopping_validity, "simulate_stopping")
    again = stopping_validity.simulated(RunContext(EXPERIMENT, tmp_path), 20, lambda n: None)
    assert again == first


def test_a_rule_that_breaks_its_level_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(stopping_validity, "ModeCertificate", lambda delta: BetaStop(1 - delta))
    close = tuple(case for case in stopping_validity.CASES if case.name == ".52/.48")
    monkeypatch.setattr(stopping_validity, "CASES", close)
    ctx = RunContext(EXPERIMENT, tmp_path)
    cells = stopping_validity.simulated(ctx, 400, lambda n: None)
    assert stopping_validity._anytime_claim("ModeCertificate", cells, 3).holds is False
    assert stopping_validity._anytime_claim("PPR", cells, 3).holds is not False
