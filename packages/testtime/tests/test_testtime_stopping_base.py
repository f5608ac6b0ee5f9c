"""The vote counter against sorting, what all rules have in common, what they refuse."""

import copy
import doctest
import importlib
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.testtime.stopping import (
    ESC,
    PPR,
    RULES,
    AcceptCount,
    All,
    Any,
    BetaStop,
    Curtailed,
    Decision,
    FirstAccept,
    FixedN,
    ModeCertificate,
    RewardGain,
    StopTable,
    Supermajority,
    VoteCounter,
    parse_rule,
)

KEYS = st.one_of(st.none(), st.sampled_from(["a", "b", "c", 1, (2, "x")]))
WEIGHTS = st.one_of(st.just(1.0), st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.5]), st.floats(0, 10))


def by_sorting(votes):
    """Leader and runner-up of (key, weight) pairs, first seen first on ties."""
    sums = {}
    for key, weight in votes:
        if key is not None:
            sums[key] = sums.get(key, 0) + weight
    ranked = sorted(sums.items(), key=lambda item: -item[1])  # the sort is stable
    ranked += [(None, 0), (None, 0)]
    return (*ranked[0], *ranked[1])


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.lists(st.tuples(KEYS, WEIGHTS), max_size=25))
def test_top_two_are_those_of_sorting(votes):
    counter = VoteCounter()
    for at, (key, weight) in enumerate(votes, 1):
        assert counter.add(key, weight) == (key is not None)
        assert counter.top_two() == by_sorting(votes[:at])
    assert counter.total == len(votes)
    assert counter.null == sum(key is None for key, _ in votes)
    seen = list(dict.fromkeys(key for key, _ in votes if key is not None))
    assert list(counter.order.items()) == [(key, place) for place, key in enumerate(seen)]


def test_votes_of_weight_one_stay_integers():
    counter = VoteCounter()
    counter.add("a", 1)
    assert counter.top_two() == ("a", 1, None, 0) and type(counter.top_two()[1]) is int


def test_nan_is_no_answer():
    counter = VoteCounter()
    assert not counter.add(float("nan")) and not counter.add(np.float64("nan"))
    assert counter.null == counter.total == 2 and counter.counts == {}


@pytest.mark.parametrize("weight", [-1e-9, -1, math.nan, math.inf])
def test_weights_that_no_vote_can_have(weight):
    counter = VoteCounter()
    with pytest.raises(ValueError, match="weight of a vote"):
        counter.add("a", weight)
    assert counter.total == 0 and counter.counts == {}
    counter.add(None, weight)  # a sample without a vote has no weight


EVERY_RULE = [
    FixedN(5),
    Curtailed(7),
    PPR(0.3, 3),
    PPR(0.3, 3, two_sided=True),
    ModeCertificate(0.3),
    ModeCertificate(0.3, target="a"),
    BetaStop(0.8),
    ESC(3),
    ESC(3, answer="votes"),
    Supermajority(),
    Supermajority(0.8, 3, double=False),
    FirstAccept(0.7),
    AcceptCount(2, 0.7),
    RewardGain(0.2),
    All(FixedN(4), BetaStop(0.8)),
    Any(Curtailed(9), ModeCertificate(0.3)),
]


def stream(seed, size=40):
    rng = np.random.default_rng(seed)
    keys = [["a", "b", "c", None][i] for i in rng.choice(4, size, p=[0.6, 0.2, 0.1, 0.1])]
    return [(key, float(reward)) for key, reward in zip(keys, rng.random(size), strict=True)]


def decisions(rule, samples):
    found = []
    for key, reward in samples:
        found.append(rule.update(key, reward))
        if found[-1].stop:
            break
    return found


def same(one, other):
    return [repr(decision) for decision in one] == [repr(decision) for decision in other]


@pytest.mark.parametrize("rule", EVERY_RULE, ids=repr)
def test_a_fresh_rule_is_empty_and_shares_nothing(rule):
    first = decisions(rule.fresh(), stream(0))
    used = rule.fresh()
    decisions(used, stream(1))
    # Neither the prototype nor an earlier prompt shows in a later one.
    assert same(decisions(used.fresh(), stream(0)), first)
    one, two = rule.fresh(), rule.fresh()
    for key, reward in stream(1):
        one.update(key, reward)
    assert same(decisions(two, stream(0)), first)
    used.reset()
    assert same(decisions(used, stream(0)), first)


