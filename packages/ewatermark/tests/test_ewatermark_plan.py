"""Planners against closed forms, exact laws and each other."""

import math
import warnings

import numpy as np
import pytest

from modicum.core.watermark.bank import TokenBank
from modicum.core.watermark.warnings import PowerWarning
from modicum.ewatermark.evalues import AnchoredMixtureScore, AnchoredScore, DefensiveScore
from modicum.ewatermark.plan import (
    compare_schemes,
    law_with_entropy,
    match_count_stopping_law,
    measured_growth,
    plan_from_entropy,
    plan_tokens,
    quantile,
    summarise,
)
from modicum.ewatermark.simulation import simulate
from modicum.ewatermark.theory import entropy, growth_rate, optimal_growth

FAIR = np.array([[0.5, 0.5]])
SHIFTED = np.array([[0.35, 0.65]])


def test_plan_tokens_agrees_with_the_exact_law() -> None:
    plan = plan_tokens(
        SHIFTED,
        FAIR,
        num_groups=2,
        score="anchored",
        delta=0.3,
        warmup=4,
        alpha=0.02,
        horizon=404,
        num_texts=2000,
        rng=1,
    )
    exact = plan_from_entropy(
        math.log(2), total_variation=0.15, delta=0.3, warmup=4, alpha=0.02, horizon=404
    )
    # Six standard errors: probability below 1e-8 each.
    assert abs(plan.growth - exact.growth) < 6 * plan.growth_stderr
    assert abs(plan.expected_tokens - exact.expected_tokens) < 6 * plan.expected_stderr + 0.05
    assert abs(plan.total_variation - 0.15) < 6 * math.sqrt(0.15 * 0.85 / (2000 * 400))
    assert plan.anchor_entropy == pytest.approx(math.log(2))
    # The exact law has mass 0.1 at the median, so a sample median two tokens off has P < 1e-8.
    assert abs(plan.median_tokens - exact.median_tokens) <= 2
    assert plan.detected_fraction == pytest.approx(exact.detected_fraction, abs=1e-3)
    assert plan.method == "simulation" and exact.method == "theory"


def test_plan_from_entropy_equals_optimal_growth_and_exact_law() -> None:
    plan = plan_from_entropy(math.log(2), total_variation=0.15, alpha=0.02, warmup=0)
    assert plan.growth == pytest.approx(float(optimal_growth([0.5, 0.5], 0.3)), rel=1e-12)
    # Matches needed by hand: k log 1.7 + (t - k) log 0.3 >= log 50.
    t = np.arange(1, 2001)
    need = np.ceil((math.log(50) - t * math.log(0.3)) / math.log(1.7 / 0.3))
    stopped = match_count_stopping_law(need, 0.85)
    cumulative = np.cumsum(stopped)
    assert plan.detected_fraction <= cumulative[-1] + 1e-9
    # The planner rounds steps down to a grid of 1/256 nats: it may only be late, and little.
    exact_median = int(np.searchsorted(cumulative, 0.5) + 1)
    assert exact_median <= plan.median_tokens <= exact_median + 1
    assert plan.expected_tokens >= float(t @ stopped) - 1e-9
    assert plan.expected_tokens <= 1.05 * float(t @ stopped)


@pytest.mark.parametrize("num_groups", [2, 3, 16])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.999, 1.0])
def test_law_with_entropy(num_groups: int, share: float) -> None:
    nats = share * math.log(num_groups)
    law = law_with_entropy(nats, num_groups)
    assert law.sum() == pytest.approx(1.0)
    assert float(entropy(law)) == pytest.approx(nats, abs=1e-7)


def test_defensive_plan_uses_its_growth_formula() -> None:
    plan = plan_from_entropy(
        math.log(4), total_variation=0.2, num_groups=4, score="defensive", fraction=0.4
    )
    p = np.full(4, 0.25)
    q = p + np.array([0.2, -0.2, 0.0, 0.0])
    expected = float(growth_rate(p, q, score="defensive", fraction=0.4))
    assert plan.growth == pytest.approx(expected, rel=1e-12)


def test_more_entropy_means_fewer_tokens() -> None:
    plans = [
        plan_from_entropy(h, total_variation=0.05, delta=0.1, alpha=0.02) for h in (0.4, 0.55, 0.69)
    ]
    medians = [plan.median_tokens for plan in plans]
    assert medians == sorted(medians, reverse=True)
    assert medians[0] > medians[-1]


