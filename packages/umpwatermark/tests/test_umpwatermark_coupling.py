"""The optimal coupling by enumeration of its regions, on NumPy and torch alike."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from modicum.umpwatermark.coupling import aware_conditional, ump_coupling
from modicum.umpwatermark.theory import ump_law, ump_type2

ERROR = 1e-6
"""Error probability of a statistical test."""


def random_law(seed, N, zeros=True):
    rng = np.random.default_rng(seed)
    rho = rng.dirichlet(np.full(N, 0.5))
    if zeros and N > 2:
        rho[rng.integers(N)] = 0
        rho /= rho.sum()
    return rho


cases = given(
    seed=st.integers(0, 10**6),
    N=st.sampled_from([1, 2, 3, 9, 60]),
    alpha=st.floats(0.01, 0.95),
    epsilon=st.sampled_from([0.0, 0.05, 0.3, 0.8]),
    fill=st.sampled_from(["room", "proportional"]),
)


@settings(max_examples=200, deadline=None)
@cases
def test_marginal_level_and_errors_by_enumeration(seed, N, alpha, epsilon, fill):
    rho = random_law(seed, N)
    coupling = ump_coupling(rho, alpha, epsilon, fill=fill)
    batch = ump_coupling(np.tile(rho, (N + 1, 1)), alpha, epsilon, fill=fill)
    probs = coupling.region_probs
    assert probs.shape == (N + 1,)
    assert probs.sum() == pytest.approx(1, abs=1e-12)
    law_given_region = batch.conditional_law(np.arange(N + 1))
    np.testing.assert_allclose(law_given_region.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(probs @ law_given_region, coupling.law, atol=1e-12)
    np.testing.assert_allclose(coupling.law, ump_law(rho, alpha, epsilon, fill), atol=1e-15)
    inside = batch.in_region(np.arange(N + 1))
    assert (probs @ inside).max() <= alpha
    missed = 1 - (probs[:, None] * law_given_region * inside).sum()
    assert missed == pytest.approx(coupling.beta, abs=1e-12)
    if fill == "room":
        assert coupling.beta == pytest.approx(ump_type2(rho, alpha, epsilon), abs=1e-12)
    if epsilon == 0:
        np.testing.assert_array_equal(coupling.law, coupling.rho)


@settings(max_examples=100, deadline=None)
@cases
def test_padding_fills_every_element_to_alpha_and_adds_no_hit(seed, N, alpha, epsilon, fill):
    rho = random_law(seed, N)
    coupling = ump_coupling(rho, alpha, epsilon, fill=fill, pad_to_alpha=True)
    assert np.all((coupling.padding >= 0) & (coupling.padding <= alpha))
    single = coupling.region_probs[:-1]
    inside = single + (1 - single) * coupling.padding
    np.testing.assert_allclose(inside, alpha, atol=1e-14)
    # Elements that the empty region's law can give are never padded.
    assert np.all(coupling.padding[coupling.residual > 0] == 0)
    assert coupling.beta == ump_coupling(rho, alpha, epsilon, fill=fill).beta


def test_padded_regions_as_drawn():
    """Each element's share of 20000 padded regions, binomial at alpha; error at most 1e-6."""
    from scipy.stats import binom

    n, alpha = 20_000, 0.15
    rng = np.random.default_rng(0)
    rho = np.array([0.5, 0.3, 0.12, 0.08, 0.0])
    coupling = ump_coupling(np.tile(rho, (n, 1)), alpha, pad_to_alpha=True)
    region = coupling.draw_region(rng.random((n, 6)))
    inside = coupling.in_region(region, rng.random((n, 5)))
    low, high = binom.ppf([ERROR / 10, 1 - ERROR / 10], n, alpha)
    assert np.all((inside.sum(axis=0) >= low) & (inside.sum(axis=0) <= high))
    assert np.all(inside[np.arange(n), region.clip(0, 4)] | (region == 5))


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_race_draws_regions_with_their_probabilities(epsilon):
    n = 40_000
    rho = np.array([0.45, 0.0, 0.3, 0.15, 0.1])
    coupling = ump_coupling(np.tile(rho, (n, 1)), 0.2, epsilon)
    region = coupling.draw_region(np.random.default_rng(1).random((n, 6)))
    probs = coupling.region_probs[0]
    counts = np.bincount(region, minlength=6)
    assert np.all(counts[probs == 0] == 0)
    possible = probs > 0
    assert chisquare(counts[possible], n * probs[possible]).pvalue > ERROR


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_samples_follow_the_joint_law(kind):
    n = 50_000
    rho = np.array([0.5, 0.28, 0.17, 0.05])
    coupling = ump_coupling(rho if kind == "numpy" else torch.tensor(rho), 0.2)

    def draw(seed):
        if kind == "numpy":
            return coupling.sample(np.random.default_rng(seed), n)
        x, region = coupling.sample(torch.Generator().manual_seed(seed), n)
        return x.numpy(), region.numpy()

    x, region = draw(3)
    again = draw(3)
    np.testing.assert_array_equal(x, again[0])
    np.testing.assert_array_equal(region, again[1])
    joint = np.zeros((4, 5))
    joint[range(4), range(4)] = np.minimum(rho, 0.2)
    joint[:, 4] = np.maximum(rho - 0.2, 0)
    counts = np.zeros((4, 5), dtype=int)
    np.add.at(counts, (x, region), 1)
    assert np.all(counts[joint == 0] == 0)
    assert chisquare(counts[joint > 0], n * joint[joint > 0]).pvalue > ERROR


