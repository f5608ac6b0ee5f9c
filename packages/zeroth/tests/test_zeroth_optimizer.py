import dataclasses
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.core.experiment import dumps
from modicum.zeroth import checkpoint
from modicum.zeroth.batch import Batch
from modicum.zeroth.candidates import SEED_LIMIT, Candidate, evaluation_seeds
from modicum.zeroth.errors import ZerothWarning
from modicum.zeroth.minimize import METHODS, method_class
from modicum.zeroth.optimizer import (
    BUDGET_SPENT,
    INTERRUPTED,
    JUDGED_UNITS,
    STOPPED,
    TOO_MANY_LOST,
    Optimizer,
    Recommendation,
    Round,
    constructor_options,
)

deterministic = settings(derandomize=True, deadline=None, max_examples=40)


def noisy(points, seeds):
    """A value that depends on the point and on the seed of its evaluation."""
    noise = np.sin(np.asarray(seeds, dtype=np.float64))
    return ((np.asarray(points) - 1) ** 2).sum(axis=-1) + 0.3 * noise


def finish(optimizer):
    while not optimizer.done:
        asked = optimizer.ask()
        optimizer.tell(asked, noisy(asked.points, asked.seeds))
    return optimizer


def picture(optimizer):
    """Everything that must be equal, bit for bit."""
    state = optimizer.state
    return (
        state.z.tobytes(),
        state.spent,
        state.batches,
        np.float64(state.mean).tobytes(),
        tuple(state.seen),
        optimizer.nfev,
        optimizer.nit,
        optimizer.lost,
        optimizer.status,
        tuple((r.nfev, r.x.tobytes(), r.fun, r.dropped) for r in optimizer.trace),
    )


# Order, parts, repetition ------------------------------------------------------------------------


@deterministic
@given(seed=st.integers(0, 2**32 - 1), paired=st.booleans(), by=st.sampled_from(["ids", "x", "c"]))
def test_order_parts_and_repetition_of_answers_change_nothing(FixedRadius, seed, paired, by):
    plain = finish(FixedRadius(np.zeros(3), 230, rng=7, paired=paired))
    chance = np.random.default_rng(seed)
    other = FixedRadius(np.zeros(3), 230, rng=7, paired=paired)
    out = []
    while not other.done:
        asked = other.ask(int(chance.integers(1, 60)))
        # Of a point that is evaluated twice, coordinates do not say which evaluation is told.
        values = noisy(asked.points, np.zeros(len(asked)) if by == "x" else asked.seeds)
        out.extend(zip(asked, values, strict=True))
        chance.shuffle(out)
        count = int(chance.integers(0, len(out) + 1)) if len(asked) else len(out)
        told, out = out[:count], out[count:]
        if by != "x":
            told += [told[i] for i in chance.integers(0, len(told), 3)] if told else []
        if not told:
            continue
        candidates, values = zip(*told, strict=True)
        which = {
            "ids": [candidate.id for candidate in candidates],
            "x": np.array([candidate.x for candidate in candidates]),
            "c": list(candidates),
        }[by]
        other.tell(which, values)
    if by == "x":
        plain = FixedRadius(np.zeros(3), 230, rng=7, paired=paired)
        plain.run(lambda points: noisy(points, np.zeros(len(points))))
    assert picture(other) == picture(plain)
    assert other.repeated == 0
    assert other.nfev == 230


def test_the_run_of_a_vectorised_function_is_the_loop(FixedRadius):
    def fun(points):
        return ((points - 1) ** 2).sum(axis=1)

    first = FixedRadius(np.zeros(4), 500, rng=3)
    found = first.run(fun)
    second = FixedRadius(np.zeros(4), 500, rng=3)
    while not second.done:
        for candidate in second.ask(1):
            second.tell(candidate, fun(candidate.x[None])[0])
    assert picture(first) == picture(second)
    np.testing.assert_array_equal(found.x, second.recommendation().x)
    assert np.linalg.norm(found.x - 1) < 0.1 * np.linalg.norm(np.ones(4))


AVERAGES = {True: set(), False: set()}


@deterministic
@given(order=st.permutations([2.0, 0.1, 0.1, 0.7, 1e16, -1e16, 0.3, 2.0]), spread=st.booleans())
def test_further_measurements_are_averaged_whatever_their_order(FixedRadius, order, spread):
    sigma_of = {2.0: 1.0, 0.1: 2.0, 0.7: 0.5, 1e16: 3.0, -1e16: 4.0, 0.3: 1.5}
    optimizer = FixedRadius(np.zeros(2), 100, rng=0)
    asked = optimizer.ask()
    for value in order:
        optimizer.tell(asked.ids[3], value, sigma_of[value] if spread else None)
    rest = asked.ids[asked.ids != 3]
    optimizer.tell(rest, np.zeros(len(rest)), 1.0 if spread else None)
    assert (optimizer.repeated, optimizer.duplicates) == (5, 2)
    y, sigma = optimizer.updates[0]
    weights = {value: Fraction(1 / sigma_of[value] ** 2) if spread else 1 for value in order}
    total = sum(weights.values())
    mean = sum(Fraction(value) * weight for value, weight in weights.items()) / total
    assert y[3] == pytest.approx(float(mean), rel=1e-14)
    assert (sigma is None) != spread
    if spread:
        assert sigma[3] == pytest.approx(float(total) ** -0.5, rel=1e-14)
    AVERAGES[spread].add(y[3])
    assert len(AVERAGES[spread]) == 1


