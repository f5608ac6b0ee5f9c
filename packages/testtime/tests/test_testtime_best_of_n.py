"""Best-of-n: selections against a plain reading of their definitions, ties, the sequential form."""

import math
import random
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.core.device import numpy_generator
from modicum.testtime import backends, extract
from modicum.testtime.best_of_n import BestOfN, ConstantRewards
from modicum.testtime.samples import Completion
from modicum.testtime.stopping.accept import AcceptCount
from modicum.testtime.stopping.reward_gain import RewardGain
from modicum.testtime.verifier_models import (
    VerifierModel,
    best_of_n_success,
    first_accept,
    verified_majority_success,
)


def best(pairs, **options):
    """Run on (text, reward) pairs."""
    rewards = {f"{text} {i}": reward for i, (text, reward) in enumerate(pairs)}
    texts = list(rewards)
    backend = backends.callable(lambda prompt, request: texts[request.sample_index])
    options.setdefault("n", len(pairs))

    def verifier(prompt, responses):
        return [rewards[response] for response in responses]

    strategy = BestOfN(backend, verifier, extract=first_letter, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantRewards)
        return strategy.run(["q"])[0]


def first_letter(text):
    return text[0] if text[0] != "?" else None


# Selections --------------------------------------------------------------------------------------


def test_the_highest_reward_wins():
    result = best([("a", 0.1), ("b", 0.7), ("a", 0.3), ("c", 0.6)])
    assert (result.answer, result.text) == ("b", "b 1")
    assert result.votes == {"a": 0.3, "b": 0.7, "c": 0.6}
    assert (result.reason, result.certified, result.guarantee) == ("max_samples", False, "exact")


def test_equal_rewards_go_to_the_answer_that_has_them_more_often_then_first():
    assert best([("a", 0.7), ("b", 0.7), ("b", 0.7)]).text == "b 1"
    # Samples with less say nothing for an answer: of a verifier they are the rejected ones.
    assert best([("a", 0.7), ("b", 0.7), ("b", 0.7), ("a", 0.1), ("a", 0.1)]).answer == "b"
    assert best([("a", 0.1), ("a", 0.1), ("b", 0.7), ("a", 0.7)]).text == "b 2"
    # Of one answer, the earliest of its best samples stands for it.
    assert best([("a", 0.1), ("a", 0.7), ("a", 0.7)]).text == "a 1"


def test_the_largest_sum_of_rewards_wins():
    result = best([("a", 0.4), ("b", 0.7), ("a", 0.4)], select="weighted")
    assert (result.answer, result.text) == ("a", "a 0")
    assert result.votes == pytest.approx({"a": 0.8, "b": 0.7})
    # Equal sums: more frequent, then earlier.
    assert best([("b", 0.5), ("a", 0.25), ("a", 0.25)], select="weighted").answer == "a"
    assert best([("b", 0.5), ("a", 0.5)], select="weighted").answer == "b"


def test_sums_of_negative_rewards():
    pairs = [("a", -3.0), ("b", -2.0), ("b", -2.0)]
    assert best(pairs, select="weighted").answer == "a"
    assert best(pairs).answer == "b"


def test_the_majority_among_the_accepted_wins():
    pairs = [("a", 0.0), ("a", 0.1), ("a", 0.9), ("b", 0.6), ("b", 0.5), ("c", 1.0)]
    result = best(pairs, select="verified_majority")
    assert (result.answer, result.text) == ("b", "b 3")
    assert result.votes == {"a": 1.0, "b": 2.0, "c": 1.0}
    # One accepted sample each: the one accepted first, however many others were rejected.
    assert best(pairs, select="verified_majority", accept=0.55).text == "a 2"
    late = [("a", 0.0), ("a", 0.0), ("b", 0.6), ("a", 0.6)]
    assert best(late, select="verified_majority").text == "b 2"
    assert best(pairs, select="verified_majority", accept=0.95).answer == "c"