def test_level_holds_for_texts_independent_of_the_key():
    coupling = ump_coupling(np.array([0.9, 0.06, 0.04]), 0.3)
    assert coupling.region_probs[:-1].max() <= 0.3
    np.testing.assert_allclose(coupling.region_probs, [0.3, 0.06, 0.04, 0.6], atol=1e-15)
    np.testing.assert_array_equal(coupling.residual, [1, 0, 0])


def test_a_law_below_alpha_has_no_residual_and_no_misses():
    coupling = ump_coupling(np.full(10, 0.1), 0.2)
    assert coupling.beta == 0
    np.testing.assert_array_equal(coupling.residual, 0)
    x, region = coupling.sample(np.random.default_rng(0), 1000)
    np.testing.assert_array_equal(x, region)


def test_extreme_uniforms_still_give_possible_regions():
    coupling = ump_coupling(np.array([1 - 1e-300, 1e-300]), 0.3)
    tiny, near_one = np.nextafter(0, 1), np.nextafter(1, 0)
    assert coupling.draw_region(np.array([tiny, tiny, tiny])) in (0, 2)
    assert coupling.draw_region(np.array([near_one, near_one, tiny])) == 0
    equal = ump_coupling(np.array([0.0, 0.5, 0.5]), 0.5)
    assert equal.draw_region(np.full(4, 0.25)) == 1


@pytest.mark.parametrize("fill", ["room", "proportional"])
@pytest.mark.parametrize("epsilon", [0.0, 0.2])
def test_torch_gives_the_same(fill, epsilon):
    rho = np.random.default_rng(2).dirichlet(np.full(50, 0.1), (4, 3))
    ours = ump_coupling(rho, 0.07, epsilon, fill=fill, pad_to_alpha=True)
    theirs = ump_coupling(torch.tensor(rho), 0.07, epsilon, fill=fill, pad_to_alpha=True)
    for name in ("rho", "law", "region_probs", "residual", "beta", "padding"):
        value = getattr(theirs, name)
        assert value.dtype == torch.float64
        np.testing.assert_allclose(value.numpy(), getattr(ours, name), atol=1e-14)
    clocks = np.random.default_rng(3).random((4, 3, 51))
    region = ours.draw_region(clocks)
    region_t = theirs.draw_region(torch.tensor(clocks))
    np.testing.assert_array_equal(region_t.numpy(), region)
    np.testing.assert_allclose(
        theirs.conditional_law(region_t).numpy(), ours.conditional_law(region), atol=1e-14
    )
    pads = np.random.default_rng(4).random((4, 3, 50))
    np.testing.assert_array_equal(
        theirs.in_region(region_t, torch.tensor(pads)).numpy(), ours.in_region(region, pads)
    )


