"""The two experiments on exact numbers, run as the demo runs them."""

import pytest

from modicum.core.experiment import Experiment, RunContext
from modicum.testtime.experiments import EXPERIMENTS, noisy_verifier, separation
from modicum.testtime.planner import plan


def result_of(module, tmp_path, seed=0):
    experiment = Experiment("x", "modicum-testtime", "title", "summary", module.run)
    return module.run(RunContext(experiment, tmp_path, quick=True, seed=seed))


def test_experiments_are_listed_once_each():
    names = [experiment.name for experiment in EXPERIMENTS]
    assert len(set(names)) == len(names) == 8


@pytest.fixture(scope="module")
def separated(tmp_path_factory):
    return result_of(separation, tmp_path_factory.mktemp("separation"))


def test_separation_claims_hold(separated):
    # Seeded; only exact_is_simulated has chance in it.
    claims = {claim.name: claim for claim in separated.claims}
    assert all(claim.holds for claim in claims.values())
    assert claims["slope_votes"].measured == pytest.approx(2.0, abs=0.06)
    assert claims["slope_verified"].measured == pytest.approx(1.0, abs=0.08)


def test_published_numbers_are_in_the_table(separated):
    numbers = separated.tables[0]
    at_90 = [row for row in numbers.rows if row[0] == 0.9]
    assert [row[2] for row in at_90] == [9, 41, 163, 657, 2627, 10511]
    assert [row[3] for row in at_90] == [5, 11, 22, 45, 91, 184]


def test_families_go_from_one_worst_case_to_the_other(separated):
    rows = separated.tables[2].rows
    ratios = [row[4] for row in rows]
    assert ratios == sorted(ratios, reverse=True) and ratios[0] > 1000 and ratios[-1] < 3
    law, tail = separation.family(0.1, 0.5)
    assert law[0] - law[1] == pytest.approx(0.1) and sum(law) + tail == pytest.approx(1)
    assert plan("self_consistency", p=law, tail=tail, delta=0.1).feasible


@pytest.mark.parametrize("seed", [0, 7])
def test_noisy_verifier_claims_hold(tmp_path, seed):
    # 49 comparisons at 4.5 standard errors: by chance in 1 of 3000 seeds, and these are fixed.
    result = result_of(noisy_verifier, tmp_path, seed)
    assert all(claim.holds for claim in result.claims)
    for row in result.tables[0].rows:
        assert row[3] <= row[5] + 1e-12
