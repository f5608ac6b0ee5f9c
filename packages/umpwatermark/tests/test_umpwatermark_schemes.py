"""Every scheme: exact against simulated errors, levels under the null, and known figures."""

import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import binom, gamma

from modicum.core.watermark.bank import TokenBank
from modicum.umpwatermark.profile import EntropyProfile
from modicum.umpwatermark.schemes import (
    SCHEMES,
    BinaryCouplingScheme,
    CannotPlanError,
    CombinedScheme,
    DawaScheme,
    GreenListScheme,
    GumbelHitsScheme,
    GumbelPivotScheme,
    GumbelSumScheme,
    HazardScheme,
    InverseTransformScheme,
    KGWScheme,
    SynthIDScheme,
    UnigramScheme,
    WeightedPivotScheme,
    learned_edges,
    make_schemes,
)
from modicum.umpwatermark.schemes._hits import binomial_threshold, binomial_type2
from modicum.umpwatermark.schemes.combined import CLASS_RATIO, probability_classes

RNG = np.random.default_rng(2)
LAWS = RNG.dirichlet(np.full(8, 0.5), 4)
SURROGATE = 0.6 * LAWS + 0.4 * RNG.dirichlet(np.full(8, 0.5), 4)
MIXED = EntropyProfile.from_laws(LAWS, [0.1, 0.2, 0.3, 0.4])
NOISY = EntropyProfile.from_laws(LAWS, surrogate_BV=SURROGATE)
SPIKE = EntropyProfile.spike(0.02)
LOGPROBS = EntropyProfile.from_logprobs(np.log([0.9, 0.5, 0.99, 0.2, 0.7]))
WIDE = EntropyProfile.from_laws(np.random.default_rng(4).dirichlet(np.full(64, 0.3), 6))

# Probability with which a comparison of a correct figure with a simulation may fail.
CHANCE = 1e-8


@pytest.fixture(scope="module")
def base() -> EntropyProfile:
    return EntropyProfile.from_laws(TokenBank.build("base").target_BV)


@pytest.fixture(scope="module")
def low() -> EntropyProfile:
    return EntropyProfile.from_laws(TokenBank.build("low").target_BV)


def assert_rate(hits: int, trials: int, low: float, high: float) -> None:
    """Fail with probability at most CHANCE if the true rate is in [low, high]."""
    assert binom.cdf(hits, trials, low) > CHANCE / 2, (hits / trials, low)
    assert binom.sf(hits - 1, trials, high) > CHANCE / 2, (hits / trials, high)


# Texts long enough for a test and short enough for misses.
SHORT = {"ump": 3, "sequence_gumbel": 3, "combined": 3, "weighted_pivot": 6}
CASES = [
    *((name, MIXED, SHORT.get(name, 8)) for name in SCHEMES if name not in ("agnostic", "unigram")),
    ("agnostic", EntropyProfile.spike(0.2), 9),
    ("agnostic", EntropyProfile.spike(0.5), 6),
    ("ump", SPIKE, 110),
    ("sequence_gumbel", SPIKE, 100),
    ("unigram", WIDE, 40),
    ("combined", NOISY, 5),
    ("combined", SPIKE, 110),
    ("weighted_pivot", NOISY, 8),
    ("weighted_pivot", LOGPROBS, 25),
    ("dawa", NOISY, 10),
    ("hazard", SPIKE, 228),
    ("gumbel_pivot", LOGPROBS, 40),
    ("gumbel_sum", SPIKE, 900),
    ("inverse_transform", SPIKE, 1200),
    ("synthid", SPIKE, 1500),
    (GreenListScheme(0.3), MIXED, 10),
    (GreenListScheme(0.3, "greedy"), MIXED, 10),
    (KGWScheme(0.25, 1.5, "fixed-size"), MIXED, 30),
    (KGWScheme(0.5, 1.0, "fixed-size"), WIDE, 40),
]