def test_a_batch_of_whole_vocabularies():
    rng = np.random.default_rng(5)
    ranks = np.arange(1, 2**18 + 1)
    rho = 1 / ranks ** rng.uniform(0.8, 2, (8, 1))
    rho /= rho.sum(axis=1, keepdims=True)
    started = time.process_time()
    coupling = ump_coupling(rho, 0.05, 0.02)
    took = time.process_time() - started
    region = coupling.draw_region(rng.random((8, 2**18 + 1)))
    law = coupling.conditional_law(region)
    np.testing.assert_allclose(law.sum(axis=1), 1, atol=1e-9)
    np.testing.assert_allclose(coupling.beta, ump_type2(rho, 0.05, 0.02), atol=1e-12)
    # A guard against a slow path, not a measurement: a tenth of this is usual.
    assert took < 5


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    V=st.sampled_from([1, 2, 4, 30]),
    alpha=st.floats(0.05, 0.95),
    empty_given=st.booleans(),
)
def test_surrogate_regions_keep_the_law_and_hit_as_often_as_possible(seed, V, alpha, empty_given):
    q, surrogate = random_law(seed, V), random_law(seed + 1, V)
    region_law = ump_coupling(surrogate, alpha).region_probs
    given_law = region_law if empty_given else region_law[:-1]
    law = aware_conditional(
        np.tile(q, (V + 1, 1)), np.tile(given_law, (V + 1, 1)), np.arange(V + 1)
    )
    np.testing.assert_allclose(law.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(region_law @ law, q, atol=1e-11)
    hits = (region_law[:-1] * np.diag(law[:V])).sum()
    assert hits >= np.minimum(q, region_law[:-1]).sum() - 1e-12
    assert np.all(law[:, q == 0] == 0)
    as_torch = aware_conditional(
        torch.tensor(np.tile(q, (V + 1, 1))),
        torch.tensor(np.tile(given_law, (V + 1, 1))),
        torch.arange(V + 1),
    )
    np.testing.assert_allclose(as_torch.numpy(), law, atol=1e-14)


def test_exact_surrogate_is_the_optimal_coupling():
    rho = random_law(11, 6)
    batch = ump_coupling(np.tile(rho, (7, 1)), 0.2)
    law = aware_conditional(batch.rho, batch.region_probs, np.arange(7))
    possible = batch.region_probs[0] > 0
    expected = batch.conditional_law(np.arange(7))
    np.testing.assert_allclose(law[possible], expected[possible], atol=1e-12)


@pytest.mark.gpu
def test_device_gives_the_same():
    rho = np.random.default_rng(6).dirichlet(np.full(3000, 0.05), 5)
    clocks = np.random.default_rng(7).random((5, 3001))
    ours = ump_coupling(rho, 0.1, 0.05)
    device = ump_coupling(torch.tensor(rho, device="cuda"), 0.1, 0.05)
    assert device.law.device.type == "cuda"
    np.testing.assert_allclose(device.region_probs.cpu().numpy(), ours.region_probs, atol=1e-13)
    region = device.draw_region(torch.tensor(clocks, device="cuda"))
    np.testing.assert_array_equal(region.cpu().numpy(), ours.draw_region(clocks))
    one = ump_coupling(torch.tensor(rho[0], device="cuda"), 0.1)
    x, drawn = one.sample(torch.Generator("cuda").manual_seed(1), 1000)
    assert x.device.type == drawn.device.type == "cuda"


def test_bad_inputs_are_refused():
    with pytest.raises(ValueError, match="sum to 1"):
        ump_coupling([0.5, 0.4], 0.1)
    with pytest.raises(ValueError, match="alpha"):
        ump_coupling([0.5, 0.5], 1.0)
    with pytest.raises(ValueError, match="epsilon"):
        ump_coupling([0.5, 0.5], 0.1, -0.1)
    with pytest.raises(ValueError, match="fill"):
        ump_coupling([0.5, 0.5], 0.1, fill="all")
    batch = ump_coupling(np.full((2, 4), 0.25), 0.1)
    with pytest.raises(ValueError, match=r"clock_uniforms must have shape \(2, 5\)"):
        batch.draw_region(np.full((2, 4), 0.5))
    with pytest.raises(ValueError, match="draws from one law"):
        batch.sample(np.random.default_rng(0), 3)
    with pytest.raises(ValueError, match="region must have shape"):
        batch.conditional_law(np.array([1]))
    with pytest.raises(ValueError, match=r"region must lie in \[0, 4\]"):
        batch.conditional_law(np.array([0, 5]))
    with pytest.raises(ValueError, match="pad_to_alpha"):
        batch.in_region(np.array([0, 1]), np.full((2, 4), 0.5))
    padded = ump_coupling(np.full((2, 4), 0.25), 0.1, pad_to_alpha=True)
    with pytest.raises(ValueError, match="pad_to_alpha"):
        padded.in_region(np.array([0, 1]))
    with pytest.raises(ValueError, match="padding_uniforms must have shape"):
        padded.in_region(np.array([0, 1]), np.full((2, 5), 0.5))
    q = np.full((2, 4), 0.25)
    for region_law, region in ((q[:, :3], [0, 1]), (q[:1], [0, 1]), (q, [0, 1, 2])):
        with pytest.raises(ValueError, match="region_law_BN must have 4 or 5"):
            aware_conditional(q, region_law, np.array(region))
