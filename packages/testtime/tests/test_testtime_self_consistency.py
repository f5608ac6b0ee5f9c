"""Self-consistency: votes, weights, ties, stopping rules and what may not be combined."""

import asyncio
import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.testtime import backends, extract
from modicum.testtime.plurality import plurality_success
from modicum.testtime.samples import Completion, Request, Sample, Sampling, sample_seed
from modicum.testtime.self_consistency import (
    SelfConsistency,
    SoftmaxWeight,
    logprob_weight,
    reward_weight,
    softmax_weight,
)
from modicum.testtime.stopping.accept import FirstAccept
from modicum.testtime.stopping.beta import BetaStop
from modicum.testtime.stopping.certificate import ModeCertificate
from modicum.testtime.stopping.combine import Any as AnyRule
from modicum.testtime.stopping.curtailed import Curtailed
from modicum.testtime.stopping.esc import ESC
from modicum.testtime.stopping.fixed import FixedN
from modicum.testtime.stopping.ppr import PPR
from modicum.testtime.stopping.supermajority import Supermajority


def scripted(*texts):
    """Gives the i-th text to sample i of every prompt."""

    def complete(prompt, request):
        item = texts[request.sample_index]
        return item if isinstance(item, Completion) else Completion(item)

    return backends.callable(complete)


def by_letter(prompt, responses):
    return [{"a": 0.2, "b": 0.9, "c": 0.5}.get(text[:1], 0.0) for text in responses]


def vote(*texts, **options):
    options.setdefault("max_samples", len(texts))
    options.setdefault("stop", FixedN(len(texts)))
    return SelfConsistency(scripted(*texts), **options).run(["q"])[0]


# Votes -------------------------------------------------------------------------------------------


def test_the_most_frequent_answer_wins():
    result = vote("b", "a", "a", "c", "a", "b")
    assert (result.answer, result.text) == ("a", "a")
    assert result.votes == {"b": 2.0, "a": 3.0, "c": 1.0}
    assert result.usage.used == 6
    assert (result.reason, result.guarantee, result.certified) == ("max_samples", "exact", False)


def test_the_text_is_the_earliest_of_the_winning_answer():
    result = vote("so 3", "is it 4?", "thus 4", "5", extract=extract.last_number())
    assert (result.answer, result.text) == (4, "is it 4?")


def test_with_rewards_the_text_is_the_best_of_the_winning_answer():
    def verifier(prompt, responses):
        return [float(len(text)) for text in responses]

    texts = ("is it 4?", "hence, 4", "4", "it must be 5, that is certain")
    result = vote(*texts, extract=extract.last_number(), verifier=verifier)
    assert (result.answer, result.text) == (4, "is it 4?")  # as long as the next, and earlier
    texts = ("4", "it is 4", "it must be 5, that is certain")
    result = vote(*texts, extract=extract.last_number(), verifier=verifier)
    assert result.text == "it is 4"


def test_equal_answers_vote_together():
    result = vote("0.5", "1/2", ".5", "2", "2", equal=lambda a, b: value(a) == value(b))
    assert (result.answer, result.votes) == ("0.5", {"0.5": 3.0, "2": 2.0})


def value(text):
    top, _, bottom = text.partition("/")
    return float(top) / float(bottom or 1)


def test_answers_that_are_no_number_do_not_vote():
    nan = vote("nan", "nan", "1", extract=float)
    assert (nan.answer, nan.votes) == (1.0, {1.0: 1.0})


def test_nothing_parseable():
    result = vote("?", "!", "", extract=extract.last_number())
    assert (result.answer, result.text, result.votes) == (None, "", {})
    assert result.reason == "no_parseable_answer"
    assert not result.certified
    strategy = SelfConsistency(scripted("?", "!"), extract=extract.last_number(), max_samples=2)
    with pytest.raises(ValueError, match=r"none of the 2 samples of prompt '0' .*'\?'"):
        strategy.run(["q"], strict=True)


