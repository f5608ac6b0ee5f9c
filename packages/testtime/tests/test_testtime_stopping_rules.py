"""Each rule against its definition; the least number of samples to stop, against brute force."""

import copy
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.core.device import numpy_generator
from modicum.testtime.stopping import (
    ESC,
    NEVER,
    PPR,
    AcceptCount,
    All,
    Any,
    BetaStop,
    Curtailed,
    FirstAccept,
    FixedN,
    ModeCertificate,
    RewardGain,
    Supermajority,
    VoteCounter,
    expected_gain,
    parse_rule,
)

KEY = st.sampled_from(["a", "a", "a", "b", "b", "c", "d", None])


def run(rule, samples):
    """Feed keys until the rule stops; return the number used and the last decision."""
    fresh, decision = rule.fresh(), None
    for used, key in enumerate(samples, 1):
        decision = fresh.update(key)
        if decision.stop:
            return used, decision
    return len(samples), decision


# Curtailed --------------------------------------------------------------------------------------


def majority(votes):
    counter = VoteCounter()
    for key, weight in votes:
        counter.add(key, weight)
    return counter.top_two()[0]


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.lists(KEY, min_size=1, max_size=24))
def test_curtailed_is_lossless(samples):
    used, decision = run(Curtailed(len(samples)), samples)
    assert decision.stop and decision.guarantee == "lossless"
    assert decision.answer == majority([(key, 1) for key in samples])
    assert (decision.reason == "decided") == (used < len(samples))
    # It could not have stopped earlier: some rest of the samples makes another answer win, or tie.
    if used > 1:
        early = samples[: used - 1]
        left = len(samples) - len(early)
        leader = majority([(key, 1) for key in early])
        rest = [
            majority([(key, 1) for key in early + [other] * left])
            for other in {*early, "new"} - {leader, None}
        ]
        counts = {key: early.count(key) for key in early if key is not None}
        ahead = sorted([*counts.values(), 0, 0])[-2:]
        assert ahead[1] - ahead[0] <= left
        assert any(answer != leader for answer in rest) or ahead[1] - ahead[0] == left


@settings(max_examples=200, derandomize=True, deadline=None)
@given(
    st.lists(st.tuples(KEY, st.one_of(st.sampled_from([0, 0.1, 0.3, 1]), st.floats(0, 1))),
             min_size=1, max_size=24),
    st.sampled_from([1.0, 1.5]),
)  # fmt: skip
def test_curtailed_is_lossless_with_weights(votes, bound):
    rule = Curtailed(len(votes), weight_bound=bound)
    for used, (key, weight) in enumerate(votes, 1):
        least = rule.min_to_stop()
        decision = rule.update(key, weight=weight)
        if decision.stop:
            break
        assert least > 1 or used < len(votes)
    assert decision.stop and decision.answer == majority(votes)


def test_curtailed_ignores_what_comes_after_and_refuses_heavier_votes():
    rule = Curtailed(3)
    for key in "abb":
        decision = rule.update(key)
    assert decision.answer == "b" and decision.reason == "max_samples"
    for _ in range(5):
        assert rule.update("a") == decision._replace(
            confidence=pytest.approx(math.nan, nan_ok=True)
        )
    with pytest.raises(ValueError, match="more than weight_bound"):
        Curtailed(3).update("a", weight=1.5)
    assert Curtailed(3).update(None, weight=9.0).stop is False


def test_curtailed_saves_what_was_measured():
    # Mean samples of N = 40; 20,000 runs have a standard error below .05.
    rng = numpy_generator(0, "curtailed")
    for p, expected in [((0.9, 0.1), 23.3), ((0.7, 0.2, 0.1), 27.7), ((0.5, 0.3, 0.2), 34.5)]:
        keys_RT = rng.choice(len(p), size=(20_000, 40), p=p)
        counts_RTK = np.cumsum(keys_RT[:, :, None] == np.arange(len(p)), axis=1)
        ranked_RTK = np.sort(counts_RTK, axis=2)
        left_T = 40 - np.arange(1, 41)
        done_RT = (ranked_RTK[:, :, -1] - ranked_RTK[:, :, -2] > left_T) | (left_T == 0)
        used_R = done_RT.argmax(axis=1) + 1
        assert abs(used_R.mean() - expected) < 0.35
        for run_number in range(200):
            assert run(Curtailed(40), keys_RT[run_number].tolist())[0] == used_R[run_number]


