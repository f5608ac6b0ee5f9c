"""The token bank against the figures it is quoted with, and against its formula."""

import numpy as np
import pytest

from modicum.core.watermark.bank import TokenBank


@pytest.mark.parametrize(
    ("case", "h_target", "h_anchor", "tv"),
    [
        ("base", 0.83, 1.56, 0.28),
        ("hot", 0.83, 3.50, 0.59),
        ("poor", 0.83, 1.47, 0.47),
        ("uniform", 0.83, np.log(256), None),
        ("oracle", 0.83, 0.83, 0.0),
        ("low", 0.165, 1.56, 0.39),
    ],
)
def test_quoted_figures(case, h_target, h_anchor, tv):
    # Deterministic given the seed, so these are equalities up to the printed digits.
    bank = TokenBank.build(case)
    assert bank.target_BV.shape == bank.anchor_BV.shape == (4000, 256)
    assert bank.target_entropy().mean() == pytest.approx(h_target, abs=0.005)
    assert bank.anchor_entropy().mean() == pytest.approx(h_anchor, abs=0.005)
    if tv is not None:
        assert bank.total_variation().mean() == pytest.approx(tv, abs=0.005)
    for law_BV in (bank.target_BV, bank.anchor_BV):
        np.testing.assert_allclose(law_BV.sum(-1), 1, atol=1e-12)
        assert law_BV.min() >= 0


@pytest.mark.parametrize(
    ("case", "noise", "tv"), [("base", 1, 0.286), ("low", 1, 0.395), ("base", 2, 0.475)]
)
def test_quoted_figures_with_separate_noise(case, noise, tv):
    bank = TokenBank.build(case, noise_seed=1, permute=False, anchor_noise=noise)
    assert bank.total_variation().mean() == pytest.approx(tv, abs=0.0006)
    assert bank.target_entropy().mean() == pytest.approx(
        {"base": 0.8254, "low": 0.1647}[case], abs=5e-5
    )
    assert (bank.target_BV.argmax(-1) == 0).all()


def test_targets_follow_zipf_laws():
    bank = TokenBank.build("oracle", vocab_size=9, num_contexts=50, target_temperature=0.5, seed=3)
    assert bank.vocab_size == 9
    assert bank.num_contexts == 50
    falling = np.log(np.sort(bank.target_BV, axis=-1)[:, ::-1])
    slope = (falling - falling[:, :1])[:, 1:] / np.log(np.arange(2, 10))
    np.testing.assert_allclose(slope, slope[:, :1] + 0 * slope, atol=1e-9)
    # z / 0.5 doubles the exponent, which is at least 0.3.
    assert slope.max() < -0.6
    assert len(set(bank.target_BV.argmax(-1).tolist())) > 5


def test_seeds():
    a, b = TokenBank.build(num_contexts=20), TokenBank.build(num_contexts=20)
    np.testing.assert_array_equal(a.anchor_BV, b.anchor_BV)
    assert (TokenBank.build(num_contexts=20, seed=1).target_BV != a.target_BV).any()
    shared = TokenBank.build(num_contexts=20, noise_seed=5)
    np.testing.assert_array_equal(shared.target_BV, a.target_BV)
    assert (shared.anchor_BV != a.anchor_BV).any()
    draws = a.sample_contexts(np.random.default_rng(0), (30, 40))
    assert draws.shape == (30, 40)
    assert set(draws.ravel().tolist()) == set(range(20))


@pytest.mark.parametrize(
    "bad",
    [
        {"case": "cold"},
        {"vocab_size": 1},
        {"num_contexts": 0},
        {"target_temperature": 0.0},
        {"anchor_temperature": -1.0},
        {"anchor_noise": -0.5},
        {"anchor_noise": float("inf")},
    ],
)
def test_refusals(bad):
    with pytest.raises(ValueError):
        TokenBank.build(**bad)
