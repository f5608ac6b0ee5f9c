"""Samplers: exact marginals over keys, laws of the pivots, NumPy = torch, edges.

Statistical tests fix their seed and state the probability with which another seed would fail.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from modicum.core.watermark.anchors import UniformAnchor
from modicum.umpwatermark.agnostic import AgnosticCoupling, greedy_hit_rate
from modicum.umpwatermark.config import UMPWatermarkConfig
from modicum.umpwatermark.samplers import make_sampler
from modicum.umpwatermark.samplers.greenlist import in_region
from modicum.umpwatermark.samplers.gumbel import GumbelSampler, gumbel_argmax, gumbel_match
from modicum.umpwatermark.samplers.hazard import hazard_choice, hazards
from modicum.umpwatermark.samplers.ump_aware import keyed_region
from modicum.umpwatermark.uniforms import make_uniforms

KEY = b"0123456789abcdef"
Q = np.array([0.02, 0.45, 0.0, 0.3, 0.1, 0.1, 0.03])
V = len(Q)


def build(**changes):
    config = UMPWatermarkConfig(**{"key": KEY, "vocab_size": V} | changes)
    return make_sampler(config), make_uniforms(config)


def log_of(q):
    with np.errstate(divide="ignore"):
        return np.log(q)


def contexts(rows, seed=0, vocab=V):
    """Distinct windows, so that their uniforms are independent."""
    ids = np.arange(rows)[:, None] // vocab ** np.arange(8) % vocab
    return (ids + seed) % vocab


def many(sampler, uniforms, rows, q=Q, **arguments):
    state = uniforms.context_state(contexts(rows))
    laws = np.tile(log_of(q), (rows, 1))
    return state, np.exp(sampler.conditional_log_probs(laws, state, uniforms, **arguments))


@pytest.mark.parametrize("name", ["gumbel", "hazard"])
@pytest.mark.parametrize(
    ("prf", "key", "rows"),
    [
        ("philox", KEY, 60_000),
        ("blake2b", KEY, 20_000),
        ("vllm-philox", 42, 60_000),
        ("vllm-hmac", 42, 8000),
    ],
)
def test_tokens_are_distributed_like_the_model(name, prf, key, rows):
    """Chi-square over distinct contexts at 1e-7; one choice per row, never an impossible one."""
    sampler, uniforms = build(sampler=name, prf=prf, key=key, context_width=8)
    _, laws = many(sampler, uniforms, rows)
    assert sampler.deterministic
    assert set(np.unique(laws)) == {0.0, 1.0}
    np.testing.assert_array_equal(laws.sum(1), 1)
    counts = laws.sum(0)
    assert counts[Q == 0] == 0
    possible = Q > 0
    assert chisquare(counts[possible], Q[possible] * rows).pvalue > 1e-7


def test_gumbel_pivot_is_a_power():
    """P(Y <= u | x) = u^(1/q): Kolmogorov-Smirnov at 1e-7 for each of six tokens."""
    sampler, uniforms = build(context_width=8)
    state, laws = many(sampler, uniforms, 60_000)
    chosen = laws.argmax(1)
    y = uniforms.uniforms_at(state, chosen)
    for token in np.flatnonzero(Q):
        assert kstest(y[chosen == token] ** (1 / Q[token]), "uniform").pvalue > 1e-7


def test_hazard_pivot_is_uniform_above_its_hole():
    """Y | x ~ U(1 - hz, 1): Kolmogorov-Smirnov at 1e-7 for each token, and no Y in the hole."""
    sampler, uniforms = build(sampler="hazard", context_width=8)
    state, laws = many(sampler, uniforms, 60_000)
    chosen = laws.argmax(1)
    y = uniforms.uniforms_at(state, chosen)
    hz = hazards(Q[None])[0]
    # By hand: 1, 3, 4, 5, 6, 0 in order of their turns.
    np.testing.assert_allclose(
        hz[[1, 3, 4, 5, 6, 0, 2]], [0.45, 0.3 / 0.55, 0.1 / 0.25, 0.1 / 0.15, 0.03 / 0.05, 1, 0]
    )
    for token in np.flatnonzero(Q):
        own = y[chosen == token]
        assert own.min() > 1 - hz[token] - 1e-12
        assert kstest((own - (1 - hz[token])) / hz[token], "uniform").pvalue > 1e-7


@pytest.mark.parametrize(
    "changes",
    [
        {"sampler": "greenlist", "gamma": 0.5},
        {"sampler": "greenlist", "gamma": 0.1, "prf": "vllm-philox", "key": 42},
        {"sampler": "greenlist", "gamma": 0.9},
        {"sampler": "greenlist", "gamma": 0.3, "coupling": "exact"},
        {"sampler": "ump-aware", "surrogate": UniformAnchor(V)},
        {"sampler": "ump-aware", "surrogate": UniformAnchor(V), "gamma": 0.4},
    ],
)
def test_conditional_laws_average_to_the_model(changes):
    """Each token's mean over keyed regions within six standard errors: 2e-9 for each of seven."""
    rows = 3000 if changes.get("coupling") == "exact" else 20_000
    sampler, uniforms = build(**changes, context_width=8)
    assert not sampler.deterministic
    surrogate = None
    if sampler.name == "ump-aware":
        surrogate = np.tile(log_of(np.array([0.2, 0.3, 0.05, 0.0, 0.25, 0.1, 0.1])), (rows, 1))
    _, laws = many(sampler, uniforms, rows, surrogate_log_probs_BV=surrogate)
    np.testing.assert_allclose(laws.sum(1), 1, atol=1e-12)
    assert (laws[:, Q == 0] == 0).all()
    stderr = laws.std(axis=0) / np.sqrt(rows)
    assert np.all(np.abs(laws.mean(axis=0) - Q) <= 6 * stderr + 1e-12)
    assert laws.std(axis=0).max() > 0.1