@pytest.mark.parametrize(("scheme", "profile", "n"), CASES)
def test_simulated_power_is_the_computed_one(scheme, profile, n) -> None:
    (scheme,) = make_schemes(scheme)
    alpha, texts = 0.03, 500
    found = scheme.type2(profile, n, alpha)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert 0.02 < found.value < 0.98, "no test at such an error"
    decisions = scheme.simulate(profile, texts, n, alpha, np.random.default_rng(31))
    # A 95 % interval of a Monte-Carlo figure is widened to six standard errors.
    widen = 2.1 if found.method == "mc" else 0.0
    low = found.low - widen * (found.value - found.low)
    high = found.high + widen * (found.high - found.value)
    missed = texts - int(decisions.sum())
    assert_rate(missed, texts, max(low, 0.0), min(high, 1.0))


@pytest.mark.parametrize(("scheme", "profile", "n"), CASES)
def test_level_holds_under_the_null(scheme, profile, n) -> None:
    (scheme,) = make_schemes(scheme)
    alpha, texts = 0.03, 1000
    marked = scheme.simulate(profile, texts, n, alpha, np.random.default_rng(32), null=True)
    assert marked.shape == (texts,)
    assert_rate(int(marked.sum()), texts, 0.0, alpha)


@pytest.mark.parametrize("name", ["gumbel_sum", "gumbel_pivot", "combined", "weighted_pivot"])
def test_continuous_tests_use_up_their_level(name: str) -> None:
    (scheme,) = make_schemes(name)
    marked = scheme.simulate(NOISY, 3000, 12, 0.05, np.random.default_rng(33), null=True)
    assert_rate(int(marked.sum()), 3000, 0.035, 0.05)


@pytest.mark.parametrize(
    ("name", "n"), [("gumbel_sum", 797), ("gumbel_pivot", 664), ("hazard", 815)]
)
def test_tokens_on_a_bank_of_low_entropy(low: EntropyProfile, name: str, n: int) -> None:
    (scheme,) = make_schemes(name)
    found = scheme.type2(low, n, 0.01)
    assert found.value == pytest.approx(0.1, abs=0.001)
    decisions = scheme.simulate(low, 500, n, 0.01, np.random.default_rng(34))
    assert_rate(500 - int(decisions.sum()), 500, found.low, found.high)


# Figures ----------------------------------------------------------------------------------------


def test_hits_of_green_lists(base: EntropyProfile, low: EntropyProfile) -> None:
    def hit(scheme, profile: EntropyProfile) -> float:
        return scheme.hit_rate(profile).value

    assert hit(GumbelHitsScheme(0.1), base) == pytest.approx(0.2533, abs=0.002)
    assert hit(GreenListScheme(0.1), base) == pytest.approx(0.2730, abs=0.002)
    assert hit(GumbelHitsScheme(0.5), base) == pytest.approx(0.6470, abs=0.002)
    assert hit(GreenListScheme(0.5), base) == pytest.approx(0.6788, abs=0.002)
    assert hit(KGWScheme(), base) == pytest.approx(0.6591, abs=0.002)
    for gamma_ in (0.1, 0.5, 0.9):
        optimal = hit(GreenListScheme(gamma_), base)
        assert hit(GreenListScheme(gamma_, "greedy"), base) == pytest.approx(optimal, abs=1e-4)
    expected = {
        (0.1, "base"): (77, 63),
        (0.5, "base"): (150, 98),
        (0.9, "base"): (494, 127),
        (0.95, "low"): (15729, 1372),
    }
    for (gamma_, bank), tokens in expected.items():
        profile = base if bank == "base" else low
        found = [
            scheme(gamma_).tokens_needed(profile, 0.01, 0.1).value
            for scheme in (GumbelHitsScheme, GreenListScheme)
        ]
        assert tuple(found) == tokens
    assert KGWScheme().tokens_needed(base, 0.01, 0.1).value == 125
    assert KGWScheme().tokens_needed(low, 0.01, 0.1).value == 1734
    assert GreenListScheme().tokens_needed(low, 0.01, 0.1).value == 2401


def first_length(scheme, profile: EntropyProfile, n: float, beta: float = 0.1) -> bool:
    """Whether n tokens are enough and n - 1 are not."""
    n = int(n)
    return scheme.type2(profile, n, 0.01).value <= beta < scheme.type2(profile, n - 1, 0.01).value