def test_a_failure_is_forgotten_when_a_value_comes_while_the_round_is_open(FixedRadius):
    optimizer = FixedRadius(np.zeros(2), 100, rng=0)
    asked = optimizer.ask()
    optimizer.tell(asked[5:9], [np.nan] * 4)
    optimizer.tell(asked[5], 1.25)
    optimizer.tell(asked[5], np.nan)
    optimizer.tell([int(i) for i in (*asked.ids[:5], *asked.ids[6:])], np.zeros(len(asked) - 1))
    y = optimizer.updates[0][0]
    assert y[5] == 1.25
    assert (optimizer.duplicates, optimizer.repeated) == (1, 0)
    assert np.isfinite(y).all()
    assert optimizer.lost == 0


def test_late_values_are_counted_and_change_nothing(FixedRadius):
    plain = finish(FixedRadius(np.zeros(2), 150, rng=0))
    optimizer = FixedRadius(np.zeros(2), 150, rng=0)
    first = optimizer.ask()
    optimizer.tell(first, noisy(first.points, first.seeds))
    optimizer.tell(first, noisy(first.points, first.seeds) + 5)
    optimizer.tell(first[3], 77.0)
    second = optimizer.ask(4)
    optimizer.tell(
        np.append(second.ids, first.ids[:2]), np.append(noisy(second.points, second.seeds), [1, 2])
    )
    assert optimizer.late == len(first) + 3
    finish(optimizer)
    optimizer.tell(first[0], 3.0)
    assert optimizer.late == len(first) + 4
    assert picture(optimizer) == picture(plain)


def test_points_that_were_not_handed_out_are_refused(FixedRadius):
    optimizer = FixedRadius(np.zeros(2), 150, rng=0)
    asked = optimizer.ask(10)
    with pytest.raises(ValueError, match="point 10 was never handed out"):
        optimizer.tell(10, 1.0)
    with pytest.raises(ValueError, match="point 4999 was never handed out"):
        optimizer.tell([0, 4999], [1.0, 2.0])
    with pytest.raises(ValueError, match="was not handed out in this round"):
        optimizer.tell([[0.25, 0.5]], [1.0])
    with pytest.raises(ValueError, match=r"shape \(n, 2\), not \(1, 3\)"):
        optimizer.tell([[0.25, 0.5, 1.0]], [1.0])
    with pytest.raises(ValueError, match="10 points were told with 9 values"):
        optimizer.tell(asked, np.zeros(9))
    with pytest.raises(TypeError, match="values must be numbers"):
        optimizer.tell(asked, ["a"] * 10)
    assert optimizer.pending == 10


def test_equal_points_are_told_one_after_another(FixedRadius):
    optimizer = FixedRadius(np.zeros(2), 60, rng=0)
    asked = optimizer.ask()
    np.testing.assert_array_equal(asked.points[0], asked.points[1])
    optimizer.tell(asked.points[0], 1.0)
    optimizer.tell(asked.points[1], 2.0)
    optimizer.tell(asked.points[2:], np.zeros(len(asked) - 2))
    assert optimizer.updates[0][0][:2].tolist() == [1.0, 2.0]


# Lost values -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad", [np.nan, np.inf, -np.inf, None, 1j, np.complex64(1), np.float32(np.nan)], ids=repr
)
def test_a_bad_value_takes_its_pair_with_it_and_nothing_else(FixedRadius, bad):
    optimizer = FixedRadius(np.zeros(3), 150, rng=1)
    asked = optimizer.ask()
    values = list(np.arange(len(asked), dtype=float))
    values[7] = bad
    optimizer.tell(asked, values)
    y = optimizer.updates[0][0]
    partner = next(i for i in range(len(asked)) if i != 7 and asked.units[i] == asked.units[7])
    assert set(np.flatnonzero(np.isnan(y))) == {7, partner}
    assert optimizer.lost == 1
    assert optimizer.trace[0].dropped == 1
    assert optimizer.state.seen == [23]
    assert "1 pairs or single points were lost" in optimizer.message


def test_a_whole_complex_array_is_all_lost(FixedRadius):
    optimizer = FixedRadius(np.zeros(3), 150, rng=1)
    optimizer.tell(asked := optimizer.ask(), np.ones(len(asked)) + 0j)
    assert optimizer.status == TOO_MANY_LOST


@pytest.mark.parametrize(("lost", "status"), [(5, INTERRUPTED), (6, TOO_MANY_LOST)])
def test_more_than_a_fifth_of_a_round_ends_the_run_with_the_state_before(FixedRadius, lost, status):
    # 25 units: two single points and 23 pairs.
    optimizer = FixedRadius(np.zeros(3), 500, rng=1, pairs=23)
    first = optimizer.ask()
    optimizer.tell(first, noisy(first.points, first.seeds))
    before = optimizer.state.z.copy()
    second = optimizer.ask()
    values = noisy(second.points, second.seeds)
    values[2 : 2 + lost] = np.nan
    optimizer.tell(second, values)
    assert optimizer.status == status
    assert optimizer.lost == lost
    assert optimizer.done == (status == TOO_MANY_LOST)
    assert (optimizer.state.z.tobytes() == before.tobytes()) == (status == TOO_MANY_LOST)
    if status == TOO_MANY_LOST:
        result = optimizer.result()
        assert (result.success, result.status) == (False, 3)
        np.testing.assert_array_equal(result.x, before)
        assert "6 of 25" in result.message
        assert len(optimizer.ask()) == 0


