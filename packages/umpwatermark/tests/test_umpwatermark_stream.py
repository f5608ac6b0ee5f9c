"""Streams: the same evidence token by token, resumable, and valid at every look."""

import json
import pickle

import numpy as np
import pytest
from scipy.stats import binom

from modicum.core.stats import log_e_process
from modicum.umpwatermark.detector import UMPWatermarkDetector
from modicum.umpwatermark.stream import DetectorStream
from modicum.umpwatermark.uniforms import make_uniforms

SAMPLERS = ("gumbel", "hazard", "greenlist", "ump-aware")


@pytest.fixture(scope="module")
def texts(world, world_config):
    rng = np.random.default_rng(4)
    return {s: world.marked(world_config(sampler=s), 90, rng) for s in SAMPLERS}


@pytest.mark.parametrize(
    ("sampler", "with_surrogate"),
    [(s, w) for s in SAMPLERS for w in (False, True) if not (w and s == "ump-aware")],
)
def test_ends_where_the_detector_does(world, world_config, texts, sampler, with_surrogate):
    surrogate = world if with_surrogate else None
    detector = UMPWatermarkDetector(world_config(sampler=sampler), surrogate=surrogate)
    ids = texts[sampler]
    out = detector(ids)
    stream = detector.stream()
    states = [stream.push(token) for token in ids[:20]] + stream.push_many(ids[20:])
    assert len(states) == len(ids) and states[-1].num_tokens == len(ids)
    assert states[-1].num_tokens_scored == out.num_tokens_scored[0]
    assert states[-1].log_e_value == pytest.approx(out.log_e_value[0], rel=1e-9)
    assert states[-1].fixed_length_p_value == pytest.approx(out.p_value[0], rel=1e-9)
    # A state kept from earlier speaks of the text up to there.
    early = detector(ids[:31])
    assert states[30].fixed_length_p_value == pytest.approx(early.p_value[0], rel=1e-9)
    assert states[30].log_e_value == pytest.approx(early.log_e_value[0], rel=1e-9)
    assert np.all(np.diff([s.p_value for s in states]) <= 0)
    assert states[-1].stopped and states[states[-1].stopping_time - 1].p_value <= 1e-3
    assert states[states[-1].stopping_time - 2].p_value > 1e-3


def test_log_probs_with_the_tokens(world, world_config, texts):
    ids = texts["gumbel"]
    logprobs = world.token_logprobs(ids)
    detector = UMPWatermarkDetector(world_config(warmup=0))
    stream = detector.stream(log_probs=True)
    first = stream.push(ids[0], None)
    assert not first.scored and first.num_tokens == 1
    for token, value in zip(ids[1:40], logprobs[1:40], strict=True):
        stream.push(token, value)
    last = stream.push_many(ids[40:], logprobs[40:])[-1]
    out = detector.detect_logprobs(ids, [None, *logprobs[1:]])
    assert last.log_e_value == pytest.approx(out.log_e_value[0], rel=1e-12)
    assert last.fixed_length_p_value == pytest.approx(out.p_value[0], rel=1e-9)
    for bad, words in (((3, 0.5), "above 0"), ((3, None), "NaN or None"), ((99, -1.0), "99")):
        before = stream.to_json()
        with pytest.raises(ValueError, match=words):
            stream.push(*bad)
        assert stream.to_json() == before
    with pytest.raises(ValueError, match="log-probability with every token"):
        stream.push_many([1, 2])
    with pytest.raises(ValueError, match="takes none"):
        detector.stream().push(3, -1.0)
    with pytest.raises(ValueError, match="log_probs=True"):
        UMPWatermarkDetector(world_config(), statistic="weighted-pivot").stream()
    with pytest.raises(ValueError, match="greenlist"):
        UMPWatermarkDetector(world_config(sampler="greenlist")).stream(log_probs=True)