@pytest.mark.parametrize(("gamma", "coupling"), [(0.3, "greedy"), (0.3, "exact"), (0.7, "greedy")])
def test_green_tokens_are_as_frequent_as_the_coupling_promises(gamma, coupling):
    """Mean hit probability over regions within six standard errors of the closed form."""
    rows = 3000 if coupling == "exact" else 20_000
    sampler, uniforms = build(sampler="greenlist", gamma=gamma, coupling=coupling, context_width=8)
    state, laws = many(sampler, uniforms, rows)
    hits = (laws * in_region(uniforms.uniforms(state, V), gamma)).sum(1)
    if coupling == "exact":
        expected = 1 - AgnosticCoupling(Q, gamma).beta
        assert abs(hits.mean() - expected) <= 6 * hits.std() / np.sqrt(rows)
    else:
        # A residual draw may hit as well.
        expected = greedy_hit_rate(Q[None], gamma)[0]
        assert hits.mean() >= expected - 6 * hits.std() / np.sqrt(rows)


def test_aware_token_meets_its_region_as_often_as_any_coupling_can():
    """Hits have mean sum_x min(q, r); the region has law r: chi-square at 1e-7."""
    rows, gamma = 30_000, 0.2
    surrogate = np.array([0.1, 0.35, 0.05, 0.25, 0.05, 0.15, 0.05])
    sampler, uniforms = build(
        sampler="ump-aware", surrogate=UniformAnchor(V), gamma=gamma, context_width=8
    )
    laws_BV = np.tile(np.log(surrogate), (rows, 1))
    state, laws = many(sampler, uniforms, rows, surrogate_log_probs_BV=laws_BV)
    region_law, region = keyed_region(laws_BV, gamma, state, uniforms)
    r = np.minimum(surrogate, gamma)
    np.testing.assert_allclose(region_law[0], [*r, 1 - r.sum()])
    counts = np.bincount(region, minlength=V + 1)
    assert chisquare(counts, region_law[0] * rows).pvalue > 1e-7
    padded = np.concatenate([laws, np.zeros((rows, 1))], axis=1)
    hits = padded[np.arange(rows), region]
    assert abs(hits.mean() - np.minimum(Q, r).sum()) <= 6 * hits.std() / np.sqrt(rows)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sampler": "hazard"},
        {"sampler": "greenlist"},
        {"sampler": "greenlist", "coupling": "exact"},
        {"sampler": "ump-aware"},
        {"prf": "vllm-philox", "key": 5},
        {"prf": "vllm-hmac", "key": 5, "sampler": "hazard"},
    ],
)
@pytest.mark.parametrize("size", [9, 1500])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_torch_and_numpy_agree(changes, size, dtype):
    """Same choices, and the same laws up to rounding, on rows with and without mass everywhere."""
    # The optimal coupling does every row by itself, one step per token.
    size = min(size, 40) if changes.get("coupling") == "exact" else size
    rng = np.random.default_rng(size)
    rows = 8
    surrogate = UniformAnchor(size) if changes.get("sampler") == "ump-aware" else None
    sampler, uniforms = build(vocab_size=size, surrogate=surrogate, **changes)
    logits = rng.normal(0, 3, (rows, size))
    logits[::2, 2 : size // 2] = -np.inf
    logits -= np.log(np.exp(logits).sum(1, keepdims=True))
    logits = logits.astype(dtype)
    windows = rng.integers(-1, size, (rows, 4))
    anchored = None if surrogate is None else rng.normal(0, 1, (rows, size))
    state = uniforms.context_state(windows)
    host = sampler.conditional_log_probs(logits, state, uniforms, anchored)
    device = sampler.conditional_log_probs(
        torch.from_numpy(logits),
        torch.from_numpy(state),
        uniforms,
        None if anchored is None else torch.from_numpy(anchored),
    )
    assert host.dtype == dtype
    assert device.numpy().dtype == dtype
    np.testing.assert_allclose(np.exp(device.numpy()), np.exp(host), rtol=1e-5, atol=1e-12)
    if sampler.deterministic:
        np.testing.assert_array_equal(device.numpy(), host)
    np.testing.assert_allclose(np.exp(host).sum(1), 1, atol=1e-5)
    assert np.isneginf(host[np.isneginf(logits)]).all()


@pytest.mark.parametrize("name", ["gumbel", "hazard", "greenlist"])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_a_single_possible_token_is_certain(name, kind):
    sampler, uniforms = build(sampler=name)
    state = uniforms.context_state(contexts(V)[:, :4])
    law = kind(log_of(np.eye(V)))
    got = sampler.conditional_log_probs(law, kind(state), uniforms)
    np.testing.assert_array_equal(np.asarray(got), np.asarray(law))


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_ties(kind):
    """Equal clocks go to the lowest id; equal probabilities take their turns by rising id."""
    u = kind(np.full((2, 4), 0.5))
    q = np.array([[0.1, 0.3, 0.3, 0.3], [0.25, 0.25, 0.25, 0.25]])
    assert gumbel_argmax(kind(np.log(q)), u).tolist() == [1, 0]
    # Hazards of the flat row are 1/4, 1/3, 1/2, 1: the third is the first above, not at, 1 - U.
    assert hazard_choice(kind(q), kind(np.full((2, 4), 0.6))).tolist() == [2, 2]
    assert hazard_choice(kind(q), kind(np.full((2, 4), 0.5))).tolist() == [3, 3]
    assert hazard_choice(kind(q), kind(np.full((2, 4), 0.5)), top=2).tolist() == [3, 3]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 80),
    top=st.integers(1, 100),
    levels=st.integers(1, 5),
    concentration=st.sampled_from([0.05, 1.0]),
    tensor=st.booleans(),
)
def test_hazard_choice_does_not_depend_on_the_number_tried_first(
    seed, size, top, levels, concentration, tensor
):
    """Laws with few distinct values have ties at every cut."""
    rng = np.random.default_rng(seed)
    q = rng.dirichlet(np.full(size, concentration), 6) + 1e-9
    q[:3] = rng.integers(0, levels + 1, (3, size)) + np.eye(size)[rng.integers(0, size, 3)]
    u = rng.random((6, size))
    if tensor:
        q, u = torch.from_numpy(q), torch.from_numpy(u)
    full = hazard_choice(q, u, top=size)
    np.testing.assert_array_equal(np.asarray(hazard_choice(q, u, top=top)), np.asarray(full))
    chances = hazards(q)
    for row in range(6):
        order = sorted(range(size), key=lambda v: (-float(q[row][v]), v))
        first = next(v for v in order if float(u[row][v]) > 1 - float(chances[row][v]) + 1e-15)
        assert first == int(full[row])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 90),
    candidates=st.integers(1, 100),
    excluded=st.floats(0, 0.9),
    prf=st.sampled_from([("philox", KEY), ("vllm-philox", 9)]),
    tensor=st.booleans(),
)
def test_match_is_that_of_the_whole_vocabulary(seed, size, candidates, excluded, prf, tensor):
    rng = np.random.default_rng(seed)
    rows = 12
    _, uniforms = build(vocab_size=max(size, 2), prf=prf[0], key=prf[1])
    logits = rng.normal(0, rng.choice([0.01, 2, 20]), (rows, size))
    logits[(rng.random((rows, size)) < excluded) & (np.arange(size) != size // 2)] = -np.inf
    state = uniforms.context_state(rng.integers(-1, 50, (rows, 4)))
    winner = gumbel_argmax(logits, uniforms.uniforms(state, size))
    tokens = np.where(rng.random(rows) < 0.5, winner, rng.integers(0, size, rows))
    arguments = [logits, tokens, state]
    if tensor:
        arguments = [torch.from_numpy(x) for x in arguments]
    match = gumbel_match(*arguments, uniforms, candidates=candidates)
    np.testing.assert_array_equal(np.asarray(match), winner == tokens)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize(("prf", "key"), [("blake2b", KEY), ("vllm-philox", 9), ("vllm-hmac", 9)])
def test_choice_among_few_possible_tokens_is_that_of_the_whole_vocabulary(kind, prf, key):
    """Rows keep 1 to 20 of 300 tokens, token 0 in some of them; one batch has a full row."""
    rng = np.random.default_rng(8)
    _, uniforms = build(vocab_size=300, prf=prf, key=key)
    state = uniforms.context_state(rng.integers(0, 300, (40, 4)))
    law = rng.normal(0, 2, (40, 300))
    for row in range(40):
        kept = rng.choice(300, 1 + row // 2, replace=False)
        law[row, np.setdiff1d(np.arange(row % 2, 300), kept)] = -np.inf
    expected = gumbel_argmax(law, uniforms.uniforms(state, 300))
    got = GumbelSampler().choose(kind(law), kind(state), uniforms)
    np.testing.assert_array_equal(np.asarray(got), expected)
    law[3] = 0.0
    expected = gumbel_argmax(law, uniforms.uniforms(state, 300))
    got = GumbelSampler().choose(kind(law), kind(state), uniforms)
    np.testing.assert_array_equal(np.asarray(got), expected)


def test_match_of_an_excluded_token_and_of_no_tokens():
    _, uniforms = build()
    state = uniforms.context_state(contexts(3)[:, :4])
    law = np.tile(log_of(Q), (3, 1))
    assert not gumbel_match(law, np.full(3, 2), state, uniforms).any()
    nothing = gumbel_match(law[:0], np.zeros(0, np.int64), state[:0], uniforms)
    assert nothing.shape == (0,)
    assert GumbelSampler().choose(law[:0], state[:0], uniforms).shape == (0,)


def test_large_vocabularies_are_done_in_pieces(monkeypatch):
    from modicum.umpwatermark.samplers import gumbel

    rng = np.random.default_rng(2)
    _, uniforms = build(vocab_size=500)
    state = uniforms.context_state(rng.integers(0, 500, (9, 4)))
    law = rng.normal(0, 2, (9, 500))
    whole = GumbelSampler().choose(law, state, uniforms)
    monkeypatch.setattr(gumbel, "_ENTRIES", 1100)
    np.testing.assert_array_equal(GumbelSampler().choose(law, state, uniforms), whole)
    assert gumbel_match(law, whole, state, uniforms).all()


def test_aware_sampler_wants_a_surrogate_of_the_same_shape():
    sampler, uniforms = build(sampler="ump-aware", surrogate=UniformAnchor(V))
    state = uniforms.context_state(contexts(1)[:, :4])
    law = log_of(Q)[None]
    with pytest.raises(ValueError, match="needs surrogate_log_probs_BV"):
        sampler.conditional_log_probs(law, state, uniforms)
    with pytest.raises(ValueError, match=r"\(1, 3\).*\(1, 7\)"):
        sampler.conditional_log_probs(law, state, uniforms, law[:, :3])
