"""The detector: what it reads, what it prints, and what it refuses."""

import math

import numpy as np
import pytest
from scipy.stats import binom, gamma

from modicum.core.watermark.anchors import NGramAnchor, UniformAnchor
from modicum.core.watermark.contexts import distinct_contexts
from modicum.core.watermark.warnings import PowerWarning, ValidityWarning
from modicum.core.watermark.warpers import Warper
from modicum.umpwatermark.config import UMPWatermarkConfig
from modicum.umpwatermark.detector import UMPWatermarkDetector, check_token_log_probs
from modicum.umpwatermark.samplers.gumbel import gumbel_argmax
from modicum.umpwatermark.uniforms import KeyedUniforms, make_uniforms

SAMPLERS = ("gumbel", "hazard", "greenlist", "ump-aware")


@pytest.fixture(scope="module")
def texts(world, world_config):
    """One marked text of 160 tokens per sampler."""
    rng = np.random.default_rng(3)
    return {s: world.marked(world_config(sampler=s), 160, rng) for s in SAMPLERS}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_finds_its_own_text_and_no_other(world, world_config, texts, sampler):
    config = world_config(sampler=sampler)
    others = [world.plain(160, np.random.default_rng(i)) for i in range(2)]
    surrogates = [world] if sampler == "ump-aware" else [None, world]
    for surrogate in surrogates:
        detector = UMPWatermarkDetector(config, alpha=1e-6, surrogate=surrogate)
        out = detector([texts[sampler], *others])
        assert out.prediction.tolist() == [True, False, False]
        assert out.p_value[1:].min() > 1e-3
        # With the generator as surrogate nothing beats the most powerful test.
        if sampler in ("gumbel", "hazard") and surrogate is not None:
            assert detector.statistic.name == "combined"
            assert out.per_token[0].match.all()
            assert out.ump_p_value[0] == pytest.approx(out.per_token[0].prob.prod(), rel=1e-6)
            assert out.ump_p_value[0] <= out.p_value[0] < 1e-20
            assert 0.4 < out.efficiency[0] <= 1
            assert out.ump_p_value[1:].tolist() == [1.0] * 2
        elif surrogate is None:
            assert np.isnan(out.ump_p_value).all() and np.isnan(out.efficiency).all()


@pytest.mark.parametrize(
    ("sampler", "surrogate", "calibration", "name"),
    [
        ("gumbel", False, None, "sum"),
        ("gumbel", True, None, "combined"),
        ("hazard", False, None, "binomial"),
        ("hazard", False, [0.5, 0.9], "learned"),
        ("hazard", True, None, "combined"),
        ("greenlist", False, None, "hits"),
        ("greenlist", True, None, "weighted-hits"),
        ("ump-aware", False, None, "weighted-hits"),
    ],
)
def test_auto(world, world_config, sampler, surrogate, calibration, name):
    config = world_config(sampler=sampler)
    detector = UMPWatermarkDetector(
        config, surrogate=world if surrogate else None, calibration=calibration
    )
    assert detector.statistic.name == name


def test_reads_pivots_and_matches_of_distinct_contexts(world, world_config, texts):
    ids = np.array(texts["gumbel"])
    config = world_config()
    uniforms = make_uniforms(config)
    contexts, scored = distinct_contexts(ids, 4, 4)
    u = uniforms.uniforms(uniforms.context_state(contexts[scored]), world.vocab_size)
    out = UMPWatermarkDetector(config, surrogate=world)(ids)
    token = out.per_token[0]
    np.testing.assert_array_equal(token.position, np.flatnonzero(scored))
    np.testing.assert_array_equal(token.pivot, u[np.arange(len(u)), ids[scored]])
    law = np.stack([world.law(ids[:i].tolist()) for i in token.position])
    np.testing.assert_array_equal(token.match, gumbel_argmax(np.log(law), u) == ids[scored])
    expected = law[np.arange(len(law)), ids[scored]].clip(1e-6)
    np.testing.assert_allclose(token.prob, expected, rtol=1e-12)
    assert out.num_tokens_scored[0] == scored.sum() == len(token.score)
    assert out.score[0] == pytest.approx(token.score.sum()) == out.log_e_value[0]


