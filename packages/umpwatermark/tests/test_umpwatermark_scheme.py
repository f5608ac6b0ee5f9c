"""The generator's step: what is marked, what passes untouched, distortion, bad laws."""

import numpy as np
import pytest
import torch

from modicum.core.watermark.anchors import NGramAnchor, UniformAnchor
from modicum.umpwatermark.config import MOST_EXACT_TOKENS, UMPWatermarkConfig
from modicum.umpwatermark.distortion import distort
from modicum.umpwatermark.samplers.gumbel import gumbel_argmax
from modicum.umpwatermark.scheme import UMPWatermarkScheme

KEY = b"0123456789abcdef"
V = 60
VARIANTS = [
    {},
    {"prf": "blake2b", "sampler": "hazard"},
    {"prf": "vllm-philox", "key": 42},
    {"prf": "vllm-hmac", "key": 42, "sampler": "greenlist", "gamma": 0.3},
    {"sampler": "greenlist"},
    {"sampler": "greenlist", "coupling": "exact", "gamma": 0.25},
    {"sampler": "ump-aware", "surrogate": UniformAnchor(V)},
    {"sampler": "hazard", "epsilon": 0.2},
]


def make(**changes):
    return UMPWatermarkScheme(UMPWatermarkConfig(**{"key": KEY, "vocab_size": V} | changes))


def tracker_after(scheme, tokens):
    tracker = scheme.new_tracker()
    for token in tokens:
        tracker.push(token)
    return tracker