def test_tool_calls_vote_through_the_extractor():
    def call(city, time):
        arguments = f'{{"city": "{city}", "time": "{time}"}}'
        function = {"name": "weather", "arguments": arguments}
        return Completion(
            "", "tool_calls", tool_calls=({"type": "function", "function": function},)
        )

    calls = [call("Rome", 1), call("Oslo", 2), call("Rome", 3), Completion("I cannot")]
    result = vote(*calls, extract=extract.tool_call(exclude_args=("time",)))
    assert result.votes == {
        result.answer: 2.0,
        **{k: 1.0 for k in result.votes if k != result.answer},
    }
    assert "Rome" in str(result.answer)
    assert len(result.votes) == 2
    assert result.samples[3].key is None


# Ties --------------------------------------------------------------------------------------------


def test_ties_go_to_the_earliest_by_default():
    assert vote("c", "b", "a", "a", "b").answer == "b"
    assert vote("a", "b", "b", "a").answer == "a"


def test_ties_by_reward():
    result = vote("a", "c", "b", "c", "b", "a", tie="reward", verifier=by_letter)
    assert result.answer == "b"
    # Equal rewards: the earliest.
    flat = vote("c", "a", "a", "c", tie="reward", verifier=lambda p, rs: [1.0] * len(rs))
    assert flat.answer == "c"


def test_abstaining_from_ties():
    result = vote("a", "b", tie="abstain")
    assert (result.answer, result.text, result.reason) == (None, "", "tie")
    assert not result.certified
    assert vote("a", "b", "b", tie="abstain").answer == "b"


def test_random_ties_are_seeded_and_fair():
    strategy = SelfConsistency(scripted("a", "b", "c", "c", "b", "a"), stop=FixedN(6), tie="random")
    prompts = [str(i) for i in range(300)]
    answers = strategy.run(prompts, seed=5).answers
    assert strategy.run(prompts, seed=5).answers == answers
    assert strategy.run(prompts, seed=6).answers != answers
    # Fixed seeds: 300 draws of 1/3, each count within 5 standard deviations (8.2) of 100.
    assert all(abs(count - 100) < 41 for count in Counter(answers).values())
    assert set(answers) == {"a", "b", "c"}


# Weights -----------------------------------------------------------------------------------------


def test_votes_weighed_by_reward():
    result = vote("a", "a", "a", "b", weight="reward", verifier=by_letter)
    assert result.answer == "b"
    assert result.votes == pytest.approx({"a": 0.6, "b": 0.9})


@pytest.mark.parametrize(
    "weight", [("softmax", 0.1), softmax_weight(0.1), softmax_weight(0.1, 0.9)]
)
def test_votes_weighed_by_the_softmax_of_rewards(weight):
    result = vote("a", "a", "c", "c", "b", weight=weight, verifier=by_letter)
    assert result.answer == "b"
    rewards = {"a": 0.2, "b": 0.9, "c": 0.5}
    total = sum(result.votes.values())
    exact = {k: math.exp(rewards[k] / 0.1) * n for k, n in {"a": 2, "c": 2, "b": 1}.items()}
    for key, votes in result.votes.items():
        assert votes / total == pytest.approx(exact[key] / sum(exact.values()), rel=1e-12)


def test_votes_weighed_by_probability():
    def likely(text, probability, tokens):
        return Completion(text, logprob_sum=tokens * math.log(probability), n_tokens=tokens)

    result = vote(likely("a", 0.3, 10), likely("a", 0.4, 2), likely("b", 0.8, 7), weight="logprob")
    assert result.votes == pytest.approx({"a": 0.7, "b": 0.8})
    assert result.answer == "b"
    with pytest.raises(ValueError, match=r"logprobs=True"):
        vote("a", "b", weight="logprob")


def test_votes_weighed_by_a_function():
    assert vote("aaaa", "b", "b", weight=lambda sample: len(sample.text)).answer == "aaaa"


