"""Scores of distortion, the evidence ratio, and how thresholds are chosen and judged."""

import json
import math
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch

from modicum.huper.channel import EditChannel
from modicum.huper.emissions import Emissions
from modicum.huper.graph import fused_decode
from modicum.huper.phones import PhoneSet
from modicum.huper.scheduler import (
    Item,
    Scheduler,
    distortion_score,
    evidence_ratio,
    frame_distortion,
    local_evidence,
    segments,
    voiced,
)

PHONES = PhoneSet.ipa(["a", "b", "k", "t"])


def random_rows(rng, frames=12, classes=5, sharpness=2.0):
    logits = rng.normal(size=(frames, classes)) * sharpness
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def one_hot(path, classes=5):
    with np.errstate(divide="ignore"):
        return np.log(np.eye(classes)[path])


def emissions_of(rows):
    return Emissions(torch.from_numpy(rows), torch.tensor([len(rows)]), 0.02, PHONES)


def items_of(rng, count, *, levels=1, path="reference", **more):
    """Errors of the ear grow with s, those of the text with Λ."""
    found = []
    for number in range(count):
        wrong = rng.random() < 0.3
        for _ in range(levels):
            s = float(rng.random() * 0.2)
            found.append(
                Item(
                    f"u{number}",
                    s,
                    int(rng.binomial(20, min(1, 4 * s))),
                    int(rng.binomial(20, 0.6 if wrong else 0.15)),
                    20,
                    float(rng.gamma(4, 1.5 if wrong else 0.3)),
                    path,
                    **more,
                )
            )
    return found


def quiet(scheduler, items, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return scheduler.calibrate(items, **options)


# Scores -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 44])
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_nothing_known_is_one_and_certainty_is_zero(classes, beta):
    uniform = np.full((7, classes), -math.log(classes))
    assert distortion_score(uniform, beta) == pytest.approx(1, abs=1e-12)
    assert distortion_score(one_hot([0, 1, 1, 0], classes), beta) == 0


def test_score_is_its_definition():
    rows = random_rows(np.random.default_rng(0))
    expected = []
    for row in rows:
        p = sorted(map(math.exp, row))
        entropy = -sum(q * math.log(q) for q in p) / math.log(len(p))
        expected.append(0.3 * entropy + 0.7 * (1 - p[-1] + p[-2]))
    np.testing.assert_allclose(frame_distortion(rows, 0.3), expected, rtol=1e-12)
    assert distortion_score(rows, 0.3) == pytest.approx(np.mean(expected))
    found = distortion_score(rows, 0.3, pool="quantile", quantile=0.75)
    assert found == pytest.approx(np.quantile(expected, 0.75))


def test_impossible_classes_count_nothing():
    with np.errstate(divide="ignore"):
        rows = np.log([[0.5, 0.5, 0.0, 0.0]])
    assert distortion_score(rows) == pytest.approx(0.5)
    assert distortion_score(rows, beta=0.0) == 1.0


@pytest.mark.parametrize("frames", ["all", "speech"])
def test_order_of_the_phones_does_not_matter(frames):
    rng = np.random.default_rng(1)
    for _ in range(20):
        rows = random_rows(rng)
        order = [0, *(1 + rng.permutation(4))]
        first, second = (distortion_score(one, 0.5, frames) for one in (rows, rows[:, order]))
        assert first == pytest.approx(second, abs=1e-14)


def test_frames_that_count():
    rows = random_rows(np.random.default_rng(2))
    each = frame_distortion(rows)
    speech = rows.argmax(1) != 0
    assert 0 < speech.sum() < len(rows)
    assert distortion_score(rows, frames="speech") == pytest.approx(each[speech].mean())
    mask = np.arange(12) < 4
    assert distortion_score(rows, frames="vad", voiced=mask) == pytest.approx(each[:4].mean())
    # Another blank is another silence.
    other = rows.argmax(1) != 2
    assert distortion_score(rows, frames="speech", blank=2) == pytest.approx(each[other].mean())
    silent = one_hot([0, 0, 0])
    assert distortion_score(silent, frames="speech") == 0
    assert distortion_score(silent, frames="vad", voiced=np.zeros(3, bool)) == 0


def test_emissions_and_tensors_are_the_same():
    rows = random_rows(np.random.default_rng(3)).astype(np.float32)
    first = distortion_score(rows)
    assert distortion_score(torch.from_numpy(rows)) == first
    assert distortion_score(emissions_of(rows)) == first


def test_sound_is_where_the_energy_is():
    samples = np.zeros(16_000, np.float32)
    samples[3200:6400] = np.sin(np.arange(3200) * 0.3)
    found = voiced(samples, 49)
    # Frame t sees the samples from 320 t to 320 t + 400.
    assert found.tolist() == [320 * t < 6400 and 320 * t + 400 > 3200 for t in range(49)]
    assert not voiced(np.zeros(16_000, np.float32), 49).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: distortion_score(np.zeros((0, 5))), "no frame"),
        (lambda: distortion_score(np.zeros((3, 5))), "sum to 5"),
        (lambda: distortion_score(np.zeros(5)), r"\(5,\)"),
        (lambda: distortion_score(np.zeros((3, 1))), "two classes"),
        (lambda: distortion_score(one_hot([1]), beta=1.5), "1.5"),
        (lambda: distortion_score(one_hot([1]), frames="some"), "'some'"),
        (lambda: distortion_score(one_hot([1]), pool="max"), "'max'"),
        (lambda: distortion_score(one_hot([1]), quantile=-1), "-1"),
        (lambda: distortion_score(one_hot([1]), frames="vad"), "voiced"),
        (
            lambda: distortion_score(one_hot([1]), frames="vad", voiced=np.ones(2, bool)),
            r"\(1,\), got \(2,\)",
        ),
        (
            lambda: distortion_score(
                Emissions(torch.zeros(2, 1, 5).log_softmax(-1), [1, 1], 0.02, PHONES)
            ),
            "2 utterances",
        ),
    ],
)
def test_scores_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Evidence ---------------------------------------------------------------------------------------


