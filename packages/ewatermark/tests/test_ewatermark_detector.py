"""The detector: its guarantee, its streams, and everything a caller may hand it."""

import json
import math
import pickle
import warnings

import numpy as np
import pytest
import torch

from modicum.ewatermark import (
    DetectorStream,
    EWatermarkDetector,
    ValidityWarning,
    detect_corpus,
    detect_keys,
)

VARIANTS = [
    {"num_groups": 2},
    {"num_groups": 2, "score": "anchored"},
    {"num_groups": 2, "score": "anchored-mixture", "warmup": 9},
    {"num_groups": 16},
    {"num_groups": 120, "score": "defensive", "fraction": 0.5},
    {"num_groups": 6, "prf": "blake2b", "context_width": 2},
]


@pytest.mark.parametrize("changes", VARIANTS)
@pytest.mark.parametrize("anchored", [False, True])
def test_marked_text_is_found_and_another_key_is_not(make_config, world, ngram, changes, anchored):
    cfg = make_config(**changes, anchor=ngram if anchored else None)
    rng = np.random.default_rng(5)
    docs = [world.marked(cfg, 300, rng) for _ in range(4)]
    out = EWatermarkDetector(cfg, alpha=1e-3)(docs)
    assert out.prediction.all() and (out.stopping_time > cfg.context_width).all()
    assert (out.p_value <= 1e-3).all() and (out.num_matches <= out.num_tokens_scored).all()
    other = EWatermarkDetector(cfg.replace(key=b"some other key 00"), alpha=1e-6)(docs)
    assert not other.prediction.any()  # false alarm with probability at most 4e-6


@pytest.mark.parametrize("start", ["beginning", "mixture"])
@pytest.mark.parametrize("changes", VARIANTS)
def test_stream_equals_whole_text_and_survives_json_and_pickle(
    make_config, world, ngram, changes, start
):
    cfg = make_config(**changes, anchor=ngram)
    ids = world.marked(cfg, 150, np.random.default_rng(2))
    detector = EWatermarkDetector(cfg, alpha=0.01, start=start)
    whole = detector(ids)
    stream = detector.stream()
    states = []
    for at in range(0, 150, 30):
        states += stream.push_many(ids[at : at + 15])
        stream = DetectorStream.from_json(stream.to_json(), detector)
        states += [stream.push(token) for token in ids[at + 15 : at + 30]]
        stream = pickle.loads(pickle.dumps(stream))
    np.testing.assert_allclose([s.log_e_value for s in states], whole.trajectory[0], atol=1e-9)
    last = states[-1]
    assert last.num_tokens == 150
    assert last.num_tokens_scored == whole.num_tokens_scored[0]
    assert last.num_matches == whole.num_matches[0]
    assert last.p_value == pytest.approx(whole.p_value[0])
    expected = int(whole.stopping_time[0])
    assert (last.stopping_time or -1) == expected
    if expected > 0:
        assert states[expected - 1].stopped and not states[expected - 2].stopped


def test_state_of_a_stream_never_holds_the_key(make_config):
    detector = EWatermarkDetector(make_config(), alpha=0.01)
    stream = detector.stream()
    stream.push_many(range(50))
    text = stream.to_json()
    assert "a key for tests" not in text and detector.config.key.hex() not in text
    with pytest.raises(ValueError, match="alpha"):
        DetectorStream.from_json(text, EWatermarkDetector(make_config(), alpha=0.02))
    with pytest.raises(ValueError, match="num_groups"):
        DetectorStream.from_json(text, EWatermarkDetector(make_config(num_groups=3), alpha=0.01))
    with pytest.raises(ValueError, match="format 99"):
        changed = json.loads(text) | {"format": 99}
        DetectorStream.from_json(json.dumps(changed), detector)


def test_a_bad_token_leaves_the_stream_as_it_was(make_config):
    stream = EWatermarkDetector(make_config()).stream()
    stream.push_many(range(20))
    before = stream.to_json()
    for bad in (-1, 120, 3.5):
        with pytest.raises((TypeError, ValueError)):
            stream.push(bad)
    assert stream.to_json() == before