def within(scheme, profile: EntropyProfile, n: float, beta: float = 0.1) -> bool:
    """Whether the number of tokens needed is within 3 % of n."""
    few, many = (scheme.type2(profile, int(n * share), 0.01).value for share in (0.97, 1.03))
    return many <= beta < few


def test_spike_of_two_per_cent() -> None:
    # With bins that end at delta the test is "no Y below delta": (1 - delta)^n <= alpha.
    assert math.ceil(math.log(0.01) / math.log(0.98)) == 228
    assert HazardScheme().tokens_needed(SPIKE, 0.01, 0.1).value == 228
    assert first_length(HazardScheme(learned_edges()), SPIKE, 240)
    assert within(GumbelPivotScheme(learned_edges()), SPIKE, 1532)
    assert within(GumbelSumScheme(), SPIKE, 2145)
    for scheme, tokens in (
        (GreenListScheme(0.95, "greedy"), 1279),
        (GreenListScheme(), 8139),
        (KGWScheme(), 3166),
    ):
        assert scheme.tokens_needed(SPIKE, 0.01, 0.1).value == tokens


@pytest.mark.parametrize(
    ("name", "h", "n"),
    [("gumbel_sum", 0.3, 462), ("gumbel_sum", 0.1, 3426), ("gumbel_pivot", 0.1, 2468)],
)
def test_gumbel_tokens_on_spikes(name: str, h: float, n: int) -> None:
    assert within(make_schemes(name)[0], EntropyProfile.from_entropy(h), n, 0.01)


@pytest.mark.parametrize(("h", "n"), [(0.3, 514), (0.1, 5023), (0.03, 78391)])
def test_kgw_tokens_on_spikes(h: float, n: int) -> None:
    found = KGWScheme().tokens_needed(EntropyProfile.from_entropy(h), 0.01, 0.01)
    assert found.value == pytest.approx(n, rel=0.01)


def test_base_bank(base: EntropyProfile) -> None:
    expected = {"ump": 13, "gumbel_sum": 46, "gumbel_pivot": 45, "hazard": 54, "dawa": 71}
    for name, tokens in expected.items():
        assert first_length(make_schemes(name)[0], base, tokens), name
    errors = {8: 0.287, 10: 0.180, 12: 0.107, 14: 0.061, 16: 0.0335}
    (ump,) = make_schemes("ump")
    for n, error in errors.items():
        assert ump.type2(base, n, 0.01).value == pytest.approx(error, abs=6e-4)
    # Twelve tokens: the combined test is within .03 of the optimum, and not above it.
    combined = CombinedScheme(num_texts=2000).type2(base, 12, 0.01)
    assert combined.high > 0.107 and combined.low < 0.107 + 0.03


# Parts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "bias"), [(0.5, 2.0), (0.1, 0.3), (0.75, 5.0)])
def test_integral_over_lists_equals_enumeration(share: float, bias: float) -> None:
    hit = np.zeros(4)
    mean = np.zeros_like(LAWS)
    for green in product((0, 1), repeat=8):
        green = np.array(green)
        weight = share ** green.sum() * (1 - share) ** (8 - green.sum())
        tilted = LAWS * np.exp(bias * green)
        tilted /= tilted.sum(axis=1, keepdims=True)
        hit += weight * (tilted @ green)
        mean += weight * tilted
    scheme = KGWScheme(share, bias)
    weights = MIXED.context_weights_B
    assert scheme.hit_rate(MIXED).value == pytest.approx(weights @ hit, abs=1e-9)
    distortion = 0.5 * np.abs(mean - LAWS).sum(axis=1)
    assert scheme.distortion(MIXED) == pytest.approx(weights @ distortion, abs=1e-9)


def test_unigram_distorts_as_lists_do() -> None:
    assert UnigramScheme(0.25, 1.0).distortion(WIDE) == KGWScheme(0.25, 1.0).distortion(WIDE) > 0


