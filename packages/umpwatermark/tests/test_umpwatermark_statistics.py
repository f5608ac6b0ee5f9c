"""Statistics: exact tails, validity under any surrogate, power against the optimum."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, gamma

from modicum.core.watermark.bank import TokenBank
from modicum.umpwatermark.evidence import Evidence
from modicum.umpwatermark.nulls import PivotMatchLaw, match_chance
from modicum.umpwatermark.samplers.gumbel import gumbel_argmax
from modicum.umpwatermark.samplers.hazard import hazard_choice
from modicum.umpwatermark.statistics import (
    STATISTICS,
    BinomialStatistic,
    CalibrationTable,
    CombinedStatistic,
    HitsStatistic,
    LearnedStatistic,
    OracleStatistic,
    SumStatistic,
    TrGoFStatistic,
    WeightedHitsStatistic,
    WeightedPivotStatistic,
    make_statistic,
)
from modicum.umpwatermark.statistics.trgof import divergence

ERROR = 1e-6
"""Probability with which each statistical test below may fail by chance, at most."""


def null_evidence(size, rng, *, prob=None, hits=None):
    """Evidence of a text that does not depend on the key."""
    y = rng.random(size)
    fields = {"y_S": y}
    if prob is not None:
        prob = np.clip(prob, 1e-6, 1)
        fields |= {"prob_S": prob, "match_S": rng.random(size) < match_chance(y, prob)}
    if hits is not None:
        rate = np.clip(hits * 1.5, 0, 1)
        fields |= {"hit_prob_S": hits, "hit_rate_S": rate, "hit_S": rng.random(size) < hits}
    return Evidence(**fields)


def everything(rng, size=30):
    return null_evidence(size, rng, prob=rng.beta(0.6, 0.6, size), hits=rng.uniform(0.1, 0.6, size))


def build(name, **options):
    if name == "learned":
        options["calibration"] = np.random.default_rng(0).beta(2, 1, 3000)
    return make_statistic(name, **options)


def test_sum_is_gamma():
    rng = np.random.default_rng(0)
    evidence = null_evidence(57, rng)
    stat = SumStatistic()
    expected = gamma.sf(-np.log(1 - evidence.y_S).sum(), 57)
    assert stat.p_value(evidence) == pytest.approx(expected, rel=1e-10)
    top = Evidence(np.full(2000, 1 - 2.0**-33))
    assert 0 < stat.p_value(top) < 1e-300


def test_binomial_and_hits_against_scipy():
    rng = np.random.default_rng(1)
    evidence = everything(rng, 80)
    for level in (0.1, 0.5, 0.95):
        stat = BinomialStatistic(level)
        hits = int((evidence.y_S > 1 - level).sum())
        assert stat.p_value(evidence) == pytest.approx(binom.sf(hits - 1, 80, level), rel=1e-10)
    flat = Evidence(evidence.y_S, hit_S=evidence.hit_S, hit_prob_S=np.full(80, 0.25))
    count = int(flat.hit_S.sum())
    assert HitsStatistic().p_value(flat) == pytest.approx(binom.sf(count - 1, 80, 0.25), rel=1e-10)
    few = evidence.take(slice(6))
    brute = 0.0
    for outcome in np.ndindex(*(2,) * 6):
        p = np.prod(np.where(outcome, few.hit_prob_S, 1 - few.hit_prob_S))
        brute += p * (sum(outcome) >= few.hit_S.sum())
    assert HitsStatistic().p_value(few) == pytest.approx(brute, rel=1e-12)
    # The weighted count, by the same enumeration of its own scores.
    stat = WeightedHitsStatistic(method="fft")
    law, observed = stat.law(few), stat.total(few)
    exact = 0.0
    for outcome in np.ndindex(*(2,) * 6):
        value = law.values_SJ[np.arange(6), outcome].sum()
        exact += law.probs_SJ[np.arange(6), outcome].prod() * (value >= observed - 1e-9)
    assert exact <= stat.p_value(few) * (1 + 1e-9) <= 1.5 * exact + 1e-3


def test_learned_null_law_is_exact_for_two_tokens():
    """All pairs of bins, 80 x 80."""
    table = CalibrationTable.fit(np.random.default_rng(3).beta(3, 1, 5000))
    stat = LearnedStatistic(table)
    assert np.sum(table.width_J * np.exp(table.log_density_J)) == pytest.approx(1, abs=1e-12)
    totals = table.score_J[:, None] + table.score_J
    masses = table.width_J[:, None] * table.width_J
    for y in ([0.9, 0.2], [0.99999, 0.9999], [0.01, 0.5], [1e-5, 1e-5]):
        evidence = Evidence(y)
        tail = stat.tail(evidence)
        exact = masses[totals >= stat.total(evidence) - 1e-9].sum()
        assert tail.method == "exact" and tail.p_value == pytest.approx(exact, rel=1e-9)


def test_learned_saves_and_loads(tmp_path):
    path = tmp_path / "table.npz"
    table = CalibrationTable.fit([0.2, 0.9, 0.95, 0.999])
    table.save(path)
    loaded = make_statistic("learned", calibration=path)
    np.testing.assert_array_equal(loaded.table.counts_J, table.counts_J)
    assert loaded.description() == LearnedStatistic(table).description()
    assert len(table.edges) == 81 and table.counts_J.sum() == 4
    np.savez(path, format="other", version=1, counts=table.counts_J)
    with pytest.raises(ValueError, match="other"):
        CalibrationTable.load(path)
    np.savez(path, counts=table.counts_J)
    with pytest.raises(ValueError, match="not a calibration table"):
        CalibrationTable.load(path)
    for bad in ([], [0.0], [1.5], [np.nan]):
        with pytest.raises(ValueError, match="pivot"):
            CalibrationTable.fit(bad)
    with pytest.raises(ValueError, match="calibration="):
        make_statistic("learned")
    long = Evidence(np.random.default_rng(0).random(30_000))
    assert LearnedStatistic(table, num_null_draws=199).tail(long).method in ("mc", "bound")


def test_learned_finds_the_hole_that_hazard_leaves():
    """Two-point law (.98, .02): about 240 tokens instead of 2100 for the sum test."""
    rng = np.random.default_rng(7)

    def pivots(size):
        rare = rng.random(size) < 0.02
        return np.where(rare, rng.random(size), 0.02 + 0.98 * rng.random(size)).clip(1e-9, 1 - 1e-9)

    stat = LearnedStatistic.fit(pivots(40_000))
    evidence = Evidence(pivots(700))
    assert stat.p_value(evidence) < 1e-2 < SumStatistic().p_value(evidence)


@pytest.mark.parametrize("name", STATISTICS)
def test_no_tokens_no_evidence(name):
    stat = build(name)
    for empty in (Evidence.empty(), Evidence(np.zeros(0), prob_S=np.zeros(0), match_S=np.zeros(0))):
        assert stat.p_value(empty) == 1.0 and stat.log_e(empty) == 0.0
        assert stat.total(empty) == 0 and len(stat.scores(empty)) == 0


@pytest.mark.parametrize("name", STATISTICS)
def test_missing_evidence_is_named(name):
    stat = build(name)
    if stat.needs == "pivot":
        assert 0 < stat.p_value(Evidence([0.5, 0.7])) <= 1
    else:
        with pytest.raises(ValueError, match="surrogate"):
            stat.p_value(Evidence([0.5, 0.7]))


@pytest.mark.parametrize("name", [n for n in STATISTICS if n != "oracle"])
def test_p_values_are_valid_and_e_values_have_mean_one(name):
    """300 null texts: P(p <= a) <= a for three levels, and mean e <= 1 + 6 standard errors.

    Draws are of the statistic's own size; counts above the 1 - 1e-6 / 4 binomial quantile fail.
    """
    rng = np.random.default_rng(20)
    stat = build(name, **({} if name in ("sum", "binomial", "hits") else {"num_null_draws": 199}))
    p, e = [], []
    for _ in range(300):
        evidence = everything(rng, 12)
        p.append(stat.p_value(evidence, np.random.default_rng(rng.integers(2**31))))
        e.append(math.exp(min(stat.log_e(evidence), 3.0)))
    for level in (0.01, 0.05, 0.3):
        assert np.sum(np.array(p) <= level) <= binom.isf(ERROR / 4, 300, level), level
    # Capped at e^3, the mean can only be smaller.
    assert np.mean(e) <= 1 + 6 * np.std(e) / math.sqrt(300)


@pytest.mark.parametrize("name", [n for n in STATISTICS if n != "oracle"])
def test_one_step_e_values_average_to_one_exactly(name):
    """Over a midpoint grid of the pivot and both values of match and hit."""
    stat = build(name)
    y = (np.arange(200_000) + 0.5) / 200_000
    h, g, rate = 0.3, 0.25, 0.6
    chance = match_chance(y, np.full(len(y), h))
    total = 0.0
    for match in (False, True):
        for hit in (False, True):
            weight = np.where(match, chance, 1 - chance) * (g if hit else 1 - g) / len(y)
            same = {
                "prob_S": h,
                "match_S": match,
                "hit_S": hit,
                "hit_prob_S": g,
                "hit_rate_S": rate,
            }
            evidence = Evidence(y, **{k: np.full(len(y), v) for k, v in same.items()})
            total = total + weight @ np.exp(stat.log_e_steps(evidence))
    # The calibrators' poles at Y = 1 cost the midpoint rule up to 200000^-kappa of kappa = .05.
    if name in ("sum", "trgof"):
        assert np.all(total <= 1 + 1e-9) and total[-1] == pytest.approx(1, abs=1e-3)
    else:
        # Bin edges of the table lie between grid points.
        np.testing.assert_allclose(total, 1, atol=1e-4 if name == "learned" else 1e-6)


@pytest.mark.parametrize("sampler", ["gumbel", "hazard"])
def test_valid_with_a_surrogate_permuted_at_every_step(sampler):
    """2000 null texts of 20 tokens, laws shuffled over the vocabulary: p-values stay uniform.

    Monte Carlo p-values are exactly uniform on their grid, so both tails are tested, at 5e-7 each.
    """
    rng = np.random.default_rng(30)
    bank = TokenBank.build("base", vocab_size=24, num_contexts=300)
    texts, n, draws = 2000, 20, 199
    rows = bank.sample_contexts(rng, texts * n)
    q = bank.target_BV[rows]
    x = (np.cumsum(q, axis=1) > rng.random((texts * n, 1))).argmax(axis=1)
    wrong = rng.permuted(q, axis=1)
    u = rng.random(q.shape)
    at = np.arange(len(x))
    prob, y = wrong[at, x], u[at, x]
    reach = None
    if sampler == "gumbel":
        match = gumbel_argmax(np.log(wrong), u) == x
    else:
        match = hazard_choice(wrong, u) == x
        after = (wrong < prob[:, None]) | ((wrong == prob[:, None]) & (np.arange(24) >= x[:, None]))
        reach = (wrong * after).sum(axis=1)
    for pair in ((0.3, 0.3), (0.1, 0.8)):
        stat = CombinedStatistic(pair, method="mc", num_null_draws=draws)
        p = np.empty(texts)
        for t in range(texts):
            part = slice(t * n, (t + 1) * n)
            evidence = Evidence(
                y[part], prob[part], match[part], None if reach is None else reach[part]
            )
            p[t] = stat.p_value(evidence, rng)
        for level in (0.01, 0.05, 0.5):
            count = int((p <= level + 1e-12).sum())
            assert count <= binom.isf(ERROR / 12, texts, level), (pair, level)
            # Ties of a discrete statistic push p up: only the top level has a lower side.
            if level == 0.5:
                assert count >= binom.ppf(ERROR / 12, texts, 0.45)


def bank_texts(case, texts, n, rng, sigma=None):
    """Gumbel-max text of a token bank as evidence arrays [texts, n] with the bank's anchor."""
    bank = TokenBank.build(case, permute=False) if sigma is None else sigma
    rows = bank.sample_contexts(rng, texts * n)
    y, h, match = np.empty(texts * n), np.empty(texts * n), np.empty(texts * n, dtype=bool)
    for at in range(0, len(rows), 4096):
        part = rows[at : at + 4096]
        u = rng.random((len(part), bank.vocab_size))
        x = gumbel_argmax(np.log(bank.target_BV[part]), u)
        i = np.arange(len(part))
        y[at : at + 4096], h[at : at + 4096] = u[i, x], bank.anchor_BV[part][i, x]
        if case == "oracle":
            match[at : at + 4096] = True
        else:
            match[at : at + 4096] = gumbel_argmax(np.log(bank.anchor_BV[part]), u) == x
    return [a.reshape(texts, n) for a in (y, h, match)]