# ESC and Supermajority --------------------------------------------------------------------------


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.lists(KEY, min_size=1, max_size=30), st.integers(2, 4))
def test_esc_by_its_definition(samples, window):
    used, decision = run(ESC(window), samples)
    ends = [
        start + window
        for start in range(0, len(samples) - window + 1, window)
        if len(set(samples[start : start + window])) == 1 and samples[start] is not None
    ]
    assert decision.stop == bool(ends)
    assert used == (ends[0] if ends else len(samples))
    if ends:
        assert decision.answer == samples[used - 1]
        voted = run(ESC(window, answer="votes"), samples)[1].answer
        assert voted == majority([(key, 1) for key in samples[:used]])


@settings(max_examples=150, derandomize=True, deadline=None)
@given(
    st.lists(KEY, min_size=1, max_size=40),
    st.sampled_from([0.6, 0.75, 1.0]),
    st.integers(1, 3),
    st.booleans(),
)
def test_supermajority_by_its_definition(samples, threshold, start, double):
    used, decision = run(Supermajority(threshold, start, double), samples)
    looks = [start * 2**i for i in range(6)] if double else range(start, len(samples) + 1)
    stops = []
    for look in looks:
        voted = [key for key in samples[:look] if key is not None]
        if look <= len(samples) and voted:
            top = max(voted.count(key) for key in voted)
            if top / len(voted) >= threshold:
                stops.append(look)
    assert decision.stop == bool(stops)
    assert used == (stops[0] if stops else len(samples))


def test_supermajority_stops_on_two_that_agree():
    assert run(Supermajority(), "aa")[0] == 2


# Verifiers --------------------------------------------------------------------------------------


def test_first_accept():
    rule = FirstAccept(0.5)
    assert not rule.update("a", 0.49).stop
    assert not rule.update(None, 1.0).stop  # without an answer there is nothing to accept
    decision = rule.update("b", 0.5)
    assert decision.stop and decision.answer == "b" and decision.reason == "accepted"
    assert decision.guarantee == "exact"
    assert rule.update("c", 0.9).answer == "b"


def test_accept_count_votes_among_the_accepted():
    rule = AcceptCount(3, threshold=0.7)
    samples = [("a", 0.1), ("a", 0.2), ("b", 0.8), ("c", 0.9), (None, 1.0), ("a", 0.6), ("c", 0.7)]
    for at, (key, reward) in enumerate(samples):
        decision = rule.update(key, reward)
        assert decision.stop == (at == 6)
    assert decision.answer == "c"


def test_first_accept_draws_as_many_as_the_formula_says():
    p, s, f, n = 0.3, 0.8, 0.2, 10
    rate = p * s + (1 - p) * f
    rng = numpy_generator(1, "accept")
    runs = 4000
    used = []
    for _ in range(runs):
        rule, drawn, stop = FirstAccept(), 0, False
        while drawn < n and not stop:
            drawn += 1
            right = rng.random() < p
            accepted = rng.random() < (s if right else f)
            stop = rule.update("right" if right else "wrong", float(accepted)).stop
        used.append(drawn)
    expected = (1 - (1 - rate) ** n) / rate
    # Five standard errors: fails with probability below 1e-6.
    assert abs(np.mean(used) - expected) < 5 * np.std(used) / runs**0.5


# Reward gain ------------------------------------------------------------------------------------


def test_expected_gain_has_the_published_value():
    assert round(expected_gain(5, 0.0, 1.0, 0.7), 8) == 0.21328346


@pytest.mark.parametrize("df", [2, 5, 40, 1000])
@pytest.mark.parametrize("best", [-8.0, -1.0, 0.0, 0.7, 3.0, 12.0])
def test_expected_gain_by_quadrature(df, best):
    from scipy.integrate import quad
    from scipy.special import stdtr

    loc, scale = 0.4, 1.7
    # E max(0, r - best) is the integral of P(reward > r) from best on.
    expected = quad(lambda r: stdtr(df, (loc - r) / scale), best, np.inf, epsabs=1e-12, limit=400)[
        0
    ]
    assert expected_gain(df, loc, scale, best) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_expected_gain_limits():
    assert expected_gain(4, 2.0, 0.0, 1.5) == 0.5
    assert expected_gain(4, 1.0, 0.0, 1.5) == 0.0
    # Many degrees of freedom: the normal law, whose gain at the mean is pdf(0).
    assert expected_gain(1e7, 0.0, 1.0, 0.0) == pytest.approx(1 / math.sqrt(2 * math.pi), rel=1e-6)
    gains = [expected_gain(30, 0.0, 1.0, best) for best in np.linspace(-3, 60, 200)]
    assert all(gain >= 0 for gain in gains) and np.all(np.diff(gains) <= 1e-15)
    for bad in ((1, 0, 1, 0), (math.nan, 0, 1, 0)):
        with pytest.raises(ValueError, match="df must be above 1"):
            expected_gain(*bad)
    with pytest.raises(ValueError, match="scale must be >= 0"):
        expected_gain(3, 0, -1, 0)