def test_sum_and_hits_by_their_definitions(world_config, texts):
    out = UMPWatermarkDetector(world_config())(texts["gumbel"])
    n, score = out.num_tokens_scored[0], out.score[0]
    assert out.p_value[0] == pytest.approx(gamma.sf(score, n), rel=1e-8)
    assert out.z_score[0] == pytest.approx((score - n) / math.sqrt(n))
    out = UMPWatermarkDetector(world_config(sampler="greenlist", gamma=0.25))(texts["greenlist"])
    hits, n = out.num_green_tokens[0], out.num_tokens_scored[0]
    assert out.p_value[0] == pytest.approx(binom.sf(hits - 1, n, 0.25), rel=1e-8)
    assert out.z_score[0] == pytest.approx((hits - n / 4) / math.sqrt(n * 3 / 16))


def test_error_probability_over_keys_on_odd_texts(world, world_config):
    """150 keys, alpha .05 and .01, every sampler; binomial limits of error 5e-8 each."""
    texts = {"counting": [i % 60 for i in range(30)]}
    favourite = [0]
    while len(favourite) < 30:
        favourite.append(int(world.law(favourite).argmax()))
    texts["favourite"] = favourite
    for sampler in SAMPLERS:
        config = world_config(sampler=sampler)
        keys = [make_uniforms(config.replace(key=key)) for key in range(150)]
        surrogate = None if sampler == "ump-aware" else world
        detector = UMPWatermarkDetector(config, surrogate=surrogate, num_null_draws=199)
        for name, ids in texts.items():
            p = np.array([detector.p_value(r) for r in detector.read_with(keys, ids)])
            for alpha in (0.05, 0.01):
                assert (p <= alpha).sum() <= binom.isf(5e-8, 150, alpha), (sampler, name, alpha)


def test_null_draws_depend_on_text_and_seed_not_on_the_key(world, world_config):
    ids = world.plain(60, np.random.default_rng(0))
    config = world_config()
    one = UMPWatermarkDetector(config, surrogate=world, method="mc")
    assert one(ids).p_value[0] == one(ids).p_value[0]
    other = UMPWatermarkDetector(config, surrogate=world, method="mc", seed=5)
    near = abs(other(ids).p_value[0] - one(ids).p_value[0])
    assert 0 < near < 0.05
    # Same evidence, other key: same p-value.
    reading = one.read(ids)
    rekeyed = UMPWatermarkDetector(config.replace(key=b"another key of 32 bytes"), surrogate=world)
    assert rekeyed.p_value(reading, one.statistic) == one.p_value(reading)


def test_logprobs_are_the_weighted_pivot(world, world_config, texts):
    ids = texts["gumbel"]
    logprobs = world.token_logprobs(ids)
    plain = UMPWatermarkDetector(world_config())
    out = plain.detect_logprobs(ids, logprobs)
    same = UMPWatermarkDetector(world_config(), surrogate=world, statistic="weighted-pivot")(ids)
    assert out.p_value[0] == pytest.approx(same.p_value[0], rel=1e-9)
    assert out.log_e_value[0] == pytest.approx(same.log_e_value[0], rel=1e-9)
    assert out.prediction[0] and out.per_token[0].match is None
    assert 0 < out.efficiency[0] < 1
    batch = plain.detect_logprobs([ids, ids[:50]], [logprobs, logprobs[:50]])
    assert batch.p_value[0] == out.p_value[0] and batch.num_tokens_scored[1] < 50
    padded = plain.detect_logprobs([*ids, 0, 0], [*logprobs, 0.0, 0.0], pad_token_id=0)
    # Trailing zeros of the text itself would be cut as well; here it ends otherwise.
    assert ids[-1] != 0 and padded.p_value[0] == out.p_value[0]
    tensor = np.array(logprobs, dtype=np.float32)
    assert plain.detect_logprobs(ids, tensor).p_value[0] == pytest.approx(out.p_value[0], rel=0.01)