@pytest.mark.parametrize("rule", EVERY_RULE, ids=repr)
def test_rules_are_pickled_in_mid_run(rule):
    half = rule.fresh()
    for key, reward in stream(2)[:2]:
        half.update(key, reward)
    for copied in (pickle.loads(pickle.dumps(half)), copy.deepcopy(half)):
        assert repr(copied) == repr(half)
        assert same(decisions(copied, stream(3)), decisions(copy.deepcopy(half), stream(3)))


@pytest.mark.parametrize("rule", EVERY_RULE, ids=repr)
def test_what_stops_has_an_answer_a_reason_and_a_guarantee(rule):
    for seed in range(20):
        samples = stream(seed)
        found = decisions(rule.fresh(), samples)
        assert all(decision == (False, None, "") or not decision.stop for decision in found[:-1]
                   if decision.confidence == decision.confidence)  # fmt: skip
        last = found[-1]
        if last.stop:
            assert last.answer in {key for key, _ in samples[: len(found)]} - {None}
            assert last.reason and " " not in last.reason
            if last.guarantee == "anytime":
                assert 1 - rule.delta <= last.confidence <= 1
            if not isinstance(rule, Any):
                assert last.guarantee == rule.guarantee


@pytest.mark.parametrize("rule", EVERY_RULE, ids=repr)
def test_samples_without_an_answer_do_not_vote(rule):
    fresh = rule.fresh()
    assert all(fresh.update(None, 0.9).answer is None for _ in range(4))
    if isinstance(rule, FixedN | Curtailed | ESC | Supermajority | All | Any):
        assert fresh.min_to_stop() != rule.fresh().min_to_stop()
        return  # these look at the number of samples
    assert same(decisions(fresh, stream(5)), decisions(rule.fresh(), stream(5)))


@pytest.mark.parametrize("rule", [FixedN(3), Curtailed(3)], ids=repr)
def test_no_answer_at_all(rule):
    fresh = rule.fresh()
    found = [fresh.update(None) for _ in range(3)]
    assert not found[1].stop
    assert found[2].stop and found[2].answer is None
    assert found[2].reason == "no_parseable_answer"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FixedN(0), "n must be at least 1, not 0"),
        (lambda: Curtailed(-3), "n must be at least 1, not -3"),
        (lambda: Curtailed(3, weight_bound=0), "weight_bound must be positive"),
        (lambda: Curtailed(3, weight_bound=math.inf), "weight_bound must be positive and finite"),
        (lambda: PPR(0, 2), "delta must lie strictly between 0 and 1, not 0"),
        (lambda: PPR(1, 2), "delta must lie strictly between"),
        (lambda: PPR(math.nan, 2), "delta must lie strictly between"),
        (lambda: PPR(0.05, 1), "num_answers must be at least 2, not 1"),
        (lambda: ModeCertificate(1.5), "delta must lie strictly between 0 and 1, not 1.5"),
        (lambda: BetaStop(0.5), "conf must lie strictly between 0.5 and 1, not 0.5"),
        (lambda: BetaStop(1), "conf must lie strictly between"),
        (lambda: BetaStop(0.9, min_samples=0), "min_samples must be at least 1"),
        (lambda: ESC(1), "window must be at least 2, not 1"),
        (lambda: ESC(5, answer="mode"), "'mode'"),
        (lambda: Supermajority(0.5), "threshold must lie in"),
        (lambda: Supermajority(1.01), "threshold must lie in"),
        (lambda: Supermajority(start=0), "start must be at least 1"),
        (lambda: FirstAccept(math.nan), "threshold must be finite"),
        (lambda: AcceptCount(0), "m must be at least 1"),
        (lambda: RewardGain(0), "cost must be positive and finite, not 0"),
        (lambda: RewardGain(math.nan), "cost must be positive"),
        (lambda: Any(), "Any needs at least one rule"),
        (lambda: All(), "All needs at least one rule"),
        (lambda: ModeCertificate().boundary(0), "size must be at least 1"),
        (lambda: ModeCertificate().boundary(3, 0), "discovery must be at least 1"),
        (lambda: StopTable(BetaStop(), 0), "size must be at least 1"),
        (lambda: PPR(0.05, 2).table(0), "size must be at least 1"),
    ],
)
def test_settings_that_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: FixedN(2.0),
        lambda: FixedN(True),
        lambda: PPR(0.05, 2.5),
        lambda: ESC("5"),
        lambda: All(FixedN(2), "beta"),
        lambda: Curtailed(3).table(4),
        lambda: ModeCertificate().table(4),
        lambda: ModeCertificate(target="a").table(4),
        lambda: StopTable(FixedN(4)),
        lambda: Any(PPR(0.1, 2), ESC()).table(4),
    ],
)
def test_types_that_are_refused(make):
    with pytest.raises(TypeError):
        make()


