"""The experiment on pronunciation: its errors, its statistics, and that each claim can fail."""

import itertools

import numpy as np
import pytest

from modicum.core.experiment import Experiment, RunContext
from modicum.huper import espeak
from modicum.huper.experiments import EXPERIMENTS, PACKAGE, pronunciation
from modicum.huper.experiments.pronunciation import (
    CONFUSED,
    METHODS,
    OURS,
    Findings,
    area,
    areas,
    claims_of,
    curve,
    false_alarms,
    figures_of,
    judged,
    table_of,
    units,
    with_error,
)
from modicum.huper.phones import PhoneSet
from modicum.huper.simulate import RULES, EspeakWorld


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(pronunciation, "RESAMPLES", 200)


def drawn(seed=0, count=60, better=OURS, shift=3.0):
    """Made-up scores: one method tells errors, reductions look like errors to the others."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        phones = int(rng.integers(8, 14))
        wrong, reduced = (0 if number % 2 == 0 else None), [1, 2]
        scores = {}
        for method in METHODS:
            values = rng.normal(size=phones)
            if wrong is not None:
                values[wrong] += 3.0
            if method == better:
                values[reduced] -= shift
            else:
                values[reduced] += shift
            scores[method] = values.tolist()
        found.append({"wrong": wrong, "reduced": reduced, "scores": scores})
    return found


def context(path, **settings):
    made = Experiment("pronunciation", PACKAGE, "title", "summary", pronunciation.run)
    return RunContext(made, path, **settings)


# Speech -----------------------------------------------------------------------------------------


def test_errors_are_single_and_no_native_speaker_makes_them():
    rules = [rule for rule in RULES if rule.name in pronunciation.NATIVE_RULES]
    world = EspeakWorld("rules", rules=rules, seed=3)
    phones = PhoneSet.arpabet39()
    for phone, ways in CONFUSED.items():
        assert phone not in ways and set(ways) | {phone} <= set(phones.phones)
        # Flaps, and stops that are not said, are what native speakers do.
        assert "DX" not in ways and phone not in ("T", "DX")
    changed, kinds = 0, set()
    for number, one in enumerate(pronunciation.reduced_utterances(world, 60)):
        assert any(op != "KEEP" for word in one.ops for op in word)
        found, index = with_error(one, np.random.default_rng(number))
        again, _ = with_error(one, np.random.default_rng(number))
        assert again == found
        before = list(itertools.chain(*one.ops))
        after = list(itertools.chain(*found.ops))
        places = [at for at, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
        assert places == ([] if index is None else [index])
        if index is not None:
            changed += 1
            said = after[index].removeprefix("SUB:")
            assert before[index] == "KEEP" and said in CONFUSED[found.phonemes[index]]
            kinds.add((found.phonemes[index], said))
    assert changed > 50 and len(kinds) > 15
    nothing = pronunciation.Utterance(
        "a", ("tot",), (("T", "OW", "T"),), (("KEEP",) * 3,), one.speaker
    )
    assert with_error(nothing, np.random.default_rng(0)) == (nothing, None)


def test_what_the_synthesiser_would_say_otherwise_is_not_asked_of_it():
    assert not pronunciation._sayable("N", ("S", "IH", "NG", "K"), 2)
    assert pronunciation._sayable("N", ("S", "IH", "NG"), 2)
    assert not pronunciation._sayable("IH", ("B", "IY"), 1)
    assert pronunciation._sayable("IH", ("B", "IY", "T"), 1)


# Statistics -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_areas_and_false_alarms_are_counts(seed):
    rng = np.random.default_rng(seed)
    # Small integers: many ties.
    wrong, other = rng.integers(0, 6, 7).astype(float) + 1, rng.integers(0, 6, 23).astype(float)
    wins = [(a > b) + 0.5 * (a == b) for a in wrong for b in other]
    assert area(wrong, other) == pytest.approx(np.mean(wins))
    for recall in (0.3, 0.8, 1.0):
        threshold = max(t for t in wrong if np.mean(wrong >= t) >= recall)
        assert false_alarms(wrong, other, recall) == np.mean(other >= threshold)
    heavy_wrong, heavy_other = rng.integers(0, 3, 7), rng.integers(0, 3, 23)
    heavy_wrong[0] = heavy_other[0] = 1
    repeated = np.repeat(wrong, heavy_wrong), np.repeat(other, heavy_other)
    weighted = false_alarms(wrong, other, 0.8, heavy_wrong, heavy_other)
    assert weighted == pytest.approx(false_alarms(*repeated))
    grid = np.linspace(0, 1, 201)
    recalls = curve(wrong, other, grid)
    assert (np.diff(recalls) >= 0).all() and recalls[-1] == 1
    assert np.trapezoid(recalls, grid) == pytest.approx(area(wrong, other), abs=0.02)


@pytest.mark.parametrize("level", ["phone", "utterance"])
def test_resampled_areas_are_those_of_repeated_utterances(level):
    found = drawn(1, 12)
    given = units(found, "gop", level)
    rng = np.random.default_rng(0)
    weights = rng.multinomial(12, np.full(12, 1 / 12), 20)
    measured = areas(given, weights)
    for weight, value in zip(weights, measured, strict=True):
        again = [one for one, times in zip(found, weight, strict=True) for _ in range(times)]
        repeated = units(again, "gop", level)
        if len(repeated.wrong_P) and len(repeated.other_Q):
            assert value == pytest.approx(area(repeated.wrong_P, repeated.other_Q))
        else:
            assert np.isnan(value)
    assert areas(given, np.ones((1, 12), int))[0] == pytest.approx(
        area(given.wrong_P, given.other_Q)
    )


# Claims -----------------------------------------------------------------------------------------


def by_name(found, seed=0):
    return {claim.name: claim for claim in claims_of(Findings(found, seed))}


def test_claims_hold_where_one_method_is_better_and_fail_where_it_is_worse():
    good = by_name([drawn(0), drawn(1)])
    assert {claim.holds for claim in good.values()} == {True}
    assert len(good) == 5 and good["area by utterance"].measured > 0.2
    # The same scores under each other's names.
    bad = by_name([drawn(0, better="gop"), drawn(1, better="gop")])
    assert {claim.holds for claim in bad.values()} == {False}
    assert bad["area by phone"].interval[1] < 0


def test_what_cannot_be_told_is_left_open():
    same = by_name([drawn(0, shift=0.0)])
    assert same["false alarms by phone"].holds is not True
    estimate = pronunciation.Estimate
    assert judged(estimate(0.06, np.linspace(0.01, 0.1, 99), ()), 0.05) is True
    assert judged(estimate(0.06, np.linspace(-0.01, 0.1, 99), ()), 0.05) is None
    assert judged(estimate(0.04, np.linspace(0.01, 0.1, 99), ()), 0.05) is None
    assert judged(estimate(0.01, np.linspace(0.0, 0.03, 99), ()), 0.05) is False
    assert judged(estimate(0.0, np.zeros(9), ()), 0.0) is False


def test_a_table_and_figures_say_what_there_is():
    found = Findings([drawn(0), drawn(1)], 0)
    table = table_of(found)
    assert [row[0] for row in table.rows] == list(METHODS.values())
    assert "2 worlds, 120 utterances" in table.note and "60 are wrong" in table.note
    pytest.importorskip("matplotlib")
    assert [figure.title for figure in figures_of(found)] == [
        "Errors found over false alarms, by phone",
        "Errors found over false alarms, by utterance",
    ]


def test_an_interrupted_run_goes_on(tmp_path, monkeypatch):
    plan = pronunciation.Plan(2, 60, 10, (2, 3), "rules", False)
    monkeypatch.setattr(pronunciation, "QUICK", plan)

    def measured(ctx, plan, seed, progress):
        if seed == 1:
            raise KeyboardInterrupt
        return drawn(seed)

    monkeypatch.setattr(pronunciation, "measure", measured)
    with pytest.raises(KeyboardInterrupt):
        pronunciation.run(context(tmp_path))
    monkeypatch.setattr(pronunciation, "measure", lambda ctx, plan, seed, progress: drawn(seed + 5))
    result = pronunciation.run(context(tmp_path))
    # World 0 was kept, world 1 is new.
    expected = by_name([drawn(0), drawn(6)])
    assert result.claims[0].measured == expected["area by phone"].measured


def test_it_is_registered():
    assert "pronunciation" in {one.name for one in EXPERIMENTS}


@pytest.mark.skipif(not espeak.available(), reason="espeak-ng is not installed")
def test_a_small_run_speaks_listens_and_scores(tmp_path, monkeypatch):
    plan = pronunciation.Plan(1, 6, 60, (2, 2), "rules", False)
    monkeypatch.setattr(pronunciation, "QUICK", plan)
    result = pronunciation.run(context(tmp_path, seed=4))
    assert len(result.claims) == 5 and len(result.tables[0].rows) == 4
    (world,) = [context(tmp_path, seed=4).load_partial("world-0")]
    assert [one["wrong"] is not None for one in world] == [True, False] * 3
    for one in world:
        assert one["reduced"] and one["wrong"] not in one["reduced"]
        assert len({len(scores) for scores in one["scores"].values()}) == 1
    # Clear speech: what is wrong scores above what is kept, by every method.
    for method in ("gop", "keep", OURS):
        given = units(world, method, "phone")
        assert area(given.wrong_P, given.other_Q) > 0.7