def test_unknown_first_logprob_is_not_scored(world_config):
    detector = UMPWatermarkDetector(world_config(warmup=0))
    ids = [5, 6, 7, 8, 9]
    for unknown in (None, math.nan):
        out = detector.detect_logprobs(ids, [unknown, -1.0, -0.5, -3.0, -1.0])
        assert out.num_tokens_scored[0] == 4 and out.per_token[0].position[0] == 1


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ([-1.0, 0.5, -1.0], ValueError, "0.5"),
        ([-1.0, -1.0], ValueError, "2 log-probabilities for 3"),
        ([-1.0, None, -1.0], ValueError, "token 1"),
        ([-1.0, -1.0, math.nan], ValueError, "token 2"),
        ([-1.0, "x", -1.0], TypeError, "number"),
        ([-1.0, math.inf, -1.0], ValueError, "inf"),
        (3.0, TypeError, "number"),
    ],
)
def test_bad_logprobs(world_config, values, error, words):
    detector = UMPWatermarkDetector(world_config())
    with pytest.raises(error, match=words):
        detector.detect_logprobs([1, 2, 3], values)
    with pytest.raises(error, match=words):
        check_token_log_probs(values, 3)


def test_logprobs_may_round_above_zero_and_be_impossible():
    values = check_token_log_probs([1e-7, -math.inf], 2)
    assert values.tolist() == [0.0, -math.inf]


def test_logprobs_of_hazard_and_of_regions(world, world_config, texts):
    ids = texts["hazard"]
    detector = UMPWatermarkDetector(world_config(sampler="hazard"))
    assert detector.detect_logprobs(ids, world.token_logprobs(ids)).p_value[0] < 1e-6
    for sampler in ("greenlist", "ump-aware"):
        detector = UMPWatermarkDetector(world_config(sampler=sampler))
        with pytest.raises(ValueError, match=sampler):
            detector.detect_logprobs([1, 2, 3], [-1, -1, -1])
    with pytest.raises(ValueError, match="1 sequences of log-probabilities for 2"):
        UMPWatermarkDetector(world_config()).detect_logprobs([[1, 2], [3]], [[-1.0, -1.0]])
    with pytest.raises(ValueError, match="detect_logprobs"):
        UMPWatermarkDetector(world_config(), statistic="weighted-pivot")([1, 2, 3])


def test_bad_surrogates_cost_power_and_nothing_else(world, world_config, texts):
    config, ids = world_config(), texts["gumbel"]
    ngram = NGramAnchor(world.vocab_size, order=2).fit([world.plain(400, np.random.default_rng(0))])
    scores = [
        UMPWatermarkDetector(config, surrogate=s)(ids).log_e_value[0]
        for s in (world, ngram, UniformAnchor(world.vocab_size))
    ]
    assert scores[0] > scores[1] > scores[2]
    mixed = UMPWatermarkDetector(config, surrogate=ngram, mixture=True)(ids)
    assert mixed.prediction[0]


def test_warper_floors_what_it_cuts(world, world_config, texts):
    config = world_config()
    warper = Warper(top_k=1)
    out = UMPWatermarkDetector(config, surrogate=world, surrogate_warper=warper)(texts["gumbel"])
    token = out.per_token[0]
    assert set(np.unique(token.prob)) == {1e-6, 1.0}
    assert not token.match[token.prob == 1e-6].any()
    assert token.score.min() >= math.log(0.4) - 1e-12
    with pytest.warns(PowerWarning, match=r"temperature 0\.01"):
        UMPWatermarkDetector(config, surrogate_warper=Warper(temperature=0.01))


def test_vllm_prf_scores_from_the_first_token():
    config = UMPWatermarkConfig(key=42, vocab_size=100, prf="vllm-philox")
    out = UMPWatermarkDetector(config)([85, 3, 4, 5, 6])
    assert out.num_tokens_scored[0] == 5
    assert out.per_token[0].pivot[0] == pytest.approx(0.9981519, abs=1e-7)


def test_shapes_of_input(world_config, texts):
    detector = UMPWatermarkDetector(world_config())
    ids = texts["gumbel"]
    alone = detector(ids).p_value[0]
    assert detector(np.array([ids, ids])).p_value.tolist() == [alone, alone]
    assert detector([*ids, 0, 0, 0], pad_token_id=0).p_value[0] == alone
    assert detector(ids, return_dict=False).tolist() == [True]
    text = "".join(chr(65 + t) for t in ids)
    assert detector.detect_text(text, lambda t: [ord(c) - 65 for c in t]).p_value[0] == alone
    torch = pytest.importorskip("torch")
    assert detector(torch.tensor([ids])).p_value[0] == alone


