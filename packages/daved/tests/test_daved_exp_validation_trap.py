import numpy as np
import pytest

from modicum.core.experiment import Experiment, RunContext
from modicum.daved.experiments import validation_trap as experiment
from modicum.daved.markets import gaussian_market


@pytest.fixture
def context(tmp_path):
    made = Experiment("validation_trap", "modicum-daved", "title", "summary", experiment.run)
    return RunContext(made, tmp_path)


def test_validation_greedy_is_that_by_training_every_candidate():
    market = gaussian_market(
        25, 4, 1, validation=9, noise=1.0, normalize=False, rng=np.random.default_rng(0)
    )
    labelled = (market.validation_vd, market.validation_labels_v)
    found = experiment.validation_greedy(market.rows_nd, market.labels_n, *labelled, 8)
    chosen: list[int] = []
    for _ in range(8):
        errors = {}
        for row in set(range(25)) - set(chosen):
            rows, labels = market.rows_nd[[*chosen, row]], market.labels_n[[*chosen, row]]
            normal = rows.T @ rows + experiment.START_RIDGE * np.eye(4)
            theta = np.linalg.solve(normal, rows.T @ labels)
            errors[row] = np.square(labelled[1] - labelled[0] @ theta).mean()
        chosen.append(min(errors, key=lambda row: errors[row]))
    assert found.tolist() == chosen


def test_excess_error_is_that_on_fresh_rows():
    rng = np.random.default_rng(1)
    rows, theta = rng.standard_normal((9, 3)), rng.standard_normal(3)
    labels = rows @ theta + rng.standard_normal(9)
    fresh = rng.standard_normal((400_000, 3))
    model = np.linalg.lstsq(rows, labels, rcond=None)[0]
    errors = np.square(fresh @ (model - theta))
    measured = experiment.excess_error(rows, labels, theta)
    # Six standard errors of a mean of chi-squares.
    assert abs(errors.mean() - measured) < 6 * errors.std() / np.sqrt(len(errors))


def test_choices_have_the_size_and_the_seed_asked_for():
    market = gaussian_market(
        100, 5, 1, validation=20, normalize=False, rng=np.random.default_rng(0)
    )
    for choose in experiment.CHOICES.values():
        chosen = choose(market, 15, np.random.default_rng(1))
        assert len(set(chosen.tolist())) == len(chosen) == 15
    assert experiment.play(5, 1, 3) == experiment.play(5, 1, 3)
    assert experiment.play(5, 1, 3) != experiment.play(5, 2, 3)


def _made(**by_name):
    names = {
        "greedy_on_validation": experiment.VALIDATION_GREEDY,
        "random": experiment.RANDOM,
        "on_validation": experiment.ON_VALIDATION,
        "frank_wolfe": list(experiment.CHOICES)[2],
        "design": experiment.DESIGN,
    }
    return {names[name]: np.array(errors) for name, errors in by_name.items()}


def test_claims_fail_where_they_should():
    small = _made(
        greedy_on_validation=[0.1, 0.1],
        random=[0.5, 0.5],
        on_validation=[0.2, 0.2],
        frank_wolfe=[0.3, 0.3],
        design=[0.4, 0.4],
    )
    large = _made(
        greedy_on_validation=[2.0, 2.2],
        random=[0.5, 0.6],
        on_validation=[9.0, 9.0],
        frank_wolfe=[0.4, 0.4],
        design=[0.3, 0.35],
    )
    good = experiment.claims({5: small, 40: large}, quick=False)
    assert [claim.holds for claim in good] == [True, True, True]
    assert good[0].measured == pytest.approx(0.1 / 2.1)
    assert good[1].measured == pytest.approx(2.1 / 0.55)
    # The small dimension does not count for the design, which is not best there.
    assert good[2].measured == pytest.approx(0.325 / 0.4)
    assert "Frank-Wolfe, 8 queries at 40 dimensions" in good[2].note
    worse = {**large, experiment.VALIDATION_GREEDY: np.array([0.05, 0.05])}
    bad = experiment.claims({5: small, 40: worse}, quick=False)
    assert [claim.holds for claim in bad] == [False, False, False]


def test_scaled_down_run_reports_what_its_table_says(context, monkeypatch):
    monkeypatch.setattr(experiment, "DIMENSIONS", (4, 12))
    monkeypatch.setattr(experiment, "QUICK_SEEDS", 3)
    result = experiment.run(context)
    (table,) = result.tables
    means = {row[0]: row[1:] for row in table.rows}
    assert means["σ² d / v"] == [4 / 40, 12 / 40]
    growth, loss, lead = result.claims
    trap, random = means[experiment.VALIDATION_GREEDY], means[experiment.RANDOM]
    assert growth.measured == pytest.approx(trap[0] / trap[1])
    assert loss.measured == pytest.approx(trap[1] / random[1])
    others = [row[1] for name, row in means.items() if name not in (experiment.DESIGN, "σ² d / v")]
    assert lead.measured == pytest.approx(means[experiment.DESIGN][1] / min(others))
    # By far fewer labels than rows bought at random: nobody should do worse than the prior, 2 d.
    assert all(value < 2 * 12 for row in means.values() for value in row)
