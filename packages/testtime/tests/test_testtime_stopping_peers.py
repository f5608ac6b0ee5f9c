"""Our forms of published rules against the libraries that publish them, decision for decision."""

import asyncio

import numpy as np
import pytest

from modicum.core.device import numpy_generator
from modicum.testtime.stopping import BetaStop, Supermajority, beta_confidence

CAP = 40


def streams(count, seed=0):
    rng = numpy_generator(seed, "peers")
    for _ in range(count):
        size = int(rng.integers(2, 6))
        yield [str(key) for key in rng.choice(size, CAP, p=rng.dirichlet(np.full(size, 0.6)))]


def samples_used(rule, keys):
    fresh = rule.fresh()
    for used, key in enumerate(keys, 1):
        if fresh.update(key).stop:
            return used
    return len(keys)


@pytest.mark.parametrize("conf", [0.8, 0.95, 0.99])
def test_beta_criterion_of_adaptive_consistency_at_all_counts(conf):
    peer = pytest.importorskip("adaptive_consistency")
    criterion = peer.BetaStoppingCriteria(conf)
    for total in range(1, CAP + 1):
        for second in range(total // 2 + 1):
            theirs = criterion.should_stop([0] * (total - second) + [1] * second)
            ours = float(beta_confidence(total - second, second))
            assert abs(theirs["prob"] - ours) < 1e-7
            assert bool(theirs["stop"]) == (ours >= conf)


def test_beta_criterion_of_adaptive_consistency_along_streams():
    peer = pytest.importorskip("adaptive_consistency")
    theirs = peer.AC(max_gens=CAP, stop_criteria=peer.BetaStoppingCriteria)
    for keys in streams(60):
        rule = BetaStop(0.95)
        for used in range(1, CAP + 1):
            stop = rule.update(keys[used - 1]).stop
            assert stop == bool(theirs.should_stop(keys[:used]))
            if stop:
                break


def test_majority_criterion_of_adaptive_consistency():
    peer = pytest.importorskip("adaptive_consistency")
    theirs = peer.AC(max_gens=CAP, stop_criteria=peer.MajorityStoppingCriteria(0.8))
    for keys in streams(200, seed=1):
        stops = (used for used in range(1, CAP + 1) if theirs.should_stop(keys[:used]))
        assert samples_used(Supermajority(0.8, double=False), keys) == next(stops, CAP)


def played(keys):
    """Return a language model of its_hub that gives these answers, one after the other."""
    api = pytest.importorskip("its_hub.api")

    class Played(api.AbstractLanguageModel):
        def __init__(self):
            self.asked = 0

        async def agenerate(self, messages, stop=None, **kwargs):
            raise NotImplementedError

        async def agenerate_single(self, messages, stop=None, **kwargs):
            place, self.asked = self.asked, self.asked + 1
            # Turns of the event loop: whoever waits sees one answer at a time, in order.
            for _ in range(8 * place):
                await asyncio.sleep(0)
            return {"role": "assistant", "content": keys[place]}

    return Played()


def responses_used(algorithm, keys):
    result = asyncio.run(
        algorithm.ainfer(played(keys), "prompt", budget=len(keys), return_response_only=False)
    )
    return len(result.responses)


@pytest.mark.parametrize("threshold", [0.75, 0.9, 1.0])
def test_adaptive_self_consistency_of_its_hub(threshold):
    pytest.importorskip("its_hub")
    from its_hub.core.algorithms.adaptive_self_consistency import AdaptiveSelfConsistency
    from its_hub.core.orchestrator import LMOrchestrator

    theirs = AdaptiveSelfConsistency(threshold, orchestrator=LMOrchestrator(-1))
    for keys in streams(40, seed=2):
        assert samples_used(Supermajority(threshold), keys) == responses_used(theirs, keys)


def test_beta_self_consistency_of_its_hub():
    pytest.importorskip("its_hub")
    from its_hub.core.algorithms.beta_self_consistency import BetaSelfConsistency
    from its_hub.core.orchestrator import LMOrchestrator

    counts = [(a, b) for a in range(1, 80) for b in range(a + 1)]
    ours = beta_confidence(*np.array(counts).T)
    theirs = [BetaSelfConsistency.beta_stopping_probability(a, b) for a, b in counts]
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    algorithm = BetaSelfConsistency(0.95, orchestrator=LMOrchestrator(-1))
    for keys in streams(25, seed=3):
        assert samples_used(BetaStop(0.95), keys) == responses_used(algorithm, keys)
