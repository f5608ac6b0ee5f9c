"""The generator's step: exact laws averaged over keys, and what passes through untouched."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from modicum.core.watermark.anchors import UniformAnchor
from modicum.ewatermark import EWatermarkConfig, EWatermarkScheme
from modicum.ewatermark.coupling import coupled_group_law, group_masses

VARIANTS = [
    {"num_groups": 2},
    {"num_groups": 16},
    {"num_groups": 120},
    {"num_groups": 5, "prf": "blake2b"},
]


def tracker_after(scheme, tokens):
    tracker = scheme.new_tracker()
    for token in tokens:
        tracker.push(token)
    return tracker


@pytest.mark.parametrize("changes", VARIANTS)
@pytest.mark.parametrize("anchored", [False, True])
def test_step_is_the_coupled_law_of_the_drawn_seed(make_config, world, ngram, changes, anchored):
    cfg = make_config(**changes, anchor=ngram if anchored else None)
    scheme = EWatermarkScheme(cfg)
    tokens = [3, 14, 15, 92, 65, 35]
    tracker = tracker_after(scheme, tokens)
    q = world.law(tokens)
    out = np.exp(scheme.transform(np.log(q)[None], [tracker])[0])
    assert out.sum() == pytest.approx(1, abs=1e-9)
    context = np.array([tracker.context()])
    anchor_law = scheme.anchor_log_probs([scheme.window_of(tokens)], np.zeros(0))
    step = scheme.step(context, anchor_law)
    q_m = group_masses(q[None], step.groups_BV, cfg.num_groups)
    omega = coupled_group_law(q_m, step.masses_Bm, step.seed_B)[0]
    groups = np.arange(120) if step.groups_BV is None else step.groups_BV[0]
    expected = q * (omega / np.where(q_m[0] > 0, q_m[0], 1))[groups]
    np.testing.assert_allclose(out, expected, atol=1e-12)


def test_distribution_is_unchanged_on_average_over_keys(make_config, world, ngram):
    """Mean law over 1500 keys; each coordinate within 6.5 standard errors, p < 1e-7 in all."""
    tokens = [3, 14, 15, 92, 65, 35]
    q = world.law(tokens)
    n = 1500
    laws = np.zeros((n, len(q)))
    for i in range(n):
        scheme = EWatermarkScheme(make_config(key=i, num_groups=4, anchor=ngram))
        tracker = tracker_after(scheme, tokens)
        laws[i] = np.exp(scheme.transform(np.log(q)[None], [tracker])[0])
    stderr = laws.std(axis=0) / np.sqrt(n)
    assert np.all(np.abs(laws.mean(axis=0) - q) <= 6.5 * stderr + 1e-9)
    assert laws.std(axis=0).max() > 0.05


def test_torch_and_numpy_steps_agree(make_config, world, ngram):
    for changes in (*VARIANTS, {"num_groups": 3, "partition": "balanced"}):
        cfg = make_config(anchor=ngram, bias=0.7, **changes)
        scheme = EWatermarkScheme(cfg)
        texts = [[1, 2, 3, 4], [9, 8, 7, 6, 5], [1, 2], [5, 5, 5, 5, 5, 5]]
        trackers = [tracker_after(scheme, t) for t in texts]
        logits = np.log(np.stack([world.law(t) for t in texts]))
        host = scheme.transform(logits, trackers)
        device = scheme.transform(torch.from_numpy(logits), trackers)
        np.testing.assert_allclose(host, device.numpy(), atol=1e-6)


def test_unscored_rows_pass_through_bit_for_bit(make_config, world):
    scheme = EWatermarkScheme(make_config())
    repeated = tracker_after(scheme, [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4])
    assert repeated.context() is None
    trackers = [tracker_after(scheme, [1, 2]), repeated, tracker_after(scheme, [4, 3, 2, 1])]
    logits = torch.randn(3, 120, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    before = logits.clone()
    out = scheme.transform(logits, trackers)
    assert torch.equal(out[:2], before[:2]) and torch.equal(logits, before)
    assert not torch.equal(out[2], before[2])


def test_removed_tokens_stay_removed_and_padding_rows_are_impossible(make_config, world):
    scheme = EWatermarkScheme(make_config(num_groups=8))
    law = world.law([4])
    kept = law >= np.sort(law)[-3]
    logits = np.full((1, 128), -np.inf)
    logits[0, :120][kept] = np.log(law[kept] / law[kept].sum())
    for seed in range(50):
        tracker = tracker_after(scheme, [seed, seed + 1, seed + 2, seed + 3])
        out = scheme.transform(logits, [tracker])[0]
        assert np.all(out[120:] == -np.inf) and np.all(out[:120][~kept] == -np.inf)
        assert np.exp(out).sum() == pytest.approx(1)


def test_wide_logits_lose_the_mass_of_padding_rows(make_config):
    scheme = EWatermarkScheme(make_config())
    logits = np.log(np.full((1, 128), 1 / 128))
    out = scheme.transform(logits, [tracker_after(scheme, [1, 2, 3, 4])])[0]
    assert np.all(out[120:] == -np.inf) and np.isfinite(out[:120]).any()


def test_bias_adds_to_the_seed_group_only(make_config):
    plain = EWatermarkScheme(make_config())
    strong = EWatermarkScheme(make_config(bias=2.0))
    logits = np.log(np.random.default_rng(0).dirichlet(np.ones(120), 1))
    tracker = tracker_after(plain, [1, 2, 3, 4])
    step = plain.step(np.array([[1, 2, 3, 4]]), None)
    with_bias, without = strong.transform(logits, [tracker]), plain.transform(logits, [tracker])
    in_seed_group = step.groups_BV == step.seed_B[:, None]
    np.testing.assert_allclose(with_bias[in_seed_group], without[in_seed_group] + 2.0)
    np.testing.assert_array_equal(with_bias[~in_seed_group], without[~in_seed_group])


@pytest.mark.parametrize(
    ("logits", "words"),
    [
        (np.full((1, 120), np.nan), "rows \\[0\\]"),
        (np.full((1, 120), -np.inf), "rows \\[0\\]"),
        (np.zeros((1, 60)), "logits cover 60 tokens"),
        (np.zeros((2, 120)), "2 rows of logits but 1 trackers"),
    ],
)
def test_bad_logits_are_named(make_config, logits, words):
    scheme = EWatermarkScheme(make_config())
    with pytest.raises(ValueError, match=words), np.errstate(invalid="ignore"):
        scheme.transform(logits, [tracker_after(scheme, [1, 2, 3, 4])])


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"key": b"short"}, ValueError, "key has 5 bytes"),
        ({"num_groups": 1}, ValueError, "num_groups must lie in"),
        ({"num_groups": 121}, ValueError, "num_groups must lie in"),
        ({"num_groups": 2.0}, TypeError, "num_groups must be an int"),
        ({"vocab_size": 1}, ValueError, "vocab_size must be at least 2"),
        ({"score": "anchored", "delta": 2.5}, ValueError, "delta must lie"),
        ({"score": "anchored", "num_groups": 2, "delta": 1.0}, ValueError, "not below"),
        ({"score": "defensive", "fraction": 0.0}, ValueError, "fraction must lie"),
        ({"score": "none"}, ValueError, "unknown score"),
        ({"partition": "random"}, ValueError, "unknown partition"),
        ({"partition": "none"}, ValueError, "one group per token"),
        ({"partition": "balanced"}, ValueError, "needs an anchor"),
        ({"prf": "md5"}, ValueError, "unknown prf"),
        ({"bias": float("nan")}, ValueError, "bias must be finite"),
        ({"context_width": 0}, ValueError, "at least 1"),
        ({"warmup": -1}, ValueError, "not be negative"),
        ({"anchor": UniformAnchor(7)}, ValueError, "vocab_size 7 differs"),
        ({"gated": True}, ValueError, "gated=True applies"),
    ],
)
def test_bad_configurations_are_named(make_config, changes, error, words):
    with pytest.raises(error, match=words):
        make_config(**changes)


def test_key_never_shows(make_config):
    cfg = make_config()
    assert "a key for tests" not in repr(cfg)
    assert "a key for tests" not in cfg.record().to_json()
    assert cfg.key_id == make_config(num_groups=3).key_id != make_config(key=b"k" * 20).key_id


def test_paper_preset(world):
    cfg = EWatermarkConfig.paper(b"k" * 16, 500, num_groups=3)
    assert (cfg.num_groups, cfg.score, cfg.delta, cfg.warmup) == (3, "anchored", 0.3, 20)


def test_record_round_trip_and_refusals(make_config, ngram, tmp_path):
    cfg = make_config(anchor=ngram, num_groups=5)
    path = tmp_path / "wm.json"
    record = cfg.record("tokenizer-hash")
    record.save(path)
    loaded = type(record).load(path)
    again = EWatermarkConfig.from_record(loaded, cfg.key, ngram)
    assert again.parameters == cfg.parameters and again.key_id == cfg.key_id
    with pytest.raises(ValueError, match="key_id"):
        EWatermarkConfig.from_record(loaded, b"another key, 16 bytes", ngram)
    with pytest.raises(ValueError, match="anchor_fingerprint"):
        EWatermarkConfig.from_record(loaded, cfg.key, None)
    EWatermarkConfig.from_record(loaded, cfg.key, None, allow_mismatch=True)
    other = replace(loaded, scheme="umpwatermark")
    with pytest.raises(ValueError, match="read it with modicum-umpwatermark"):
        EWatermarkConfig.from_record(other, cfg.key, ngram)


def test_swapped_arguments_do_not_print_the_key():
    with pytest.raises(TypeError) as caught:
        EWatermarkConfig(32000, "my very secret key string")
    assert "secret" not in str(caught.value)


def test_numpy_values_give_a_record_that_is_json(world):
    cfg = EWatermarkConfig(
        key=b"k" * 16,
        vocab_size=np.int64(1000),
        num_groups=np.int64(4),
        delta=np.float32(0.5),
        deduplicate=np.bool_(True),
        context_width=np.int32(3),
    )
    assert cfg.record().parameters["vocab_size"] == 1000 and type(cfg.delta) is float


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"anchor": "tiny"}, "anchor must be an Anchor"),
        ({"delta": "0.3"}, "delta must be a number"),
        ({"bias": "1"}, "bias must be a number"),
        ({"prf": ["philox"]}, "prf must be a string"),
    ],
)
def test_wrong_kinds_are_named(make_config, changes, words):
    with pytest.raises(TypeError, match=words):
        make_config(**changes)