def test_inputs_of_every_kind_give_the_same_answer(make_config, world):
    cfg = make_config()
    ids = world.marked(cfg, 60, np.random.default_rng(0))
    detector = EWatermarkDetector(cfg)
    expected = detector(ids).log_e_value
    for form in (
        np.array(ids, np.int32),
        torch.tensor(ids),
        tuple(ids),
        [ids],
        torch.tensor([ids]),
    ):
        np.testing.assert_array_equal(detector(form).log_e_value, expected)
    padded = detector([[*ids, 0, 0, 0]], pad_token_id=0)
    np.testing.assert_allclose(padded.log_e_value, expected)
    assert detector(ids, return_dict=False).tolist() == [True]


@pytest.mark.parametrize("length", [0, 1, 4])
def test_text_shorter_than_the_warm_up_is_no_evidence(make_config, length):
    out = EWatermarkDetector(make_config())([[5, 6, 7, 8][:length]])
    assert out.num_tokens_scored.tolist() == [0]
    assert out.e_value.tolist() == [1.0] and out.p_value.tolist() == [1.0]
    assert not out.prediction[0] and out.stopping_time.tolist() == [-1]


@pytest.mark.parametrize(
    ("ids", "error", "words"),
    [
        ([1, 2, 120], ValueError, "token id 120 at position 2"),
        ([1, -2, 3], ValueError, "is negative"),
        ([1.0, 2.0], TypeError, "must be integers"),
        (np.zeros((2, 2, 2), int), ValueError, "shape \\[T\\] or \\[B, T\\]"),
    ],
)
def test_bad_ids_are_named(make_config, ids, error, words):
    with pytest.raises(error, match=words):
        EWatermarkDetector(make_config())(ids)


def test_bad_levels_and_starts_are_named(make_config):
    for alpha in (0, 1, -1, 2):
        with pytest.raises(ValueError, match="alpha must lie"):
            EWatermarkDetector(make_config(), alpha=alpha)
    with pytest.raises(ValueError, match="middle"):
        EWatermarkDetector(make_config(), start="middle")


def test_repetitive_text_needs_deduplication(make_config):
    """A loop of 12 tokens carries 12 draws, not 600: only with de-duplication is that respected."""
    ids = list(range(12)) * 50
    cfg = make_config(num_groups=2)
    assert EWatermarkDetector(cfg)(ids).num_tokens_scored[0] == 12
    with pytest.warns(ValidityWarning, match="not bounded by alpha"):
        careless = EWatermarkDetector(cfg.replace(deduplicate=False), alpha=0.01)
    assert careless(ids).num_tokens_scored[0] == 596
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ValidityWarning)
        alarms = [
            EWatermarkDetector(cfg.replace(key=k, deduplicate=False), alpha=0.01)(ids).prediction[0]
            for k in range(200)
        ]
    # Nominal 1 %: without de-duplication about every fifth key raises an alarm.
    assert np.mean(alarms) > 0.05


def test_error_probability_over_keys_on_fixed_odd_texts(make_config, ngram):
    """Ever crossing 1/alpha over 1500 keys; alpha=.05 exceeded only with probability < 1e-7."""
    texts = {
        "constant": [7] * 200,
        "counting": [i % 120 for i in range(200)],
        "anchor's favourite": None,
    }
    favourite = [0, 1, 2, 3]
    while len(favourite) < 200:
        law = ngram.log_probs(np.array([favourite[-1:]]), np.array([1]))
        favourite.append(int(law[0].argmax()))
    texts["anchor's favourite"] = favourite
    # Binomial(1500, .05): mean 75, standard deviation 8.4; six of them above.
    limit = 75 + 6 * 8.5
    for name, ids in texts.items():
        detector = EWatermarkDetector(make_config(anchor=ngram), alpha=0.05)
        from modicum.core.stats import log_e_process
        from modicum.ewatermark import EWatermarkScheme

        schemes = [EWatermarkScheme(make_config(key=k, anchor=ngram)) for k in range(1500)]
        alarms = 0
        for evidence in detector.read_with(schemes, ids):
            log_e = detector.score.log_e(evidence)
            path = log_e_process(log_e, log_e.shape[1], weights=detector.score.weights)
            alarms += bool(len(path)) and path.max() >= math.log(20)
        assert alarms <= limit, name


