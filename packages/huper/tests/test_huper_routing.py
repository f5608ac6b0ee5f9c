"""The routing experiment: rules come from dev utterances, sums and tables are what they say."""

import functools
import math

import pytest

from modicum.huper.experiments import routing
from modicum.huper.experiments.routing import CLEAN, Condition, Plan, _Judged
from modicum.huper.scheduler import Scheduler

NOISY = Condition("white", 0.0)
ROOM = Condition("reverberation", 0.6)
SIZES = routing.QUICK.sizes
PLAN = Plan(1, SIZES, 40, 40, (CLEAN, NOISY), (ROOM,), ("clean", "white 0"))


def row(split: str, number: int, *, noisy: bool, wrong: bool) -> dict:
    """An utterance of ten phones: the ear fails in noise, a right text never costs more than 2."""
    ear = 8 if noisy else 1
    return {
        "id": f"{split}-{number}",
        "length": 10,
        "s": dict.fromkeys(routing.SCORES, (0.08 if noisy else 0.02) + number * 1e-5),
        "bottom_up": ear,
        "canonical": 3,
        "fused": 2 if noisy else 0,
        "ratio": 1.0,
        "wrong": wrong,
        "given_fused": 9 if wrong else (2 if noisy else 0),
        "given_ratio": 7.0 if wrong else 1.0,
    }


def judged() -> _Judged:
    found = {}
    for condition in (CLEAN, NOISY, ROOM):
        for split in ("dev", "test"):
            found[0, split, condition.name] = [
                row(split, number, noisy=condition != CLEAN, wrong=number % 10 < 3)
                for number in range(40)
            ]
    return _Judged(PLAN, found, 0)


def claim(name: str):
    return next(one for one in judged_claims() if one.name == name)


@functools.cache
def judged_claims():
    made = judged()
    return [
        made.rigid_claim(),
        made.fused_claim(),
        made.misled_claim(),
        made.gap_claim(),
        made.spearman_claim(),
        made.transfer_claim(),
    ]


def test_a_world_whose_answers_are_known() -> None:
    # Ear 1 and 8 of 10, dictionary 3: the switch has 1 and 3, so 2 of 10 on average; pure paths
    # have 4.5 and 3.
    assert claim("rigid").measured == pytest.approx(2 / 3) and claim("rigid").holds
    # Joined: 0 of 10 in clean, 2 of 10 in noise for the dictionary's 3.
    assert claim("fused").measured == pytest.approx(2 / 3) and claim("fused").holds
    # Texts: wrong ones are recognised by Λ; oracle: clean .3 × 1, noise .3 × 8 + .7 × 2.
    oracle = (0.3 * 1 + 0.3 * 8 + 0.7 * 2) / 2
    always = (0.3 * 9 + 0.3 * 9 + 0.7 * 2) / 2
    assert claim("misled").measured == pytest.approx(oracle / min(4.5, always))
    assert claim("gap").measured == pytest.approx(1.0) and claim("gap").holds
    # The room has 3.8 of 10 by the rule; the ear has 8 there, text always 4.1.
    assert claim("transfer").measured == pytest.approx(100 * (0.38 - 0.41))
    assert claim("spearman").measured > 0.8


def test_tables_name_every_condition_and_rule() -> None:
    made = judged()
    assert [one[0] for one in made.noise_table().rows] == ["clean", "white 0"]
    assert made.noise_table().rows[0][1].startswith("10.0 (")
    assert [one[0] for one in made.rigid_table().rows][-1] == "oracle"
    assert "clean: 1.0 and 7.0" in made.misled_table().note
    assert made.other_table().rows[0][0] == "reverberation 0.6"


def test_rules_are_never_judged_by_what_they_were_calibrated_on() -> None:
    made = judged()
    rows = made.rows(0, "dev", ["clean"])
    with pytest.raises(ValueError, match="chose the threshold"):
        routing._chosen(made.rules["Λ"][0], rows, "entropy", "given_fused")
    assert (
        routing._chosen(Scheduler("llr", a=-math.inf), rows, "entropy", "given_fused") == [1] * 40
    )


def test_a_third_of_the_texts_is_another_utterances() -> None:
    class Made:
        seed = 5

    for count in (10, 60, 3):
        texts = routing._texts(Made(), "test", count)  # type: ignore[arg-type]
        assert sorted(texts) == list(range(count))
        moved = sum(one != at for at, one in enumerate(texts))
        assert moved == (round(0.3 * count) if round(0.3 * count) > 1 else 0)
