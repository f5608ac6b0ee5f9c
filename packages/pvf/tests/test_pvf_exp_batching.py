"""The experiment on batches: a model that sees its batch, verdicts, and a run of it."""

import numpy as np
import pytest
import torch
from pvf_answers import by_name, context

from modicum.pvf import Threshold
from modicum.pvf.experiments import batching
from modicum.pvf.experiments._shared import random_network
from modicum.pvf.experiments.batching import NETWORK, NOISY, ORACLE, claims, compare, ragged


class SeesItsBatch:
    """A network that says something else when it is asked for several rows."""

    def __init__(self):
        self.network = random_network(0)
        self.mask_id, self.eos_id = self.network.mask_id, None
        self.vocab_size, self.device = self.network.vocab_size, self.network.device
        self.canvas = "full"

    def forward(self, ids_RL, attention_mask_RL, positions_RH):
        logits_RHV = self.network(ids_RL, attention_mask_RL, positions_RH)
        return logits_RHV if len(ids_RL) == 1 else -logits_RHV


def test_what_depends_on_the_batch_is_found():
    prompts = ragged(0, 0)[:3]
    with torch.inference_mode():
        different = compare(SeesItsBatch(), prompts, Threshold(0.9), 16)
        same = compare(random_network(0), prompts, Threshold(0.9), 16)
    assert sum(row[1] for row in different) < 24
    assert same == [[16, 16, 1]] * 3


def found(equal=32, counts=1, model=ORACLE):
    rows = np.array([[32, 32, 1]] * 9 + [[32, equal, counts]])
    right = np.array([[32, 32, 1]] * 10)
    return {name: {"pvf": rows if name == model else right} for name in (ORACLE, NOISY, NETWORK)}


def test_claims_follow_what_was_measured():
    good = by_name(claims(found()))
    assert all(claim.holds and claim.measured == 100 for claim in good.values())
    assert set(good) == {"oracle_batch", "noisy_oracle_batch", "random_network_batch"}


@pytest.mark.parametrize(
    ("model", "equal", "counts", "holds"),
    [
        (ORACLE, 31, 1, False),
        (ORACLE, 32, 0, False),
        (NETWORK, 31, 0, True),
        (NETWORK, 20, 1, False),
    ],
)
def test_an_exact_model_may_not_differ_a_network_a_little(model, equal, counts, holds):
    claim = by_name(claims(found(equal, counts, model)))[f"{model.replace(' ', '_')}_batch"]
    assert claim.holds is holds
    assert claim.measured == pytest.approx(100 * (9 * 32 + equal) / 320)


def test_prompts_have_different_lengths():
    lengths = [len(prompt) for prompt in ragged(1, 0)]
    assert len(lengths) == 16 and len(set(lengths)) > 5 and min(lengths) >= 1
    assert ragged(1, 0) != ragged(1, 1)


def test_a_run_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(batching, "PROMPTS", 3)
    result = batching.run(context(batching, tmp_path, seed=1))
    assert [claim.holds for claim in result.claims] == [True] * 3
    assert len(result.tables[0].rows) == 3 * len(batching.QUICK_STRATEGIES)


def test_all_kinds_of_strategies_are_compared():
    names = {type(strategy).__name__ for strategy in batching.strategies(range(3, 8)).values()}
    expected = {"TopK", "Threshold", "Factor", "EntropyBound", "KLASS", "ExtraToken"}
    assert names == expected | {"DraftVerify", "PVF"}
    assert set(batching.QUICK_STRATEGIES) <= set(batching.strategies([3]))