def test_reward_gain_uses_the_predictive_law():
    from scipy.stats import t

    rewards = [0.31, 0.72, 0.55, 0.6, 0.41, 0.9]
    rule = RewardGain(cost=1e-6)
    assert rule.gain() == math.inf
    for at, reward in enumerate(rewards, 1):
        assert not rule.update(f"answer {at}", reward).stop
    n = len(rewards)
    law = t(n - 1, np.mean(rewards), np.std(rewards, ddof=1) * math.sqrt(1 + 1 / n))
    draws = np.linspace(0, 1, 200_001)[1:-1]
    by_sum = np.mean(np.maximum(law.ppf(draws) - max(rewards), 0))
    assert rule.gain() == pytest.approx(by_sum, rel=2e-3)
    just_above = RewardGain(rule.gain() * 1.0001)
    for at, reward in enumerate(rewards, 1):
        decision = just_above.update(f"answer {at}", reward)
    assert decision.stop and decision.answer == "answer 6" and decision.reason == "low_gain"


def test_reward_gain_on_equal_rewards_and_after_a_large_offset():
    rule = RewardGain(0.01)
    found = [rule.update(key, 0.1).stop for key in "abc"]
    assert found == [False, False, True] and rule.answer == "a"
    near, far = RewardGain(1e-9), RewardGain(1e-9)
    for reward in (0.25, 0.5, 1.0, 0.125):
        near.update("a", reward)
        far.update("a", reward + 2.0**40)
    assert far.gain() == pytest.approx(near.gain(), rel=1e-3)
    assert not RewardGain(0.1).update(None).stop


# The least number of samples to stop ------------------------------------------------------------

COUNTING = [
    FixedN(6),
    Curtailed(9),
    Curtailed(16),
    PPR(0.4, 6),
    PPR(0.3, 8, two_sided=True),
    BetaStop(0.8),
    BetaStop(0.7, min_samples=5),
    ESC(3),
    Supermajority(0.75),
    Supermajority(0.9, 3),
    Supermajority(1.0),
    Supermajority(0.7, 4, double=False),
    ModeCertificate(0.6),
    ModeCertificate(0.2),
    ModeCertificate(0.6, target="a"),
    Any(PPR(0.4, 6), Curtailed(9)),
]


def stops_within(rule, keys):
    """Say after how many of these keys the rule stops; None if it does not."""
    tried = copy.deepcopy(rule)
    for used, key in enumerate(keys, 1):
        if tried.update(key).stop:
            return used
    return None


def walk(rule, seed, size):
    """Return a rule after a random stream that has not stopped it."""
    rng = np.random.default_rng(seed)
    law = rng.dirichlet(np.full(5, 0.7))
    fresh = rule.fresh()
    for key in rng.choice(5, size=size, p=law):
        before = copy.deepcopy(fresh)
        if fresh.update([None, "a", "b", "c", "d"][key]).stop:
            return before
    return fresh


@pytest.mark.parametrize("rule", COUNTING, ids=repr)
def test_least_number_to_stop_is_that_of_brute_force(rule):
    for seed in range(30):
        state = walk(rule, seed, seed % 15)
        least = state.min_to_stop()
        unanimous = [
            used
            for key in ("a", "b", "c", "d", "new")
            if (used := stops_within(state, [key] * 120)) is not None
        ]
        assert least == (min(unanimous) if unanimous else NEVER)
        # Mixed samples are not quicker either: no sequence that is one shorter stops it.
        if 1 < least <= 4:
            for keys in itertools.product(["a", "b", "c", "d", "new", None], repeat=least - 1):
                assert stops_within(state, keys) is None


