"""Many documents and many keys."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy.stats import binom

from modicum.core.watermark.warnings import ValidityWarning
from modicum.umpwatermark.corpus import benjamini_hochberg, detect_corpus, detect_keys
from modicum.umpwatermark.detector import UMPWatermarkDetector


@pytest.fixture(scope="module")
def docs(world, world_config):
    """5 marked documents, then 15 others; contexts of 4 tokens may repeat between them."""
    rng = np.random.default_rng(9)
    config = world_config()
    return [world.marked(config, 60, rng) for _ in range(5)] + [
        world.plain(60, rng) for _ in range(15)
    ]


TRUTH = [True] * 5 + [False] * 15


def test_lists(world, world_config, docs):
    detector = UMPWatermarkDetector(world_config(), surrogate=world)
    for method in ("e-bh", "bonferroni"):
        result = detect_corpus(docs, detector, method=method, alpha=0.001)
        assert result.prediction.tolist() == TRUTH
    out = detector(docs)
    np.testing.assert_allclose(result.log_e_values, out.log_e_value)
    np.testing.assert_allclose(result.p_values, out.p_value)
    np.testing.assert_array_equal(result.num_tokens_scored, out.num_tokens_scored)


def test_single_tests(world_config, docs):
    detector = UMPWatermarkDetector(world_config())
    overall = detect_corpus(docs, detector, method="product", alpha=1e-6)
    assert overall.prediction.all() and overall.p_value <= 1e-6
    # The same document twice adds nothing to the product.
    once = detect_corpus(docs[:1], detector, method="product", alpha=0.01)
    twice = detect_corpus(docs[:1] * 2, detector, method="product", alpha=0.01)
    assert once.log_e_value == twice.log_e_value and twice.num_tokens_scored[1] == 0
    mean = detect_corpus(docs, detector, method="mean", alpha=0.01)
    expected = np.logaddexp.reduce(mean.log_e_values) - math.log(20)
    assert mean.log_e_value == pytest.approx(expected)


def test_bh_warns_where_documents_share_contexts(world_config, docs):
    detector = UMPWatermarkDetector(world_config())
    with pytest.warns(ValidityWarning, match="e-bh"):
        detect_corpus([docs[0], docs[0]], detector, method="bh")
    rng = np.random.default_rng(0)
    apart = [rng.permutation(np.arange(20 * i, 20 * i + 20)) for i in range(3)]
    result = detect_corpus(apart, detector, method="bh")
    assert not result.prediction.any()


def test_benjamini_hochberg():
    p = np.array([0.001, 0.2, 0.012, 0.9, 0.03])
    assert benjamini_hochberg(p, 0.05).tolist() == [True, False, True, False, True]
    assert benjamini_hochberg(p, 0.02).tolist() == [True, False, False, False, False]
    assert benjamini_hochberg([0.5, 0.9], 0.1).tolist() == [False, False]
    # Step-up: a p-value above its own step goes with a later one below its step.
    assert benjamini_hochberg([0.04, 0.045, 0.05], 0.05).all()
    assert len(benjamini_hochberg([], 0.1)) == 0
    for bad in ([1.5], [[0.1]], [np.nan]):
        with pytest.raises(ValueError, match="flat array"):
            benjamini_hochberg(bad, 0.1)


def test_false_discoveries_stay_below_alpha(world_config):
    """All documents unmarked: any discovery is false; 80 keys, limit of error 1e-6."""
    rng = np.random.default_rng(2)
    documents = [rng.permutation(np.arange(12 * i, 12 * i + 12)) for i in range(5)]
    false = {"bh": 0, "e-bh": 0, "bonferroni": 0}
    for key in range(80):
        detector = UMPWatermarkDetector(world_config(key=key))
        for method in false:
            found = detect_corpus(documents, detector, method=method, alpha=0.1)
            false[method] += bool(found.prediction.any())
    for method, count in false.items():
        assert count <= binom.isf(3e-7, 80, 0.1), method


def test_spreads_over_an_executor(world, world_config, docs):
    detector = UMPWatermarkDetector(world_config(), surrogate=world)
    alone = detect_corpus(docs[:6], detector)
    with ThreadPoolExecutor(2) as pool:
        spread = detect_corpus(iter(docs[:6]), detector, executor=pool)
    np.testing.assert_array_equal(alone.p_values, spread.p_values)
    np.testing.assert_array_equal(alone.log_e_values, spread.log_e_values)


def test_keys_are_told_apart_and_the_surrogate_is_asked_once(world, world_config):
    config = world_config()
    keys = [b"user number %06d" % i for i in range(8)]
    ids = world.marked(config.replace(key=keys[5]), 100, np.random.default_rng(1))
    calls = world.calls
    one = UMPWatermarkDetector(config.replace(key=keys[5]), surrogate=world)(ids)
    per_text = world.calls - calls
    for method in ("bonferroni", "bh", "e-bh"):
        calls = world.calls
        result = detect_keys(ids, config, keys, alpha=1e-3, method=method, surrogate=world)
        assert world.calls - calls == per_text
        assert np.flatnonzero(result.prediction).tolist() == [5] and result.any_prediction
    assert result.p_values[5] == one.p_value[0]
    assert result.log_e_values[5] == pytest.approx(one.log_e_value[0])
    assert result.any_p_value == pytest.approx(8 * one.p_value[0])
    expected = np.logaddexp.reduce(result.log_e_values) - math.log(8)
    assert result.any_log_e_value == pytest.approx(expected)


def test_keys_without_a_marked_text(world_config):
    """60 texts of 8 keys: some key reported with probability at most alpha = .1; error 1e-6."""
    config = world_config()
    rng = np.random.default_rng(6)
    reported = 0
    for i in range(60):
        keys = [1000 * i + k for k in range(8)]
        reported += detect_keys(rng.permutation(20), config, keys, alpha=0.1).any_prediction
    assert reported <= binom.isf(1e-6, 60, 0.1)


def test_bad_input(world_config, docs):
    detector = UMPWatermarkDetector(world_config())
    with pytest.raises(ValueError, match="unknown method 'vote'"):
        detect_corpus(docs, detector, method="vote")
    with pytest.raises(ValueError, match="no documents"):
        detect_corpus([], detector)
    with pytest.raises(ValueError, match="alpha"):
        detect_corpus(docs, detector, alpha=2.0)
    config, key = world_config(), b"0123456789abcdef"
    for bad, error, words in (
        ([], ValueError, "empty"),
        ([key, key], ValueError, "twice"),
        (key, TypeError, "one key"),
    ):
        with pytest.raises(error, match=words):
            detect_keys([1, 2, 3], config, bad)
    with pytest.raises(ValueError, match="unknown method"):
        detect_keys([1, 2, 3], config, [key], method="all")
    with pytest.raises(ValueError, match="needs surrogate="):
        detect_keys([1, 2, 3], config, [key], statistic="weighted-pivot")
