"""The experiments in miniature: they run, write what they say, go on where they were cut off."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from modicum.core.experiment import Result, RunContext, run_experiments
from modicum.umpwatermark.experiments import (
    EXPERIMENTS,
    couplings,
    detector_power,
    robust_optimum,
    tokens_against_entropy,
    validity,
)

NAMES = [experiment.name for experiment in EXPERIMENTS]


def _run(name: str, out: Path) -> Result:
    (experiment,) = [e for e in EXPERIMENTS if e.name == name]
    (result,) = run_experiments([experiment], out, quick=True, seed=0)
    assert result.status == "ok", result.error
    folder = out / "modicum-umpwatermark" / name
    assert Result.load(folder / "result.json").to_json() == result.to_json()
    assert not (folder / "partial").exists()
    for file in result.files:
        assert (folder / file).stat().st_size > 100
    assert all(claim.statement.endswith(".") for claim in result.claims)
    return result


def test_experiments_are_registered_and_load_lazily():
    assert len(set(NAMES)) == len(NAMES) == 5
    assert all(e.package == "modicum-umpwatermark" and e.demo for e in EXPERIMENTS)
    code = (
        "import sys, modicum.umpwatermark.experiments as e; "
        "print(sorted(m for m in sys.modules if m.startswith('modicum.umpwatermark.exp')"
        " or m in ('torch', 'matplotlib', 'scipy.optimize')))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "['modicum.umpwatermark.experiments']"


def test_tokens_against_entropy_runs(tmp_path, monkeypatch):
    names = ("ump", "combined", "oracle", "greenlist", "hazard", "kgw", "gumbel_sum")
    planned = {name: tokens_against_entropy.PLANNED[name] for name in names}
    for name in ("gumbel_sum", "hazard"):
        planned[name] = replace(planned[name], quick_zipf=math.inf)
    monkeypatch.setattr(tokens_against_entropy, "PLANNED", planned)
    monkeypatch.setattr(tokens_against_entropy, "QUICK_SPIKE", (0.6, 0.3, 0.1, 0.03, 0.01))
    monkeypatch.setattr(tokens_against_entropy, "QUICK_ZIPF", (1.0, 0.3, 0.1))
    monkeypatch.setattr(tokens_against_entropy, "QUICK_RESOLUTION", 0.2)
    result = _run("tokens_against_entropy", tmp_path)
    names = {claim.name: claim for claim in result.claims}
    assert {"exponent_optimum", "gap_to_kgw_grows", "loss_green_list", "loss_high_entropy"} <= set(
        names
    )
    assert names["exact_tokens"].holds and names["exponent_optimum"].holds
    assert "exponent_synthid" not in names
    tables = {table.title.split(",")[0]: table for table in result.tables}
    spikes = tables["Tokens needed at α = β = 0.01"]
    # Every row says what is known of its Type I error.
    assert all("exact" in row[1] or "at most" in row[1] for row in spikes.rows)


def test_detector_power_runs_and_resumes(tmp_path, monkeypatch):
    cases = tuple(
        detector_power.Case(c.bank, c.surrogate, c.lengths, 20 if c.quick_texts else 0, 20,
                            every_length=c.every_length)
        for c in detector_power.CASES
        if (c.bank, c.surrogate) != ("low", "noise 1")
    )  # fmt: skip
    cases += (detector_power.Case("low", "noise 1", (40,), 10, 10),)
    monkeypatch.setattr(detector_power, "CASES", cases)
    monkeypatch.setattr(detector_power, "NUM_DRAWS", 99)
    first = _run("detector_power", tmp_path)
    assert {"near_optimum_base", "fewer_tokens_than_sum_low", "default_weights"} <= {
        claim.name for claim in first.claims
    }
    assert len({row[3] for row in first.tables[0].rows}) == len(detector_power.WEIGHTS) + 2

    # A run that is cut off after some cases goes on from them and ends alike.
    (experiment,) = [e for e in EXPERIMENTS if e.name == "detector_power"]
    measure, calls = detector_power.measure, []

    def failing(case, **options):
        calls.append(case.name)
        if len(calls) == 3:
            raise RuntimeError("cut off")
        return measure(case, **options)

    monkeypatch.setattr(detector_power, "measure", failing)
    with pytest.raises(RuntimeError, match="cut off"):
        experiment.run(RunContext(experiment, tmp_path / "again", seed=0))
    second = experiment.run(RunContext(experiment, tmp_path / "again", seed=0))
    assert len(calls) == len([c for c in cases if c.quick_texts]) + 1
    assert second.claims == first.claims and second.tables == first.tables


def test_validity_runs(tmp_path, monkeypatch):
    p_values = validity.p_values
    monkeypatch.setattr(
        validity,
        "p_values",
        lambda null, tests, num_keys, rng, **options: p_values(null, tests, 10, rng, **options),
    )
    result = _run("validity", tmp_path)
    names = {claim.name: claim for claim in result.claims}
    for kind in ("model_sample", "greedy", "uniform", "english", "shuffled_surrogate", "template"):
        assert names[f"type_one_{kind}"].holds
    assert "loss_without_deduplication" in names


def test_couplings_run(tmp_path, monkeypatch):
    monkeypatch.setattr(couplings, "GAMMAS", (0.1, 0.5, 0.9))
    enumerated, search = couplings.enumerated, couplings.search_price
    monkeypatch.setattr(couplings, "enumerated", lambda n, rng: enumerated(4, rng))
    monkeypatch.setattr(couplings, "search_price", lambda n, rng: search(16, rng))
    profile = couplings.bank_profile
    laws = {
        name: couplings.EntropyProfile.from_laws(profile(name, "exact").laws_BV[:200])
        for name in ("base", "low")
    }
    monkeypatch.setattr(couplings, "bank_profile", lambda name, surrogate: laws[name])
    result = _run("couplings", tmp_path)
    held = {claim.name: claim.holds for claim in result.claims}
    for name in ("couplings_are_exact", "minimax_price", "sequence_gumbel_price"):
        assert held[name]
    assert held["hazard_on_spikes"] and held["loss_hazard_mixed_entropy"]


def test_robust_optimum_runs(tmp_path, monkeypatch):
    small = {
        name: (kind, d, lengths[:2], lengths[1])
        for name, (kind, d, lengths, _) in robust_optimum.FAMILIES.items()
    }
    monkeypatch.setattr(robust_optimum, "FAMILIES", small)
    monkeypatch.setattr(robust_optimum, "NUM_DRAWS", 99)
    detected = robust_optimum.TokenScheme.detected
    monkeypatch.setattr(
        robust_optimum.TokenScheme,
        "detected",
        lambda self, texts, *rest: 12 * detected(self, 10, *rest),
    )
    agreement = robust_optimum.agreement
    monkeypatch.setattr(robust_optimum, "agreement", lambda n, rng: agreement(2, rng))
    result = _run("robust_optimum", tmp_path)
    held = {claim.name: claim.holds for claim in result.claims}
    assert held["agrees_with_brute_force"] and held["lp_size_edits_2"]
    assert len(result.tables[2].rows) == 8