def test_late_start_needs_the_start_mixture(make_config, world, ngram):
    cfg = make_config(anchor=ngram, num_groups=2, score="defensive", fraction=0.7)
    rng = np.random.default_rng(8)
    human = [int(t) for t in rng.integers(0, 120, 300)]
    spliced = human + world.marked(cfg, 200, rng)
    plain = EWatermarkDetector(cfg, alpha=0.02)(spliced)
    mixture = EWatermarkDetector(cfg, alpha=0.02, start="mixture")(spliced)
    assert not plain.prediction[0] and mixture.prediction[0]
    assert 300 < mixture.stopping_time[0] < 420
    assert abs(int(mixture.start_estimate[0]) - 300) < 60


def test_rekey_check_is_exact_in_both_directions(make_config, world, ngram):
    cfg = make_config(anchor=ngram)
    detector = EWatermarkDetector(cfg)
    rng = np.random.default_rng(3)
    marked = detector.rekey_check(world.marked(cfg, 120, rng), n_keys=199)
    assert marked.p_value == 1 / 200
    plain = detector.rekey_check(world.plain(120, rng), n_keys=199)
    assert plain.p_value > 1 / 200
    assert plain.mean_capped <= 1 + 6 * plain.mean_capped_stderr
    with pytest.raises(ValueError, match="n_keys"):
        detector.rekey_check([1, 2, 3], n_keys=0)


def test_poisson_binomial_companion(make_config, world):
    from scipy.stats import binom

    cfg = make_config(num_groups=4)
    detector = EWatermarkDetector(cfg)
    ids = world.marked(cfg, 80, np.random.default_rng(4))
    evidence, _, _ = detector.read(ids)
    expected = binom.sf(evidence.match_T.sum() - 1, len(evidence), 0.25)
    assert detector.poisson_binomial(ids) == pytest.approx(expected, rel=1e-9)
    assert detector.poisson_binomial([1, 2]) == 1.0


def test_text_goes_through_a_tokenizer_or_a_callable(make_config):
    detector = EWatermarkDetector(make_config())
    out = detector.detect_text("hello, some text", lambda t: [c % 120 for c in t.encode()])
    assert out.num_tokens_scored[0] == 12


def test_corpus_methods(make_config, world, ngram):
    cfg = make_config(anchor=ngram)
    rng = np.random.default_rng(9)
    docs = [world.marked(cfg, 80, rng) for _ in range(5)]
    docs += [world.plain(80, rng) for _ in range(15)]
    detector = EWatermarkDetector(cfg)
    truth = [True] * 5 + [False] * 15
    for method in ("e-bh", "bonferroni"):
        result = detect_corpus(docs, detector, method=method, alpha=0.001)
        assert result.prediction.tolist() == truth
        np.testing.assert_allclose(result.log_e_values, detector(docs).log_e_value)
    overall = detect_corpus(docs, detector, method="product", alpha=1e-6)
    assert overall.prediction.all() and overall.p_value <= 1e-6
    # The same document twice adds nothing to the product.
    once = detect_corpus(docs[:1], detector, method="product", alpha=0.01)
    twice = detect_corpus(docs[:1] * 2, detector, method="product", alpha=0.01)
    assert once.log_e_value == twice.log_e_value and twice.num_tokens_scored[1] == 0
    mean = detect_corpus(docs, detector, method="mean", alpha=0.01)
    expected = np.logaddexp.reduce(mean.log_e_values) - math.log(20)
    assert mean.log_e_value == pytest.approx(expected)
    with pytest.raises(ValueError, match="unknown method"):
        detect_corpus(docs, detector, method="vote")
    with pytest.raises(ValueError, match="no documents"):
        detect_corpus([], detector)


