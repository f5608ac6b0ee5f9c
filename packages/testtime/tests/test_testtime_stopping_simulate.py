"""Simulation: the vectorised ways against asking the rule, published figures, exact laws."""

import math

import numpy as np
import pytest

from modicum.testtime.stopping import (
    ESC,
    PPR,
    All,
    Any,
    BetaStop,
    Curtailed,
    FirstAccept,
    FixedN,
    ModeCertificate,
    answer_streams,
    exact_two_answers,
    simulate_stopping,
)
from modicum.testtime.stopping import simulate as simulate_module

LAWS = [
    dict(p=(0.6, 0.4)),
    dict(p=(0.3, 0.3, 0.2), null=0.2),
    dict(p=(0.25, 0.15), null=0.1, tail=0.5),
    dict(p=(0.1,), tail=0.9),
    dict(p=(0.9, 0.0, 0.05, 0.05)),
    dict(p=(0.02,) * 30, null=0.1, tail=0.3),
]
FAST = [
    PPR(0.2, 50),
    BetaStop(0.85),
    ModeCertificate(0.3),
    ModeCertificate(0.9),
    Any(PPR(0.3, 50), BetaStop(0.9)),
    All(BetaStop(0.9), Any(PPR(0.4, 50))),
]


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("rule", FAST, ids=repr)
def test_vectorised_runs_are_those_of_the_rule(rule, law, monkeypatch):
    options = dict(max_samples=70, runs=60, seed=5)
    if law.get("tail") and "PPR" in repr(rule):
        # More answers than the rule was told of.
        law = {**law, "null": law.get("null", 0) + law["tail"], "tail": 0.0}
    fast = simulate_stopping(rule, **law, **options)
    monkeypatch.setattr(simulate_module, "_replay", lambda rule, streams, *_: one(rule, streams))
    one = simulate_module._one_by_one
    slow = simulate_stopping(rule, **law, **options)
    for name in ("samples_R", "declared_R", "wrong_R", "correct_R"):
        np.testing.assert_array_equal(getattr(fast, name), getattr(slow, name), err_msg=name)


def test_a_rule_that_was_told_too_few_answers_decides_nothing_in_simulation():
    with pytest.warns(UserWarning, match="although num_answers=2"):
        study = simulate_stopping(PPR(0.3, 2), (0.4,), tail=0.6, max_samples=40, runs=5)
    assert study.decided_rate == 0
    with pytest.warns(UserWarning, match="although num_answers=2"):
        study = simulate_stopping(PPR(0.05, 2), (0.4, 0.3, 0.3), max_samples=40, runs=5)
    assert study.decided_rate == 0


def test_blocks_do_not_change_anything(monkeypatch):
    law = dict(p=(0.3, 0.2), tail=0.4, null=0.1, max_samples=50, runs=60, seed=1)
    streams = answer_streams(**law)
    study = simulate_stopping(ModeCertificate(0.4), **law)
    monkeypatch.setattr(simulate_module, "BLOCK_NUMBERS", 350)
    np.testing.assert_array_equal(answer_streams(**law), streams)
    again = simulate_stopping(ModeCertificate(0.4), **law)
    np.testing.assert_array_equal(again.samples_R, study.samples_R)
    np.testing.assert_array_equal(again.correct_R, study.correct_R)


def test_streams():
    law = dict(p=(0.5, 0.2), null=0.2, tail=0.1, max_samples=40)
    streams = answer_streams(**law, runs=500, seed=7)
    assert streams.shape == (500, 40)
    for drawn, share in [(0, 0.5), (1, 0.2), (-1, 0.2)]:
        found = (streams == drawn).mean()
        assert abs(found - share) < 5 * math.sqrt(share * (1 - share) / streams.size)
    for row in streams:
        tail = row[row >= 2]
        assert len(set(tail)) == len(tail)
    np.testing.assert_array_equal(answer_streams(**law, runs=20, seed=7), streams[:20])
    assert not np.array_equal(answer_streams(**law, runs=20, seed=8), streams[:20])