@pytest.mark.parametrize(
    ("fallback", "answer", "reason"),
    [("majority", "a", "max_samples"), ("max", "b", "max_samples"), ("abstain", None, "abstained")],
)
def test_nobody_accepted(fallback, answer, reason):
    pairs = [("c", 0.1), ("a", 0.2), ("a", 0.1), ("b", 0.4)]
    result = best(pairs, select="verified_majority", fallback=fallback)
    assert (result.answer, result.reason) == (answer, reason)
    result = best(pairs, select="bom", min_votes=3, fallback=fallback)
    assert (result.answer, result.reason) == (answer, reason)


def test_the_best_of_the_frequent_ones_wins():
    pairs = [("a", 0.3), ("b", 0.9), ("c", 0.5), ("a", 0.4), ("c", 0.1)]
    assert best(pairs, select="bom", min_votes=2).text == "c 2"
    assert best(pairs, select="bom", min_votes=1).text == "b 1"
    assert best([*pairs, ("a", 0.5)], select="bom", min_votes=2).text == "c 2"
    assert best([*pairs, ("a", 0.6)], select="bom", min_votes=2).text == "a 5"


def spelled_out(pairs, select, accept, min_votes, fallback):
    """The definitions, over all samples at once."""
    voting = [(i, key, reward) for i, (key, reward) in enumerate(pairs) if key != "?"]
    keys = sorted(
        {key for _, key, _ in voting}, key=lambda k: min(i for i, j, _ in voting if j == k)
    )
    if not keys:
        return None
    count = {k: sum(key == k for _, key, _ in voting) for k in keys}
    top = {k: max(reward for _, key, reward in voting if key == k) for k in keys}
    total = {k: math.fsum(reward for _, key, reward in voting if key == k) for k in keys}
    accepted = {k: sum(key == k and r >= accept for _, key, r in voting) for k in keys}
    scores = {
        "max": top,
        "weighted": total,
        "verified_majority": {k: v for k, v in accepted.items() if v},
        "bom": {k: v for k, v in top.items() if count[k] >= min_votes},
    }[select]
    if not scores:
        if fallback == "abstain":
            return None
        scores = top if fallback == "max" else count
    high = max(scores.values())
    tied = [k for k in keys if scores.get(k) == high]
    if scores is top or (select == "bom" and scores is not count):
        at_best = {k: [i for i, key, r in voting if key == k and r == high] for k in tied}
        return max(tied, key=lambda k: (len(at_best[k]), -at_best[k][0]))
    if select == "verified_majority" and scores is not count:
        return min(tied, key=lambda k: min(i for i, j, r in voting if j == k and r >= accept))
    often = max(count[k] for k in tied)
    return next(k for k in tied if count[k] == often)


@settings(derandomize=True, deadline=None, max_examples=250)
@given(
    # Multiples of 1/4 add up without rounding, so that ties are ties.
    pairs=st.lists(
        st.tuples(st.sampled_from("abc?"), st.integers(-4, 4).map(lambda i: i / 4)),
        min_size=1,
        max_size=8,
    ),
    select=st.sampled_from(["max", "weighted", "verified_majority", "bom"]),
    accept=st.sampled_from([0.0, 0.5, 2.0]),
    min_votes=st.integers(1, 4),
    fallback=st.sampled_from(["majority", "max", "abstain"]),
)
def test_selections_are_what_they_say(pairs, select, accept, min_votes, fallback):
    result = best(
        pairs,
        select=select,
        accept=accept,
        min_votes=min_votes if select == "bom" else None,
        fallback=fallback,
    )
    assert result.answer == spelled_out(pairs, select, accept, min_votes, fallback)
    if result.answer is not None:
        own = [(reward, -i) for i, (key, reward) in enumerate(pairs) if key == result.answer]
        assert result.text == f"{result.answer} {-max(own)[1]}"


@pytest.mark.parametrize("select", ["max", "weighted", "verified_majority"])
def test_what_is_no_answer_cannot_be_chosen(select):
    cut = Completion("b", "length")
    backend = backends.callable(lambda prompt, request: [cut, "a", "?"][request.sample_index])

    def verifier(prompt, responses):
        return [{"a": 0.1}.get(response, 1.0) for response in responses]

    result = BestOfN(backend, verifier, n=3, select=select, extract=first_letter).run(["q"])[0]
    assert result.answer == "a"
    assert [sample.reward for sample in result.samples] == [1.0, 0.1, 1.0]
    nothing = BestOfN(backend, verifier, n=1, select=select).run(["q"])[0]
    assert (nothing.answer, nothing.reason) == (None, "no_parseable_answer")