@pytest.mark.parametrize("bad", [-0.5, math.nan, math.inf])
def test_weights_that_are_none(bad):
    with pytest.raises(ValueError, match=r"sample 1 of prompt '0' weighs"):
        vote("a", "b", weight=lambda sample: bad if sample.text == "b" else 1.0)


def test_null_samples_are_not_weighed():
    def weight(sample):
        assert sample.text != "?"
        return 1.0

    assert vote("?", "7", extract=extract.last_number(), weight=weight).answer == 7


def test_weights_that_nobody_knows():
    for bad in ("rewards", ("softmax",), ("mean", 1.0), 3):
        with pytest.raises(ValueError, match="weight must be None"):
            vote("a", weight=bad)
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="tau must be positive"):
            softmax_weight(bad)
    with pytest.raises(ValueError, match="reference must be finite"):
        softmax_weight(1.0, math.nan)
    overflowing = SoftmaxWeight(1e-3)
    with pytest.raises(ValueError, match="too large for a weight"):
        overflowing(Sample("q", 0, 0, "x", reward=1.0))
    bare = Sample("q", 3, 0, "x")
    with pytest.raises(ValueError, match="sample 3 of prompt 'q' has no reward"):
        reward_weight(bare)
    with pytest.raises(ValueError, match="no log-probability"):
        logprob_weight(bare)


@pytest.mark.parametrize("stop", [PPR(0.05, num_answers=3), ModeCertificate(0.05)])
@pytest.mark.parametrize("weight", ["logprob", lambda sample: 1.0])
def test_rules_that_certify_counts_refuse_weights(stop, weight):
    with pytest.raises(ValueError, match=f"guarantee of {type(stop).__name__}"):
        SelfConsistency(scripted("a"), stop=stop, weight=weight)


def test_delta_with_weights_is_refused():
    with pytest.raises(ValueError, match="guarantee of ModeCertificate"):
        SelfConsistency(scripted("a"), delta=0.05, max_samples=4, weight="logprob")


def test_a_curtailed_weighted_vote_needs_a_bound_and_keeps_to_it():
    heavy = [3.0, 0.5, 0.5, 1.0, 1.0, 2.5]
    texts = ["a", "b", "b", "b", "a", "b"]

    def weight(sample):
        return heavy[sample.sample_index]

    strategy = SelfConsistency(scripted(*texts), stop=Curtailed(6, weight_bound=3.0), weight=weight)
    assert strategy.run(["q"])[0].answer == vote(*texts, weight=weight).answer == "b"
    with pytest.raises(ValueError, match="more than weight_bound=1"):
        SelfConsistency(scripted(*texts), stop=Curtailed(6), weight=weight).run(["q"])


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    keys=st.lists(st.sampled_from("abc"), min_size=1, max_size=14),
    data=st.data(),
)
def test_curtailed_votes_are_those_of_all_samples(keys, data):
    weights = data.draw(
        st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=len(keys), max_size=len(keys))
    )

    def weight(sample):
        return weights[sample.sample_index]

    whole = vote(*keys, weight=weight)
    curtailed = vote(*keys, weight=weight, stop=Curtailed(len(keys)), wave=1)
    assert curtailed.answer == whole.answer
    assert curtailed.usage.used <= whole.usage.used
    assert vote(*keys, stop=Curtailed(len(keys)), wave=1).answer == vote(*keys).answer


# Defaults and rules ------------------------------------------------------------------------------