def test_small_rounds_are_judged_together(FixedRadius):
    def lose(every):
        optimizer = FixedRadius(np.zeros(2), 4000, rng=1, pairs=2)
        rounds = 0
        while not optimizer.done:
            asked = optimizer.ask()
            values = noisy(asked.points, asked.seeds)
            if rounds % every == 0:
                values[2] = np.nan
            optimizer.tell(asked, values)
            rounds += 1
        return optimizer

    # One lost unit of four is a quarter of a round, but an eighth of two.
    assert lose(2).status == BUDGET_SPENT
    ended = lose(1)
    assert ended.status == TOO_MANY_LOST
    assert ended.lost == JUDGED_UNITS // 4


def test_closing_loses_what_is_not_complete(FixedRadius):
    optimizer = FixedRadius(np.zeros(2), 200, rng=0)
    asked = optimizer.ask()
    keep = np.setdiff1d(np.arange(len(asked)), [4, 9])
    optimizer.tell(asked[keep], np.ones(len(keep)))
    assert optimizer.nit == 0
    optimizer.close()
    assert (optimizer.nit, optimizer.lost) == (1, 2)
    assert np.isnan(optimizer.updates[0][0]).sum() == 4
    optimizer.tell(asked[4], 1.0)
    assert optimizer.late == 1


def test_a_round_closes_at_a_share_of_its_pairs(FixedRadius):
    # 40 units; 95 % are 38.
    optimizer = FixedRadius(np.zeros(2), 400, rng=0, pairs=38, close_fraction=0.95)
    asked = optimizer.ask(70)
    optimizer.tell(asked, np.ones(70))
    assert optimizer.nit == 0
    rest = optimizer.ask()
    for index in range(5):
        optimizer.tell(rest[index], 1.0)
    assert optimizer.nit == 0
    optimizer.tell(rest[5], 1.0)
    assert (optimizer.nit, optimizer.lost) == (1, 2)
    assert optimizer.nfev == 78


def test_a_share_does_not_close_a_round_with_points_to_hand_out(FixedRadius):
    optimizer = FixedRadius(np.zeros(2), 400, rng=0, pairs=38, close_fraction=0.5)
    asked = optimizer.ask(77)
    optimizer.tell(asked, np.ones(77))
    assert optimizer.nit == 0
    optimizer.ask()
    optimizer.tell(asked[0], 1.0)
    assert optimizer.nit == 1


# Budget ------------------------------------------------------------------------------------------


@deterministic
@given(
    seed=st.integers(0, 2**32 - 1),
    budget=st.integers(60, 400),
    pairs=st.integers(1, 60),
    failing=st.floats(0.0, 0.3),
)
def test_the_budget_is_never_exceeded(FixedRadius, seed, budget, pairs, failing):
    chance = np.random.default_rng(seed)
    optimizer = FixedRadius(np.zeros(3), budget, rng=7, pairs=pairs)
    issued = 0
    while not optimizer.done:
        asked = optimizer.ask(int(chance.integers(1, 50)))
        assert len(asked)
        issued += len(asked)
        failed = chance.random(len(asked)) < failing
        again = optimizer.retry(asked.ids[failed])
        issued += len(again)
        assert set(again.ids) <= set(asked.ids[failed])
        values = noisy(asked.points, asked.seeds)
        values[failed & ~np.isin(asked.ids, again.ids)] = np.nan
        optimizer.tell(asked, values)
    assert issued == optimizer.nfev <= budget
    if failing == 0.0:
        assert optimizer.retried == optimizer.lost == 0
        assert issued > budget - 4


def test_repetitions_are_paid_by_pairs_spread_over_the_last_round(FixedRadius):
    plain = finish(FixedRadius(np.zeros(3), 200, rng=1, pairs=49))
    optimizer = FixedRadius(np.zeros(3), 200, rng=1, pairs=49)
    first = optimizer.ask()
    again = optimizer.retry(first.ids[10:21])
    assert len(again) == 11
    np.testing.assert_array_equal(again.points, first.points[10:21])
    np.testing.assert_array_equal(again.seeds, first.seeds[10:21])
    optimizer.tell(first, noisy(first.points, first.seeds))
    second = optimizer.ask()
    assert len(optimizer.ask()) == 0
    # 89 evaluations are left: 51 units of 100 points, of which 6 pairs do not fit any more.
    assert len(second) == 88
    assert all(
        count == 2 for unit, count in Counter(second.units).items() if unit > first.ids[-1] + 2
    )
    missing = np.setdiff1d(np.arange(100, 200), second.ids) - 100
    pairs = np.unique(np.where(missing >= 51, missing - 49, missing))
    assert len(pairs) == 6
    assert np.diff(pairs).min() > 2
    with pytest.raises(ValueError, match="never handed out"):
        optimizer.tell(int(missing[0]) + 100, 1.0)
    optimizer.tell(second, noisy(second.points, second.seeds))
    y, full = optimizer.updates[1][0], plain.updates[1][0]
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(y)), missing)
    np.testing.assert_array_equal(y[~np.isnan(y)], full[~np.isnan(y)])
    assert (optimizer.nfev, optimizer.retried, optimizer.lost) == (199, 11, 0)
    assert optimizer.status == BUDGET_SPENT
    assert "11 evaluations repeated others that failed" in optimizer.message


def test_the_last_round_has_no_room_for_repetitions(FixedRadius):
    optimizer = FixedRadius(np.zeros(3), 100, rng=1, pairs=49)
    asked = optimizer.ask(60)
    assert len(optimizer.retry(asked.ids)) == 0
    roomy = FixedRadius(np.zeros(3), 103, rng=1, pairs=49)
    asked = roomy.ask(60)
    assert roomy.retry(asked).ids.tolist() == [0, 1, 2]
    assert roomy.nfev == 63