PUBLISHED = [
    # law, cap, rule, mean samples, error, share decided; 1,500 runs (300 for three close answers)
    ((0.6, 0.4), 1000, PPR(0.05, 2), 204, 0.002, 1.0),
    ((0.6, 0.4), 1000, ModeCertificate(0.05), 269, 0.0, 1.0),
    ((0.6, 0.4), 1000, BetaStop(0.95), 50, 0.056, 1.0),
    ((0.6, 0.4), 1000, ESC(5, "votes"), 58, 0.075, 1.0),
    ((0.52, 0.48), 1000, PPR(0.05, 2), 905, 0.016, 0.13),
    ((0.52, 0.48), 1000, ModeCertificate(0.05), 958, 0.007, 0.06),
    ((0.52, 0.48), 1000, BetaStop(0.95), 300, 0.215, None),
    ((0.52, 0.48), 1000, ESC(5, "votes"), 77, 0.370, None),
    ((0.5, 0.3, 0.2), 1000, PPR(0.05, 3), 197, 0.0, 1.0),
    ((0.5, 0.3, 0.2), 1000, ModeCertificate(0.05), 226, 0.0, 1.0),
    ((0.5, 0.3, 0.2), 1000, BetaStop(0.95), 49, 0.023, 1.0),
    ((0.5, 0.3, 0.2), 1000, ESC(5, "votes"), 147, 0.022, None),
    ((0.9, 0.06, 0.04), 1000, PPR(0.05, 3), 11.9, 0.0, 1.0),
    ((0.9, 0.06, 0.04), 1000, ModeCertificate(0.05), 13.3, 0.0, 1.0),
    ((0.9, 0.06, 0.04), 1000, BetaStop(0.95), 5.5, 0.0, 1.0),
    ((0.9, 0.06, 0.04), 1000, ESC(5, "votes"), 8.5, 0.0, 1.0),
    ((0.34, 0.33, 0.33), 400, PPR(0.1, 3), None, 0.003, None),
    ((0.34, 0.33, 0.33), 400, ModeCertificate(0.1), None, 0.003, None),
    ((0.34, 0.33, 0.33), 400, BetaStop(0.9), None, 0.403, None),
    ((0.34, 0.33, 0.33), 400, ESC(5, "votes"), None, 0.390, None),
    ((0.3, *[0.01] * 70), 150, PPR(0.1, 71), 75.7, None, None),
    ((0.3, *[0.01] * 70), 150, ModeCertificate(0.1), 61.3, None, None),
    ((0.3, *[0.01] * 70), 150, BetaStop(0.9), 18.8, None, None),
    ((0.3, *[0.01] * 70), 150, ESC(5), 145, None, None),
]


@pytest.mark.parametrize(("p", "cap", "rule", "mean", "error", "decided"), PUBLISHED)
def test_published_figures(p, cap, rule, mean, error, decided):
    theirs, runs = 300 if cap == 400 else 1500, 400
    study = simulate_stopping(rule, p, max_samples=cap, runs=runs, seed=11)
    # Both are simulations; 5.5 standard errors of the difference, and the published rounding.
    spread = math.sqrt(1 / runs + 1 / theirs)
    if mean is not None:
        rounding = 0.5 if mean >= 20 else 0.05
        assert abs(study.mean_samples - mean) < 5.5 * spread * study.samples_R.std() + rounding
    for share, expected, digit in [(study.error_rate, error, 0.0005),
                                   (study.decided_rate, decided, 0.005)]:  # fmt: skip
        if expected is not None:
            rate = max(expected, share, 2 / theirs)
            assert abs(share - expected) < 5.5 * spread * math.sqrt(rate * (1 - rate)) + digit


@pytest.mark.parametrize("rule", [PPR(0.1, 2), BetaStop(0.9)], ids=repr)
@pytest.mark.parametrize("cap", [40, 41])
def test_simulation_agrees_with_the_exact_law(rule, cap):
    exact = exact_two_answers(rule, 0.6, cap)
    runs = 40_000
    study = simulate_stopping(rule, (0.6, 0.4), max_samples=cap, runs=runs, seed=2)
    low, high = study.mean_interval(1 - 1e-6)
    assert low < exact.mean_samples < high
    assert study.error_interval(1 - 1e-6)[0] < exact.declares_second
    assert study.error_interval(1 - 1e-6)[1] > exact.declares_second
    decided = exact.declares_first + exact.declares_second
    assert study.decided_interval(1 - 1e-6)[0] < decided < study.decided_interval(1 - 1e-6)[1]
    assert (
        study.accuracy_interval(1 - 1e-6)[0] < exact.accuracy < study.accuracy_interval(1 - 1e-6)[1]
    )