def test_power_of_combined_beside_the_optimum():
    """15 tokens, alpha .01, surrogate = generator: power .95 within a binomial band of error 1e-6,
    and not above that of the most powerful test on the same texts by more than the band."""
    rng = np.random.default_rng(41)
    texts, n, alpha = 2000, 15, 0.01
    y, h, match = bank_texts("oracle", texts, n, rng)
    stat = CombinedStatistic(method="mc", num_null_draws=999)
    p = np.array([stat.p_value(Evidence(*row), rng) for row in zip(y, h, match, strict=True)])
    rejected = int((p <= alpha).sum())
    assert binom.ppf(ERROR / 2, texts, 0.95) <= rejected <= binom.isf(ERROR / 2, texts, 0.95)
    # The optimum rejects a text of probability rho with probability min(1, alpha/rho).
    optimum = np.minimum(1, alpha / np.exp(np.log(h).sum(axis=1)))
    spread = math.sqrt(optimum.mean() * (1 - optimum.mean()) / texts)
    assert optimum.mean() == pytest.approx(0.957, abs=6 * spread)
    assert rejected / texts <= optimum.mean() + 5 * spread
    # The same texts by the sum test: .47.
    sums = np.array([SumStatistic().p_value(Evidence(row)) for row in y])
    assert (sums <= alpha).mean() == pytest.approx(0.47, abs=5 * math.sqrt(0.25 / texts))


