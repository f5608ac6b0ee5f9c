"""One budget for many prompts: exact, and better spent where answers are in doubt."""

import asyncio
import random

import numpy as np
import pytest

from modicum.testtime import backends
from modicum.testtime.allocator import Allocator, need
from modicum.testtime.samples import Budget
from modicum.testtime.self_consistency import SelfConsistency
from modicum.testtime.stopping.beta import BetaStop
from modicum.testtime.stopping.certificate import ModeCertificate
from modicum.testtime.stopping.curtailed import Curtailed
from modicum.testtime.stopping.evidence import beta_confidence, log_e_pair
from modicum.testtime.stopping.fixed import FixedN

EASY, HARD = 0.95, 0.62


def draw(prompt, seed):
    """Answer "right" with the probability that the prompt names."""
    return f"{seed}, so " + ("right" if random.Random(seed).random() < float(prompt) else "wrong")


def last_word(text):
    return text.split()[-1]


async def adraw(prompt, seed):
    await asyncio.sleep(0)
    return draw(prompt, seed)


def strategy(**options):
    options.setdefault("stop", FixedN(400))
    return SelfConsistency(backends.callable(draw), extract=last_word, **options)


def prompts(easy=20, hard=20):
    return [(f"easy {i}", str(EASY)) for i in range(easy)] + [
        (f"hard {i}", str(HARD)) for i in range(hard)
    ]


# Need --------------------------------------------------------------------------------------------


def test_need_is_the_blend_it_says():
    a, b = np.array([0, 1, 4, 9, 5, 30]), np.array([0, 0, 0, 1, 5, 2])
    for share in (0.0, 0.3, 1.0):
        expected = (1 - share) * (1 - beta_confidence(a, b)) + share * np.exp(
            -np.maximum(0, log_e_pair(a, b))
        )
        np.testing.assert_allclose(need(a, b, share), expected, rtol=1e-14)
    # By hand: P(Beta(2, 1) < 1/2) = 1/4; E(1, 0) = 2 · 2 · B(2, 1) · 3/4 = 3/2.
    np.testing.assert_allclose(need([1], [0], 0.0), [1 / 4])
    np.testing.assert_allclose(need([1], [0], 1.0), [2 / 3])
    np.testing.assert_allclose(need([0, 3], [0, 3], 0.0), [0.5, 0.5])


def test_need_falls_as_evidence_grows():
    for share in (0.0, 0.5, 1.0):
        lead = need(np.arange(0, 30), np.zeros(30), share)
        assert (np.diff(lead) < 0).all() and ((lead > 0) & (lead <= 1)).all()
        assert need([20], [18], share) > need([20], [8], share)


# The budget --------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["uniform", "adaptive"])
@pytest.mark.parametrize("kind", ["callable", "async_callable"])
@pytest.mark.parametrize(("total", "wave", "share"), [(37, 4, 0.25), (101, 3, 1.0), (160, 7, 0.1)])
def test_the_budget_is_spent_exactly(policy, kind, total, wave, share):
    backend = getattr(backends, kind)(draw if kind == "callable" else adraw)
    own = SelfConsistency(backend, extract=last_word, stop=FixedN(400))
    allocator = Allocator(total, policy=policy, wave=wave, share=share)
    results = own.run(prompts(6, 6), scheduler=allocator)
    assert results.usage.submitted == results.usage.used == allocator.spent == total
    assert results.truncated
    assert all(result.truncated for result in results)
    # The next run begins afresh.
    assert own.run(prompts(6, 6), scheduler=allocator).usage.submitted == total


def test_nothing_is_spent_on_finished_prompts():
    allocator = Allocator(10_000, wave=4)
    results = strategy(stop=BetaStop(0.9), max_samples=40).run(prompts(), scheduler=allocator)
    assert not results.truncated
    assert results.usage.submitted == allocator.spent < 10_000
    assert all(result.usage.submitted <= 40 for result in results)
    # Sample by sample the decisions are those of a run without an allocator.
    alone = strategy(stop=BetaStop(0.9), max_samples=40).run(prompts())
    assert [r.votes for r in results] == [r.votes for r in alone]


