import numpy as np
import pytest

from modicum.core.device import numpy_generator
from modicum.core.experiment import Experiment, RunContext
from modicum.zeroth.experiments import scaling_laws as experiment
from modicum.zeroth.methods.adaptive import Adaptive
from modicum.zeroth.problems import skew


@pytest.fixture
def context(tmp_path):
    return RunContext(
        Experiment("scaling_laws", "modicum-zeroth", "title", "summary", experiment.run), tmp_path
    )


def test_a_scaled_down_run_reports_what_its_table_says(context, monkeypatch):
    monkeypatch.setattr(experiment, "BUDGET", 1000)
    monkeypatch.setattr(experiment, "QUICK_SEEDS", 3)
    result = experiment.run(context)
    claims = {claim.name: claim for claim in result.claims}
    (table,) = result.tables
    cells = {tuple(row[:3]): row[3:] for row in table.rows}
    noises, lipschitz = (0.01, 0.1, 1.0, 3.0), (0.25, 1.0, 4.0)
    assert list(cells) == [
        (symbol, known, value)
        for symbol, values in (("σ", noises), ("ρ", lipschitz))
        for known in ("unknown", "known")
        for value in values
    ]
    for (symbol, _, value), row in cells.items():
        seeds, mean, low, high, _, formula, share = row
        power = 4 / 3 if symbol == "σ" else 2 / 3
        assert seeds == 3 and low <= mean <= high
        assert formula == pytest.approx(3 / 8 * 5 * value**power / (2 * 250 ** (2 / 3)))
        assert share == pytest.approx(mean / formula)
    regrets = []
    for index in range(3):
        rng = numpy_generator(0, "scaling_laws", "lipschitz", 2, index)
        problem = skew(5, hessian_lipschitz=4.0, rotation=True, rng=rng)
        told = {"noise": 1.0, "strong_convexity": 1.0, "hessian_lipschitz": 4.0}
        method = Adaptive(problem.start, 1000, rng=rng, **told)
        regrets.append(problem.regret(method.run(problem.noisy(1.0, rng)).x))
    assert cells["ρ", "known", 4.0][1] == pytest.approx(np.mean(regrets))
    for name, symbol, values in (("noise", "σ", noises), ("lipschitz", "ρ", lipschitz)):
        for known in ("unknown", "known"):
            means = [cells[symbol, known, value][1] for value in values]
            fitted = np.polyfit(np.log(values), np.log(means), 1)[0]
            assert claims[f"{name}_{known}"].measured == pytest.approx(fitted)
            low, high = claims[f"{name}_{known}"].interval
            inside = True if low >= 1.23 and high <= 1.43 else None
            outside = False if high < 1.23 or low > 1.43 else inside
            expected = outside if (name, known) == ("noise", "known") else None
            assert claims[f"{name}_{known}"].holds is expected
    costs = [cells["σ", "unknown", value][1] / cells["σ", "known", value][1] for value in noises]
    assert claims["cost_of_not_knowing"].measured == pytest.approx(max(costs))


def made_up(power):
    spread = np.linspace(0.95, 1.05, 8)
    return {
        (name, known): {value: value**power * spread for value in values}
        for name, values in (("noise", experiment.NOISES), ("lipschitz", experiment.LIPSCHITZ))
        for known in (False, True)
    }


def holds(power, quick):
    found = made_up(power)
    claims = experiment.claims(found, experiment.fits_of(found, 0), 0, quick)
    (decided,) = (claim for claim in claims if claim.holds is not None)
    assert decided.name == "noise_known"
    return decided.holds


@pytest.mark.parametrize("quick", [False, True])
def test_the_exponent_of_the_noise_is_held_to_theory(quick):
    assert holds(1.25, quick) and holds(1.42, quick)
    assert not holds(1.2, quick) and not holds(1.46, quick)
