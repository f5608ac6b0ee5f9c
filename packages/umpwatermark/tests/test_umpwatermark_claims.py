"""The package's claims at sizes that run in CI, and what the experiments compute them with.

Comparisons with simulations take six standard errors (probability below 2e-9 each) or an exact
binomial tail below 1e-8; a valid test or a right formula fails all of them together with
probability below 1e-6. Seeds are fixed.
"""

import itertools
import math

import numpy as np
import pytest

from modicum.umpwatermark.evidence import Evidence
from modicum.umpwatermark.experiments import (
    couplings,
    detector_power,
    robust_optimum,
    tokens_against_entropy,
    validity,
)
from modicum.umpwatermark.experiments.bank_texts import bank_profile, draw_marked, prefix_p_values
from modicum.umpwatermark.experiments.spike_tests import (
    SpikeHazardScheme,
    SpikeTest,
    oracle_type2,
)
from modicum.umpwatermark.iid import ump_error
from modicum.umpwatermark.prefixes import length_reaching
from modicum.umpwatermark.prefixes import prefix_p_values as text_p_values
from modicum.umpwatermark.profile import EntropyProfile, spike_delta
from modicum.umpwatermark.samplers.gumbel import gumbel_argmax
from modicum.umpwatermark.samplers.hazard import hazard_choice
from modicum.umpwatermark.schemes import Type2
from modicum.umpwatermark.statistics import make_statistic

SIX = 6.0


def _near(share: float, expected: float, n: int) -> bool:
    return abs(share - expected) <= SIX * math.sqrt(expected * (1 - expected) / n) + 1e-12


# Texts without a race, and p-values of prefixes ---------------------------------------------------