def test_power_with_a_noisy_surrogate():
    """26 tokens, surrogate noise 1: about .89 by combined, .9 by the weighted pivot; error 1e-6."""
    rng = np.random.default_rng(42)
    texts, n = 600, 26
    y, h, match = bank_texts("base", texts, n, rng)
    for stat, power in ((CombinedStatistic, 0.893), (WeightedPivotStatistic, 0.897)):
        one = stat(method="mc", num_null_draws=999)
        p = np.array([one.p_value(Evidence(*row), rng) for row in zip(y, h, match, strict=True)])
        assert (p <= 0.01).mean() == pytest.approx(power, abs=0.03 + 5 * math.sqrt(0.1 / texts))


def test_oracle_is_the_probability_of_the_text():
    evidence = Evidence([0.9, 0.8], prob_S=[0.1, 0.02], match_S=[True, True])
    assert OracleStatistic().p_value(evidence) == pytest.approx(0.002)
    missed = Evidence([0.9, 0.8], prob_S=[0.1, 0.02], match_S=[True, False])
    assert OracleStatistic().p_value(missed) == 1.0 and OracleStatistic().log_e(missed) == -np.inf


def test_combined_scores_are_the_stated_formula():
    rng = np.random.default_rng(2)
    evidence = everything(rng)
    a, b = 0.25, 0.4
    y, h, m = evidence.y_S, evidence.prob_S, evidence.match_S
    expected = np.log(1 - a - b + a / h * y ** (1 / h - 1) + b * m / h)
    stat = make_statistic("combined", weights=(a, b))
    np.testing.assert_allclose(stat.scores(evidence), expected, rtol=1e-12)
    assert stat.log_e(evidence) == pytest.approx(expected.sum())
    only = make_statistic("weighted-pivot", weights=a)
    np.testing.assert_allclose(
        only.scores(evidence), np.log(1 - a + a / h * y ** (1 / h - 1)), rtol=1e-12
    )
    match = make_statistic("match", weights=b)
    np.testing.assert_allclose(match.scores(evidence), np.log(1 - b + b * m / h), rtol=1e-12)
    top = math.log(0.4 + 0.6e6)
    bounded = Evidence([1 - 2.0**-33, 2.0**-33], prob_S=[0, 0], match_S=[True, False])
    scores = CombinedStatistic().scores(bounded)
    assert scores[0] <= top and scores[1] == pytest.approx(math.log(0.4))


