"""Entropy profiles: what is derived from laws, and what is refused."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from modicum.core.watermark.bank import TokenBank
from modicum.umpwatermark.profile import EntropyProfile

RNG = np.random.default_rng(11)
LAWS = RNG.dirichlet(np.full(7, 0.4), 3)
SURROGATE = RNG.dirichlet(np.full(7, 0.6), 3)


def test_entropy_is_that_of_the_laws() -> None:
    weights = np.array([0.2, 0.5, 0.3])
    profile = EntropyProfile.from_laws(LAWS, weights)
    exact = -(LAWS * np.log(LAWS)).sum(axis=1) @ weights
    assert profile.entropy == pytest.approx(exact)
    assert profile.weights_A.sum() == pytest.approx(1)
    assert not profile.is_single_law and profile.has_exact_surrogate and profile.spike_mass is None
    bank = TokenBank.build("low")
    assert EntropyProfile.from_laws(bank.target_BV).entropy == pytest.approx(0.1647, abs=5e-4)


def test_pooling_keeps_mass_and_mean() -> None:
    bank = TokenBank.build("base", num_contexts=400)
    profile = EntropyProfile.from_laws(bank.target_BV)
    weights, prob = profile.pooled
    assert 3 * len(prob) < len(profile.prob_A)
    assert weights.sum() == pytest.approx(1)
    assert weights @ prob == pytest.approx(profile.weights_A @ profile.prob_A)
    assert weights @ np.log(prob) == pytest.approx(-profile.entropy, rel=1e-6)
    few = EntropyProfile.from_laws(LAWS)
    assert np.array_equal(few.pooled[1], np.unique(few.prob_A))


def test_log_probabilities_of_a_sample() -> None:
    logprobs = np.log([0.5, 0.25, 0.5, 1.0])
    profile = EntropyProfile.from_logprobs(logprobs)
    assert profile.entropy == pytest.approx(-logprobs.mean())
    assert profile.laws_BV is None and profile.vocab_size is None
    assert list(profile.prob_A) == [0.25, 0.5, 1.0]
    with pytest.raises(ValueError, match="no laws"):
        profile.draw_contexts(np.random.default_rng(0), 3)
    assert EntropyProfile.from_logprobs([1e-9, -1.0]).prob_A.max() == 1


def test_named_families() -> None:
    assert EntropyProfile.spike(0.2).spike_mass == pytest.approx(0.2)
    assert EntropyProfile.from_laws([0.8, 0.0, 0.2]).spike_mass == pytest.approx(0.2)
    assert EntropyProfile.zipf(0.0, 8).entropy == pytest.approx(math.log(8))
    assert EntropyProfile.zipf(1.2, 50).prob_A[1] == pytest.approx(
        2**-1.2 * EntropyProfile.zipf(1.2, 50).prob_A[0]
    )
    assert "spike reference" in EntropyProfile.from_entropy(0.2).label


def test_surprisal_law_rounds_down() -> None:
    values, mass = EntropyProfile.from_laws(LAWS).surprisal_law(0.01)
    profile = EntropyProfile.from_laws(LAWS)
    assert mass.sum() == pytest.approx(1)
    assert profile.entropy - 0.01 <= values @ mass <= profile.entropy
    with pytest.raises(ValueError, match="step"):
        profile.surprisal_law(0)


def test_matches_of_a_surrogate_follow_the_closed_form() -> None:
    # Race the same uniforms under both laws; every frequency fails with probability below 1e-8.
    profile = EntropyProfile.from_laws(LAWS, surrogate_BV=SURROGATE)
    mismatch = profile.mismatch_A.reshape(3, 7)
    rng = np.random.default_rng(3)
    for q, s, d in zip(LAWS, SURROGATE, mismatch, strict=True):
        exponential = rng.standard_exponential((60_000, 7))
        winner, other = (exponential / q).argmin(axis=1), (exponential / s).argmin(axis=1)
        for token in range(7):
            won = winner == token
            matched = int((other[won] == token).sum())
            exact = 1 / (1 + d[token])
            assert binom.cdf(matched, won.sum(), exact) > 1e-9
            assert binom.sf(matched - 1, won.sum(), exact) > 1e-9
        distance = 0.5 * np.abs(q - s).sum()
        assert q @ (1 / (1 + d)) >= (1 - distance) / (1 + distance) - 1e-12


def test_surrogates_that_exclude_tokens() -> None:
    profile = EntropyProfile.from_laws([0.6, 0.4, 0.0], surrogate_BV=[1.0, 0.0, 0.0])
    # Against a surrogate that is sure of token 0: it wins whenever it wins; token 1 never matches.
    assert list(profile.mismatch_A) == [0.0, np.inf]
    equal = EntropyProfile.from_laws(LAWS, surrogate_BV=LAWS)
    assert np.allclose(equal.mismatch_A, 0, atol=1e-12)
    assert np.array_equal(equal.surrogate_A, equal.prob_A)
    assert not np.any(EntropyProfile.from_laws(LAWS).mismatch_A)


def test_draws_follow_the_profile() -> None:
    profile = EntropyProfile.from_laws(LAWS, [0.1, 0.2, 0.7])
    rng = np.random.default_rng(8)
    count = np.bincount(profile.draw_tokens(rng, 50_000), minlength=21)
    for k, p in zip(count, profile.weights_A, strict=True):
        assert binom.cdf(k, 50_000, p) > 1e-9 and binom.sf(k - 1, 50_000, p) > 1e-9
    contexts = np.bincount(profile.draw_contexts(rng, 50_000), minlength=3)
    assert binom.cdf(contexts[2], 50_000, 0.7) > 1e-9
    assert binom.sf(contexts[2] - 1, 50_000, 0.7) > 1e-9


@pytest.mark.parametrize(
    ("laws", "more", "match"),
    [
        ([0.5, 0.4], {}, "sum to 1"),
        ([1.1, -0.1], {}, "negative"),
        ([math.nan, 1.0], {}, "non-finite"),
        (LAWS[None], {}, "shape"),
        (LAWS, {"weights_B": [0.5, 0.5]}, "weights"),
        (LAWS, {"weights_B": [0.5, 0.5, 0.5]}, "weights"),
        (LAWS, {"surrogate_BV": LAWS[:2]}, "surrogate"),
    ],
)
def test_bad_laws(laws: object, more: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        EntropyProfile.from_laws(laws, **more)


@pytest.mark.parametrize("logprobs", [[], [[-1.0]], [0.1], [-math.inf], [math.nan]])
def test_bad_log_probabilities(logprobs: list[float]) -> None:
    with pytest.raises(ValueError, match="log-probabilities"):
        EntropyProfile.from_logprobs(logprobs)


def test_bad_families() -> None:
    for delta in (0.0, 0.6, -1.0):
        with pytest.raises(ValueError, match="delta"):
            EntropyProfile.spike(delta)
    with pytest.raises(ValueError, match="vocab_size"):
        EntropyProfile.zipf(1.0, 1)
    with pytest.raises(ValueError, match="exponent"):
        EntropyProfile.zipf(-1.0, 5)
    with pytest.raises(ValueError, match="entropy"):
        EntropyProfile.from_entropy(0.0)
