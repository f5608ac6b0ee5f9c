"""The experiment on real architectures: what it compares, and that each claim can fail."""

import importlib.util

import numpy as np
import pytest

from modicum.huper.experiments import EXPERIMENTS, architecture
from modicum.huper.phones import PhoneSet

pytest.importorskip("transformers")

PHONES = PhoneSet.arpabet39()


def test_it_is_registered():
    (one,) = [one for one in EXPERIMENTS if one.name == "architecture"]
    assert one.package == "modicum-huper"


def test_a_seed_is_a_model():
    first, again, other = (architecture.build("WavLM", seed, PHONES) for seed in (1, 1, 2))
    weights = [one.model.lm_head.weight.detach().numpy() for one in (first, again, other)]
    assert np.array_equal(weights[0], weights[1]) and not np.array_equal(weights[0], weights[2])


def test_batches_files_and_layouts_hold():
    found = architecture.batch_errors("WavLM", 0)
    assert found["pads"] and found["difference"] <= architecture.TOLERANCE < found["unmasked"]
    assert architecture.batch_claim({"WavLM": found}).holds
    assert architecture.file_errors("WavLM", 0) == 0
    assert architecture.layout_errors(0) == {"recognizer": 0, "corrector": 0}


def test_every_claim_can_fail():
    batch = {"difference": 0.01, "unmasked": 0.1, "pads": True}
    assert architecture.batch_claim({"WavLM": batch}).holds is False
    assert architecture.file_claim({"WavLM": 1e-7}).holds is False
    assert architecture.layout_claim({"recognizer": 0, "corrector": 1}).holds is False
    learnt = {"before": 1.0, "after": 0.0, "phones": 9, "steps": 10, "seconds": 1.0}
    assert architecture.heart_claim([learnt], architecture.FULL).holds
    for change in ({"after": 0.1}, {"seconds": 61.0}):
        assert architecture.heart_claim([learnt, learnt | change], architecture.FULL).holds is False


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="no accelerate")
def test_one_utterance_is_learnt_by_heart():
    from modicum.huper import espeak

    if not espeak.available():
        pytest.skip("espeak-ng is not here")
    found = architecture.memorise(architecture.QUICK, 0)
    assert found["before"] > 0.5 and found["after"] == 0
