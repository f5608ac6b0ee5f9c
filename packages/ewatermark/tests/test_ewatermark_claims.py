"""The package's claims at sizes that run in CI, and its experiments in miniature.

False-positive tests compare a count with its exact binomial tail at level alpha: a valid test fails
with probability below 1e-8 each. Comparisons of medians use fixed seeds and stand far from the
bound; each says how far.
"""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from modicum.core.experiment import Result, run_experiments
from modicum.core.stats import clopper_pearson, ratio_of_medians_interval
from modicum.core.watermark.bank import TokenBank
from modicum.ewatermark.baselines import (
    UNION_BOUND,
    corrected_p_values,
    e_process_times,
    gumbel_log_wealth,
    gumbel_p_values,
    peeked_times,
    seal_p_values,
    simulate_gumbel,
    union_bound_times,
)
from modicum.ewatermark.evalues import AnchoredScore, DefensiveScore
from modicum.ewatermark.experiments import (
    EXPERIMENTS,
    optional_stopping,
    stopping_law,
    tokens_to_detect,
)
from modicum.ewatermark.simulation import NULLS, log_wealth, simulate

ALPHA = 0.02


def _binomial_tail(count: int, n: int) -> float:
    from scipy.special import bdtrc

    return 1.0 if count == 0 else float(bdtrc(count - 1, n, ALPHA))


@pytest.fixture(scope="module")
def bank() -> TokenBank:
    return TokenBank.build("base")


def _simulate(bank: TokenBank, m: int, texts: int, tokens: int, **changes):
    return simulate(
        bank.target_BV,
        bank.anchor_BV,
        num_groups=m,
        num_texts=texts,
        num_tokens=tokens,
        rng=np.random.default_rng([7, m]),
        **changes,
    )


# Tokens to detection ----------------------------------------------------------------------------


def test_anchored_needs_fewer_tokens_than_seal_with_the_base_anchor(bank: TokenBank) -> None:
    # The ratio is about 0.52 with a bootstrap error of 0.05 at this size; the bound 0.75.
    texts = _simulate(bank, 2, 250, 250)
    seal = union_bound_times(seal_p_values(texts), ALPHA)
    ours = e_process_times(log_wealth(AnchoredScore(2, 0.3), texts), ALPHA)
    ratio, (_, high) = ratio_of_medians_interval(ours, seal, paired=True)
    assert ratio < 0.75
    assert high < 1


def test_default_beats_gumbel_with_a_decent_anchor_and_loses_with_none(bank: TokenBank) -> None:
    # Medians about 16 (default), 25 (Gumbel e-process), 40 (Gumbel union bound), 43 (no anchor),
    # each with an error of about 2 tokens at this size.
    size = {"num_texts": 400, "num_tokens": 120}
    ours = e_process_times(log_wealth(DefensiveScore(), _simulate(bank, 16, 400, 120)), ALPHA)
    none = TokenBank.build("uniform")
    blind = e_process_times(log_wealth(DefensiveScore(), _simulate(none, 16, 400, 120)), ALPHA)
    pivots = simulate_gumbel(bank.target_BV, rng=np.random.default_rng(8), **size)
    gumbel = e_process_times(gumbel_log_wealth(pivots), ALPHA)
    union = union_bound_times(gumbel_p_values(pivots), ALPHA)
    for fewer, more in ((ours, gumbel), (gumbel, blind), (gumbel, union)):
        ratio, (_, high) = ratio_of_medians_interval(fewer, more)
        assert ratio < 1 and high < 1
    assert np.isfinite(ours).mean() > 0.98


def test_two_groups_lose_to_gumbel_and_anchored_fails_at_the_token_level(bank: TokenBank) -> None:
    # Medians about 25 and 70; share detected at the token level about 0.3 of 100 texts.
    two = e_process_times(log_wealth(AnchoredScore(2, 0.3), _simulate(bank, 2, 200, 200)), ALPHA)
    pivots = simulate_gumbel(
        bank.target_BV, num_texts=200, num_tokens=150, rng=np.random.default_rng(9)
    )
    gumbel = e_process_times(gumbel_log_wealth(pivots), ALPHA)
    assert np.median(gumbel) < 0.75 * np.median(two)
    texts = _simulate(bank, 256, 100, 120)
    score = AnchoredScore(256, tokens_to_detect.best_delta(texts, 256))
    anchored = e_process_times(log_wealth(score, texts), ALPHA)
    assert np.isfinite(anchored).mean() < 0.6
    assert np.isfinite(e_process_times(log_wealth(DefensiveScore(), texts), ALPHA)).mean() > 0.95