def log_laws(rows, width=V, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    q = rng.dirichlet(np.full(width, 0.2), rows) + 1e-9
    return np.log(q / q.sum(1, keepdims=True)).astype(dtype)


def kinds(x):
    return [x.copy(), torch.from_numpy(x.copy())]


@pytest.mark.parametrize("changes", VARIANTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_unmarked_rows_pass_through_bit_for_bit(changes, dtype):
    scheme = make(**changes, warmup=4)
    repeated = tracker_after(scheme, [1, 2, 3, 4] * 3)
    assert repeated.context() is None
    trackers = [
        tracker_after(scheme, [1, 2]),
        tracker_after(scheme, [4, 3, 2, 1]),
        repeated,
        tracker_after(scheme, [9, 8, 7, 6, 5]),
    ]
    results = []
    for laws in kinds(log_laws(4, V + 3, dtype=dtype)):
        before = np.asarray(laws).copy()
        out = scheme.transform(laws, trackers)
        assert out.dtype == laws.dtype
        assert out.shape == laws.shape
        # The input is left alone, and so are rows 0 and 2.
        np.testing.assert_array_equal(np.asarray(laws), before)
        out = np.asarray(out)
        np.testing.assert_array_equal(out[[0, 2]], before[[0, 2]])
        assert np.isneginf(out[[1, 3], V:]).all()
        np.testing.assert_allclose(np.exp(out[[1, 3]].astype(float)).sum(1), 1, atol=1e-5)
        assert (out[[1, 3]] != before[[1, 3]]).any()
        results.append(out)
    np.testing.assert_allclose(np.exp(results[1]), np.exp(results[0]), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("changes", VARIANTS)
def test_nothing_to_mark_gives_the_same_object_back(changes):
    scheme = make(**changes, warmup=3)
    laws = log_laws(2)
    assert scheme.transform(laws, [scheme.new_tracker(), scheme.new_tracker()]) is laws


@pytest.mark.parametrize("changes", VARIANTS)
def test_step_is_a_pure_function_of_key_context_and_law(changes):
    """Neither the batch around a row nor tokens before its context matter."""
    scheme = make(**changes, warmup=0)
    laws = log_laws(3)
    texts = ([5, 6, 7, 8], [9, 9, 1, 5, 6, 7, 8], [1, 2, 3, 4])
    trackers = [tracker_after(scheme, t) for t in texts]
    out = scheme.transform(laws[[0, 0, 1]], trackers)
    np.testing.assert_allclose(out[0], out[1], rtol=1e-12)
    alone = scheme.transform(laws[:1], trackers[:1])
    np.testing.assert_allclose(alone[0], out[0], rtol=1e-12)
    other = make(**(changes | {"key": 43 if "key" in changes else b"another key 0123"}), warmup=0)
    differ = [
        not np.array_equal(
            other.transform(law[None], trackers[:1]), scheme.transform(law[None], trackers[:1])
        )
        for law in log_laws(10, seed=4)
    ]
    assert any(differ)


def test_gumbel_step_is_the_race_of_the_contexts_uniforms():
    scheme = make()
    tracker = tracker_after(scheme, [11, 12, 13, 14, 15])
    laws = log_laws(1)
    state = scheme.uniforms.context_state(np.array([[12, 13, 14, 15]]))
    expected = gumbel_argmax(laws, scheme.uniforms.uniforms(state, V))
    out = scheme.transform(laws, [tracker])
    assert out[0, expected[0]] == 0
    assert np.isneginf(np.delete(out[0], expected[0])).all()


def test_an_engines_prf_marks_from_the_first_token_on():
    scheme = make(prf="vllm-philox", key=42)
    assert scheme.new_tracker().context() == (-1, -1, -1, -1)
    out = scheme.transform(log_laws(1), [scheme.new_tracker()])
    assert (out == 0).sum() == 1


@pytest.mark.parametrize("sampler", ["gumbel", "hazard", "greenlist"])
@pytest.mark.parametrize("epsilon", [0.05, 0.3])
def test_distortion_is_that_of_the_flattened_law(sampler, epsilon):
    spent, plain = make(sampler=sampler, epsilon=epsilon), make(sampler=sampler)
    laws = log_laws(5, seed=2)
    trackers = [tracker_after(plain, [row, 1, 2, 3]) for row in range(5)]
    flat, tv = distort(np.exp(laws), epsilon)
    np.testing.assert_allclose(
        np.exp(spent.transform(laws, trackers)),
        np.exp(plain.transform(np.log(flat), trackers)),
        atol=1e-12,
    )
    # None of these laws is within epsilon of uniform, so the budget is spent whole.
    np.testing.assert_allclose(tv, epsilon, atol=1e-12)
    np.testing.assert_allclose(spent.realised_distortion(laws), epsilon, atol=1e-12)
    np.testing.assert_allclose(
        spent.realised_distortion(torch.from_numpy(laws)).numpy(), epsilon, atol=1e-12
    )
    np.testing.assert_array_equal(plain.realised_distortion(laws), 0)


def test_distortion_is_realised_over_contexts():
    """The law over 4000 contexts is at distance epsilon, each token within six deviations."""
    epsilon, rows = 0.2, 4000
    scheme = make(sampler="greenlist", gamma=0.5, epsilon=epsilon, vocab_size=5, warmup=0)
    q = np.array([0.7, 0.15, 0.1, 0.05, 0.0])
    with np.errstate(divide="ignore"):
        laws = np.tile(np.log(q), (rows, 1))
    trackers = [
        tracker_after(scheme, [row % 5, row // 5 % 5, row // 25 % 5, row // 125])
        for row in range(rows)
    ]
    assert len({t.context() for t in trackers}) == rows
    out = np.exp(scheme.transform(laws, trackers))
    mean, stderr = out.mean(0), out.std(0) / np.sqrt(rows)
    expected = np.array([0.5, 0.25, 1 / 6, 1 / 12, 0])
    assert np.all(np.abs(mean - expected) <= 6 * stderr + 1e-12)
    assert np.abs(expected - q).sum() / 2 == pytest.approx(epsilon)
    assert mean[4] == 0


def test_budget_beyond_the_uniform_law_is_not_spent():
    scheme = make(epsilon=0.9, vocab_size=4)
    law = np.log(np.array([[0.4, 0.3, 0.2, 0.1]]))
    np.testing.assert_allclose(scheme.realised_distortion(law), 0.2)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("changes", VARIANTS)
def test_impossible_rows_are_named(changes, value):
    scheme = make(**changes, warmup=1)
    trackers = [tracker_after(scheme, t) for t in ([1, 2], [], [3, 4], [5, 6])]
    laws = log_laws(4, V + 2)
    laws[:2, 7] = value
    laws[3, :V] = -np.inf
    for x in kinds(laws):
        with pytest.raises(ValueError, match=r"rows \[0, 3\].*vocab_size=60"):
            scheme.transform(x, trackers)


def test_shapes_that_do_not_fit_are_refused():
    scheme = make()
    with pytest.raises(ValueError, match="2 rows of logits but 1 trackers"):
        scheme.transform(log_laws(2), [scheme.new_tracker()])
    with pytest.raises(ValueError, match="cover 59 tokens"):
        scheme.transform(log_laws(1, V - 1), [scheme.new_tracker()])


def test_surrogate_reads_its_window_and_trackers_may_forget_the_rest():
    rng = np.random.default_rng(0)
    anchor = NGramAnchor(V, order=3).fit([rng.integers(0, V, 4000)])
    scheme = make(sampler="ump-aware", surrogate=anchor, warmup=0)
    texts = [[], [7], [1, 2, 3, 4, 5]]
    trackers = [tracker_after(scheme, t) for t in texts]
    got = scheme.surrogate_log_probs(trackers, np.zeros(0))
    padded = np.array([[-1, -1], [-1, 7], [4, 5]])
    np.testing.assert_allclose(got, anchor.log_probs(padded, np.array([0, 1, 2])))
    device = scheme.surrogate_log_probs(trackers, torch.zeros(0))
    np.testing.assert_allclose(device.numpy(), got, atol=1e-6)
    assert make().surrogate_log_probs(trackers, np.zeros(0)) is None
    short = scheme.new_tracker(keep_all=False)
    for token in range(50):
        short.push(token)
    assert len(short.tokens) < 50
    full = tracker_after(scheme, range(50))
    laws = log_laws(1)
    np.testing.assert_array_equal(scheme.transform(laws, [short]), scheme.transform(laws, [full]))


def test_limit_of_the_exact_coupling_is_that_of_its_implementation():
    from modicum.umpwatermark.agnostic import MAX_EXACT

    assert MOST_EXACT_TOKENS == MAX_EXACT


def test_without_deduplication_repeated_contexts_are_marked_again():
    scheme = make(deduplicate=False)
    tracker = tracker_after(scheme, [1, 2, 3, 4] * 3)
    assert (scheme.transform(log_laws(1), [tracker]) == 0).sum() == 1


@pytest.mark.gpu
@pytest.mark.parametrize("changes", VARIANTS)
def test_transform_on_the_device_is_that_on_the_host(changes):
    scheme = make(**changes, warmup=1)
    trackers = [tracker_after(scheme, t) for t in ([1, 2], [], [3, 4], [5, 6])]
    laws = torch.from_numpy(log_laws(4, V + 3, dtype=np.float32))
    laws[2, 5:20] = -torch.inf
    expected = scheme.transform(laws, trackers)
    got = scheme.transform(laws.cuda(), trackers).cpu()
    torch.testing.assert_close(got.exp(), expected.exp(), rtol=1e-5, atol=1e-6)
    assert torch.equal(got[1], laws[1])


@pytest.mark.parametrize("changes", [{"sampler": "greenlist"}, {"epsilon": 0.1}])
def test_laws_are_not_rounded_to_half_precision(changes):
    logits = torch.zeros(1, 9, dtype=torch.bfloat16)
    config = UMPWatermarkConfig(key=KEY, vocab_size=9, **changes)
    scheme = UMPWatermarkScheme(config)
    with pytest.raises(TypeError, match=r"needs float32 or float64 .* got torch\.bfloat16"):
        scheme.transform(logits, [scheme.new_tracker()])
    certain = UMPWatermarkScheme(config.replace(sampler="gumbel", epsilon=0, gamma=None))
    assert certain.transform(logits, [certain.new_tracker()]) is logits