def test_a_later_answer_can_be_quicker_than_the_leader():
    # Five votes each for two answers: an answer without rivals behind it is certified first.
    rule = ModeCertificate(0.05)
    for key in "ababababab":
        assert not rule.update(key).stop
    assert rule.min_to_stop() == stops_within(rule, ["new"] * 30)
    assert rule.min_to_stop() < stops_within(rule, ["a"] * 30)
    assert rule.min_to_stop() < stops_within(rule, ["b"] * 30)


@pytest.mark.parametrize("rule", [AcceptCount(3), FirstAccept(), RewardGain(0.3)], ids=repr)
def test_least_number_of_rewards_to_stop(rule):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        state = rule.fresh()
        for reward in rng.random(seed % 4).round(1):
            if state.update("a", float(reward)).stop:
                break
        else:
            least = state.min_to_stop()
            for rewards in itertools.product([0.0, 0.4, 1.0], repeat=least - 1):
                tried = copy.deepcopy(state)
                assert not any(tried.update("b", reward).stop for reward in rewards)
            tried = copy.deepcopy(state)
            if not isinstance(rule, RewardGain):
                assert [tried.update("b", 1.0).stop for _ in range(least)][-1]


def test_never():
    rule = Supermajority(1.0)
    rule.update("a")
    assert rule.min_to_stop() == 1
    rule.update("b")
    assert rule.min_to_stop() == NEVER
    both, either = All(Supermajority(1.0), FixedN(5)), Any(Supermajority(1.0), FixedN(5))
    for combined, least in ((both, NEVER), (either, 3)):
        combined.update("a")
        combined.update("b")
        assert combined.min_to_stop() == least


@pytest.mark.parametrize("rule", [BetaStop(0.8), Supermajority(0.75)], ids=repr)
def test_with_weights_the_next_sample_may_stop(rule):
    fresh = rule.fresh()
    fresh.update("a", weight=0.5)
    fresh.update("b", weight=0.4)
    assert fresh.min_to_stop() == 1
    assert any(fresh.update("a", weight=50.0).stop for _ in range(2))


@pytest.mark.parametrize("rule", COUNTING, ids=repr)
def test_waves_do_not_change_decisions_and_none_is_wasted(rule):
    for seed in range(25):
        rng = np.random.default_rng(seed)
        keys = [
            [None, "a", "b", "c", "d"][i] for i in rng.choice(5, 70, p=rng.dirichlet([0.6] * 5))
        ]
        one_by_one = run(rule, keys)
        for size in (1, 3, 16, "least"):
            fresh, at, decision = rule.fresh(), 0, None
            while at < len(keys) and (decision is None or not decision.stop):
                wave = keys[at : at + (fresh.min_to_stop() if size == "least" else size)]
                for place, key in enumerate(wave, 1):
                    at += 1
                    decision = fresh.update(key)
                    if decision.stop:
                        assert size != "least" or place == len(wave)
                        break
            assert (at, repr(decision)) == (one_by_one[0], repr(one_by_one[1]))


# Combinations -----------------------------------------------------------------------------------


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.lists(KEY, min_size=1, max_size=40))
def test_any_is_the_first_of_its_members(samples):
    members = [BetaStop(0.8), ModeCertificate(0.4), Supermajority(0.7, 5)]
    used, decision = run(Any(*members), samples)
    alone = [run(member, samples) for member in members]
    stopped = [end for end in alone if end[1].stop]
    assert decision.stop == bool(stopped)
    if stopped:
        first = min(end[0] for end in stopped)
        assert used == first
        at_once = [end[1] for end in stopped if end[0] == first]
        preferred = [d for d in at_once if d.guarantee != "heuristic"] or at_once
        assert decision == preferred[0]


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.lists(KEY, min_size=1, max_size=40))
def test_all_is_the_first_sample_at_which_its_members_agree(samples):
    members = [BetaStop(0.8), ModeCertificate(0.6), FixedN(8)]
    used, decision = run(All(*members), samples)
    states = [member.fresh() for member in members]
    for at, key in enumerate(samples, 1):
        found = [state.update(key) for state in states]
        if all(d.stop for d in found) and len({d.answer for d in found}) == 1:
            assert (used, decision.answer, decision.stop) == (at, found[0].answer, True)
            assert decision.guarantee == "anytime" and decision.confidence >= 1 - 0.6
            return
    assert not decision.stop