def test_hot_anchor_leaves_the_published_setting_a_tail_that_the_mixture_removes() -> None:
    # Medians about 134 (mixture) and 187 (SEAL), bootstrap error of their ratio 0.05; shares
    # detected about 0.56 (anchored) and 0.95 (SEAL) with errors below 0.03. Whether the anchored
    # median is below SEAL's depends on the simulated laws and is not asserted.
    times = tokens_to_detect.measure_case("hot", num_tokens=260, num_texts={2: 400}, seed=0)
    seal = times[tokens_to_detect.SEAL]
    mixture = times[tokens_to_detect.DEFENSIVE.format(m=2)]
    ratio, (_, high) = ratio_of_medians_interval(mixture, seal, paired=True)
    assert ratio < 0.95 and high < 1
    anchored = np.isfinite(times[tokens_to_detect.PUBLISHED]).mean()
    assert anchored + 0.15 < np.isfinite(seal).mean()


# False positives --------------------------------------------------------------------------------


@pytest.mark.parametrize("null", NULLS)
@pytest.mark.parametrize("num_groups", [2, 16, 256])
def test_no_e_score_exceeds_alpha_under_optional_stopping(
    bank: TokenBank, null: str, num_groups: int
) -> None:
    texts, tokens = (200, 150) if num_groups < 256 else (80, 120)
    counts = optional_stopping.count_e_processes(
        bank,
        null,
        num_groups=num_groups,
        num_texts=texts,
        num_tokens=tokens,
        rng=np.random.default_rng(10),
    )
    for name, (called, total) in counts.items():
        assert total == texts
        assert _binomial_tail(called, total) > 1e-8, name


def test_the_contrast_has_teeth(bank: TokenBank) -> None:
    # Greedy text: about 0.96 of texts are called marked by the peeked p-value, whose bound is 3
    # alpha = 0.06; 0.3 by the p-value at 100 tokens.
    texts = _simulate(bank, 2, 200, 300, null="anchor-argmax")
    seal = seal_p_values(texts)
    peeked = int(np.isfinite(peeked_times(seal, ALPHA)).sum())
    assert clopper_pearson(peeked, 200, level=1 - 1e-6)[0] > 3 * ALPHA
    fixed = int((seal[:, 99] <= ALPHA).sum())
    assert clopper_pearson(fixed, 200, level=1 - 1e-6)[0] > ALPHA
    corrected = corrected_p_values(texts)
    assert _binomial_tail(int((corrected[:, 99] <= ALPHA).sum()), 200) > 1e-8
    assert _binomial_tail(int(np.isfinite(union_bound_times(corrected, ALPHA)).sum()), 200) > 1e-8
    # The same counts with a valid test would be improbable: this is what the tail test can see.
    assert _binomial_tail(peeked, 200) < 1e-8


def test_real_text_with_random_keys() -> None:
    texts = (optional_stopping.stdlib_text(8000), optional_stopping.licence_text(8000))
    for text in texts:
        documents = optional_stopping.byte_documents(text)
        assert len(documents) >= 15 and all(len(ids) == 400 for ids in documents)
        crossed, log_e = optional_stopping.read_real_text(documents, None, 60, seed=3)
        assert _binomial_tail(crossed, 60) > 1e-8
        # Markov on the mean of 60 capped e-values: by Hoeffding it exceeds 1 by 40 with
        # probability exp(-2 * 60 * 0.16) < 1e-8.
        assert np.minimum(np.exp(log_e), 100.0).mean() < 41


# Stopping law -----------------------------------------------------------------------------------


def test_stopping_law_exactly() -> None:
    ratios = [stopping_law.exact_ratio(0.15, alpha) for alpha in stopping_law.LEVELS]
    # Decreasing to 1, never below; within 1.5 % from 1e-10 on.
    assert all(a > b for a, b in itertools.pairwise(ratios))
    assert all(1 <= ratio <= 1.06 for ratio in ratios)
    assert all(ratio - 1 < 0.015 for ratio in ratios[2:])
    assert ratios[-1] - 1 < 0.002


@pytest.mark.parametrize("setting", stopping_law.SETTINGS)
def test_stopping_law_measured(setting: tuple[float, float]) -> None:
    levels = (1e-2, 1e-10, 1e-20)
    r = stopping_law.measure_ratios(*setting, levels, 2000, seed=4)
    # Six standard errors: probability below 1e-8 each.
    assert np.all(r.ratio_L > 1 - 6 * r.stderr_L)
    assert np.all(r.ratio_L < r.upper_L + 6 * r.stderr_L)
    if setting[0] == 0.5:
        exact = np.array([stopping_law.exact_ratio(setting[1] / 2, alpha) for alpha in levels])
        assert np.all(np.abs(r.ratio_L - exact) < 6 * r.stderr_L)
    anchor, _ = stopping_law.laws(*setting)
    optimum = float(stopping_law.optimal_growth(anchor[0], setting[1]))
    assert abs(r.growth - optimum) < 6 * r.growth_stderr


