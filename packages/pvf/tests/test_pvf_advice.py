"""Advice on the number of drafts: what is measured, what is fitted, what follows from both."""

import json
import math
import random
from dataclasses import replace

import pytest
from pvf_clock import LedgerTasks, in_rows, roofline

from modicum.pvf.advice import CallCosts, advise, fit_roofline, measure_row_costs
from modicum.pvf.generation import generate
from modicum.pvf.strategies.plan_verify_fill import PVF
from modicum.pvf.theory import ridge

TASKS = LedgerTasks(3)
PROMPTS, COLUMNS, LENGTH = TASKS.prompts, TASKS.columns, TASKS.length
SETTINGS = PVF(**TASKS.settings)
SHAPE = {"gen_length": LENGTH, "block_length": 24, "batch_size": 1}
LAWS = {**in_rows(COLUMNS), "steep": lambda columns, call: (columns / COLUMNS) ** 1.5}
predictor = TASKS.predictor


@pytest.fixture(scope="module")
def sizes():
    """Give by number of drafts the columns of every call, of all prompts."""
    found = {}
    for drafts in range(4):
        found[drafts] = []
        model = predictor(lambda columns, call, kept=found[drafts]: kept.append(columns) or 1.0)
        generate(model, PROMPTS, strategy=replace(SETTINGS, num_drafts=drafts), **SHAPE)
    return found


@pytest.mark.parametrize("law", LAWS)
def test_the_advised_number_of_drafts_takes_the_least_time(law, sizes):
    advice = advise(predictor(LAWS[law]), PROMPTS, strategy=SETTINGS, num_drafts=(1, 2, 3), **SHAPE)
    taken = {k: sum(LAWS[law](columns, 0) for columns in given) for k, given in sizes.items()}
    calls = {k: len(given) for k, given in sizes.items()}
    # More drafts are only advised where they save more than 2 %.
    assert taken[advice.num_drafts] <= min(taken.values()) / 0.98
    assert (advice.num_drafts == 0) == (law in ("linear", "steep"))
    for drafts in range(4):
        outlay = advice.outlay(drafts)
        row_cost = LAWS[law]((drafts + 1) * COLUMNS, 0) / LAWS[law](COLUMNS, 0)
        assert outlay.calls == calls[drafts]
        assert outlay.seconds == pytest.approx(taken[drafts])
        assert outlay.row_cost == pytest.approx(row_cost)
        assert outlay.break_even == pytest.approx(calls[0] / calls[drafts])
        assert outlay.speedup == pytest.approx(calls[0] / (calls[drafts] * row_cost))
        assert outlay.speedup_as_used == pytest.approx(taken[0] / taken[drafts])
        # Not every call has all the drafts that it might have.
        assert outlay.speedup <= outlay.speedup_as_used + 1e-9


def test_the_roofline_of_a_device_is_found_again():
    advice = advise(
        predictor(roofline(2.5 * COLUMNS, 0.01)), PROMPTS[:1], strategy=SETTINGS, **SHAPE
    )
    assert advice.roofline.floor == pytest.approx(0.01, rel=1e-3)
    assert advice.roofline.ridge / advice.columns_per_row == pytest.approx(2.5, rel=2e-3)
    assert advice.free_rows == 2
    assert advice.roofline.regime == "both"
    assert advice.roofline(5 * COLUMNS) == pytest.approx(0.02, rel=3e-3)


def test_fits_of_devices_that_are_bound_by_one_thing():
    floor = fit_roofline([1, 2, 4], [3.0, 3.0, 3.0])
    assert (floor.regime, floor.floor, floor.error) == ("floor", pytest.approx(3), pytest.approx(0))
    compute = fit_roofline([10, 20, 40], [1.0, 2.0, 4.0])
    assert (compute.regime, compute.ridge) == ("compute", pytest.approx(10))
    assert compute(80) == pytest.approx(8)
    # A curve that is none of them is fitted with an error that says so.
    assert fit_roofline([1, 2, 4, 8], [1.3, 1.6, 2.2, 3.4]).error > 0.05