def test_without_an_extractor_texts_are_answers():
    backend = backends.callable(
        lambda prompt, request: ["long text", "short"][request.sample_index]
    )
    result = BestOfN(backend, lambda p, rs: [float(len(r)) for r in rs], n=2).run(["q"])[0]
    assert result.answer == result.text == "long text"


# One after the other -----------------------------------------------------------------------------


def test_the_first_accepted_answer_is_the_answer():
    pairs = [("a", 0.1), ("b", 0.8), ("c", 1.0), ("c", 1.0)]
    result = best(pairs, threshold=0.8)
    assert (result.answer, result.text, result.reason) == ("b", "b 1", "accepted")
    assert result.usage.used == 2
    assert result.certified
    assert best(pairs, threshold=0.8, wave=1).usage.submitted == 2


def test_nobody_accepted_one_after_the_other():
    result = best([("a", 0.1), ("b", 0.4), ("a", 0.3)], threshold=0.8)
    assert (result.answer, result.reason, result.certified) == ("b", "max_samples", False)
    weighted = best([("a", 0.3), ("b", 0.4), ("a", 0.3)], threshold=0.8, select="weighted")
    assert weighted.answer == "a"


def test_an_unreadable_answer_is_not_accepted():
    result = best([("?", 1.0), ("a", 0.9)], threshold=0.5)
    assert (result.answer, result.usage.used) == ("a", 2)


def test_other_rules_may_end_the_sampling():
    pairs = [("a", 0.9), ("b", 0.1), ("b", 0.9), ("b", 0.9), ("a", 0.9)]
    counted = best(pairs, stop=AcceptCount(2, threshold=0.5))
    assert (counted.answer, counted.usage.used, counted.reason) == ("a", 3, "accepted")
    enough = best([("a", 0.5)] * 3 + [("b", 0.5)] * 5, stop=RewardGain(cost=0.01))
    assert enough.usage.used == 3  # no variance, no gain
    assert enough.guarantee == "heuristic" and not enough.certified


def test_the_number_of_draws_is_that_of_theory():
    """First accept at p .3, s .9, f .1, N 6; 3,000 prompts, 5 standard errors, fixed seeds."""
    p, s, f, n, count = 0.3, 0.9, 0.1, 6, 3000

    def draw(prompt, seed):
        return "right" if random.Random(seed).random() < p else "wrong"

    rng = random.Random(1)

    def verifier(prompt, responses):
        return [float(rng.random() < (s if r == "right" else f)) for r in responses]

    prompts = [f"q{i}" for i in range(count)]
    backend = backends.callable(draw)
    results = BestOfN(backend, verifier, n=n, threshold=0.5, wave=1).run(prompts)
    used = [result.usage.used for result in results]
    exact = first_accept(p, n, VerifierModel(s=s, f=f))
    accept = p * s + (1 - p) * f
    mean = (1 - (1 - accept) ** n) / accept
    assert mean == pytest.approx(exact.expected_n)
    # Nothing that lies in 1 … 6 has a standard deviation above 2.5.
    assert abs(sum(used) / count - mean) < 5 * 2.5 / math.sqrt(count)
    right = sum(r.answer == "right" and r.reason == "accepted" for r in results) / count
    expected = p * s / accept * (1 - (1 - accept) ** n)
    assert abs(right - expected) < 5 * 0.5 / math.sqrt(count)


def test_a_perfect_verifier_reaches_the_exact_success():
    p, n, count = 0.2, 5, 2000

    def draw(prompt, seed):
        return "right" if random.Random(seed).random() < p else "wrong"

    strategy = BestOfN(
        backends.callable(draw), lambda q, rs: [float(r == "right") for r in rs], n=n
    )
    right = sum(answer == "right" for answer in strategy.run(["q"] * count).answers) / count
    exact = best_of_n_success(p, n)
    assert exact == pytest.approx(1 - (1 - p) ** n)
    assert abs(right - exact) < 5 * 0.5 / math.sqrt(count)


