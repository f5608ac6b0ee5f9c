"""Bounds on random joint distributions, enumerated: none may fail. And what calls cost."""

import itertools
import math

import pytest
import torch
from pvf_models import MASK, canvases, random_predictor

from modicum.pvf import PVF, infill, theory
from modicum.pvf.decoder import Decoder
from modicum.pvf.testing import EnumerationOracle

JOINTS = 2000


def random_joint(seed, confident):
    """Give a joint distribution of 2 to 4 variables with 2 to 4 values, float64.

    A confident one puts most of its mass at one tuple and around it.
    """
    generator = torch.Generator().manual_seed(seed)
    n, values = (2 + int(torch.randint(3, (1,), generator=generator)) for _ in range(2))
    joint = torch.rand((values,) * n, generator=generator, dtype=torch.float64) ** 6
    joint /= joint.sum()
    if confident:
        mass = torch.rand((), generator=generator, dtype=torch.float64) * 0.4
        joint *= mass
        joint.view(-1)[int(torch.randint(values**n, (1,), generator=generator))] += 1 - mass
    return joint


def marginals(joint):
    everything = range(joint.ndim)
    return [joint.sum([axis for axis in everything if axis != i]) for i in everything]


def entropy(p):
    return -torch.special.xlogy(p, p).sum()


def product(parts):
    out = parts[0]
    for part in parts[1:]:
        out = out[..., None] * part
    return out


def test_confident_tokens_are_safe_together():
    held = at_the_limit = 0
    for seed in range(JOINTS):
        joint = random_joint(seed, True)
        parts = marginals(joint)
        n, values = joint.ndim, joint.shape[0]
        # The least ε is above all of them by less than any bound notices.
        eps = 1 - min(float(part.max()) for part in parts) + 1e-12
        if n > theory.safe_parallel(eps) or (n + 1) * eps > 1:
            continue
        held += 1
        at_the_limit += (n + 2) * eps > 1
        best = torch.unravel_index(joint.argmax(), joint.shape)
        assert [int(i) for i in best] == [int(part.argmax()) for part in parts]
        apart = joint - product(parts)
        assert apart.abs().sum() / 2 <= theory.total_variation_bound(n, eps)
        divergence = sum(entropy(part) for part in parts) - entropy(joint)
        assert divergence <= theory.kl_bound(n, eps, values)
    assert held > JOINTS / 4 and at_the_limit > 50


def test_one_more_confident_token_is_not_safe():
    # Both variables are 0 with probability .65, so that (n + 1) ε = 1.05, just above 1; and (0, 0)
    # is not the most likely pair.
    joint = torch.tensor([[0.30, 0.35], [0.35, 0.0]], dtype=torch.float64)
    parts = marginals(joint)
    assert all(part.argmax() == 0 for part in parts)
    assert joint.argmax() != 0
    assert theory.safe_parallel(1 - float(parts[0].max())) == 1


@pytest.mark.parametrize(
    ("eps", "count"), [(0.1, 9), (1 - 0.9, 9), (1 / 3, 2), (0.05, 19), (0.4, 1), (0.9, 1), (1, 1)]
)
def test_how_many_tokens_are_safe(eps, count):
    assert theory.safe_parallel(eps) == count


def test_entropies_bound_what_independence_loses():
    tight = 0
    for seed in range(JOINTS):
        joint = random_joint(seed, seed % 2)
        entropies = torch.stack([entropy(part) for part in marginals(joint)])
        lost = entropies.sum() - entropy(joint)
        bound = theory.independence_gap_bound(entropies)
        assert -1e-12 <= lost <= bound + 1e-12
        tight += lost > bound / 2
    # A variable and its copy lose all that the bound allows.
    same = torch.diag(torch.tensor([0.3, 0.7], dtype=torch.float64))
    entropies = torch.stack([entropy(part) for part in marginals(same)])
    lost = entropies.sum() - entropy(same)
    assert lost == pytest.approx(float(theory.independence_gap_bound(entropies)))
    assert tight > 0


def test_likely_planning_tokens_leave_confident_predictions_as_they_are():
    guaranteed = changed = 0
    for seed in range(JOINTS):
        joint = random_joint(seed, seed % 2)
        for j, i in itertools.permutations(range(joint.ndim), 2):
            # Rows are values of j, columns those of i.
            pair = joint.movedim((j, i), (0, 1)).flatten(2).sum(2) if joint.ndim > 2 else joint
            pair = pair.T if joint.ndim == 2 and j > i else pair
            confidence, token = pair.sum(0).max(-1)
            for probability, row in zip(pair.sum(1), pair, strict=True):
                given = row / probability
                assert given[token] >= 1 - (1 - confidence) / probability - 1e-9
                # As if this confidence were the threshold, which is the hardest case.
                if theory.plan_pass_guaranteed(float(probability), float(confidence)):
                    guaranteed += 1
                    assert given.argmax() == token
                else:
                    changed += int(given.argmax() != token)
    assert guaranteed > JOINTS and changed > JOINTS


def test_at_the_boundary_nothing_is_guaranteed():
    # p = 2 (1 - c): given the planning token both values of the other variable have one half.
    pair = torch.tensor([[0.25, 0.25], [0.0, 0.5]], dtype=torch.float64)
    confidence, probability = float(pair.sum(0)[1]), float(pair.sum(1)[0])
    assert probability == 2 * (1 - confidence) == 0.5
    given = pair[0] / probability
    assert given[0] == given[1]
    assert not theory.plan_pass_guaranteed(probability, confidence)
    # 2 (1 - 0.9) is below 0.2 in floating point.
    assert not theory.plan_pass_guaranteed(0.2, 0.9)
    assert theory.plan_pass_guaranteed(0.21, 0.9)
    in_float32 = torch.tensor([0.2, 0.25])
    assert theory.plan_pass_guaranteed(in_float32, 0.9).tolist() == [False, True]