def test_mixture_is_a_mean_of_whole_texts():
    rng = np.random.default_rng(5)
    evidence = everything(rng)
    mixed = CombinedStatistic(mixture=True)
    singles = [CombinedStatistic(pair).total(evidence) for pair in mixed.pairs]
    expected = np.logaddexp.reduce(singles) - math.log(len(singles))
    assert mixed.total(evidence) == pytest.approx(expected)
    assert mixed.log_e(evidence) == pytest.approx(expected)
    strong = Evidence(np.full(20, 0.99), np.full(20, 0.2), np.full(20, True))
    tail = mixed.tail(strong)
    assert tail.method == "bound" and tail.p_value < 1e-10
    assert mixed.tail(evidence, np.random.default_rng(0)).p_value > 1e-4


def test_truncated_scores_are_bounded_and_valid_e_values_stay():
    evidence = Evidence([0.999, 0.5], prob_S=[1e-5, 0.5], match_S=[True, False])
    plain, cut = CombinedStatistic(), CombinedStatistic(truncate=True)
    assert cut.scores(evidence).max() == 4.0 and plain.scores(evidence).max() > 10
    assert cut.log_e(evidence) == plain.log_e(evidence)
    assert plain.p_value(evidence) <= cut.p_value(evidence) * 1.5


