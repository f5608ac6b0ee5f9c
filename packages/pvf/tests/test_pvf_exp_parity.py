"""The experiment on published rules: the rules by hand, a wrong rule, and a run of it."""

import pytest
import torch
from pvf_answers import by_name, context

from modicum.pvf import Threshold
from modicum.pvf.experiments import parity
from modicum.pvf.experiments._shared import random_network
from modicum.pvf.experiments.parity import (
    Pair,
    at_least,
    by_factor,
    by_rank,
    by_schedule,
    compare,
    decoded,
)


def log_probs(*confidences):
    """Give log-probabilities of four tokens, the first one with these probabilities."""
    first_M1 = torch.tensor(confidences, dtype=torch.float64)[:, None]
    return torch.cat([first_M1, ((1 - first_M1) / 3).expand(-1, 3)], 1).log()


@pytest.mark.parametrize(
    ("rule", "confidences", "expected"),
    [
        (at_least(0.9), (0.95, 0.5, 0.91), {0, 2}),
        (at_least(0.9), (0.6, 0.5, 0.7), {2}),
        # Two are sure enough together from 1 - 1/3 on, three from 1 - 1/4 on.
        (by_factor(1.0), (0.7, 0.5, 0.95), {0, 2}),
        (by_factor(1.0), (0.76, 0.77, 0.95), {0, 1, 2}),
        (by_factor(1.0), (0.74, 0.77, 0.95), {1, 2}),
        (by_factor(1.0, last_too=True), (0.74, 0.77, 0.95), {0, 1, 2}),
        (by_factor(1.0), (0.4,), {0}),
        (by_factor(0.5), (0.8, 0.95, 0.7), {1}),
    ],
)
def test_rules_commit_what_they_say(rule, confidences, expected):
    assert set(rule(log_probs(*confidences), 0).tolist()) == expected


def test_a_schedule_gives_its_first_calls_one_more():
    rule = by_schedule(3, 8)
    counts = [len(rule(log_probs(*[0.5] * 8), call)) for call in range(3)]
    assert counts == [3, 3, 2]
    assert set(rule(log_probs(0.5, 0.9, 0.6, 0.7), 0).tolist()) == {1, 2, 3}


def test_ranks_are_margin_and_entropy():
    # The first is the surer of its best token, and has the larger entropy and the smaller margin.
    probs_MV = torch.tensor([[0.5, 0.45, 0.05, 0.0], [0.48, 0.2, 0.16, 0.16]]).double()
    assert by_rank("margin")(probs_MV.log(), 0).tolist() == [1]
    assert by_rank("entropy")(probs_MV.clamp(min=1e-12).log(), 0).tolist() == [0]


def test_a_wrong_rule_is_found():
    model = random_network(0)
    with torch.inference_mode():
        right = compare(model, [[5, 9]], 32, Pair("x", Threshold(0.9), at_least(0.9), 16))
        wrong = compare(model, [[5, 9]], 32, Pair("x", Threshold(0.9), at_least(0.5), 16))
    assert right == [[32, 32, 1]]
    assert wrong[0][1] < 32 and wrong[0][2] == 0


def test_blocks_are_decoded_one_after_the_other():
    seen = []

    class Watched:
        mask_id = 0

        def __init__(self):
            self.network = random_network(1)

        def forward(self, ids_RL, attention_mask_RL, positions_RH):
            seen.append((ids_RL == 0).sum().item())
            return self.network(ids_RL, attention_mask_RL, positions_RH)

    tokens, calls = decoded(Watched(), [4], 16, 8, by_schedule(4, 8))
    assert seen == [16, 14, 12, 10, 8, 6, 4, 2] and calls == 8
    assert len(tokens) == 16 and 0 not in tokens


def test_a_run_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(parity, "ANSWER_LENGTH", 16)
    monkeypatch.setattr(parity, "BLOCKS", (8, 16))
    monkeypatch.setattr(parity, "STEPS", (4, 16))
    result = parity.run(context(parity, tmp_path, seed=1))
    found = by_name(result.claims)
    assert set(found) == {
        "fast_dllm_threshold",
        "fast_dllm_factor",
        "llada_schedule",
        "dream_rank",
    }
    assert all(claim.holds and claim.measured == 100 for claim in found.values())
    one_less = parity.measure(context(parity, tmp_path, seed=1))
    one_less["threshold 0.9, blocks of 8"][0, 2] = 0
    judged = by_name(parity.claims(one_less))
    assert [name for name, claim in judged.items() if not claim.holds] == ["fast_dllm_threshold"]