def test_default_rules():
    gen = scripted("a")
    assert repr(SelfConsistency(gen, max_samples=9).stop) == "Curtailed(9)"
    certificate = SelfConsistency(gen, delta=0.01, max_samples=9)
    assert isinstance(certificate.stop, ModeCertificate) and certificate.stop.delta == 0.01
    assert certificate.max_samples == 9
    assert SelfConsistency(gen, delta=0.01).max_samples == 64
    assert SelfConsistency(gen, stop=FixedN(7)).max_samples == 7
    assert SelfConsistency(gen, stop=BetaStop()).max_samples == 64
    # No bound on the weights is known: nothing can be left out.
    weighted = SelfConsistency(gen, max_samples=9, weight="reward", verifier=by_letter)
    assert repr(weighted.stop) == "FixedN(9)"
    assert repr(SelfConsistency(gen, max_samples=9, weight="logprob").stop) == "Curtailed(9)"


def test_contradictions_are_refused():
    gen = scripted("a")
    for options, message in [
        ({}, "nothing would end the sampling"),
        ({"max_samples": 0}, "max_samples must be at least 1, not 0"),
        ({"delta": 0.1, "stop": FixedN(3)}, "delta=0.1 is for the default rule"),
        ({"max_samples": 3, "tie": "last"}, "tie must be one of"),
        ({"max_samples": 3, "tie": "reward"}, "needs a verifier"),
        ({"max_samples": 3, "weight": "reward"}, "needs a verifier"),
        ({"max_samples": 3, "weight": ("softmax", 1.0)}, "needs a verifier"),
        ({"max_samples": 3, "wave": 0}, "wave must be"),
        ({"max_samples": 3, "wave": "linear"}, "wave must be"),
        ({"max_samples": 3, "wave": True}, "wave must be"),
        ({"delta": 0.1, "order": "completion"}, "ModeCertificate presumes exchangeable"),
        ({"delta": 1.5}, "delta"),
    ]:
        with pytest.raises(ValueError, match=message):
            SelfConsistency(gen, **options)
    SelfConsistency(gen, delta=0.1, order="completion", assume_exchangeable=True)
    SelfConsistency(gen, max_samples=3, order="completion")


def test_a_certificate_is_one_and_undecided_at_the_cap_is_none():
    sure_texts = [f"{i}: 7" for i in range(64)]
    strategy = SelfConsistency(scripted(*sure_texts), extract=extract.last_number(), delta=0.05)
    sure = strategy.run(["q"])[0]
    assert (sure.answer, sure.certified, sure.guarantee) == (7, True, "anytime")
    assert sure.confidence >= 0.95
    assert sure.usage.used < 20
    torn = SelfConsistency(scripted(*"ab" * 8), delta=0.05, max_samples=16).run(["q"])[0]
    assert (torn.answer, torn.certified, torn.reason) == ("a", False, "max_samples")
    assert torn.guarantee == "anytime"
    heuristic = SelfConsistency(scripted(*"a" * 9), stop=BetaStop(0.95), max_samples=9).run(["q"])[
        0
    ]
    assert (heuristic.certified, heuristic.guarantee) == (False, "heuristic")
    assert heuristic.usage.used == 4


def test_a_rule_that_accepts_one_sample_names_the_answer():
    result = vote("a", "a", "a", "b", "a", stop=FirstAccept(0.8), verifier=by_letter)
    assert (result.answer, result.reason) == ("b", "accepted")
    assert result.votes == {"a": 3.0, "b": 1.0}
    # Also where the votes are even, whatever ties do.
    for tie in ("first", "abstain"):
        even = vote("a", "b", stop=FirstAccept(0.8), verifier=by_letter, tie=tie)
        assert (even.answer, even.guarantee, even.certified) == ("b", "exact", True)


def test_a_rule_that_counts_votes_leaves_ties_to_the_strategy():
    for stop in (FixedN(4), Curtailed(4)):
        assert vote("a", "b", "b", "a", stop=stop).answer == "a"
        assert vote("a", "b", "b", "a", stop=stop, tie="abstain").reason == "tie"


def test_a_combined_rule_has_the_guarantee_of_the_member_that_decided():
    either = AnyRule(ModeCertificate(0.05), Curtailed(4))
    result = vote("a", "a", "a", "b", stop=either)
    assert (result.answer, result.guarantee, result.usage.used) == ("a", "lossless", 3)
    assert result.certified