def test_torch_surrogates_read_the_same(world, world_config, texts):
    torch = pytest.importorskip("torch")

    class TorchWorld:
        vocab_size, window, fingerprint = world.vocab_size, 1, "torch"

        def log_probs(self, context_ids_BL, lengths_B):
            return torch.from_numpy(world.log_probs(context_ids_BL, lengths_B))

    for sampler in SAMPLERS[:3]:
        config = world_config(sampler=sampler)
        ours = UMPWatermarkDetector(config, surrogate=world)(texts[sampler])
        theirs = UMPWatermarkDetector(config, surrogate=TorchWorld())(texts[sampler])
        np.testing.assert_array_equal(ours.per_token[0].pivot, theirs.per_token[0].pivot)
        np.testing.assert_allclose(ours.per_token[0].score, theirs.per_token[0].score, rtol=1e-9)
        assert ours.p_value[0] == pytest.approx(theirs.p_value[0], rel=1e-6)
    config = world_config(sampler="ump-aware", surrogate=TorchWorld())
    assert UMPWatermarkDetector(config)(texts["ump-aware"]).prediction[0]


def test_exact_greenlist_weighs_hits_too(world, world_config):
    config = world_config(sampler="greenlist", coupling="exact", gamma=0.3)
    ids = world.marked(config, 60, np.random.default_rng(1))
    out = UMPWatermarkDetector(config, surrogate=world)(ids)
    assert out.prediction[0] and out.num_green_tokens[0] > 0.6 * out.num_tokens_scored[0]


@pytest.mark.parametrize("empty", [[], [[]], np.zeros((1, 0), dtype=int), [3, 4]])
def test_empty_and_short_texts(world, world_config, empty):
    for surrogate in (None, world):
        out = UMPWatermarkDetector(world_config(), surrogate=surrogate)(empty)
        assert out.p_value.tolist() == [1.0] and out.log_e_value.tolist() == [0.0]
        assert out.num_tokens_scored.tolist() == [0] and not out.prediction[0]
        assert len(out.per_token[0].score) == 0
    assert UMPWatermarkDetector(world_config()).detect_logprobs([], []).p_value.tolist() == [1.0]


def test_repeats_count_once_and_switching_that_off_warns(world_config, texts):
    ids = texts["gumbel"]
    config = world_config()
    assert UMPWatermarkDetector(config)(ids * 2).num_tokens_scored[0] <= len(ids) + 4
    with pytest.warns(ValidityWarning, match="deduplicate"):
        UMPWatermarkDetector(config.replace(deduplicate=False))


def test_long_texts_stay_within_memory(world_config):
    """100000 tokens with log-probabilities: bounded memory, and no warning."""
    rng = np.random.default_rng(0)
    config = world_config(context_width=6)
    ids = rng.integers(0, 60, 100_000)
    detector = UMPWatermarkDetector(config, num_null_draws=99)
    out = detector.detect_logprobs(ids, np.log(rng.beta(0.5, 0.5, 100_000).clip(1e-12)))
    assert out.num_tokens_scored[0] > 99_000 and out.p_value[0] > 1e-4


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"alpha": 0.0}, ValueError, "alpha"),
        ({"alpha": 1.5}, ValueError, "1.5"),
        ({"statistic": "best"}, ValueError, "unknown statistic"),
        ({"statistic": "combined"}, ValueError, "needs surrogate="),
        ({"statistic": "hits"}, ValueError, "regions"),
        ({"surrogate": UniformAnchor(61)}, ValueError, "61"),
        ({"surrogate": 5}, TypeError, "Anchor"),
        ({"surrogate_warper": 5}, TypeError, "Warper"),
        ({"seed": -1}, ValueError, "seed"),
        ({"weights": (0.5, 0.5)}, ValueError, "no weights"),
        ({"num_null_draws": 0}, ValueError, "num_null_draws"),
        ({"method": "exact"}, ValueError, "method"),
    ],
)
def test_bad_settings(world_config, changes, error, words):
    with pytest.raises(error, match=words):
        UMPWatermarkDetector(world_config(), **changes)