def test_powerless_settings_warn() -> None:
    with pytest.warns(PowerWarning, match="cannot detect.*defensive-mixture"):
        plan = plan_from_entropy(0.3, total_variation=0.15)
    assert plan.growth < 0
    bank = TokenBank.build("uniform", num_contexts=50, vocab_size=64)
    with pytest.warns(PowerWarning, match="cannot detect"):
        plan_tokens(
            bank.target_BV,
            bank.anchor_BV,
            num_groups=64,
            score="anchored",
            num_texts=20,
            horizon=100,
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = plan_tokens(bank.target_BV, bank.anchor_BV, num_texts=20, horizon=100)
    assert plan.growth > 0


def test_warmup_shifts_tokens() -> None:
    arguments = {"total_variation": 0.1, "alpha": 0.02}
    late = plan_from_entropy(math.log(2), warmup=20, horizon=2020, **arguments)
    early = plan_from_entropy(math.log(2), warmup=0, horizon=2000, **arguments)
    assert late.median_tokens == early.median_tokens + 20
    assert late.expected_tokens == pytest.approx(early.expected_tokens + 20)


@pytest.mark.parametrize("score", [AnchoredScore(2, 0.3), DefensiveScore((0.3,)), DefensiveScore()])
def test_measured_growth_is_the_closed_form(score) -> None:
    texts = simulate(
        SHIFTED,
        FAIR,
        num_groups=2,
        num_texts=500,
        num_tokens=200,
        rng=np.random.default_rng(3),
    )
    growth, stderr = measured_growth(score, texts)
    name = score.name
    expected = float(growth_rate(FAIR[0], SHIFTED[0], score=name, delta=0.3, fraction=0.3))
    # The best of twelve columns is at least as large as the best column's own mean.
    assert abs(growth - expected) < 6 * stderr


def test_measured_growth_of_a_learning_score_is_below_the_best_constant() -> None:
    texts = simulate(
        SHIFTED, FAIR, num_groups=2, num_texts=200, num_tokens=200, rng=np.random.default_rng(4)
    )
    growth, stderr = measured_growth(AnchoredMixtureScore(2), texts)
    best = float(optimal_growth([0.5, 0.5], 0.3))
    regret = (0.5 * math.log(200) + math.log(2)) / 200
    assert best - regret - 6 * stderr < growth < best + 6 * stderr


def test_stopping_law_by_enumeration() -> None:
    need = np.array([2, 2, 2, 3])
    law = match_count_stopping_law(need, 0.6)
    # First time with two matches by token 3, or three at token 4 (impossible: stopped before).
    expected = [0.0, 0.36, 2 * 0.6 * 0.4 * 0.6, 0.0]
    np.testing.assert_allclose(law, expected, atol=1e-15)
    assert match_count_stopping_law(np.array([9, 9]), 1.0).sum() == 0


def test_quantile_and_summary() -> None:
    times = np.array([5.0, math.inf, 3.0, 4.0])
    assert quantile(times, 0.5) == 4.0
    assert quantile(times, 0.75) == 5.0
    assert quantile(times, 0.9) == math.inf
    row = summarise("a", "b", times)
    assert row.detected_fraction == 0.75 and row.name == "a, b"


def test_compare_schemes_orders_ours_and_peers() -> None:
    bank = TokenBank.build("base", num_contexts=300)
    rows = compare_schemes(
        bank.target_BV, bank.anchor_BV, alpha=0.02, horizon=300, num_texts=60, synthid=False
    )
    names = [row.scheme for row in rows]
    assert {"e-watermark m=2", "e-watermark m=16", "SEAL", "Gumbel-max", "KGW δ=2"} <= set(names)
    medians = [row.median_tokens for row in rows]
    assert medians == sorted(medians)
    # Medians of about 16 against 133 tokens; with 60 texts they cannot meet.
    assert names.index("e-watermark m=16") < names.index("SEAL")


def test_doors() -> None:
    with pytest.raises(ValueError, match="horizon=4 must exceed"):
        plan_tokens(SHIFTED, FAIR, num_groups=2, horizon=4)
    with pytest.raises(ValueError, match="power must"):
        plan_from_entropy(0.6, total_variation=0.1, power=1.0)
    with pytest.raises(ValueError, match="warmup"):
        plan_from_entropy(0.6, total_variation=0.1, warmup=-1)
    with pytest.raises(ValueError, match="entropy must lie"):
        plan_from_entropy(0.8, total_variation=0.1)
    with pytest.raises(ValueError, match="total_variation"):
        plan_from_entropy(0.6, total_variation=1.0)
    with pytest.raises(ValueError, match="score must be"):
        plan_from_entropy(0.6, total_variation=0.1, score="defensive-mixture")
    with pytest.raises(ValueError, match="horizon must be at most"):
        plan_from_entropy(0.6, total_variation=0.1, horizon=10**6)
    with pytest.raises(ValueError, match="num_groups"):
        law_with_entropy(0.1, 1)
    with pytest.raises(ValueError, match="match_probability"):
        match_count_stopping_law([1], 1.5)