def test_only_what_is_out_and_unanswered_is_issued_again(FixedRadius):
    optimizer = FixedRadius(np.zeros(3), 300, rng=1)
    first = optimizer.ask()
    optimizer.tell(first[:4], np.ones(4))
    assert optimizer.retry(first.ids[2:6]).ids.tolist() == [4, 5]
    optimizer.tell(first[4:], np.ones(len(first) - 4))
    assert len(optimizer.retry(first.ids[:3])) == 0
    with pytest.raises(ValueError, match="never handed out"):
        optimizer.retry([60])


# Standard deviations -----------------------------------------------------------------------------


def test_standard_deviations_reach_the_method(FixedRadius):
    optimizer = FixedRadius(np.zeros(2), 200, rng=0)
    asked = optimizer.ask()
    spread = np.linspace(1, 2, len(asked))
    optimizer.tell(asked[10:], np.ones(len(asked) - 10), spread[10:])
    optimizer.tell(asked[:10], [1.0] * 3 + [np.nan] + [1.0] * 6, spread[:10])
    y, sigma = optimizer.updates[0]
    np.testing.assert_array_equal(sigma, np.where(np.isnan(y), np.inf, spread))
    assert np.isinf(sigma).sum() == 2
    second = optimizer.ask()
    optimizer.tell(second, np.ones(len(second)), 0.5)
    assert optimizer.updates[1][1].tolist() == [0.5] * len(second)
    third = optimizer.ask()
    optimizer.tell(third, np.ones(len(third)))
    assert optimizer.updates[2][1] is None


def test_bad_standard_deviations_are_refused(FixedRadius):
    optimizer = FixedRadius(np.zeros(2), 200, rng=0)
    asked = optimizer.ask()
    for bad in (0.0, -1.0, np.nan, np.inf, [1.0] * 49 + [0.0]):
        with pytest.raises(ValueError, match="sigma must be positive"):
            optimizer.tell(asked, np.ones(len(asked)), bad)
    with pytest.raises(ValueError, match=r"shape \(50,\), not \(3,\)"):
        optimizer.tell(asked, np.ones(len(asked)), [1.0] * 3)
    optimizer.tell(asked[:5], np.ones(5))
    with pytest.raises(ValueError, match="for all values of a round or for none"):
        optimizer.tell(asked[5:], np.ones(len(asked) - 5), 1.0)


# Resume ------------------------------------------------------------------------------------------


@settings(derandomize=True, deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), on_disk=st.booleans(), spread=st.booleans())
def test_a_run_goes_on_bit_for_bit_from_any_cut(
    FixedRadius, tmp_path_factory, seed, on_disk, spread
):
    def make():
        return FixedRadius(np.zeros(3), 260, rng=7, pairs=20)

    def sigma(ids):
        return 1 + 0.01 * np.asarray(ids) if spread else None

    plain = make()
    while not plain.done:
        asked = plain.ask()
        values = noisy(asked.points, asked.seeds)
        values[asked.ids % 31 == 5] = np.nan
        plain.tell(asked, values, sigma(asked.ids))
    path = tmp_path_factory.mktemp("state") / "run.npz"
    chance = np.random.default_rng(seed)
    optimizer = make()
    out = []
    for _ in range(10_000):
        if optimizer.done:
            break
        if chance.random() < 0.3:
            fresh = make()
            if on_disk:
                optimizer.save(path)
                fresh.load(path)
            else:
                fresh.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
            optimizer = fresh
            # Whoever evaluates may have died, too: its points are asked again.
            out = out if chance.random() < 0.5 else []
        out.extend(optimizer.ask(int(chance.integers(1, 30))))
        chance.shuffle(out)
        count = int(chance.integers(0, len(out) + 1))
        told, out = out[:count], out[count:]
        if told:
            ids = np.array([candidate.id for candidate in told])
            values = noisy([candidate.x for candidate in told], [item.seed for item in told])
            values[ids % 31 == 5] = np.nan
            optimizer.tell(told, values, sigma(ids))
    assert picture(optimizer) == picture(plain)


def test_an_unanswered_point_that_is_asked_again_counts_once(FixedRadius):
    optimizer = FixedRadius(np.zeros(3), 150, rng=0)
    asked = optimizer.ask(20)
    optimizer.tell(asked[:5], np.ones(5))
    other = FixedRadius(np.zeros(3), 150, rng=0)
    other.load_state_dict(optimizer.state_dict())
    assert (other.nfev, other.pending) == (20, 15)
    assert other.ask(18).ids.tolist() == list(range(5, 23))
    assert other.nfev == 23
    assert optimizer.nfev == 20


def test_a_saved_state_shares_nothing_with_the_run(FixedRadius):
    optimizer = FixedRadius(np.zeros(3), 300, rng=0)
    asked = optimizer.ask()
    optimizer.tell(asked, noisy(asked.points, asked.seeds))
    asked = optimizer.ask(9)
    optimizer.tell(asked, np.ones(9))
    saved = optimizer.state_dict()
    copy = pickle.dumps(saved)
    other = FixedRadius(np.zeros(3), 300, rng=0)
    other.load_state_dict(saved)
    finish(other)
    finish(optimizer)
    assert pickle.dumps(saved) == copy
    assert picture(other) == picture(optimizer)