def test_a_truncated_completion_is_never_accepted():
    cut = Completion("b", "length")
    result = vote(cut, "a", "b", "a", stop=FirstAccept(0.8), verifier=by_letter)
    assert (result.answer, result.usage.used) == ("b", 3)


# Schedules ---------------------------------------------------------------------------------------


class Jittery:
    """Answers of a skewed law, after a random number of turns."""

    def __init__(self, salt):
        self.salt = salt

    async def agenerate(self, request):
        for _ in range(random.Random(request.seed ^ self.salt).randrange(7)):
            await asyncio.sleep(0)
        rng = random.Random(request.seed)
        return Completion(rng.choice("aaabbc"), rng.choice(["stop"] * 9 + ["length"]))


def answer_of(seed):
    rng = random.Random(seed)
    key = rng.choice("aaabbc")
    return key if rng.choice(["stop"] * 9 + ["length"]) == "stop" else None


RULES = [
    Curtailed(16),
    FixedN(11),
    PPR(0.1, num_answers=3),
    ModeCertificate(0.1),
    BetaStop(0.9),
    ESC(3),
    Supermajority(),
]


@settings(derandomize=True, deadline=None, max_examples=50)
@given(
    rule=st.sampled_from(RULES),
    tie=st.sampled_from(["first", "random", "abstain"]),
    wave=st.one_of(st.sampled_from(["geometric", "boundary"]), st.integers(1, 20)),
    inflight=st.integers(1, 30),
    salt=st.integers(0, 10**6),
    seed=st.integers(0, 3),
)
def test_every_rule_decides_the_same_on_every_schedule(rule, tie, wave, inflight, salt, seed):
    options = {"stop": rule, "max_samples": 16, "tie": tie}
    prompts = ["p", "q", "r"]
    jittery = SelfConsistency(Jittery(salt), wave=wave, inflight=inflight, **options)
    found = jittery.run(prompts, seed=seed)
    for result in found:
        own, votes, used = rule.fresh(), Counter(), 0
        for index in range(16):
            used += 1
            key = answer_of(sample_seed(seed, result.prompt_id, index))
            votes.update([key] if key is not None else [])
            if own.update(key).stop:
                break
        assert result.usage.used == used
        assert result.votes == votes
        most = max(votes.values(), default=0)
        tied = [key for key in votes if votes[key] == most]
        if tie == "first":
            assert result.answer == (tied[0] if tied else None)
        elif tie == "abstain":
            assert result.answer == (tied[0] if len(tied) == 1 else None)
        else:
            assert result.answer in tied
    again = SelfConsistency(Jittery(salt + 1), wave=3, inflight=2, **options)
    assert again.run(prompts, seed=seed).answers == found.answers


def test_accuracy_is_that_of_the_exact_formula():
    """2,000 prompts; 5 standard errors hold with probability 1 - 6e-7, and seeds are fixed."""
    p, n, count = (0.45, 0.35, 0.2), 9, 2000

    def draw(prompt, seed):
        return random.Random(seed).choices("abc", p)[0]

    strategy = SelfConsistency(backends.callable(draw), max_samples=n)
    right = sum(answer == "a" for answer in strategy.run(["q"] * count, seed=1).answers)
    exact = plurality_success(list(p), n)
    assert abs(right / count - exact) < 5 * math.sqrt(exact * (1 - exact) / count)


def test_requests_carry_what_was_asked_for():
    seen = []

    def note(prompt, request):
        seen.append(request)
        return "a"

    chat = [{"role": "user", "content": "hello"}]
    params = Sampling(temperature=0.3, max_tokens=9)
    strategy = SelfConsistency(backends.callable(note), max_samples=2, stop=FixedN(2))
    strategy.run([("first", chat)], params, seed=3)
    assert seen == [Request("first", i, chat, params, sample_seed(3, "first", i)) for i in range(2)]