def test_fixed_lists_enumerated_and_simulated() -> None:
    # Of two tokens exactly one is green.
    def rate(g: float) -> float:
        return g * math.e**2 / (g * math.e**2 + 1 - g)

    exact = KGWScheme(lists="fixed-size").hit_rate(SPIKE)
    assert exact.stderr == 0
    assert exact.value == pytest.approx((rate(0.02) + rate(0.98)) / 2)
    simulated = KGWScheme(lists="fixed-size").hit_rate(WIDE)
    assert 0 < simulated.stderr < 3e-4
    other = KGWScheme(lists="fixed-size", seed=5).hit_rate(WIDE)
    assert abs(simulated.value - other.value) < 8 * simulated.stderr
    assert KGWScheme().hit_rate(WIDE).value == pytest.approx(simulated.value, abs=0.02)


def test_split_of_the_vocabulary() -> None:
    exact = BinaryCouplingScheme().hit_rate(MIXED)
    total = 0.0
    for side in product((0, 1), repeat=8):
        total += MIXED.context_weights_B @ (1 - np.abs(LAWS @ np.array(side) - 0.5)) / 256
    assert exact.value == pytest.approx(total)
    assert BinaryCouplingScheme().hit_rate(WIDE).stderr > 0


def test_binomial_test_is_exact() -> None:
    n = np.arange(1, 200)
    for share, alpha in ((0.5, 0.01), (0.05, 1e-6), (0.95, 0.2)):
        threshold = binomial_threshold(n, share, alpha)
        assert np.all(binom.sf(threshold - 1, n, share) <= alpha)
        assert np.all(binom.sf(threshold - 2, n, share) > alpha)
        error = binomial_type2(n, share, 0.97, alpha)
        assert np.allclose(error, binom.cdf(threshold - 1, n, 0.97), atol=1e-13)


def test_least_number_of_tokens_of_a_saw() -> None:
    scheme = GreenListScheme(0.5)
    found = scheme.tokens_needed(MIXED, 0.01, 0.1).value
    errors = [scheme.type2(MIXED, n, 0.01).value for n in range(1, int(found) + 1)]
    assert errors[-1] <= 0.1 < min(errors[:-1])


def test_threshold_of_the_sum_is_gamma() -> None:
    value, low, high = GumbelSumScheme()._threshold(MIXED, 12, 1e-4)
    assert value == low == high == pytest.approx(gamma.isf(1e-4, 12))


def test_classes_are_rounded_up() -> None:
    prob = np.concatenate([np.geomspace(1e-9, 0.9, 400), 1 - np.geomspace(0.1, 1e-12, 200), [1.0]])
    classes, index = probability_classes(prob)
    rounded = classes[index]
    floored = np.maximum(prob, 1e-6)
    assert np.all(rounded >= floored) and rounded.max() == 1
    assert np.all(rounded <= floored * CLASS_RATIO * (1 + 1e-9))
    near = (prob > 0.5) & (prob < 1 - 1e-8)
    assert np.all((1 - rounded[near]) * CLASS_RATIO >= (1 - floored[near]) * (1 - 1e-6))
    middle = RNG.random(5000)
    assert len(probability_classes(middle)[0]) < 500