def test_a_seed_that_nobody_chose_is_taken_from_the_file(FixedRadius, tmp_path):
    optimizer = FixedRadius(np.zeros(3), 150)
    asked = optimizer.ask()
    optimizer.tell(asked, noisy(asked.points, asked.seeds))
    optimizer.save(tmp_path / "run.npz")
    other = FixedRadius(np.zeros(3), 150, rng=np.random.default_rng(1))
    other.load(tmp_path / "run.npz")
    assert other.seed == optimizer.seed
    assert picture(finish(other)) == picture(finish(optimizer))
    with pytest.raises(ValueError, match=f"the seed {optimizer.seed}, this run has 5"):
        FixedRadius(np.zeros(3), 150, rng=5).load(tmp_path / "run.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius": 0.25}, "radius=0.5, this run has radius=0.25"),
        ({"scale": 2.0}, "scale=1.0, this run has scale=2.0"),
        ({"noise": 1.0}, "noise=None, this run has noise=1.0"),
        ({"budget": 151}, "budget=150, this run has budget=151"),
        ({"x0": np.ones(3)}, r"x0=\[0.0, 0.0, 0.0\], this run has x0=\[1.0"),
        ({"directions": "rademacher"}, "directions='sphere', this run has directions='rad"),
        ({"bounds": [(-5, 5)] * 3}, r"bounds=None, this run has bounds=\[\[-5, 5\]"),
        ({"paired": True}, "paired=False, this run has paired=True"),
    ],
)
def test_a_state_of_other_settings_is_refused_by_name(FixedRadius, change, message):
    arguments = {"x0": np.zeros(3), "budget": 150, "rng": 0}
    saved = FixedRadius(**arguments).state_dict()
    FixedRadius(**arguments).load_state_dict(saved)
    with pytest.raises(ValueError, match=message):
        FixedRadius(**(arguments | change)).load_state_dict(saved)


def test_a_state_of_another_method_or_schema_is_refused(FixedRadius):
    class Other(FixedRadius):
        name = "other"

    saved = FixedRadius(np.zeros(3), 150, rng=0).state_dict()
    with pytest.raises(ValueError, match="one of 'fixed-radius', not of 'other'"):
        Other(np.zeros(3), 150, rng=0).load_state_dict(saved)
    with pytest.raises(ValueError, match="schema 99; this version reads 1"):
        FixedRadius(np.zeros(3), 150, rng=0).load_state_dict(saved | {"schema": 99})


def test_settings_are_compared_by_what_they_mean(FixedRadius):
    from scipy.optimize import Bounds

    from modicum.zeroth.space import Ball

    for bounds, again, other in (
        (Bounds([-1] * 3, [2] * 3), Bounds([-1] * 3, [2] * 3), Bounds([-1] * 3, [3] * 3)),
        (Ball(np.zeros(3), 2.0), Ball(np.zeros(3), 2.0), Ball(np.zeros(3), 3.0)),
    ):
        saved = FixedRadius(np.zeros(3), 150, rng=0, bounds=bounds).state_dict()
        FixedRadius(np.zeros(3), 150, rng=0, bounds=again).load_state_dict(saved)
        with pytest.raises(ValueError, match="saved with bounds="):
            FixedRadius(np.zeros(3), 150, rng=0, bounds=other).load_state_dict(saved)


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_save_that_fails_leaves_the_old_file(FixedRadius, tmp_path, monkeypatch, where):
    path = tmp_path / "run.npz"
    optimizer = FixedRadius(np.zeros(3), 150, rng=0)
    optimizer.save(path)
    old = path.read_bytes()
    asked = optimizer.ask()
    optimizer.tell(asked, noisy(asked.points, asked.seeds))

    def fail(*_):
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(os, where, fail)
        with pytest.raises(OSError, match="full"):
            optimizer.save(path)
    assert path.read_bytes() == old
    assert [item.name for item in tmp_path.iterdir()] == ["run.npz"]
    optimizer.save(path)
    other = FixedRadius(np.zeros(3), 150, rng=0)
    other.load(path)
    assert picture(other) == picture(optimizer)