def test_fits_survive_noise():
    draw = random.Random(0)
    at_ridge = ridge(989e12, 4.8e12)
    columns = [16 * 2**power for power in range(8) for _ in range(25)]
    seconds = [0.01 * max(1, n / at_ridge) * math.exp(0.1 * draw.gauss(0, 1)) for n in columns]
    fitted = fit_roofline(columns, seconds)
    assert fitted.ridge == pytest.approx(at_ridge, rel=0.1)
    assert fitted.floor == pytest.approx(0.01, rel=0.05)
    assert fitted.error == pytest.approx(0.1, rel=0.2)


@pytest.mark.parametrize(("columns", "seconds"), [([], []), ([1], [1, 2]), ([0], [1]), ([1], [0])])
def test_there_must_be_something_to_fit(columns, seconds):
    with pytest.raises(ValueError, match="columns and seconds must be positive"):
        fit_roofline(columns, seconds)


def test_row_costs_are_those_of_the_clock_in_batches_too():
    model = predictor(LAWS["affine"])
    found = measure_row_costs(
        model, [PROMPTS[0]] * 3, most_rows=3, gen_length=LENGTH, block_length=24, batch_size=3
    )
    assert found == pytest.approx({rows: 1 + 0.3 * 3 * rows for rows in (1, 2, 3)})
    with pytest.raises(ValueError, match="gen_length must be at least 8 for 4 rows, not 7"):
        measure_row_costs(model, PROMPTS[:1], gen_length=7)


def test_the_table_and_the_values_hold_the_arithmetic():
    advice = advise(predictor(roofline(2 * COLUMNS)), PROMPTS, strategy=SETTINGS, **SHAPE)
    values = json.loads(json.dumps(advice.to_dict()))
    assert values["num_drafts"] == advice.num_drafts
    assert values["seconds_by_rows"] == {"1": 1.0, "2": 1.0, "3": 1.5, "4": 2.0}
    for outlay in values["outlays"]:
        assert outlay["speedup"] == pytest.approx(outlay["break_even"] / outlay["row_cost"])
        row = f"| {outlay['num_drafts']} | {outlay['calls']} | {outlay['row_cost']:.2f} |"
        assert row in advice.table()
    assert f"Use {advice.strategy}." in advice.table()
    with pytest.raises(ValueError, match=r"num_drafts must be one of \[0, 1, 3\], not 2"):
        advice.outlay(2)


def test_costs_of_calls_rise_and_follow_what_is_new():
    costs = CallCosts()
    with pytest.raises(ValueError, match="no call has been measured yet"):
        costs(1)
    for size, seconds in [(10, 1.0), (20, 2.0), (10, 1.0), (20, 9.0), (20, 2.0)]:
        costs.add(size, seconds)
    # One call that took longer changes nothing; between sizes lie straight lines.
    assert [costs(size) for size in (1, 10, 15, 20, 40)] == pytest.approx([1, 1, 1.5, 2, 4])
    for _ in range(2000):
        costs.add(10, 5.0)
    # Larger calls cannot be faster, and what was seen long ago hardly counts.
    assert costs(10) == pytest.approx(5, rel=1e-3)
    assert costs(20) == pytest.approx(5, rel=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_costs_are_the_isotonic_regression_of_medians(seed):
    from scipy.optimize import isotonic_regression

    draw = random.Random(seed)
    costs = CallCosts()
    taken = {size: [draw.uniform(1, 2) + size / 40 for _ in range(3)] for size in range(1, 30)}
    for seconds in zip(*taken.values(), strict=True):
        for size, each in zip(taken, seconds, strict=True):
            costs.add(size, each)
    # All sizes have as many calls, one after another: weights rise by the same factor.
    medians = [sorted(seconds)[1] for seconds in taken.values()]
    weights = [2 ** (size / costs.HALF_LIFE) for size in taken]
    expected = isotonic_regression(medians, weights=weights).x.tolist()
    assert costs.curve[1] == pytest.approx(expected)
    assert costs.curve[1] != pytest.approx(medians)


def test_the_spread_of_calls_is_that_of_their_logarithms():
    draw = random.Random(0)
    costs = CallCosts(calls=1000)
    assert costs.spread == 0.0
    for _ in range(1000):
        costs.add(10, math.exp(0.2 * draw.gauss(0, 1)) * (10 if draw.random() < 0.02 else 1))
    # One standard error is about 4 %.
    assert costs.spread == pytest.approx(0.2, rel=0.2)