def test_exact_law_in_closed_form():
    # At level .8 the rule stops at two votes to none, three to one (1 - 6/32), five to two.
    rule = BetaStop(0.8)
    assert rule.table(3).tolist() == [2, 3, 5]
    p, q = 0.7, 0.3
    exact = exact_two_answers(rule, p, 4)
    assert exact.declares_first == pytest.approx(p**2 + 2 * p * q * p**2)
    assert exact.declares_second == pytest.approx(q**2 + 2 * p * q * q**2)
    assert exact.mean_samples == pytest.approx(2 * (p * p + q * q) + 4 * 2 * p * q)
    assert exact.accuracy == pytest.approx(exact.declares_first + 2 * p * q * 2 * p * q / 2)
    certain = exact_two_answers(PPR(0.05, 2), 1.0, 100)
    assert certain == type(certain)(1.0, 0.0, 7.0, 1.0)


def test_target_ties_and_caps():
    study = simulate_stopping(BetaStop(0.9), (0.3, 0.7), target=0, max_samples=60, runs=200)
    assert study.accuracy < 0.1 and study.error_rate < 0.1
    # Where two answers are most likely, declaring either is no error.
    tied = simulate_stopping(BetaStop(0.9), (0.5, 0.5), max_samples=60, runs=200)
    assert tied.error_rate == 0 and tied.accuracy == 1 and tied.decided_rate > 0.5
    fixed = simulate_stopping(FixedN(15), (0.6, 0.4), max_samples=20, runs=50)
    assert fixed.mean_samples == 15 and fixed.decided_rate == 1
    short = simulate_stopping(FixedN(15), (0.6, 0.4), max_samples=5, runs=50)
    assert short.mean_samples == 5 and short.decided_rate == 0
    nothing = simulate_stopping(ModeCertificate(), (0.0,), null=1.0, max_samples=9, runs=5)
    assert nothing.accuracy == 0 and nothing.decided_rate == 0
    with pytest.raises(ValueError, match="needs the reward"):
        simulate_stopping(FirstAccept(), (1.0,), max_samples=5, runs=2)


def test_curtailed_in_simulation_is_lossless():
    law = dict(p=(0.4, 0.35, 0.1), null=0.05, tail=0.1, max_samples=31, runs=800, seed=4)
    curtailed = simulate_stopping(Curtailed(31), **law)
    full = simulate_stopping(FixedN(31), **law)
    np.testing.assert_array_equal(curtailed.correct_R, full.correct_R)
    assert curtailed.decided_rate == 1 and curtailed.mean_samples < 31


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(p=()), "at least one probability"),
        (dict(p=((0.5, 0.5),)), "at least one probability"),
        (dict(p=(0.5, -0.5, 1.0)), "must be >= 0"),
        (dict(p=(0.5, math.nan)), "must be >= 0"),
        (dict(p=(0.5, 0.3)), "missing 0.2 goes with null= or tail="),
        (dict(p=(0.5, 0.6)), "must sum to 1, not 1.1"),
        (dict(null=-0.1), "must be >= 0"),
        (dict(max_samples=0), "max_samples must be at least 1"),
        (dict(runs=0), "runs must be at least 1"),
        (dict(target=2), "target must be an index of p, 0 … 1, not 2"),
        (dict(target=-1), "target must be an index"),
    ],
)
def test_bad_laws(change, words):
    good = dict(p=(0.5, 0.5), max_samples=5, runs=3)
    with pytest.raises(ValueError, match=words):
        simulate_stopping(BetaStop(), **{**good, **change})


def test_bad_exact_laws():
    with pytest.raises(ValueError, match="p must lie in"):
        exact_two_answers(BetaStop(), 1.2, 10)
    with pytest.raises(ValueError, match="max_samples"):
        exact_two_answers(BetaStop(), 0.5, 0)
    with pytest.raises(TypeError, match="no boundary"):
        exact_two_answers(ESC(), 0.5, 10)