# Settings ----------------------------------------------------------------------------------------


def test_constant_rewards_are_warned_of_once_per_run():
    backend = backends.callable(lambda prompt, seed: str(seed))

    def flat(prompt, responses):
        return [0.5] * len(responses)

    strategy = BestOfN(backend, flat, n=4)
    with pytest.warns(ConstantRewards, match=r"all 12 rewards of this run are 0\.5") as caught:
        results = strategy.run(["p", "q", "r"])
    assert len(caught) == 1
    assert all(result.text == result.samples[0].text for result in results)
    # Another run is counted by itself, and one reward says nothing.
    BestOfN(backend, flat, n=1).run(["q"])
    BestOfN(backend, flat, n=4, threshold=0.5).run(["p", "q"])
    BestOfN(backend, lambda p, rs: [float(p == "p")] * len(rs), n=2).run(["p", "q"])
    with pytest.warns(ConstantRewards):
        list(strategy.iter_events(["p"]))


def test_contradictions_are_refused():
    backend = backends.callable(lambda prompt: "x")

    def verifier(prompt, responses):
        return [1.0] * len(responses)

    for options, message in [
        ({"n": 0}, "n must be at least 1, not 0"),
        ({"select": "best"}, "select must be one of max, weighted"),
        ({"fallback": "first"}, "fallback must be one of"),
        ({"accept": math.nan}, "accept must be finite"),
        ({"select": "bom"}, "needs min_votes"),
        ({"select": "bom", "min_votes": 0}, "needs min_votes"),
        ({"select": "max", "min_votes": 2}, "nothing else takes it"),
        ({"threshold": math.nan}, "threshold must be finite"),
        ({"threshold": 0.5, "stop": RewardGain(0.1)}, "a stopping rule of its own"),
        ({"wave": -1}, "wave must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            BestOfN(backend, verifier, **options)
    with pytest.raises(ValueError, match="needs a verifier"):
        BestOfN(backend, None)


def test_rewards_name_the_sample_that_has_none():
    with pytest.raises(ValueError, match="sample 1 of prompt '0' is nan"):
        best([("a", 1.0), ("b", math.nan)])
    assert best([("a", 0.1), ("b", math.nan)], nan="reject").answer == "a"


def test_a_reader_of_numbers():
    texts = ["I say 3", "I say 4", "4 it is"]
    backend = backends.callable(lambda prompt, request: texts[request.sample_index])
    strategy = BestOfN(
        backend,
        lambda p, rs: [0.3, 0.2, 0.2][: len(rs)],
        n=3,
        select="weighted",
        extract=extract.last_number(),
    )
    assert strategy.run(["q"])[0].answer == 4


@pytest.mark.parametrize("select", ["max", "verified_majority"])
def test_a_binary_verifier_makes_a_vote_among_the_accepted(select):
    law, n, prompts = [0.3, 0.35, 0.2, 0.15], 6, 3000
    verifier = VerifierModel(0.8, 0.2)
    rng = numpy_generator(11, select)
    keys = rng.choice(4, (prompts, n), p=law)
    accept = rng.random((prompts, n)) < np.where(keys == 0, verifier.s, verifier.f)
    strategy = BestOfN(
        backends.callable(lambda p, request: f"{keys[int(p), request.sample_index]}"),
        lambda prompt, texts: accept[int(prompt), : len(texts)].astype(float).tolist(),
        n=n,
        wave=n,
        select=select,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answers = strategy.run([str(i) for i in range(prompts)]).answers
    right = np.mean([answer == "0" for answer in answers])
    exact = verified_majority_success(law, n, verifier, fallback="majority")
    # Off by more than 5.1 standard errors with probability below 4e-7.
    assert right == pytest.approx(exact, abs=5.1 * (exact * (1 - exact) / prompts) ** 0.5)