@pytest.mark.parametrize(
    ("mismatch", "growth", "e_process", "union", "fixed"),
    [
        (0.05, 0.4946, (8.89, 7, 16), (18.13, 19, 27), (6, 12)),
        (0.15, 0.2704, (15.34, 11, 34), (33.93, 31, 64), (9, 23)),
        (0.30, 0.0823, (49.38, 40, 115), (133.88, 128, 252), (28, 84)),
    ],
)
def test_sequential_against_fixed_length(mismatch, growth, e_process, union, fixed) -> None:
    row = stopping_law.horizons(mismatch)
    assert row.growth == pytest.approx(growth, abs=5e-5)
    assert (round(row.e_mean, 2), row.e_median, row.e_p95) == e_process
    assert (round(row.union_mean, 2), row.union_median, row.union_p95) == union
    assert (row.fixed_half, row.fixed_95) == fixed
    assert row.missing < 1e-6
    assert row.lower <= row.e_mean < row.union_mean


def test_boundaries_against_the_processes_themselves() -> None:
    from modicum.ewatermark.baselines import binomial_p_values

    rng = np.random.default_rng(5)
    hits = (rng.random((200, 120)) < 0.8).astype(int)
    counts = np.cumsum(hits, axis=1)
    log_e = np.cumsum(np.where(hits, math.log(1.7), math.log(0.3)), axis=1)
    by_wealth = e_process_times(log_e, ALPHA)
    reached = counts >= stopping_law.e_process_boundary(0.15, ALPHA, 120)
    np.testing.assert_array_equal(
        stopping_law.e_process_times(np.where(reached, 9.9, 0.0), ALPHA), by_wealth
    )
    p = union_bound_times(binomial_p_values(hits, 0.5), ALPHA)
    passed = counts >= stopping_law.union_boundary(ALPHA, 120)
    np.testing.assert_array_equal(
        stopping_law.e_process_times(np.where(passed, 9.9, 0.0), ALPHA), p
    )


# The experiments --------------------------------------------------------------------------------


def test_experiments_are_registered_under_the_package() -> None:
    names = [experiment.name for experiment in EXPERIMENTS]
    assert len(set(names)) == len(names)
    assert {"tokens_to_detect", "optional_stopping", "stopping_law"} <= set(names)
    assert all(experiment.package == "modicum-ewatermark" for experiment in EXPERIMENTS)


def _run(name: str, out: Path) -> Result:
    (experiment,) = [e for e in EXPERIMENTS if e.name == name]
    (result,) = run_experiments([experiment], out, quick=True, seed=0)
    assert result.status == "ok", result.error
    kept = Result.load(out / "modicum-ewatermark" / name / "result.json")
    assert kept.to_json() == result.to_json()
    for file in result.files:
        assert (out / "modicum-ewatermark" / name / file).stat().st_size > 100
    return result


def test_tokens_to_detect_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_to_detect, "QUICK_TOKENS", 60)
    sizes = {2: 30, 16: 30, 256: 10}
    monkeypatch.setattr(tokens_to_detect, "texts_by_groups", lambda case, quick: sizes)
    result = _run("tokens_to_detect", tmp_path)
    names = {claim.name for claim in result.claims}
    assert {"published_setting_hot_anchor", "default_beats_every_peer", "loss_no_anchor"} <= names
    assert [t.title.split(":")[0] for t in result.tables][:5] == list(tokens_to_detect.CASES)
    assert any(UNION_BOUND in row[0] for row in result.tables[5].rows)
    paper = {c.name: c.paper for c in result.claims}["published_setting_hot_anchor"]
    assert paper == pytest.approx(0.852, abs=1e-3)


def test_stopping_law_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping_law, "NUM_RUNS", 60)
    monkeypatch.setattr(stopping_law, "LEVELS", (1e-2, 1e-20))
    result = _run("stopping_law", tmp_path)
    assert len(result.tables[0].rows) == 4
    assert {c.name for c in result.claims} >= {"stopping_law_p50_delta30", "loss_fixed_length"}


def test_optional_stopping_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {null: {2: (20, 40), 16: (10, 40), 256: (5, 40)} for null in NULLS}
    monkeypatch.setattr(optional_stopping, "sizes_of", lambda quick: (small, (20, 110), 4))
    result = _run("optional_stopping", tmp_path)
    assert len(result.tables[0].rows) == len(NULLS) * 7
    names = {claim.name for claim in result.claims}
    assert {f"type_one_{null.replace('-', '_')}" for null in NULLS} <= names
    assert {"type_one_docstrings", "type_one_licences", "seal_peeked_anchor_argmax"} <= names