def test_the_runs_own_budget_holds_as_well():
    allocator = Allocator(500, wave=4)
    results = strategy().run(prompts(), scheduler=allocator, budget=Budget(samples=90))
    assert results.usage.submitted == 90


def test_a_cap_is_kept():
    results = strategy(stop=Curtailed(6)).run(prompts(3, 3), scheduler=Allocator(1000, wave=4))
    assert all(result.usage.submitted <= 6 for result in results)
    assert not results.truncated


@pytest.mark.parametrize("total", [40, 41, 79])
def test_a_uniform_budget_is_shared_evenly(total):
    allocator = Allocator(total, policy="uniform", wave=1, share=1.0)
    used = [result.usage.used for result in strategy().run(prompts(5, 5), scheduler=allocator)]
    assert sum(used) == total
    assert max(used) - min(used) <= 1


def test_everybody_gets_some_before_anybody_gets_more():
    for policy in ("uniform", "adaptive"):
        allocator = Allocator(40 * 4, policy=policy, wave=4, share=0.25)
        used = [result.usage.used for result in strategy().run(prompts(), scheduler=allocator)]
        assert used == [4] * 40


def test_the_adaptive_budget_goes_where_answers_are_in_doubt():
    results = strategy().run(prompts(), scheduler=Allocator(800, wave=4))
    easy = np.mean([result.usage.used for result in results[:20]])
    hard = np.mean([result.usage.used for result in results[20:]])
    assert hard > 2 * easy


def test_a_resumed_run_is_shared_out_alike(tmp_path):
    path = tmp_path / "log.jsonl"
    first = strategy().run(prompts(), scheduler=Allocator(300), log=path)
    whole = path.read_bytes()
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:120]))
    again = strategy().run(prompts(), scheduler=Allocator(300), log=path)
    assert [r.votes for r in again] == [r.votes for r in first]


def test_adaptive_beats_uniform_at_the_same_budget():
    """A data set of easy and hard prompts, the same budget, every prompt answered by majority.

    60 data sets of 30 prompts at .97 and 10 at .65, eight samples per prompt. The share of right
    answers under either policy, as a paired difference per data set: its mean is above 5 of its
    standard errors (one-sided error 3e-7 if there were no difference), and seeds are fixed.
    """
    mixed = [(f"easy {i}", "0.97") for i in range(30)] + [(f"hard {i}", "0.65") for i in range(10)]
    shares = {}
    for policy in ("adaptive", "uniform"):
        runs = [
            strategy().run(mixed, scheduler=Allocator(320, policy=policy, wave=2), seed=seed)
            for seed in range(60)
        ]
        assert all(results.usage.submitted == 320 for results in runs)
        shares[policy] = np.array([[a == "right" for a in r.answers] for r in runs]).mean(axis=1)
    gain = shares["adaptive"] - shares["uniform"]
    assert gain.mean() > 5 * gain.std(ddof=1) / np.sqrt(len(gain))
    wrong = {policy: 1 - share.mean() for policy, share in shares.items()}
    assert wrong["adaptive"] < 0.7 * wrong["uniform"]


def test_finished_prompts_leave_under_either_policy():
    own = strategy(stop=ModeCertificate(0.1), max_samples=400)
    certified = {
        policy: sum(
            result.certified
            for result in own.run(prompts(30, 10), scheduler=Allocator(900, policy=policy, wave=2))
        )
        for policy in ("adaptive", "uniform")
    }
    assert certified["uniform"] >= 30  # the easy ones, that leave early under either policy


# Settings ----------------------------------------------------------------------------------------


def test_settings_are_checked():
    for options, message in [
        ({"total_budget": 0}, "total_budget must be at least 1"),
        ({"total_budget": 10, "policy": "greedy"}, "policy must be"),
        ({"total_budget": 10, "wave": 0}, "wave must be at least 1"),
        ({"total_budget": 10, "share": 0.0}, r"share must be in \(0, 1\]"),
        ({"total_budget": 10, "share": 1.5}, r"share must be in \(0, 1\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            Allocator(**options)
    with pytest.raises(TypeError, match="total_budget must be an integer"):
        Allocator(2.5)