def test_trgof_divergences_and_statistic():
    u, v = np.array([0.5, 0.5, 0.2]), np.array([0.25, 0.4999, 0.3])
    kl = u * np.log(u / v) + (1 - u) * np.log((1 - u) / (1 - v))
    np.testing.assert_allclose(divergence(u, v, 1.0), np.where(u > v, kl, 0), atol=1e-12)
    np.testing.assert_allclose(divergence(u, v, 1.0001), divergence(u, v, 1.0), atol=1e-4)
    np.testing.assert_allclose(divergence(u, v, 1.9999), divergence(u, v, 2.0), atol=1e-3)
    # By definition, on a fine grid of r.
    rng = np.random.default_rng(0)
    evidence = null_evidence(12, rng)
    p = 1 - evidence.y_S
    grid = np.concatenate([np.linspace(1 / 12, 1 - 1e-9, 20_001), p[p >= 1 / 12]])
    share = (p[None] <= grid[:, None]).mean(axis=1)
    for s in (0.5, 1.0, 2.0):
        brute = 12 * divergence(share, grid, s).max()
        assert TrGoFStatistic(s).total(evidence) == pytest.approx(brute, rel=1e-9)


def test_trgof_bound_lies_above_monte_carlo():
    rng = np.random.default_rng(1)
    for y in (rng.random(40), rng.beta(1.5, 1, 40), rng.beta(3, 1, 40)):
        evidence = Evidence(y)
        mc = TrGoFStatistic(method="mc", num_null_draws=4000).p_value(evidence, rng)
        bound = TrGoFStatistic(method="bound").p_value(evidence)
        assert bound >= mc - 6 * math.sqrt(mc / 4000) - 1e-3
    strong = TrGoFStatistic().tail(Evidence(rng.beta(8, 1, 60)))
    assert strong.method == "bound" and strong.p_value < 1e-6


def test_trgof_finds_a_marked_share_that_the_sum_dilutes():
    """80 of 1000 pivots near 1."""
    rng = np.random.default_rng(3)
    y = np.where(np.arange(1000) < 80, 1 - 0.003 * rng.random(1000), rng.random(1000) * 0.997)
    assert TrGoFStatistic().p_value(Evidence(y)) < 1e-6


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 25), st.integers(0, 2**31))
def test_more_evidence_never_raises_the_p_value(size, seed):
    """Raising a pivot cannot weaken sum, binomial or weighted pivot (exact and bound)."""
    rng = np.random.default_rng(seed)
    evidence = everything(rng, size)
    more = Evidence(1 - (1 - evidence.y_S) * rng.random(size).clip(1e-3), evidence.prob_S)
    for stat in (SumStatistic(), BinomialStatistic(0.3), WeightedPivotStatistic(method="bound")):
        assert stat.p_value(more) <= stat.p_value(evidence) * (1 + 1e-6)


def test_same_seed_same_p_value():
    evidence = everything(np.random.default_rng(4))
    for name in ("combined", "weighted-pivot", "match", "trgof", "weighted-hits"):
        stat = build(name)
        first = stat.p_value(evidence, np.random.default_rng(1))
        assert first == stat.p_value(evidence, np.random.default_rng(1))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("best", {}, "unknown statistic 'best'"),
        ("combined", {"weights": (0.5, 0.5)}, "a \\+ b < 1"),
        ("combined", {"weights": 0.3}, "pair"),
        ("weighted-pivot", {"weights": (0.3, 0.3)}, "combined"),
        ("match", {"weights": (0.3, 0.3)}, "combined"),
        ("sum", {"weights": (0.3, 0.3)}, "no weights"),
        ("sum", {"truncate": True}, "truncate"),
        ("trgof", {"mixture": True}, "mixture"),
        ("trgof", {"method": "fft"}, "trgof"),
        ("combined", {"mixture": True, "weights": (0.3, 0.3)}, "its own weights"),
        ("combined", {"mixture": True, "truncate": True}, "one pair"),
        ("combined", {"mixture": True, "method": "fft"}, "one pair"),
        ("combined", {"method": "exact"}, "method"),
        ("combined", {"num_null_draws": 0}, "num_null_draws"),
        ("binomial", {"gamma": 1.0}, "gamma"),
        ("weighted-hits", {"weights": 1.0}, "weighted-hits"),
        ("weighted-hits", {"weights": (0.3, 0.3)}, "one number"),
    ],
)
def test_bad_options(name, options, words):
    with pytest.raises(ValueError, match=words):
        make_statistic(name, **options)


def test_law_is_exported_for_simulations():
    law = CombinedStatistic((0.2, 0.2)).law(everything(np.random.default_rng(0)))
    assert isinstance(law, PivotMatchLaw) and law.num_tokens == 30
