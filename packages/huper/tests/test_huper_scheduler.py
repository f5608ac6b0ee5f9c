"""The scheduler against closed forms and exhaustive choices."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.huper.emissions import Emissions
from modicum.huper.phones import PhoneSet
from modicum.huper.scheduler import (
    Observation,
    Scheduler,
    distortion_score,
    evidence_ratio,
    local_uncertainty,
    segment_scores,
    voiced_frames,
)


def rows(frames: int, classes: int, seed: int, sharp: float = 3.0) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(size=(frames, classes)) * sharp
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def drawn(count: int, seed: int, *, reference: bool = True) -> list[Observation]:
    rng = np.random.default_rng(seed)
    return [
        Observation(
            f"u{number}",
            float(rng.random() * 0.1),
            int(rng.integers(0, 9)),
            int(rng.integers(0, 9)),
            int(rng.integers(9, 12)),
            float(rng.random() * 8) if reference else None,
        )
        for number in range(count)
    ]


# The score ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 5, 44])
@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_uniform_frames_are_wholly_unsure_and_one_class_is_sure(classes: int, beta: float) -> None:
    uniform = np.full((7, classes), -math.log(classes))
    assert distortion_score(uniform, beta) == pytest.approx(1.0, abs=1e-12)
    sure = np.full((7, classes), -np.inf)
    sure[np.arange(7), np.arange(7) % classes] = 0.0
    assert distortion_score(sure, beta) == 0.0


def test_two_classes_by_hand() -> None:
    p = 0.8
    row = np.log([[p, 1 - p]])
    entropy = -(p * math.log(p) + (1 - p) * math.log(1 - p)) / math.log(2)
    assert local_uncertainty(row, 1.0)[0] == pytest.approx(entropy)
    assert local_uncertainty(row, 0.0)[0] == pytest.approx(1 - (2 * p - 1))
    assert local_uncertainty(row, 0.25)[0] == pytest.approx(0.25 * entropy + 0.75 * 0.4)


@pytest.mark.parametrize("frames", ["all", "speech"])
def test_names_of_phones_do_not_matter(frames: str) -> None:
    row_TC = rows(20, 6, 0)
    order = [0, *np.random.default_rng(1).permutation(np.arange(1, 6))]
    assert distortion_score(row_TC[:, order], 0.5, frames=frames) == pytest.approx(
        distortion_score(row_TC, 0.5, frames=frames)
    )


def test_frames_and_pools() -> None:
    row_TC = rows(30, 5, 3)
    uncertain = local_uncertainty(row_TC)
    speech = row_TC.argmax(1) != 0
    assert distortion_score(row_TC, frames="speech") == pytest.approx(uncertain[speech].mean())
    assert distortion_score(row_TC, pool="quantile") == pytest.approx(np.quantile(uncertain, 0.9))
    mask = np.arange(30) < 4
    assert distortion_score(row_TC, frames="vad", voiced=mask) == pytest.approx(
        uncertain[:4].mean()
    )
    silent = np.log(np.tile([[0.9, 0.05, 0.05]], (4, 1)))
    assert distortion_score(silent, frames="speech") == 0.0
    assert distortion_score(np.zeros((0, 3))) == 0.0


def test_a_batch_is_its_utterances_without_their_padding() -> None:
    phones = PhoneSet.ipa(["a", "b", "c"])
    first, second = rows(9, len(phones), 0), rows(4, len(phones), 1)
    padded = torch.full((2, 9, len(phones)), 7.0)
    padded[0], padded[1, :4] = torch.tensor(first), torch.tensor(second)
    emissions = Emissions(padded, torch.tensor([9, 4]), 0.02, phones)
    both = distortion_score(emissions, 0.5)
    assert both == pytest.approx(
        [distortion_score(first, 0.5), distortion_score(second, 0.5)], abs=1e-6
    )


def test_voiced_frames_are_where_the_tone_is() -> None:
    samples = np.zeros(16_000, np.float32)
    samples[6_400:9_600] = np.sin(np.arange(3_200) / 5)
    voiced = voiced_frames(samples)
    assert len(voiced) == 49
    # Frame t has the samples from 320 t to 320 t + 400.
    assert voiced[20:29].all() and not voiced[:18].any() and not voiced[31:].any()
    assert not voiced_frames(np.zeros(800, np.float32)).any()


def test_segments_have_the_mean_of_their_window() -> None:
    row_TC = np.concatenate([np.full((50, 4), -math.log(4)), np.log(np.eye(4) + 1e-300)[[0] * 50]])
    found = segment_scores(row_TC, 0.02, seconds=0.5)
    assert len(found) == 100
    assert found[:50] == pytest.approx(1.0) and found[50:] == pytest.approx(0.0, abs=1e-12)
    assert len(set(segment_scores(row_TC[:10], 0.02, seconds=0.5))) == 1


def test_evidence_ratio() -> None:
    row_TC = rows(12, 5, 2)
    best = row_TC.max(1).sum()
    assert evidence_ratio(row_TC, best, 4) == 0.0
    assert evidence_ratio(row_TC, best - 8.0, 4) == pytest.approx(2.0)
    assert evidence_ratio(row_TC, -math.inf, 4) == math.inf
    assert evidence_ratio(row_TC, best - 3.0, 0) == pytest.approx(3.0)


# Rules --------------------------------------------------------------------------------------------


def test_decisions() -> None:
    threshold = Scheduler("threshold", tau=0.1, tau_ref=0.2)
    assert threshold.decide(0.3).path == "reference"
    assert threshold.decide(0.2).path == "bottom-up"
    assert threshold.decide(0.15, hypothesis=True).path == "hypothesis"
    assert threshold.decide(0.05, reference=False, hypothesis=True).path == "bottom-up"
    assert threshold.decide(0.9, reference=False).path == "bottom-up"
    llr = Scheduler("llr", a=1.0, b=10.0, tau=0.1)
    assert llr.decide(0.0, 0.9).path == "reference"
    assert llr.decide(0.0, 1.0).path == "bottom-up"
    assert llr.decide(0.2, 2.9).path == "reference"
    assert llr.decide(0.2, 3.1, hypothesis=True).path == "hypothesis"
    assert llr.decide(0.2, math.inf).path == "bottom-up"
    assert "3.1 ≥ 3" in llr.decide(0.2, 3.1).reason
    with pytest.raises(ValueError, match="needs the evidence ratio"):
        llr.decide(0.1)


def test_soft_weights_rise_from_nothing_to_the_largest() -> None:
    soft = Scheduler("soft", tau=0.1, width=0.02, lam_max=1.5)
    assert soft.soft_lam(0.1) == pytest.approx(0.75)
    assert soft.soft_lam(0.12) == pytest.approx(1.5 / (1 + math.exp(-1)))
    assert (np.diff(soft.soft_lam(np.linspace(0, 1, 50))) >= 0).all()
    assert replace(soft, tau_ref=math.inf).soft_lam(0.5) < 1e-300
    assert replace(soft, tau_ref=-math.inf).soft_lam(0.5) == 1.5
    by_frame = replace(soft, scope="segment").lam_by_frame(rows(60, 4, 0), 0.02)
    assert by_frame.shape == (60,) and len(set(by_frame)) == 2
    hard = Scheduler("threshold", scope="segment", tau=-math.inf, lam_max=0.7)
    assert (hard.lam_by_frame(rows(60, 4, 0), 0.02) == 0.7).all()


# Calibration --------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 40), joint=st.booleans())
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_never_worse_than_either_pure_path_on_dev(seed: int, count: int, joint: bool) -> None:
    found = drawn(count, seed)
    for policy in ("threshold", "llr"):
        report = Scheduler(policy).calibrate(found, joint=joint).calibrations[0]
        assert report.risk <= min(report.bottom_up, report.top_down)
        assert report.risk >= report.oracle


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_threshold_is_the_best_of_all_splits() -> None:
    for seed in range(20):
        found = drawn(12, seed)
        report = Scheduler("threshold").calibrate(found)
        ordered = sorted(found, key=lambda one: one.s)
        best = min(
            sum(one.bottom_up_errors for one in ordered[:cut])
            + sum(one.top_down_errors for one in ordered[cut:])
            for cut in range(13)
        )
        assert report.calibrations[0].risk * sum(o.phones for o in found) == pytest.approx(best)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_joint_rule_is_the_best_of_its_grid_with_the_smallest_b() -> None:
    for seed in range(10):
        found = drawn(15, seed)
        rule = Scheduler("llr").calibrate(found)

        def edits(a: float, b: float, found: list[Observation] = found) -> float:
            return sum(
                o.top_down_errors if o.evidence_ratio < a + b * o.s else o.bottom_up_errors
                for o in found
            )

        grid = itertools.product(np.arange(0, 6.25, 0.25), np.arange(0, 85, 5))
        all_edits = {(a, b): edits(a, b) for a, b in grid}
        never, always = edits(-math.inf, 0.0), edits(math.inf, 0.0)
        least = min([*all_edits.values(), never, always])
        assert edits(rule.a, rule.b) == least
        if never == least:
            assert rule.a == -math.inf
        elif min(all_edits.values()) == least:
            assert rule.b == min(b for (_, b), total in all_edits.items() if total == least)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_ties_go_to_the_ear() -> None:
    level = [Observation(f"u{n}", 0.1 * n, 2, 2, 9, 1.0 * n) for n in range(5)]
    assert Scheduler("threshold").calibrate(level).tau_ref == math.inf
    assert Scheduler("llr").calibrate(level).a == -math.inf
    assert Scheduler("llr").calibrate(level, joint=False).a == -math.inf


def test_cross_validation_judges_by_other_utterances() -> None:
    # Noise: what suits an utterance says nothing about the next; a rule that was judged by its own
    # utterances would look better than the better pure path, and does.
    found = drawn(200, 5)
    report = Scheduler("llr").calibrate(found).calibrations[0]
    assert report.risk < report.cross_validated
    # A clean world: the rule is found without the fold as well.
    clear = [
        Observation(f"u{n}", 0.01 * (n % 10), 1 if n % 10 < 5 else 6, 3, 10, 1.0)
        for n in range(100)
    ]
    report = Scheduler("threshold").calibrate(clear).calibrations[0]
    assert report.risk == report.cross_validated == report.oracle == pytest.approx(0.2)


def test_copies_of_an_utterance_stay_in_one_fold() -> None:
    # Ten noisy copies of each; each utterance has a ratio of its own that tells its answer.
    rng = np.random.default_rng(0)
    copies = []
    for number in range(40):
        ear, book = (0, 5) if rng.random() < 0.5 else (5, 0)
        copies += [Observation(f"u{number}", number * 0.01, ear, book, 10, 1.0)] * 10
    report = Scheduler("threshold").calibrate(copies).calibrations[0]
    alone = Scheduler("threshold").calibrate(copies[::10]).calibrations[0]
    assert report.cross_validated == pytest.approx(alone.cross_validated)


def test_hypotheses_and_references_have_numbers_of_their_own() -> None:
    with_reference, without = drawn(40, 1), drawn(40, 2, reference=False)
    both = Scheduler("threshold", tau=0.5).calibrate([*with_reference, *without])
    assert both.tau_ref == Scheduler("threshold").calibrate(with_reference).tau_ref
    assert [one.path for one in both.calibrations] == ["reference", "hypothesis"]
    only = Scheduler("llr", tau=0.5).calibrate(without)
    assert only.tau == both.tau and (only.a, only.b) == (Scheduler().a, Scheduler().b)
    assert only.tau_ref == 0.5


def test_soft_calibration_uses_errors_by_weight() -> None:
    found = [
        Observation(
            f"u{n}", 0.001 * n, 9, 9, 10, 1.0, {0.0: 1 if n < 50 else 8, 1.0: 8 if n < 50 else 1}
        )
        for n in range(100)
    ]
    rule = Scheduler("soft").calibrate(found)
    assert rule.calibrations[0].risk == pytest.approx(0.1, abs=0.02)
    assert 0.04 < rule.tau_ref < 0.06
    with pytest.raises(ValueError, match="needs errors_by_lam, and 'u0' has none"):
        Scheduler("soft").calibrate(drawn(40, 0))


def test_few_utterances_and_a_router_that_never_switches_are_said() -> None:
    never = [Observation(f"u{n}", 0.1, 0, 5, 10, 1.0) for n in range(40)]
    with pytest.warns(UserWarning, match="never switches"):
        assert Scheduler().calibrate(never).calibrations[0].switched == 0.0
    always = [Observation(f"u{n}", 0.1, 5, 0, 10, 1.0) for n in range(40)]
    with pytest.warns(UserWarning, match="always switches"):
        Scheduler("threshold").calibrate(always)
    with pytest.warns(UserWarning, match="29 utterances"):
        Scheduler().calibrate(drawn(29, 3))


def test_dev_utterances_are_not_for_evaluation() -> None:
    rule = Scheduler("llr").calibrate(drawn(40, 0))
    with pytest.raises(ValueError, match="1 utterances were calibrated on, such as 'u7'"):
        rule.evaluate(
            [replace(one, id=f"v{n}") for n, one in enumerate(drawn(9, 1))] + drawn(8, 0)[7:]
        )
    others = [replace(one, id=f"v{n}") for n, one in enumerate(drawn(30, 1))]
    (report,) = rule.evaluate(others)
    expected = sum(
        o.top_down_errors if o.evidence_ratio < rule.a + rule.b * o.s else o.bottom_up_errors
        for o in others
    )
    assert report.risk == pytest.approx(expected / sum(o.phones for o in others))
    assert report.cross_validated is None


def test_json_keeps_everything() -> None:
    rule = Scheduler("threshold", tau=0.3).calibrate(drawn(40, 0))
    for one in (rule, replace(rule, tau=math.inf, tau_ref=-math.inf), Scheduler("soft")):
        assert Scheduler.from_json(one.to_json()) == one
    with pytest.raises(ValueError, match="no field 'taux'"):
        Scheduler.from_dict({"taux": 1})


# Bad input ----------------------------------------------------------------------------------------


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="beta must be in"):
        distortion_score(rows(3, 3, 0), 1.5)
    with pytest.raises(ValueError, match="C > 1"):
        distortion_score(np.zeros((3, 1)))
    with pytest.raises(ValueError, match="needs voiced="):
        distortion_score(rows(3, 3, 0), frames="vad")
    with pytest.raises(ValueError, match="3 frames need as many voiced"):
        distortion_score(rows(3, 3, 0), frames="vad", voiced=[True])
    with pytest.raises(ValueError, match="not 'often'"):
        Scheduler("often")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="goes with policy"):
        Scheduler("llr", scope="segment")
    with pytest.raises(ValueError, match=r"at least 0.3 s, got 0.1"):
        segment_scores(rows(3, 3, 0), 0.02, seconds=0.1)
    with pytest.raises(ValueError, match="no observation"):
        Scheduler().calibrate([])
    with pytest.raises(ValueError, match="no realized phone"):
        Scheduler().calibrate([Observation("u", 0.1, 0, 0, 0, 1.0)])
    for name, value in (("width", 0.0), ("lam_max", -1.0), ("b", -1.0), ("tau", math.nan)):
        with pytest.raises(ValueError, match=f"{name} must be"):
            Scheduler(**{name: value})