def test_marked_texts_have_the_law_of_a_race_under_two_laws():
    rng = np.random.default_rng(1)
    laws = rng.dirichlet(np.full(12, 0.6), 3)
    other = rng.dirichlet(np.full(12, 0.6), 3)
    profile = EntropyProfile.from_laws(laws, surrogate_BV=other)
    n = 60_000
    context = rng.integers(0, 3, n)
    u = rng.random((n, 12))
    token = gumbel_argmax(np.log(laws[context]), u)
    raced_match = gumbel_argmax(np.log(other[context]), u) == token
    raced_y = u[np.arange(n), token]
    texts = draw_marked(profile, n // 60, 60, rng)
    for raced, drawn in (
        (raced_match, texts.match_RT.ravel()),
        (raced_y > 0.9, (texts.y_RT > 0.9).ravel()),
        (raced_match & (raced_y > 0.7), (texts.match_RT & (texts.y_RT > 0.7)).ravel()),
        (other[context, token] > 0.1, (texts.prob_RT > 0.1).ravel()),
    ):
        spread = math.sqrt(2 * 0.25 / n)
        assert abs(raced.mean() - drawn.mean()) < SIX * spread
    assert np.all(draw_marked(EntropyProfile.from_laws(laws), 5, 20, rng).match_RT)


def test_prefix_p_values_are_valid_and_those_of_the_statistic():
    rng = np.random.default_rng(2)
    n, weights = 1500, ((0.3, 0.3), (0.7, 0.0), (0.0, 0.7))
    prob = rng.uniform(0.05, 0.95, 25)
    called = {(pair, at): 0 for pair in weights for at in (4, 24)}
    for _ in range(n):
        y = rng.random(25)
        match = rng.random(25) < y ** (1 / prob - 1)
        p = text_p_values(Evidence(y, prob, match), weights, 99, rng)
        for pair, at in called:
            called[pair, at] += p[pair][at] <= 0.05
    for count in called.values():
        assert validity.tail_probability(count, n, 0.05) > 1e-8
    # One draw of the whole: equal to the statistic up to the noise of two Monte-Carlo p-values.
    evidence = Evidence(np.sort(rng.random(25)) ** 0.6, prob, rng.random(25) < 0.7)
    for name, pair in (("combined", weights[0]), ("weighted-pivot", weights[1])):
        statistic = make_statistic(name, method="mc", num_null_draws=20_000)
        whole = text_p_values(evidence, [pair], 20_000, rng, [25])[pair][0]
        other = statistic.p_value(evidence, rng)
        assert abs(whole - other) < SIX * math.sqrt(2 * other / 20_000) + 1e-4
    assert text_p_values(Evidence.empty(), weights, 9, rng, [1])[weights[0]].tolist() == [1.0]
    with pytest.raises(ValueError, match="lengths must lie in"):
        text_p_values(evidence, weights, 9, rng, [26])


def test_length_reaching_interpolates_and_brackets():
    lengths, counts = [10, 20, 30, 40], [0, 50, 100, 200]
    n, (low, high) = length_reaching(lengths, counts, 200, 0.5)
    assert n == 30 and low < 30 < high
    assert length_reaching(lengths, counts, 200, 0.375)[0] == pytest.approx(25)
    assert length_reaching(lengths, [0, 0, 0, 1], 200)[0] == math.inf
    # Noise that falls is pooled.
    assert length_reaching(lengths, [0, 120, 80, 200], 200, 0.5)[0] == 20


# Tokens against entropy ---------------------------------------------------------------------------


def test_optima_on_spikes_to_the_token():
    rows, agree, total = tokens_against_entropy.known_table()
    assert agree == total == 27
    assert all(1 <= row[6] <= 3 and row[7] > 0.999 and row[8] < 1.5 for row in rows)


def test_exponents_and_the_gap_that_grows():
    from modicum.core.stats import log_log_slope

    h = tokens_against_entropy.FIT
    n = {"ump": [], "kgw": [], "hazard": [], "combined": []}
    known: dict[str, dict[float, dict]] = {name: {} for name in n}
    for entropy, (name, row) in itertools.product(h, n.items()):
        profile = tokens_against_entropy.profile_of("spike", entropy)
        found = tokens_against_entropy.measure("spike", name, entropy, known[name], profile, 0.005)
        known[name][entropy] = found
        row.append(found["tokens"])
    assert n["ump"] == [43, 189, 827, 2986]
    assert n["hazard"][0] == 127
    slope = {name: log_log_slope(h, row).slope for name, row in n.items()}
    assert slope["ump"] == pytest.approx(-1.24, abs=0.03)
    assert slope["kgw"] == pytest.approx(-2.23, abs=0.05)
    assert slope["combined"] == pytest.approx(slope["ump"], abs=0.03)
    assert -1.15 < slope["hazard"] < -0.85
    ratio = np.array(n["kgw"]) / np.array(n["ump"])
    assert ratio[0] == pytest.approx(12, abs=0.5) and ratio[3] == pytest.approx(327, abs=5)
    # Never below the optimum, and at most three per cent above.
    assert all(1 <= ours / best <= 1.03 for ours, best in zip(n["combined"], n["ump"], strict=True))


def test_least_length_suffices_and_is_least():
    calls = []

    def error(n: int) -> Type2:
        calls.append(n)
        beta = math.exp(-n / 100)
        return Type2(beta, beta / 1.1, beta * 1.1, "mc")

    for start in (1, 30, 461, 5000):
        calls.clear()
        found = tokens_against_entropy.least_length(error, start, 0.0)
        assert found["tokens"] == 461  # 100 ln 100 = 460.5
        assert found["low"] < 461 < found["high"] and len(set(calls)) == found["errors"] < 40
    assert tokens_against_entropy.least_length(error, 10, 0.05)["tokens"] <= 461 * 1.06
    never = tokens_against_entropy.least_length(lambda n: Type2(0.5, 0.5, 0.5, "exact"), 5, 0.1)
    assert never["tokens"] == math.inf and never["low"] == 1e7
    always = tokens_against_entropy.least_length(lambda n: Type2(0, 0, 0, "exact"), 50, 0.0)
    assert always["tokens"] == 1


@pytest.mark.parametrize("entropy", [1e-3, 0.1, 3.0])
def test_zipf_laws_have_their_entropy(entropy):
    profile = tokens_against_entropy.zipf_profile(entropy)
    assert profile.entropy == pytest.approx(entropy, rel=1e-6)


@pytest.mark.parametrize("weights", [(0.3, 0.3), (0.7, 0.0)])
def test_lattice_test_on_spikes_against_simulation(weights):
    delta, n, texts = 0.12, 40, 1500
    profile = EntropyProfile.spike(delta)
    rng = np.random.default_rng(3)
    p = prefix_p_values(draw_marked(profile, texts, n, rng), [weights], 499, rng, at=[n])[weights]
    exact = SpikeTest(delta, weights).type2(n, 0.02)
    # The lattice moves the threshold by less than 1/128 nat, the Monte-Carlo p-value a little too.
    assert abs((p > 0.02).mean() - exact) < SIX * math.sqrt(exact / texts) + 0.01
    assert exact >= ump_error(profile, n, 0.02).value - 1e-4


def test_lattice_test_is_never_below_the_optimum_and_refuses_bad_laws():
    for h, n in ((0.3, 45), (0.01, 3300)):
        delta = spike_delta(h)
        optimum = ump_error(EntropyProfile.spike(delta), n, 0.01).value
        beta = SpikeTest(delta, (0.3, 0.3)).type2(n, 0.01)
        assert optimum - 1e-6 <= beta <= 1.3 * optimum
        # Without its coin the optimal test misses more.
        assert oracle_type2(delta, n, 0.01) > optimum
    with pytest.raises(ValueError, match="delta must lie in"):
        SpikeTest(0.6, (0.3, 0.3))
    with pytest.raises(ValueError, match="weights"):
        SpikeTest(0.1, (0.9, 0.3))


def test_oracle_on_spikes_by_enumeration():
    delta, n, alpha = 0.3, 8, 0.05
    beta = 0.0
    for text in itertools.product((0, 1), repeat=n):
        rho = math.prod(delta if x else 1 - delta for x in text)
        beta += rho * (rho > alpha)
    assert oracle_type2(delta, n, alpha) == pytest.approx(beta, abs=1e-7)


def test_hazard_on_spikes_against_its_sampler():
    delta, n, texts, alpha = 0.2, 30, 4000, 0.05
    scheme, profile = SpikeHazardScheme(delta), EntropyProfile.spike(delta)
    rng = np.random.default_rng(4)
    u = rng.random((texts * n, 2))
    token = hazard_choice(np.tile([1 - delta, delta], (texts * n, 1)), u)
    assert _near(token.mean(), delta, texts * n)
    above = (u[np.arange(texts * n), token] > delta).reshape(texts, n)
    assert _near(above.mean(), 1 - delta**2, texts * n)
    drawn = scheme.simulate(profile, texts, n, alpha, rng)
    exact = scheme.type2(profile, n, alpha).value
    assert _near(1 - drawn.mean(), exact, texts)
    assert scheme.simulate(profile, texts, n, alpha, rng, null=True).mean() <= 0.05 + 0.03


# Power, levels, couplings, edits ------------------------------------------------------------------


def test_combined_stays_just_below_the_optimum_on_the_same_texts():
    case = next(c for c in detector_power.CASES if c.name == "base-exact")
    outcome = detector_power.measure(case, quick=True, seed=5, num_texts=250)
    at = [outcome.lengths.index(n) for n in (12, 13, 15)]
    gap, error = outcome.gap[detector_power.UMP], outcome.gap_error[detector_power.UMP]
    assert np.all(gap[at] > -0.03 - SIX * error[at])
    assert np.all(gap < SIX * error + 1e-9)
    share, low, high = outcome.power("combined 0.3/0.3", 15)
    assert low < share < high
    # 0.95 against 0.45 with errors of 0.015 and 0.03.
    assert share > outcome.power(detector_power.SUM, 15)[0] + 0.25
    low_entropy = bank_profile("low", "exact")
    assert low_entropy.entropy == pytest.approx(0.1647, abs=1e-4)
    assert bank_profile("base", "noise 1").entropy == pytest.approx(0.8254, abs=1e-4)


def test_no_test_exceeds_its_level_and_the_contrast_has_teeth():
    kinds = {null.name: null for null in validity.nulls(40)}
    by_sampler = validity.tests(99)
    for name, null in kinds.items():
        p = validity.p_values(null, by_sampler, 20, np.random.default_rng([6, len(name)]))
        assert len(p) == 17
        for values in p.values():
            for level in (0.1, 0.05):
                count = int((values <= level).sum())
                assert validity.tail_probability(count, 20, level) > 1e-9
    gumbel = {"gumbel": [("sum", make_statistic("sum"))]}
    repeated = validity.p_values(
        kinds["template"], gumbel, 200, np.random.default_rng(7), deduplicate=False
    )["sum"]
    # About a fifth of the keys at level 0.01.
    assert validity.tail_probability(int((repeated <= 0.01).sum()), 200, 0.01) < 1e-8


def test_couplings_by_enumeration_and_the_minimax_price():
    worst = couplings.enumerated(12, np.random.default_rng(8))
    assert max(worst.values()) < 1e-12
    rows = couplings.search_price(40, np.random.default_rng(9))
    for N, k, price, _, found, uniform, _, gumbel, limit in rows:
        assert found <= price + 1e-12 and gumbel <= limit + 1e-12 < math.exp(-1)
        assert uniform == pytest.approx(price, abs=1e-12)
        assert price == pytest.approx(math.comb(N - N // k, k) / math.comb(N, k), rel=1e-12)


def test_robust_programs_against_all_joint_laws():
    worst = robust_optimum.agreement(6, np.random.default_rng(10))
    assert max(worst.values()) < 1e-9
    path = [{0, 1}, {0, 1, 2}, {1, 2, 3}, {2, 3}]
    rho = np.array([0.4, 0.3, 0.2, 0.1])
    for alpha, beta in ((0.1, 0.8), (0.2, 0.7), (0.3, 0.6), (0.5, 0.4)):
        assert robust_optimum.exhaustive_type2(rho, path, alpha) == pytest.approx(beta, abs=1e-9)


def test_attacker_with_the_key_does_more_harm():
    # With four tokens of context and four edits of 100 tokens: about 0.03 and 0.57 missed.
    scheme = robust_optimum.TokenScheme(100, 4)
    rng = np.random.default_rng(11)
    random, chosen = (60 - scheme.detected(60, 4, kind, rng) for kind in (False, True))
    assert random < 15 < 20 < chosen
    assert scheme.detected(40, 0, False, rng) >= 38
    u = rng.random((100, 2))
    x = (np.log(u) / scheme.law).argmax(axis=1)
    places = scheme.attack(x, u, 6)
    assert len(set(places.tolist())) == 6