def test_corpus_spreads_over_an_executor(make_config, world):
    from concurrent.futures import ThreadPoolExecutor

    cfg = make_config()
    docs = [world.plain(40, np.random.default_rng(i)) for i in range(6)]
    alone = detect_corpus(docs, EWatermarkDetector(cfg))
    with ThreadPoolExecutor(2) as pool:
        spread = detect_corpus(docs, EWatermarkDetector(cfg), executor=pool)
    np.testing.assert_array_equal(alone.log_e_values, spread.log_e_values)


def test_keys_are_told_apart(make_config, world):
    cfg = make_config()
    keys = [b"user number %06d" % i for i in range(8)]
    ids = world.marked(cfg.replace(key=keys[5]), 150, np.random.default_rng(1))
    for method in ("fwer", "e-bh"):
        result = detect_keys(ids, cfg, keys, alpha=1e-3, method=method)
        assert np.flatnonzero(result.prediction).tolist() == [5] and result.any_prediction
    one = EWatermarkDetector(cfg.replace(key=keys[5]))(ids)
    assert result.log_e_values[5] == pytest.approx(one.log_e_value[0])
    for bad, words in (([], "empty"), ([keys[0], keys[0]], "twice")):
        with pytest.raises(ValueError, match=words):
            detect_keys(ids, cfg, bad)
    with pytest.raises(ValueError, match="unknown method"):
        detect_keys(ids, cfg, keys, method="all")


def test_an_anchor_that_fails_loses_nothing(make_config, ngram, monkeypatch):
    cfg = make_config(anchor=ngram)
    ids = list(range(60))
    stream = EWatermarkDetector(cfg).stream()
    stream.push_many(ids[:10])
    before = stream.to_json()
    real, calls = ngram.log_probs, []

    def broken(*arguments):
        calls.append(1)
        raise RuntimeError("out of memory")

    for block in ([ids[10]], ids[10:40]):
        monkeypatch.setattr(ngram, "log_probs", broken)
        with pytest.raises(RuntimeError):
            stream.push_many(block)
        assert stream.to_json() == before
        monkeypatch.setattr(ngram, "log_probs", real)
    assert len(calls) == 2
    states = stream.push_many(ids[10:])
    assert states[-1].log_e_value == pytest.approx(EWatermarkDetector(cfg)(ids).log_e_value[0])


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ("some text", "detect_text"),
        (["some", "texts"], "detect_text"),
        (None, "NoneType"),
        ({"input_ids": [1, 2]}, "input_ids"),
    ],
)
def test_what_is_no_token_ids_is_told_what_to_pass(make_config, ids, words):
    with pytest.raises(TypeError, match=words):
        EWatermarkDetector(make_config())(ids)


def test_lists_of_scalars_and_object_arrays_are_read(make_config):
    detector = EWatermarkDetector(make_config())
    expected = detector([1, 2, 3, 4, 5, 6]).log_e_value
    ragged = np.array([[1, 2, 3, 4, 5, 6], [1, 2]], dtype=object)
    assert detector(ragged).log_e_value[0] == expected[0]
    assert detector(list(torch.tensor([1, 2, 3, 4, 5, 6]))).log_e_value[0] == expected[0]


@pytest.mark.parametrize("state", ["[]", "{}", '{"format": 1}', '{"format": 1, "record": 5}'])
def test_what_is_no_state_is_refused(make_config, state):
    with pytest.raises(ValueError, match=r"state of a stream|record"):
        DetectorStream.from_json(state, EWatermarkDetector(make_config()))


def test_wrong_kinds_at_the_door(make_config):
    with pytest.raises(TypeError, match="EWatermarkConfig"):
        EWatermarkDetector(b"0123456789abcdef")
    with pytest.raises(TypeError, match="got one key"):
        detect_keys([1, 2, 3], make_config(), "0123456789abcdef")
    with pytest.raises(TypeError, match="the string 'gpt2'"):
        EWatermarkDetector(make_config()).detect_text("hi", "gpt2")