@pytest.mark.parametrize(("threshold", "plan_high"), [(0.9, 0.9), (0.55, 0.5)])
def test_no_coherent_model_rejects_what_is_guaranteed(threshold, plan_high):
    drafts = rejected = 0
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        sequences = torch.tensor(list(itertools.product(range(3), repeat=5)))
        weights = torch.rand(len(sequences), generator=generator, dtype=torch.float64) ** 40 + 1e-9
        oracle = EnumerationOracle(sequences, weights, 3, 4, eps=1e-12)
        strategy = PVF(
            threshold, 0.0, plan_high, num_drafts=5, plan_vocab=range(3), unlock_threshold=0
        )
        stats = infill(oracle, [3] * 5, strategy=strategy).stats[0]
        drafts += stats.drafts_plan
        rejected += stats.drafts_plan - stats.passed_plan
        assert stats.rejected_unexpected == 0
    # Above .2 a token has to pass at a threshold of .9, at .55 above .9 only.
    assert drafts > 100 and (rejected > 10) == (threshold == 0.55)


def test_what_counts_is_the_probability_once_the_base_set_is_committed():
    # x is 0 with probability .9 and is committed; y = 2 has probability .25 before that and 1/6
    # after it, and changes z, which is 10 with probability .908 once x is committed.
    others = range(3, 10)
    rows = [([0, 2, 10], 0.0675), ([0, 2, 11], 0.0825), ([1, 2, 12], 0.1)]
    rows += [([0, y, 10], 0.75 / len(others)) for y in others]
    oracle = EnumerationOracle(
        torch.tensor([row for row, _ in rows]), torch.tensor([w for _, w in rows]), 13, 14
    )
    strategy = PVF(threshold=0.89, plan_high=0.65, plan_vocab=[2])
    out = infill(oracle, [13] * 3, strategy=strategy, return_trace=True)
    assert out.stats[0].drafts_plan == 1 and out.stats[0].passed_plan == 0
    confidence = out.trace[0][0].rejected[0].confidence
    assert theory.plan_pass_guaranteed(confidence, 0.89)
    assert out.stats[0].rejected_unexpected == 0


@pytest.mark.parametrize(("drafts", "unlock"), [(0, 0), (1, 0), (3, 0), (3, 4)])
def test_identities_of_calls_hold(drafts, unlock):
    for seed in range(4):
        canvas, start, length = canvases(seed, 5, 4, 30)
        strategy = PVF(
            threshold=0.6,
            plan_high=0.5,
            num_drafts=drafts,
            plan_vocab=range(25),
            unlock_threshold=unlock,
        )
        decoder = Decoder(
            random_predictor(seed), strategy, canvas, start, length, 8, eos_early_stop=False
        )
        decoder.run()
        for stats in decoder.stats:
            assert not theory.broken_identities(
                stats, tokens=30, blocks=4, num_drafts=drafts, unlock_threshold=unlock
            )
            if drafts:
                broken = theory.broken_identities(stats, tokens=31, blocks=99, num_drafts=0)
                assert any("tokens == masks does not hold: 30 and 31" in text for text in broken)
                assert any("blocks <= nfe does not hold: 99" in text for text in broken)
                assert any("rows" not in text and "drafts" in text for text in broken)
    assert not (canvas == MASK).any()


def test_what_calls_and_rows_cost():
    # 989 Tflop/s and 4.8 TB/s.
    assert theory.ridge(989e12, 4.8e12) == pytest.approx(206, abs=0.1)
    device = {"flops": 989e12, "bandwidth": 4.8e12}
    few = theory.forward_seconds(8e9, 64, **device)
    assert few == theory.forward_seconds(8e9, 200, **device) == pytest.approx(16e9 / 4.8e12)
    many = theory.forward_seconds(8e9, 4 * 700, **device)
    assert many / theory.forward_seconds(8e9, 700, **device) == pytest.approx(4)
    assert theory.break_even(89.77, 31.34) == pytest.approx(2.864, abs=1e-3)
    assert theory.speedup(89.77, 31.34, 0.01, 0.02864) == pytest.approx(1, abs=1e-3)
    assert theory.speedup(89.77, 31.34, 0.01, 0.04) < 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.safe_parallel(0), "eps must be positive, not 0"),
        (lambda: theory.safe_parallel(1.5), r"eps must be a number in \[0, 1\], not 1.5"),
        (lambda: theory.total_variation_bound(0, 0.1), "n must be an integer of at least 1"),
        (lambda: theory.kl_bound(2, -0.1, 10), r"eps must be a number in \[0, 1\], not -0.1"),
        (lambda: theory.kl_bound(2, 0.1, 1), "vocab_size must be an integer of at least 2"),
        (lambda: theory.ridge(0, 1), "flops must be positive, not 0"),
        (lambda: theory.ridge(1, math.nan), "bandwidth must be positive, not nan"),
        (lambda: theory.break_even(1, -2), "calls_with_drafts must be positive, not -2"),
        (lambda: theory.speedup(1, 1, 1, 0), "seconds_drafts must be positive, not 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