def test_wrong_kinds_at_the_door(world, world_config):
    with pytest.raises(TypeError, match="UMPWatermarkConfig"):
        UMPWatermarkDetector(b"0123456789abcdef")
    with pytest.raises(ValueError, match="own surrogate"):
        UMPWatermarkDetector(world_config(sampler="ump-aware"), surrogate=UniformAnchor(60))
    with pytest.raises(ValueError, match="greenlist"):
        UMPWatermarkDetector(
            world_config(sampler="greenlist"), surrogate=world, statistic="combined"
        )
    detector = UMPWatermarkDetector(world_config())
    for ids, words in (("text", "detect_text"), (None, "NoneType"), ({"input_ids": [1]}, "input")):
        with pytest.raises(TypeError, match=words):
            detector(ids)
    for ids in ([60], [-1]):
        with pytest.raises(ValueError, match=str(ids[0])):
            detector(ids)

    class Bent:
        vocab_size, window, fingerprint = 60, 1, "bent"

        def log_probs(self, context_ids_BL, lengths_B):
            return np.zeros((len(lengths_B), 60))

    with pytest.raises(ValueError, match="sums to"):
        UMPWatermarkDetector(world_config(), surrogate=Bent())(list(range(10)))


@pytest.mark.gpu
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_surrogates_on_a_gpu_read_the_same(world, world_config, texts, sampler):
    torch = pytest.importorskip("torch")

    class CudaWorld:
        vocab_size, window, fingerprint = world.vocab_size, 1, world.fingerprint

        def log_probs(self, context_ids_BL, lengths_B):
            return torch.from_numpy(world.log_probs(context_ids_BL, lengths_B)).cuda()

    readings = []
    for surrogate in (world, CudaWorld()):
        own = sampler == "ump-aware"
        config = world_config(sampler=sampler, **({"surrogate": surrogate} if own else {}))
        detector = UMPWatermarkDetector(config, surrogate=None if own else surrogate)
        readings.append(detector.read(texts[sampler]).evidence)
    ours, theirs = readings
    np.testing.assert_array_equal(ours.y_S, theirs.y_S)
    np.testing.assert_allclose(ours.prob_S, theirs.prob_S, rtol=1e-9)
    for name in ("match_S", "hit_S"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


class TiedWords:
    """Words of two tokens that differ in the bits below an engine's 24 only."""

    def context_state(self, ids):
        return ids

    def words(self, state, index):
        return 0xFFFFFF01 + index

    def words_range(self, state, n):
        return np.broadcast_to(0xFFFFFF01 + np.arange(n), (*state.shape[:-1], n))


def test_ties_of_coarse_uniforms_do_not_favour_low_ids():
    """With 24 bits token 0 would match at every tie, more often than the null law says."""
    config = UMPWatermarkConfig(key=7, vocab_size=2, prf="vllm-philox", context_width=1)
    detector = UMPWatermarkDetector(config, surrogate=UniformAnchor(2))
    uniforms = KeyedUniforms(TiedWords(), TiedWords(), engine=True)
    law = np.log(np.full((2, 2), 0.5))
    evidence = detector.evidence(uniforms, np.array([[0], [1]]), np.array([0, 1]), law)
    assert evidence.y_S[0] == evidence.y_S[1]
    assert evidence.match_S.tolist() == [False, True]


@pytest.mark.parametrize("options", [{"gamma": 0.2}, {"calibration": [0.2, 0.9]}])
def test_options_of_other_statistics_are_not_ignored(options):
    config = UMPWatermarkConfig(key=b"0123456789abcdef", vocab_size=9)
    with pytest.raises(ValueError, match=f"{next(iter(options))}= belongs to statistic="):
        UMPWatermarkDetector(config, **options)


def test_a_broken_number_of_draws_is_not_rounded():
    config = UMPWatermarkConfig(key=b"0123456789abcdef", vocab_size=9)
    with pytest.raises(TypeError, match=r"num_null_draws must be an int, got 10\.5"):
        UMPWatermarkDetector(config, num_null_draws=10.5)