def test_evidence_ratio_is_its_definition():
    rng = np.random.default_rng(4)
    channel = EditChannel.fit([(("a", "b"), ("a", "k"))], phones=PHONES)
    for _ in range(20):
        rows = random_rows(rng)
        canonical = rng.integers(1, 5, size=int(rng.integers(0, 5)))
        found = fused_decode(emissions_of(rows), [canonical], channel, maxdel=5)[0]
        expected = (rows.max(1).sum() - found.score) / max(1, len(canonical))
        ratio = evidence_ratio(rows, found)
        assert ratio == pytest.approx(expected, rel=1e-5)
        assert ratio >= 0  # The ear's path is the best of all, and edits cost.


def test_no_path_costs_infinitely_much():
    rows = random_rows(np.random.default_rng(5), frames=1)
    channel = EditChannel.fit([], phones=PHONES)
    found = fused_decode(emissions_of(rows), ["a"] * 9, channel)
    assert found.reason == "no_path"
    assert evidence_ratio(rows, found) == math.inf
    assert local_evidence(rows, found, channel.weights(["a"]), [(0, 1)]).tolist() == [math.inf]


@pytest.mark.parametrize("lam", [0.0, 0.7, 2.0])
def test_local_costs_sum_to_the_whole(lam):
    rng = np.random.default_rng(6)
    pairs = [(("a", "b", "t"), ("a", "k")), (("t", "a"), ("k", "t", "b"))]
    channel = EditChannel.fit(pairs, phones=PHONES)
    for _ in range(30):
        rows = random_rows(rng, frames=20)
        canonical = rng.integers(1, 5, size=int(rng.integers(1, 9)))
        weights = channel.weights(canonical)
        found = fused_decode(rows, canonical, channel, lam=lam)
        each = [(t, t + 1) for t in range(20)]
        costs = local_evidence(rows, found, weights, each, lam)
        whole = local_evidence(rows, found, weights, [(0, 20)], lam)[0]
        # One frame holds one phone that is said, and those deleted before it.
        held = np.zeros(20)
        waiting = 0
        for edit in found.edits:
            waiting += edit.op in ("keep", "sub", "del")
            if edit.span is not None:
                held[edit.span[0]] += waiting
                waiting = 0
        held[-1] += waiting
        assert (costs * np.maximum(held, 1)).sum() == pytest.approx(whole * len(canonical))
        assert whole == pytest.approx(evidence_ratio(rows, found))


@pytest.mark.parametrize("frames", [1, 5, 14, 15, 29, 30, 31, 100])
def test_windows_cover_all_and_are_long_enough(frames):
    found = segments(frames, 0.02, 0.3)
    assert [found[0][0], found[-1][1]] == [0, frames]
    assert all(one[1] == two[0] for one, two in pairwise(found))
    lengths = [end - start for start, end in found]
    assert len(found) == 1 or min(lengths) >= 15
    assert max(lengths) - min(lengths) <= 1 and max(lengths) < 30


# Deciding ---------------------------------------------------------------------------------------