@pytest.mark.parametrize(
    "rule", [PPR(0.05, 2), ModeCertificate(), ModeCertificate(target="a")], ids=repr
)
@pytest.mark.parametrize("weight", [0.5, 2.0, 0.0, math.nan])
def test_certificates_refuse_weights(rule, weight):
    assert not rule.takes_weights and rule.needs_exchangeable
    with pytest.raises(ValueError, match="every vote must weigh 1"):
        rule.fresh().update("a", weight=weight)
    assert not Any(rule, BetaStop()).takes_weights
    assert Any(FixedN(3), BetaStop()).takes_weights


@pytest.mark.parametrize("rule", [FirstAccept(), AcceptCount(2), RewardGain(0.1)], ids=repr)
def test_rewards_that_are_refused(rule):
    with pytest.raises(ValueError, match="needs the reward of every answer"):
        rule.fresh().update("a")
    for reward in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="finite number"):
            rule.fresh().update("a", reward)


def test_a_decision_to_go_on_is_plain():
    assert FixedN(2).update("a") == Decision(False, None, "", pytest.approx(math.nan, nan_ok=True))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("certificate", ModeCertificate()),
        ("certificate:delta=0.1", ModeCertificate(0.1)),
        ("certificate:delta=0.1,target=B", ModeCertificate(0.1, "B")),
        (" ppr:delta=.05, num_answers=5 , two_sided=true", PPR(0.05, 5, True)),
        ("fixed:40", FixedN(40)),
        ("fixed:n=40", FixedN(40)),
        ("curtailed:40,weight_bound=2.5", Curtailed(40, 2.5)),
        ("beta:.9", BetaStop(0.9)),
        ("beta", BetaStop()),
        ("esc:window=4,answer=votes", ESC(4, "votes")),
        ("supermajority:threshold=0.8,start=3,double=False", Supermajority(0.8, 3, False)),
        ("first-accept:0.9", FirstAccept(0.9)),
        ("accept-count:3,threshold=.25", AcceptCount(3, 0.25)),
        ("reward-gain:cost=1e-2", RewardGain(0.01)),
    ],
)
def test_rules_from_text(text, rule):
    assert repr(parse_rule(text)) == repr(rule)


def test_rules_from_their_own_words():
    # Every name makes the class it says, with its first setting alone where that suffices.
    assert {RULES[name] for name in RULES} >= {type(rule) for rule in EVERY_RULE} - {All, Any}
    assert isinstance(parse_rule("ppr:0.05,num_answers=3"), PPR)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("certify", "no stopping rule 'certify'; there are fixed, curtailed"),
        ("", "no stopping rule ''"),
        ("fixed", "fixed needs n"),
        ("ppr:0.05", "ppr needs num_answers"),
        ("beta:conf=0.9,window=3", "'window=3' is no setting of beta"),
        ("beta:0.9,3", "'3' is no setting of beta"),
        ("beta:conf=", "no setting of beta"),
        ("beta:conf=.9,conf=.8", "given twice"),
        ("beta:.9,conf=.8", "given twice"),
        ("fixed:ten", "n must be an integer, not 'ten'"),
        ("fixed:1.5", "n must be an integer"),
        ("certificate:2", "delta must lie strictly between"),
        ("certificate:delta=many", "certificate"),
        ("reward-gain:cost=x", "reward-gain"),
    ],
)
def test_texts_that_are_no_rule(text, words):
    with pytest.raises(ValueError, match=words):
        parse_rule(text)


@pytest.mark.parametrize(
    "module", ["evidence", "tables", "ppr", "beta", "reward_gain", "parse", "certificate"]
)
def test_examples_in_docstrings(module):
    found = doctest.testmod(importlib.import_module(f"modicum.testtime.stopping.{module}"))
    assert found.failed == 0 and found.attempted > 0


def test_import_takes_numpy_and_nothing_heavier():
    code = (
        "import sys, modicum.testtime.stopping as s; s.PPR(.05, 2); s.ModeCertificate(); "
        "print(sorted(m for m in ('scipy', 'torch', 'matplotlib') if m in sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