def test_a_process_killed_in_the_middle_of_saving_leaves_a_whole_file(tmp_path):
    path = tmp_path / "run.npz"
    program = """
        import sys
        import numpy as np
        from modicum.zeroth import checkpoint
        number = 0
        while True:
            number += 1
            array = np.full(300_000, number)
            checkpoint.write(sys.argv[1], {"number": number, "array": array})
            print(number, flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(3):
            process.stdout.readline()
        time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    found = checkpoint.read(path)
    assert found["number"] >= 3
    assert (found["array"] == found["number"]).all()
    assert found["array"].shape == (300_000,)


# States as plain values --------------------------------------------------------------------------


plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([np.float64(0.1), np.int32(7), np.bool_(True), np.float32(-0.0)])
    | st.sampled_from([np.arange(6.0).reshape(2, 3), np.array([], dtype=np.int8), np.zeros(())]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(-3, 3), inner, max_size=3)
    ),
    max_leaves=12,
)


def same(a, b):
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, float):
        return np.isnan(a) and np.isnan(b) if a != a else (a, str(a)) == (b, str(b))
    return a == b


@settings(derandomize=True, deadline=None, max_examples=150)
@given(value=plain_values)
def test_plain_values_come_back_from_disk_as_they_were(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("plain") / "a b.state"
    checkpoint.write(path, {"value": checkpoint.encode(value)})
    assert same(checkpoint.decode(checkpoint.read(path)["value"]), value)


def test_dataclasses_come_back_and_foreign_ones_are_refused():
    record = Round(3, np.arange(2.0), nonconvex=True)
    again = checkpoint.decode(checkpoint.encode([record]))[0]
    assert type(again) is Round
    assert same(dataclasses.astuple(again), dataclasses.astuple(record))
    foreign = {"$kind": "dataclass", "type": "fractions:Fraction", "fields": {}}
    with pytest.raises(ValueError, match="fractions:Fraction, which is no class of this method"):
        checkpoint.decode(foreign)
    for path in ("modicum.zeroth.batch:Array", "modicum.zeroth.optimizer:os", "modicum.zeroth.x:Y"):
        with pytest.raises((ValueError, ModuleNotFoundError)):
            checkpoint.decode({"$kind": "dataclass", "type": path, "fields": {}})
    with pytest.raises(TypeError, match="cannot hold a Generator"):
        checkpoint.encode({"rng": np.random.default_rng(0)})


def test_a_file_that_is_no_state_is_refused(tmp_path):
    path = tmp_path / "x"
    with pytest.raises(FileNotFoundError):
        checkpoint.read(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is not the state of a run"):
        checkpoint.read(path)
    np.savez(tmp_path / "y.npz", a=np.zeros(2))
    with pytest.raises(ValueError, match="is not the state of a run"):
        checkpoint.read(tmp_path / "y.npz")


# Arguments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"budget": 3}, ValueError, "at least 4 for method 'fixed-radius' in 2 dimensions, not 3"),
        ({"budget": 1, "x0": 0.0}, ValueError, "in 1 dimension, not 1"),
        ({"budget": 10.5}, ValueError, "budget must be an integer, not 10.5"),
        ({"budget": np.nan}, ValueError, "budget must be an integer, not nan"),
        ({"budget": np.inf}, ValueError, "budget must be an integer, not inf"),
        ({"budget": "10"}, TypeError, "budget must be an integer, not '10'"),
        ({"budget": True}, TypeError, "budget must be an integer, not True"),
        ({"budget": -5}, ValueError, "at least 1, not -5"),
        ({"x0": [0.0, np.nan]}, ValueError, r"x0\[1\] is nan"),
        ({"x0": [np.inf, 0]}, ValueError, r"x0\[0\] is inf"),
        ({"x0": [[0.0, 1.0]]}, ValueError, r"shape \(d,\) with d ≥ 1, not \(1, 2\)"),
        ({"x0": []}, ValueError, r"not \(0,\)"),
        ({"x0": ["a"]}, TypeError, r"x0 must hold real numbers, not \['a'\]"),
        ({"x0": [1j]}, TypeError, "x0 must hold real numbers"),
        ({"x0": None}, TypeError, "x0 must hold real numbers, not None"),
        ({"scale": 0.0}, ValueError, "scale"),
        ({"scale": -1.0}, ValueError, "scale"),
        ({"scale": np.nan}, ValueError, "scale"),
        ({"scale": [1.0, np.inf]}, ValueError, "scale"),
        ({"scale": [1.0, 2.0, 3.0]}, ValueError, "scale"),
        ({"scale": "1"}, TypeError, "scale must hold real numbers, not '1'"),
        ({"noise": 0.0}, ValueError, "noise must be positive and finite, not 0.0"),
        ({"noise": np.nan}, ValueError, "noise must be positive and finite, not nan"),
        ({"noise": "x"}, TypeError, "noise must be a positive number, not 'x'"),
        ({"strong_convexity": -2}, ValueError, "strong_convexity must be positive.*not -2"),
        ({"hessian_lipschitz": np.inf}, ValueError, "hessian_lipschitz must be positive.*inf"),
        ({"directions": "spere"}, ValueError, "not 'spere' .did you mean 'sphere'"),
        ({"directions": 3}, ValueError, "directions must be one of"),
        ({"rng": -1}, ValueError, r"\[0, 2\*\*63\), not -1"),
        ({"rng": 2**63}, ValueError, "not 9223372036854775808"),
        ({"rng": "0"}, TypeError, "rng must be None"),
        ({"rng": True}, TypeError, "rng must be None"),
        ({"close_fraction": 0}, ValueError, "close_fraction must be positive"),
        ({"close_fraction": 1.5}, ValueError, "close_fraction must be at most 1, not 1.5"),
        ({"device": "no-such"}, ValueError, "no-such"),
    ],
)
def test_bad_arguments_are_named_with_their_value(FixedRadius, change, error, message):
    with pytest.raises(error, match=message):
        FixedRadius(**({"x0": np.zeros(2), "budget": 100} | change))


def test_good_arguments_of_other_types(FixedRadius):
    optimizer = FixedRadius([0, 1], 1e3, scale=[1, 2], noise=np.float32(0.5), rng=np.int64(3))
    assert (optimizer.budget, optimizer.seed, optimizer.noise) == (1000, 3, 0.5)
    assert type(optimizer.budget) is int
    assert FixedRadius(2.0, 10).dimension == 1
    with pytest.raises(ValueError, match="n must be at least 1, not 0"):
        optimizer.ask(0)


def test_a_generator_gives_one_seed(FixedRadius):
    rng = np.random.default_rng(5)
    seeds = [FixedRadius([0.0], 10, rng=rng).seed for _ in range(2)]
    expected = np.random.default_rng(5)
    assert seeds == [int(expected.integers(2**63)), int(expected.integers(2**63))]
    assert FixedRadius([0.0], 10).seed != FixedRadius([0.0], 10).seed


def test_the_constructor_options_of_a_method_include_those_it_passes_on(FixedRadius):
    options = constructor_options(FixedRadius)
    assert options[:5] == ("x0", "budget", "radius", "pairs", "step")
    assert {"scale", "noise", "close_fraction", "device"} < set(options)
    assert "settings" not in options

    class Closed(FixedRadius):
        def __init__(self, x0, budget, *, rng=None):
            super().__init__(x0, budget, rng=rng)

    assert constructor_options(Closed) == ("x0", "budget", "rng")


# What comes back ---------------------------------------------------------------------------------


def test_a_recommendation_is_in_the_users_coordinates(FixedRadius):
    scale = np.array([0.5, 2.0, 8.0])
    optimizer = FixedRadius(np.array([1.0, 2.0, 3.0]), 50, scale=scale)
    metric = scale / 2.0  # the geometric mean of the scale is 2
    x, info = optimizer.recommendation()
    np.testing.assert_allclose(x, [1.0, 2.0, 3.0], rtol=1e-14)
    assert info.x is x
    # In internal coordinates the gradient is one everywhere and the Hessian the identity.
    np.testing.assert_allclose(info.jac * metric, np.ones(3))
    np.testing.assert_allclose(np.diag(metric) @ info.hess @ np.diag(metric), np.eye(3), atol=1e-15)
    assert info.jac_cov_trace == pytest.approx(2.0 / 3 * (metric**-2.0).sum())


def test_a_fixed_coordinate_is_seen_by_nobody(FixedRadius):
    optimizer = FixedRadius(
        [1.0, 5.0, 2.0], 150, bounds=[(-9, 9), (5, 5), (-9, 9)], radius=0.1, rng=0
    )
    assert optimizer.dimension == 2
    asked = optimizer.ask()
    assert asked.points.shape == (50, 3)
    assert (asked.points[:, 1] == 5).all()
    optimizer.tell(asked.points, noisy(asked.points, asked.seeds))
    assert optimizer.nit == 1
    assert optimizer.recommendation().jac.shape == (3,)
    assert optimizer.ask(3).points.shape == (3, 3)


def test_stopping_and_asking_afterwards(FixedRadius):
    optimizer = FixedRadius(np.zeros(3), 300, rng=0)
    asked = optimizer.ask()
    assert len(optimizer.ask()) == 0
    assert not optimizer.done
    optimizer.stop(STOPPED, "enough")
    assert optimizer.done
    assert optimizer.ask(5).points.shape == (0, 3)
    optimizer.tell(asked, np.ones(50))
    assert optimizer.nit == 0
    assert (optimizer.status, optimizer.result().success) == (STOPPED, False)
    assert optimizer.message == "enough"
    optimizer.close()


def test_the_result_before_the_end_says_so(FixedRadius):
    optimizer = FixedRadius(np.zeros(3), 300, rng=0)
    optimizer.ask()
    result = optimizer.result()
    assert (result.status, result.success, result.nfev) == (INTERRUPTED, False, 50)
    assert "50 of 300 evaluations are issued" in result.message


class Warner(Optimizer):
    name = "warner"

    def _initial_state(self):
        return {"rounds": 0}

    def _propose(self):
        left = 3 - self.state["rounds"]
        return Batch(np.zeros((2, 1)), np.array([0, 1])) if left else None

    def _update(self, batch, y, sigma):
        self.state = {"rounds": self.state["rounds"] + 1}
        self._warn("curvature looks odd")

    def _recommend(self):
        return Recommendation(np.zeros(1))


def test_a_warning_comes_once_and_points_to_the_caller(tmp_path):
    optimizer = Warner([0.0], 100)
    with pytest.warns(ZerothWarning, match="looks odd") as caught:
        optimizer.tell(optimizer.ask(), [1.0, 2.0])
    assert [warning.filename for warning in caught] == [__file__]
    optimizer.save(tmp_path / "w")
    other = Warner([0.0], 100)
    other.load(tmp_path / "w")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.run(lambda points: np.ones(len(points)))
    assert other.warnings == ["curvature looks odd"]
    assert other.nfev == 6
    assert "curvature looks odd" in other.result().message


# Identities and seeds ----------------------------------------------------------------------------


@pytest.mark.parametrize("paired", [False, True])
def test_seeds_do_not_depend_on_how_points_are_asked(FixedRadius, paired):
    asked = FixedRadius(np.zeros(2), 200, rng=4, paired=paired).ask()
    other = FixedRadius(np.zeros(2), 200, rng=4, paired=paired)
    singly = [candidate for _ in range(len(asked)) for candidate in other.ask(1)]
    assert [candidate.seed for candidate in singly] == asked.seeds.tolist()
    assert [candidate.id for candidate in asked] == list(range(50))
    for index in (0, 7, -1, np.int64(3)):
        one = asked[index]
        assert isinstance(one, Candidate)
        assert (one.id, one.seed) == (asked.ids[index], asked.seeds[index])
        assert one.x.tobytes() == singly[index].x.tobytes()
    groups = {}
    for candidate, unit in zip(asked, asked.units, strict=True):
        groups.setdefault(unit, set()).add(candidate.seed)
    assert {len(seeds) for seeds in groups.values()} == ({1} if paired else {1, 2})
    assert len(set(asked.seeds.tolist())) == (26 if paired else 50)


def test_seeds_of_later_rounds_and_other_runs_are_new(FixedRadius):
    optimizer = FixedRadius(np.zeros(2), 200, rng=4, paired=True)
    first = optimizer.ask()
    optimizer.tell(first, np.ones(len(first)))
    second = optimizer.ask()
    other = FixedRadius(np.zeros(2), 200, rng=5, paired=True).ask()
    assert not set(first.seeds) & set(second.seeds)
    assert not set(first.seeds) & set(other.seeds)


def test_seeds_look_uniform():
    seeds = evaluation_seeds(12345, np.arange(1 << 16))
    assert seeds.min() >= 0
    assert seeds.max() < SEED_LIMIT
    # Each of the 31 bits is a fair coin: 6.5 standard errors are exceeded with probability < 3e-9.
    bits = (seeds[:, None] >> np.arange(31)) & 1
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 6.5 * 0.5 / 256
    # Neighbouring run seeds and neighbouring numbers are unrelated.
    other = evaluation_seeds(12346, np.arange(1 << 16))
    assert abs(np.corrcoef(seeds, other)[0, 1]) < 6.5 / 256
    assert abs(np.corrcoef(seeds[1:], seeds[:-1])[0, 1]) < 6.5 / 256


# The methods of the package -----------------------------------------------------------------------

CONSTANTS = {"noise": 0.3, "strong_convexity": 2.0, "hessian_lipschitz": 1.0}


def make_method(name):
    budget = {"zosgd": 240, "spsa": 240, "kernel": 240, "mezo": 240}.get(name, 900)
    constants = CONSTANTS if name in ("two-stage", "zosgd", "kernel") else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZerothWarning)
        return method_class(name)(np.zeros(2), budget, rng=11, paired=False, **constants)


def whole_picture(optimizer):
    state = optimizer.state_dict()
    state.pop("open")
    # How often something was told is all that may differ.
    state["counters"] = {
        name: getattr(optimizer, name) for name in ("nfev", "nit", "lost", "retried", "status")
    }
    return dumps(checkpoint.encode(state)), optimizer.recommendation().x.tobytes()


@pytest.mark.filterwarnings("ignore::modicum.zeroth.errors.ZerothWarning")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", METHODS)
def test_every_method_goes_on_from_any_cut_and_takes_answers_in_any_order(name, seed, tmp_path):
    def values_at(ids, points, seeds):
        return np.where(np.asarray(ids) % 37 == 5, np.nan, noisy(points, seeds))

    plain = make_method(name)
    while not plain.done:
        asked = plain.ask()
        plain.tell(asked, values_at(asked.ids, asked.points, asked.seeds))
    chance = np.random.default_rng(seed)
    optimizer, out, path = make_method(name), [], tmp_path / "state"
    issued, cuts = 0, 0
    while not optimizer.done:
        if chance.random() < 0.15:
            optimizer.save(path)
            optimizer, out = make_method(name), []
            optimizer.load(path)
            cuts += 1
        fresh = optimizer.ask(int(chance.integers(1, 40)))
        issued += len(fresh)
        out.extend(fresh)
        chance.shuffle(out)
        count = int(chance.integers(0, len(out) + 1))
        told, out = out[:count], out[count:]
        told += told[:2]
        if told:
            ids = [item.id for item in told]
            seeds = [item.seed for item in told]
            optimizer.tell(ids, values_at(ids, [item.x for item in told], seeds))
    assert cuts > 1
    assert same(whole_picture(optimizer), whole_picture(plain))
    assert plain.nfev <= min(plain.budget, issued)
    assert plain.status == BUDGET_SPENT


# Tensors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
@pytest.mark.parametrize("parts", [None, 13])
def test_a_tensor_as_start_makes_tensors(FixedRadius, dtype, parts):
    torch = pytest.importorskip("torch")

    def fun(points):
        return ((points - 1) ** 2).sum(-1)

    plain = FixedRadius(np.zeros(3), 300, rng=2)
    optimizer = FixedRadius(torch.zeros(3, dtype=getattr(torch, dtype)), 300, rng=2)
    for run in (plain, optimizer):
        while not run.done:
            asked = run.ask(parts)
            values = fun(asked.points)
            values[asked.ids % 41 == 7] = np.nan
            run.tell(asked if parts is None else asked.points, values)
    assert asked.points.dtype == torch.float64
    assert optimizer.lost == plain.lost == 8
    np.testing.assert_allclose(optimizer.state.z, plain.state.z, rtol=1e-11)
    assert torch.is_tensor(optimizer.ask().points)


def test_float32_values_are_summed_in_float64(FixedRadius):
    torch = pytest.importorskip("torch")
    for start, values in (
        (np.zeros(2), np.full(50, 1e8, dtype=np.float32)),
        (torch.zeros(2), torch.full((50,), 1e8, dtype=torch.float32)),
        (torch.zeros(2), torch.full((50,), 1e8, dtype=torch.bfloat16)),
    ):
        optimizer = FixedRadius(start, 100, rng=0)
        optimizer.tell(optimizer.ask(), values)
        assert optimizer.updates[0][0].dtype == np.float64
    optimizer.tell(optimizer.ask(), torch.ones(50, dtype=torch.complex64))
    assert optimizer.status == TOO_MANY_LOST


@pytest.mark.gpu
def test_values_on_the_gpu_stay_there(FixedRadius):
    import torch

    plain = FixedRadius(np.zeros(3), 300, rng=2)
    plain.run(lambda points: ((points - 1) ** 2).sum(-1))
    optimizer = FixedRadius(torch.zeros(3, device="cuda"), 300, rng=2)
    while not optimizer.done:
        asked = optimizer.ask()
        assert asked.points.device.type == "cuda"
        optimizer.tell(asked, ((asked.points - 1) ** 2).sum(-1))
    np.testing.assert_allclose(optimizer.state.z, plain.state.z, rtol=1e-10)