def test_deltas_add_in_any_and_the_least_counts_in_all():
    one, two = ModeCertificate(0.02), PPR(0.03, 3)
    assert Any(one, two).delta == pytest.approx(0.05)
    assert Any(one, BetaStop(), two).delta == pytest.approx(0.05)
    assert All(one, two, BetaStop()).delta == 0.02
    assert Any(BetaStop()).delta is None and All(FixedN(3)).delta is None
    assert Any(Any(one, two), ModeCertificate(0.1)).delta == pytest.approx(0.15)
    assert Any(All(one, two), ModeCertificate(0.1)).delta == pytest.approx(0.12)


def test_confidence_of_any_pays_for_the_other_members():
    combined, alone = Any(ModeCertificate(0.02), PPR(0.2, 2)), PPR(0.2, 2)
    for _ in range(20):
        decision, expected = combined.update("a"), alone.update("a")
        if decision.stop:
            break
    assert decision.stop and expected.stop and decision.guarantee == "anytime"
    assert decision.confidence == pytest.approx(expected.confidence - 0.02)
    assert decision.confidence >= 1 - combined.delta


def test_guarantees_of_combinations():
    certificate, beta = ModeCertificate(), BetaStop()
    assert Any(certificate, PPR(0.1, 2)).guarantee == "anytime"
    assert Any(Curtailed(5), Curtailed(7)).guarantee == "lossless"
    assert Any(FixedN(9), FirstAccept()).guarantee == "exact"
    assert Any(certificate, beta).guarantee == "heuristic"
    # A curtailed majority may be wrong more often than delta.
    assert Any(certificate, Curtailed(5)).guarantee == "heuristic"
    assert All(certificate, beta).guarantee == "anytime"
    assert All(Curtailed(9), beta).guarantee == "lossless"
    assert All(FixedN(9), beta).guarantee == "heuristic"
    assert Any(certificate, beta).needs_exchangeable and not Any(beta).needs_exchangeable
    mixed = Any(Curtailed(5), ModeCertificate(0.05))
    for _ in range(3):
        decision = mixed.update("a")
    assert decision.stop and decision.guarantee == "lossless"


def test_tables_of_combinations():
    ppr, beta = PPR(0.05, 2), BetaStop(0.9)
    np.testing.assert_array_equal(Any(ppr, beta).table(30), beta.table(30))
    np.testing.assert_array_equal(All(ppr, beta).table(30), ppr.table(30))
    np.testing.assert_array_equal(
        Any(PPR(0.2, 2), PPR(0.1, 9)).table(20),
        np.minimum(PPR(0.2, 2).table(20), PPR(0.1, 9).table(20)),
    )


def test_all_of_members_that_disagree_goes_on():
    # The first two agree on a, the certificate never does.
    rule = All(FixedN(2), FirstAccept())
    assert not rule.update("a", 0.0).stop
    assert not rule.update("b", 1.0).stop  # majority a, accepted b
    assert rule.update("b", 1.0).stop


# PPR --------------------------------------------------------------------------------------------


def test_more_answers_than_were_said_end_the_certificate():
    rule = PPR(0.05, 2)
    rule.update("a")
    rule.update("b")
    with pytest.warns(UserWarning, match="'c' is answer number 3 although num_answers=2"):
        rule.update("c")
    assert not any(rule.update("a").stop for _ in range(60))
    assert rule.min_to_stop() == NEVER
    with pytest.warns(UserWarning, match="'d' is answer number 4"):
        rule.update("d")
    assert run(rule, ["a"] * 60)[1].stop  # the next prompt is another matter


@pytest.mark.parametrize(
    "votes",
    [
        [("b", 0.1), ("a", 0.2), ("a", 0.1), ("b", 0.2)],
        [("a", 0.1), ("b", 0.1), ("b", 0.1), ("b", 0.1), ("a", 0.2)],
    ],
)
def test_curtailed_weights_that_tie_but_for_rounding(votes):
    # Before the last vote the lead is 0.2 or a rounding more than that; both end with 0.3...04.
    rule = Curtailed(len(votes), weight_bound=0.2)
    decisions = [rule.update(key, None, weight) for key, weight in votes]
    assert [decision.stop for decision in decisions] == [False] * (len(votes) - 1) + [True]
    assert decisions[-1].answer == votes[0][0]


def test_names_of_rules_in_any_case():
    assert repr(parse_rule("Accept_Count:3")) == repr(parse_rule("accept-count:3"))
    with pytest.raises(ValueError, match="no stopping rule 'Bets'"):
        parse_rule("Bets:0.9")
