"""The experiments with a real model, small: they run, write what they say, and claims hold."""

import numpy as np
import pytest

from modicum.core.experiment import run_experiments
from modicum.core.watermark.attacks import substitute
from modicum.umpwatermark.detector import UMPWatermarkDetector
from modicum.umpwatermark.experiments import EXPERIMENTS as SIMULATED
from modicum.umpwatermark.integrations import end_to_end


def _run(name, tmp_path, seed):
    wanted = [e for e in end_to_end.EXPERIMENTS if e.name == name]
    (result,) = run_experiments(wanted, tmp_path, quick=True, seed=seed)
    assert result.status == "ok", result.error
    return result


def test_sample_is_written_detected_and_human_text_is_not(tmp_path):
    result = _run("sample", tmp_path, 4)
    assert [c.name for c in result.claims if not c.holds] == []
    (text,) = tmp_path.rglob("sample.txt")
    assert text.read_text().startswith(result.text[:200])
    assert end_to_end.KEY.decode() not in (text.parent / "sample.wm.json").read_text()


def test_evidence_is_that_of_the_detector_with_the_model_and_its_prompt():
    from modicum.core.watermark.causal_lm import SelfAnchor

    world = end_to_end._World("cpu", 0, length=24)
    config = world.config()
    prompts = world.prompts(2)
    assert not np.array_equal(prompts[0], prompts[1])
    ids = world.generate(prompts, 0.7, 1, config.for_transformers())
    assert ids.shape == (2, 24)
    for prompt, ids_T, law in zip(
        prompts, ids, world.laws(world.model, prompts, ids, 0.7), strict=True
    ):
        anchor = SelfAnchor(world.model, prompt, vocab_size=world.vocab_size, temperature=0.7)
        detector = UMPWatermarkDetector(config, surrogate=anchor)
        position, evidence = end_to_end.read_text(detector, ids_T, law)
        reading = detector.read(ids_T)
        np.testing.assert_array_equal(position, reading.position_S)
        np.testing.assert_array_equal(evidence.y_S, reading.evidence.y_S)
        np.testing.assert_allclose(evidence.prob_S, reading.evidence.prob_S, rtol=1e-3)
        # The text is Gumbel-max under these laws: every token matches, up to a near tie.
        assert evidence.match_S.mean() > 0.9
        assert reading.evidence.match_S.mean() > 0.9
    edited = substitute(ids[0], 0.2, np.random.default_rng(0), vocab_size=world.vocab_size).ids_T
    assert len(edited) == 24


def test_detection_by_length_and_ratios():
    reads = [
        (np.array([4, 5, 7]), np.array([0.5, 1e-4, 1e-5])),
        (np.array([4, 6]), np.array([1e-9, 0.2])),
        (np.array([], dtype=np.int64), np.array([])),
    ]
    found = end_to_end.detected_at(reads, 9)
    # The p-value after n tokens is that of the positions below n.
    assert found[0].tolist() == [False] * 5 + [True] * 4
    assert found[1].tolist() == [False] * 4 + [True] * 2 + [False] * 3
    assert not found[2].any()
    rng = np.random.default_rng(0)
    fast = np.arange(1, 41) >= rng.integers(5, 12, 100)[:, None]
    slow = np.arange(1, 41) >= rng.integers(20, 30, 100)[:, None]
    ratio, low, high = end_to_end.ratio_of_lengths(fast, slow, rng, paired=True)
    assert 0.2 < low <= ratio <= high < 0.6
    never = np.zeros_like(fast)
    ratio, low, high = end_to_end.ratio_of_lengths(slow, never, rng, paired=False)
    assert 0 < low <= ratio <= high < 1
    same = end_to_end.ratio_of_lengths(slow, slow, rng, paired=True)
    assert same == [1.0, 1.0, 1.0]


@pytest.mark.slow
def test_tiny_model_holds_what_it_claims(tmp_path):
    result = _run("tiny_model", tmp_path, 0)
    held = {claim.name: claim.holds for claim in result.claims}
    for name in ("nll-unchanged", "plain-not-reported", "human-not-reported", "substitute-10"):
        assert held[name], name
    assert False not in held.values()
    assert held["ours-against-kgw-t5"]


def test_names_of_experiments_are_unique():
    names = [e.name for e in [*SIMULATED, *end_to_end.EXPERIMENTS]]
    assert len(names) == len(set(names)) and {"sample", "tiny_model"} <= set(names)
    assert {e.package for e in end_to_end.EXPERIMENTS} == {"modicum-umpwatermark"}