@pytest.mark.parametrize("log_probs", [False, True])
def test_resumes_from_json_and_pickle(world, world_config, texts, log_probs):
    ids = texts["gumbel"]
    logprobs = world.token_logprobs(ids) if log_probs else None
    detector = UMPWatermarkDetector(world_config(), surrogate=world, mixture=True)
    stream = detector.stream(log_probs=log_probs)
    stream.push_many(ids[:50], logprobs and logprobs[:50])
    text = stream.to_json()
    assert detector.config.key.decode() not in text
    copies = [DetectorStream.from_json(text, detector), pickle.loads(pickle.dumps(stream)), stream]
    ends = [copy.push_many(ids[50:], logprobs and logprobs[50:])[-1] for copy in copies]
    assert ends[0] == ends[1] == ends[2]
    assert len({end.fixed_length_p_value for end in ends}) == 1


def test_states_of_others_are_refused(world_config):
    detector = UMPWatermarkDetector(world_config())
    state = detector.stream().to_json()
    others = {
        "alpha": UMPWatermarkDetector(world_config(), alpha=0.01),
        "statistic": UMPWatermarkDetector(world_config(), statistic="binomial"),
        "seed": UMPWatermarkDetector(world_config(), seed=3),
        "key_id": UMPWatermarkDetector(world_config(key=b"another key of many bytes")),
        "sampler": UMPWatermarkDetector(world_config(sampler="hazard")),
    }
    for words, other in others.items():
        with pytest.raises(ValueError, match=words):
            DetectorStream.from_json(state, other)
    changed = json.loads(state) | {"format": 9}
    with pytest.raises(ValueError, match="format 9"):
        DetectorStream.from_json(json.dumps(changed), detector)
    for bad in ("[]", "{}", '{"format": 1}', '{"format": 1, "record": 5}'):
        with pytest.raises(ValueError, match=r"state of a stream|record"):
            DetectorStream.from_json(bad, detector)


def test_states_written_with_an_engine_prf_resume():
    from modicum.umpwatermark.config import UMPWatermarkConfig

    detector = UMPWatermarkDetector(UMPWatermarkConfig(key=42, vocab_size=50, prf="vllm-philox"))
    stream = detector.stream()
    stream.push_many([1, 2, 3])
    again = DetectorStream.from_json(stream.to_json(), detector)
    assert again.push(4) == stream.push(4)


def test_a_surrogate_that_fails_loses_nothing(world, world_config, monkeypatch):
    detector = UMPWatermarkDetector(world_config(), surrogate=world)
    stream = detector.stream()
    stream.push_many(range(10))
    before = stream.to_json()

    def broken(*arguments):
        raise RuntimeError("out of memory")

    for block in ([10], list(range(10, 40))):
        with monkeypatch.context() as patch:
            patch.setattr(world, "log_probs", broken)
            with pytest.raises(RuntimeError):
                stream.push_many(block)
        assert stream.to_json() == before
    end = stream.push_many(range(10, 60))[-1]
    assert end.log_e_value == pytest.approx(detector(list(range(60))).log_e_value[0])


def test_bad_tokens_leave_the_stream_as_it_was(world_config):
    stream = UMPWatermarkDetector(world_config()).stream()
    stream.push_many([1, 2, 3, 4, 5, 6])
    before = stream.to_json()
    for bad, error in ((60, ValueError), (-1, ValueError), (1.5, TypeError)):
        with pytest.raises(error):
            stream.push(bad)
        assert stream.to_json() == before
    assert stream.push_many([]) == []


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_ever_crossing_has_probability_alpha(world, world_config, sampler):
    """200 keys on one text, alpha .05 at any time; the limit is exceeded with probability 1e-7."""
    config = world_config(sampler=sampler)
    keys = [make_uniforms(config.replace(key=key)) for key in range(200)]
    surrogate = None if sampler == "ump-aware" else world
    text = world.plain(80, np.random.default_rng(1))
    for statistic in ("auto", "sum"):
        detector = UMPWatermarkDetector(config, surrogate=surrogate, statistic=statistic)
        crossed = 0
        for reading in detector.read_with(keys, text):
            steps = detector.statistic.log_e_steps(reading.evidence)
            size = detector.statistic.num_components
            path = log_e_process(steps if size > 1 else steps[:, 0], size)
            crossed += bool(path.max() >= np.log(20))
        assert crossed <= binom.isf(1e-7, 200, 0.05)