@pytest.mark.parametrize("weights", [(0.3, 0.3), (0.7, 0.0), (0.0, 0.7), (0.1, 0.8)])
@pytest.mark.parametrize("prob", [1e-6, 0.03, 0.5, 0.9999, 1.0])
def test_null_masses_of_a_class(weights: tuple[float, float], prob: float) -> None:
    scheme = CombinedScheme(weights)
    step, first = scheme._lattice(10)
    masses = scheme._null_masses(prob, step, first)
    assert masses.sum() == pytest.approx(1)
    # E exp(score) = 1 under the null, up to the rounding of scores to the lattice.
    values = (first + np.arange(len(masses))) * step
    assert masses @ np.exp(values) == pytest.approx(1, abs=step)
    rng = np.random.default_rng(9)
    log_y = -rng.standard_exponential(20_000)
    match = rng.random(20_000) < np.exp((1 / prob - 1) * log_y)
    score = scheme._lattice_scores(np.full(20_000, prob), log_y, match, step, first)
    assert score.min() >= 0 and score.max() < len(masses)
    for at in (len(masses) // 8, len(masses) // 2):
        assert_rate(int((score >= at).sum()), 20_000, masses[at:].sum(), masses[at:].sum())


def test_evidence_of_the_pivot(base: EntropyProfile, low: EntropyProfile) -> None:
    assert GumbelPivotScheme().evidence(base) == pytest.approx(0.175, abs=0.002)
    assert GumbelPivotScheme().evidence(low) == pytest.approx(0.0108, abs=0.0002)


def test_what_a_profile_cannot_tell() -> None:
    for name in ("kgw", "unigram", "hazard", "greenlist", "synthid", "inverse_transform"):
        (scheme,) = make_schemes(name)
        assert scheme.needs_laws
        with pytest.raises(CannotPlanError, match="laws"):
            scheme.type2(LOGPROBS, 10, 0.01)
    with pytest.raises(CannotPlanError, match="distinct"):
        UnigramScheme().tokens_needed(SPIKE, 0.01, 0.1)
    with pytest.raises(CannotPlanError, match="whole number"):
        UnigramScheme(gamma=0.3).tokens_needed(WIDE, 0.01, 0.1)
    with pytest.raises(CannotPlanError, match="simulated tokens"):
        CombinedScheme(num_texts=2).type2(SPIKE, 30_000, 0.01)
    with pytest.raises(CannotPlanError, match="two-token"):
        make_schemes("agnostic")[0].simulate(MIXED, 5, 5, 0.1, np.random.default_rng(0))


def test_text_without_entropy_never_carries_a_mark() -> None:
    sure = EntropyProfile.from_laws([1.0, 0.0])
    for scheme in make_schemes(["ump", "kgw", "gumbel_sum"]):
        assert scheme.tokens_needed(sure, 0.01, 0.1).value == math.inf


def test_same_seed_same_decisions() -> None:
    for name in ("combined", "kgw", "hazard"):
        (scheme,) = make_schemes(name)
        first, second = (
            scheme.simulate(MIXED, 50, 10, 0.05, np.random.default_rng(7)) for _ in range(2)
        )
        assert np.array_equal(first, second)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: GreenListScheme(0.0), "gamma"),
        (lambda: GreenListScheme(0.5, "best"), "coupling"),
        (lambda: GumbelHitsScheme(1.0), "gamma"),
        (lambda: KGWScheme(1.5), "gamma"),
        (lambda: KGWScheme(0.5, 0.0), "delta"),
        (lambda: KGWScheme(0.5, 2.0, "some"), "lists"),
        (lambda: UnigramScheme(0.5, math.inf), "delta"),
        (lambda: DawaScheme(0.0), "gamma"),
        (lambda: SynthIDScheme(0), "depth"),
        (lambda: CombinedScheme((0.5, 0.5)), "weights"),
        (lambda: CombinedScheme((-0.1, 0.5)), "weights"),
        (lambda: WeightedPivotScheme(0.0), "weights"),
        (lambda: make_schemes("aaronson"), "schemes must be"),
        (lambda: make_schemes([]), "no scheme"),
        (lambda: InverseTransformScheme().type2(MIXED, 0, 0.1), "num_tokens"),
        (lambda: InverseTransformScheme().type2(MIXED, 3, 1.1), "alpha"),
        (
            lambda: make_schemes("ump")[0].simulate(MIXED, 0, 3, 0.1, np.random.default_rng(0)),
            "num_texts",
        ),
    ],
)
def test_bad_arguments(make, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


def test_tests_with_a_model_do_not_overflow_on_long_texts_of_low_entropy():
    # Every warning is an error here, and a NaN would count as a miss.
    profile = EntropyProfile.from_entropy(0.02)
    for name in ("combined", "weighted_pivot"):
        scheme = make_schemes(name)[0]
        decided = scheme.simulate(profile, 40, 2500, 0.01, np.random.default_rng(0))
        assert decided.mean() > 0.7