def test_policies():
    hard = Scheduler("threshold", tau=0.4, tau_ref=0.2, lam=2.0, lam_internal=0.5)
    assert [hard.weight(s) for s in (0.1, 0.2, 0.21)] == [0, 0, 2]
    assert [hard.weight(s, None, "hypothesis") for s in (0.4, 0.41)] == [0, 0.5]
    test = Scheduler("llr", a=1.0, b=10.0)
    assert [test.weight(0.1, ratio) for ratio in (1.9, 2.0, math.inf)] == [1, 0, 0]
    assert test.weight(0.9, None, "hypothesis") == 0  # Nothing was calibrated.
    soft = Scheduler("soft", tau_ref=0.3, width=0.1, lam_max=2.0)
    assert soft.weight(0.3) == 1
    assert soft.weight(0.5) == pytest.approx(2 / (1 + math.exp(-2)))
    assert soft.weight(1.0) < 2 and Scheduler("soft", width=1e-9).weight(0) == 1
    assert Scheduler("soft", tau_ref=math.inf).weight(1.0) == 0
    with pytest.raises(ValueError, match="evidence ratio"):
        test.weight(0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "hard"}, "'hard'"),
        ({"scope": "word"}, "'word'"),
        ({"beta": 2}, "2"),
        ({"b": -1.0}, "-1"),
        ({"tau": math.nan}, "tau"),
        ({"lam": 0.0}, "lam"),
        ({"width": -0.1}, "width"),
        ({"window": 0.1}, "0.1"),
    ],
)
def test_settings_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        Scheduler(**options)


# Calibrating ------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["threshold", "llr", "soft"])
@pytest.mark.parametrize("scope", ["utterance", "segment"])
@pytest.mark.parametrize("path", ["reference", "hypothesis"])
def test_no_path_alone_is_better_on_the_calibration_items(policy, scope, path):
    rng = np.random.default_rng(7)
    for trial in range(6):
        # Errors of any distribution, fractions too: the property needs none.
        items = [
            Item(
                f"u{n}",
                rng.random(),
                float(rng.gamma(1, 3)),
                float(rng.gamma(1, 3)),
                int(rng.integers(0, 9)) + (n == 0),
                math.inf if rng.random() < 0.1 else float(rng.gamma(1, 4)),
                path,
                lambda setting, n=n: float(10 * ((17 * n + hash(setting.tau_ref)) % 11)),
            )
            for n in range(int(rng.integers(1, 12)))
        ]
        for joint in (True, False):
            scheduler = Scheduler(policy, scope, joint=joint)
            verdict = quiet(scheduler, items)[path].verdict
            assert verdict.risk <= min(verdict.bottom_up, verdict.top_down), trial
            if policy != "soft" and scope == "utterance":
                assert verdict.oracle <= verdict.risk


def test_threshold_is_the_best_there_is():
    rng = np.random.default_rng(8)
    for _ in range(20):
        items = items_of(rng, 12)
        scheduler = Scheduler("threshold")
        found = quiet(scheduler, items)["reference"]
        risks = {}
        for tau in [-1.0, *(item.s for item in items)]:
            errors = sum(item.top_down if item.s > tau else item.bottom_up for item in items)
            risks[tau] = errors / 240
        assert found.verdict.risk == min(risks.values())
        # Of equals, the one that listens most to the ear.
        used = sum(item.s > scheduler.tau_ref for item in items)
        ties = [tau for tau, risk in risks.items() if risk == min(risks.values())]
        assert used == min(sum(item.s > tau for item in items) for tau in ties)
        assert found.verdict.switch_rate == pytest.approx(used / 12)


def test_joint_rule_is_the_best_of_its_grid():
    items = items_of(np.random.default_rng(9), 40)
    scheduler = Scheduler("llr")
    found = quiet(scheduler, items)["reference"]

    def risk(a, b):
        return sum(i.top_down if i.ratio < a + b * i.s else i.bottom_up for i in items) / 800

    grid = {(a, b): risk(a, b) for a in np.arange(0, 6.1, 0.25) for b in np.arange(0, 81, 5)}
    grid |= {(-math.inf, 0): risk(-math.inf, 0), (math.inf, 0): risk(math.inf, 0)}
    assert found.verdict.risk == min(grid.values()) == grid[scheduler.a, scheduler.b]
    ties = [b for (a, b), value in grid.items() if value == min(grid.values())]
    assert scheduler.b == min(ties)
    plain = Scheduler("llr", joint=False)
    alone = quiet(plain, items)["reference"].verdict.risk
    every = [risk(a, 0) for a in [-math.inf, math.inf, *(item.ratio for item in items)]]
    assert plain.b == 0 and alone == min(every)


