"""Whole texts of independent tokens: closed sums, FFT brackets and searches against enumeration."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.core.stats import log_log_slope
from modicum.umpwatermark._sums import AtomLaw, CdfLaw, sum_law
from modicum.umpwatermark.iid import (
    agnostic_acceptance,
    agnostic_error,
    least_tokens,
    lower_bound_error,
    n_ump,
    sequence_gumbel_error,
    spike_delta,
    ump_error,
    ump_error_estimate,
)
from modicum.umpwatermark.profile import EntropyProfile, binary_entropy
from modicum.umpwatermark.theory import agnostic_type2, seq_gumbel_type2, ump_type2

LAW = np.array([0.55, 0.3, 0.15])


def _texts(law: np.ndarray, n: int) -> np.ndarray:
    return np.array([np.prod(p) for p in product(law, repeat=n)])


@pytest.mark.parametrize(
    ("alpha", "beta", "h", "ump", "agnostic", "gumbel"),
    [
        (1e-2, 1e-2, 0.1, 189, 189, 195),
        (1e-2, 1e-2, 0.01, 2986, 2986, 3081),
        (1e-2, 1e-2, 0.001, 40032, 40032, 41302),
        (1e-6, 1e-2, 0.1, 320, 320, 334),
        (1e-6, 1e-2, 0.01, 4726, 4727, 4775),
        (1e-6, 1e-2, 0.001, 47124, 47129, 53214),
        (1e-2, 1e-6, 0.1, 223, 223, 318),
        (1e-2, 1e-6, 0.001, 47124, 47124, 67325),
        (1e-6, 1e-6, 0.01, 10016, 10016, 10112),
    ],
)
def test_tokens_of_spikes(
    alpha: float, beta: float, h: float, ump: int, agnostic: int, gumbel: int
) -> None:
    found = n_ump(h, alpha, beta)
    assert found.tokens == found.low == found.high == ump
    profile = EntropyProfile.from_entropy(h)
    for error, expected in ((agnostic_error, agnostic), (sequence_gumbel_error, gumbel)):
        assert error(profile, expected, alpha).value <= beta
        assert error(profile, expected - 1, alpha).value > beta


def test_slope_of_the_optimum_in_the_entropy() -> None:
    h = np.array([0.3, 0.1, 0.03, 0.01])
    n = [n_ump(x, 0.01, 0.01).tokens for x in h]
    assert n == [43, 189, 827, 2986]
    assert log_log_slope(h, n).slope == pytest.approx(-1.24, abs=0.03)


@pytest.mark.parametrize("alpha", [0.3, 0.04, 0.001])
@pytest.mark.parametrize("delta", [0.2, 0.5, 0.03])
def test_closed_sums_equal_enumeration(alpha: float, delta: float) -> None:
    n = 9
    texts = _texts(np.array([1 - delta, delta]), n)
    profile = EntropyProfile.spike(delta)
    assert ump_error(profile, n, alpha).value == pytest.approx(ump_type2(texts, alpha), abs=1e-13)
    assert agnostic_error(profile, n, alpha).value == pytest.approx(
        agnostic_type2(texts, alpha), abs=1e-13
    )
    assert sequence_gumbel_error(profile, n, alpha).value == pytest.approx(
        seq_gumbel_type2(texts, alpha), abs=1e-13
    )


@pytest.mark.parametrize("alpha", [0.2, 0.01, 0.0007])
def test_fft_brackets_enumeration(alpha: float) -> None:
    n = 7
    texts = _texts(LAW, n)
    profile = EntropyProfile.from_laws(LAW)
    for found, exact in (
        (ump_error(profile, n, alpha), ump_type2(texts, alpha)),
        (agnostic_error(profile, n, alpha), agnostic_type2(texts, alpha)),
        (sequence_gumbel_error(profile, n, alpha), seq_gumbel_type2(texts, alpha)),
    ):
        assert found.low <= exact <= found.high
        assert found.value == pytest.approx(exact, abs=3e-4)
        assert found.high - found.low < 3e-3


def test_fft_brackets_a_mixture_of_laws() -> None:
    other = np.array([0.9, 0.02, 0.08])
    profile = EntropyProfile.from_laws([LAW, other], [0.25, 0.75])
    exact = gumbel = agnostic = 0.0
    for choice in product((0, 1), repeat=5):
        rows = [(LAW, other)[c] for c in choice]
        rho = np.array([math.prod(p) for p in product(*rows)])
        weight = math.prod((0.25, 0.75)[c] for c in choice)
        exact += weight * ump_type2(rho, 0.05)
        gumbel += weight * seq_gumbel_type2(rho, 0.05)
        agnostic += weight * agnostic_type2(rho, 0.05)
    found = ump_error(profile, 5, 0.05)
    assert found.low <= exact <= found.high
    assert found.value == pytest.approx(exact, abs=3e-4)
    assert sequence_gumbel_error(profile, 5, 0.05).value == pytest.approx(gumbel, abs=3e-4)
    limits = agnostic_error(profile, 5, 0.05)
    assert limits.low <= agnostic <= limits.high


@pytest.mark.parametrize("n", [1, 17, 400, 20_000])
def test_fft_brackets_closed_sum_at_all_lengths(n: int) -> None:
    delta = 4.0 / (n + 7)
    profile = EntropyProfile.spike(delta)
    closed = ump_error(profile, n, 0.01).value
    law = sum_law(profile.surprisal, n)
    found = law.expect_falling(lambda s: -np.expm1(np.minimum(s + math.log(0.01), 0)))
    assert found.low <= closed <= found.high
    assert found.high - found.low < 0.02


@settings(max_examples=40, deadline=None)
@given(
    delta=st.floats(0.001, 0.5),
    alpha=st.floats(1e-8, 0.5),
    n=st.integers(1, 300),
)
def test_order_of_bounds(delta: float, alpha: float, n: int) -> None:
    profile = EntropyProfile.spike(delta)
    ump = ump_error(profile, n, alpha).value
    agnostic = agnostic_error(profile, n, alpha).value
    gumbel = sequence_gumbel_error(profile, n, alpha).value
    slack = 1e-10
    assert lower_bound_error(profile, n, alpha) <= ump + slack
    assert ump <= ump_error_estimate(profile, n, alpha, "chernoff") + slack
    assert ump <= agnostic + slack and agnostic <= gumbel + slack
    assert gumbel - ump <= (1 - alpha) ** (1 / alpha) + slack
    # More tokens cannot hurt.
    assert ump_error(profile, n + 1, alpha).value <= ump + slack


def test_acceptance_adds_up_to_the_power() -> None:
    for delta, n, alpha in ((0.1, 20, 0.02), (0.5, 5, 0.02), (0.3, 12, 0.3)):
        accepted = agnostic_acceptance(delta, n, alpha)
        k = np.arange(n + 1)
        mass = np.array([math.comb(n, int(i)) for i in k]) * delta**k * (1 - delta) ** (n - k)
        error = agnostic_error(EntropyProfile.spike(delta), n, alpha).value
        assert mass @ accepted == pytest.approx(1 - error, abs=1e-10)


def test_planners_by_large_deviations() -> None:
    rng = np.random.default_rng(5)
    profile = EntropyProfile.from_laws(rng.dirichlet(np.full(30, 0.15), 40))
    for alpha, beta in ((1e-2, 0.05), (1e-9, 1e-3)):
        exact = n_ump(profile, alpha, beta)
        assert exact.low <= exact.tokens <= exact.high <= exact.low + 1
        assert n_ump(profile, alpha, beta, "chernoff").tokens >= exact.tokens
        assert n_ump(profile, alpha, beta, "lower-bound").tokens <= exact.tokens
        rao = n_ump(profile, alpha, beta, "bahadur-rao")
        assert abs(rao.tokens - exact.tokens) <= 0.05 * exact.tokens + 1
        assert rao.status == "approximation"
        assert abs(n_ump(profile, alpha, beta, "normal").tokens - exact.tokens) < exact.tokens / 2


def test_estimate_at_the_ends() -> None:
    # 20 fair coins have 13.9 nats each time: enough for alpha = 1e-6 or never.
    fair = EntropyProfile.spike(0.5)
    assert ump_error_estimate(fair, 19, 1e-6) == 1.0
    assert ump_error_estimate(fair, 21, 1e-6) == 0.0
    assert n_ump(EntropyProfile.from_laws([1.0, 0.0]), 0.01, 0.1).tokens == math.inf


@settings(max_examples=200, deadline=None)
@given(
    answer=st.integers(1, 5000), start=st.integers(-3, 6000), resolution=st.sampled_from([0, 0.05])
)
def test_least_tokens_finds_the_threshold(answer: int, start: int, resolution: float) -> None:
    found = least_tokens(lambda n: n >= answer, start=start, max_tokens=4000, resolution=resolution)
    if answer > 4000:
        assert found == math.inf
    else:
        assert answer <= found <= answer + max(0, resolution * found)


@given(st.floats(1e-6, math.log(2)))
def test_spike_delta_inverts_the_entropy(h: float) -> None:
    delta = spike_delta(h)
    assert 0 < delta <= 0.5
    assert binary_entropy(delta) == pytest.approx(h, rel=1e-9)


@pytest.mark.parametrize("h", [0.7, 1.0986, 1.1, 3.0])
def test_spike_of_more_than_one_bit(h: float) -> None:
    profile = EntropyProfile.from_entropy(h)
    assert profile.entropy == pytest.approx(h, rel=1e-9)
    assert profile.vocab_size is not None and profile.vocab_size - 1 < math.exp(h) * (1 + 1e-9)


def test_sum_laws_bracket_known_laws() -> None:
    from scipy.stats import binom, gamma, uniform

    coin = AtomLaw(np.array([0.0, 2.5]), np.array([0.7, 0.3]), unit=2.5)
    law = sum_law(coin, 50)
    assert law.slack == 0
    assert law.below(2.5 * 14).value == pytest.approx(binom.cdf(13, 50, 0.3), abs=1e-11)
    assert law.at_least(2.5 * 14).value == pytest.approx(binom.sf(13, 50, 0.3), abs=1e-11)
    value, low, high = law.threshold(0.01)
    assert value == low == high == 2.5 * (binom.isf(0.01, 50, 0.3) + 1)
    exponential = CdfLaw(lambda s: -np.expm1(-s), 1.0, 1.0, 0.0, 40.0)
    for n in (3, 60, 6000):
        law = sum_law(exponential, n)
        for alpha in (0.2, 1e-3, 1e-6):
            exact = gamma.isf(alpha, n)
            value, low, high = law.threshold(alpha)
            assert low <= exact <= high
            assert value == pytest.approx(exact, rel=2e-4)
            found = law.at_least(exact)
            assert found.low <= alpha <= found.high
            below = law.below(exact)
            assert below.low <= 1 - alpha <= below.high
            assert law.below_many(np.array([exact]))[0] == pytest.approx(1 - alpha, abs=1e-3)
    one = sum_law(AtomLaw(np.array([2.0]), np.ones(1)), 3)
    assert one.below(6.1).value == 1 and one.below(5.9).value == 0
    even = sum_law(CdfLaw(lambda s: np.clip(s, 0, 1), 0.5, 1 / 12, 0.0, 1.0), 1)
    assert even.below(0.3).value == pytest.approx(uniform.cdf(0.3), abs=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -1.0, math.nan])
def test_bad_levels(alpha: float) -> None:
    profile = EntropyProfile.spike(0.1)
    with pytest.raises(ValueError, match="alpha"):
        ump_error(profile, 3, alpha)
    with pytest.raises(ValueError, match="beta"):
        n_ump(profile, 0.01, alpha)


def test_bad_arguments() -> None:
    profile = EntropyProfile.spike(0.1)
    for n in (0, 2.5, -1, True):
        with pytest.raises(ValueError, match="num_tokens"):
            ump_error(profile, n, 0.1)
    with pytest.raises(ValueError, match="method"):
        n_ump(profile, 0.01, 0.1, "guess")
    with pytest.raises(ValueError, match="method"):
        ump_error_estimate(profile, 5, 0.1, "guess")
    for h in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="entropy"):
            spike_delta(h)