def test_cross_validation_parts_utterances_not_items():
    # Items of one utterance are all alike and no two utterances are: s names the utterance, and
    # which path is right is a coin. A choice that had seen another item of the same utterance
    # would know; an honest one is right half the time.
    rng = np.random.default_rng(10)
    items = []
    for number, right in enumerate(rng.integers(0, 2, 400)):
        s = (number + 0.5) / 400
        one = Item(f"u{number}", s, 10 * int(right), 10 * int(1 - right), 10)
        items += [one] * 3
    found = quiet(Scheduler("threshold"), items)["reference"]
    # 400 coins: 0.5 ± 0.14 is 5.6 standard errors, an error probability of 2e-8.
    assert 0.36 < found.cross_validated < 0.64
    assert found.verdict.oracle == 0 and found.verdict.utterances == 400


def test_cross_validated_risk_of_a_clear_case_is_the_risk():
    items = [Item(f"u{n}", n / 60, 0 if n < 30 else 5, 0 if n >= 30 else 5, 10) for n in range(60)]
    found = quiet(Scheduler("threshold"), items)["reference"]
    assert found.verdict.risk == 0 and found.cross_validated <= 0.05
    assert found.verdict.bottom_up == found.verdict.top_down == 0.25


def test_what_chose_must_not_judge():
    rng = np.random.default_rng(11)
    scheduler = Scheduler("llr")
    quiet(scheduler, items_of(rng, 40))
    with pytest.raises(ValueError, match=r"40 utterances chose .*u0"):
        scheduler.evaluate(items_of(rng, 50))
    fresh = [Item(f"v{n}", 0.1, 1, 2, 10, 0.5) for n in range(4)]
    found = scheduler.evaluate(fresh)
    assert (found.bottom_up, found.top_down, found.oracle) == (0.1, 0.2, 0.1)
    assert scheduler.evaluate([*fresh, Item("w", 0.1, 3, 0, 10, 0.5)]).oracle == 0.08


def test_both_paths_are_calibrated_apart():
    rng = np.random.default_rng(12)
    scheduler = Scheduler("threshold")
    found = quiet(scheduler, items_of(rng, 40) + items_of(rng, 50, path="hypothesis"))
    assert {path: one.verdict.items for path, one in found.items()} == {
        "reference": 40,
        "hypothesis": 50,
    }
    assert math.isfinite(scheduler.tau) and math.isfinite(scheduler.tau_ref)


def test_few_utterances_and_ends_of_the_grid_are_named():
    better = [Item(f"u{n}", n / 100, 1, 0, 10, 1.0) for n in range(40)]
    with pytest.warns(UserWarning, match="always switches"):
        found = Scheduler("llr", joint=False).calibrate(better)
    assert found["reference"].end == "always" and found["reference"].verdict.switch_rate == 1
    worse = [Item(f"u{n}", n / 100, 1, 2, 10, 1.0) for n in range(40)]
    with pytest.warns(UserWarning, match="never switches"):
        found = Scheduler("threshold").calibrate(worse)
    assert found["reference"].end == "never"
    with pytest.warns(UserWarning, match="29 utterances"):
        Scheduler("llr").calibrate(items_of(np.random.default_rng(0), 29, levels=3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Scheduler("threshold").calibrate(items_of(np.random.default_rng(0), 30))


def test_bad_items_are_refused():
    good = Item("u", 0.1, 1, 2, 10)
    with pytest.raises(ValueError, match="at least one item"):
        Scheduler().calibrate([])
    with pytest.raises(ValueError, match="'u' has no evidence ratio"):
        quiet(Scheduler("llr"), [good])
    with pytest.raises(ValueError, match="'u' has no decode"):
        quiet(Scheduler("soft"), [good])
    with pytest.raises(ValueError, match="no phone"):
        quiet(Scheduler("threshold"), [Item("u", 0.1, 1, 2, 0)])
    with pytest.raises(ValueError, match="folds"):
        Scheduler("threshold").calibrate([good], folds=1)
    with pytest.raises(ValueError, match=r"1\.5"):
        Item("u", 1.5, 1, 2, 10)
    with pytest.raises(ValueError, match="-1"):
        Item("u", 0.5, -1, 2, 10)
    with pytest.raises(ValueError, match="NaN"):
        Item("u", 0.5, 1, 2, 10, math.nan)
    with pytest.raises(ValueError, match="'text'"):
        Item("u", 0.5, 1, 2, 10, None, "text")


def test_json_keeps_everything():
    items = items_of(np.random.default_rng(13), 40)
    items.append(Item("inf", 0.1, 1, 2, 10, 1.0))
    for scheduler in (Scheduler(), Scheduler("threshold", beta=0.5, frames="speech")):
        quiet(scheduler, items)
        text = scheduler.to_json(indent=1)
        json.loads(text, parse_constant=pytest.fail)
        assert Scheduler.from_json(text) == scheduler
        assert "inf" in scheduler.calibrations["reference"].ids
    with pytest.raises(ValueError, match="no sigma"):
        Scheduler.from_dict({"sigma": 1})
