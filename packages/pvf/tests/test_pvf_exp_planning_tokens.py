"""The experiment on planning tokens: verdicts, where any token is drawn, and a run of it."""

import pytest
from pvf_answers import by_name, context, made_up

from modicum.pvf import generate
from modicum.pvf.experiments import planning_tokens
from modicum.pvf.experiments._shared import draw_ledgers, model_of
from modicum.pvf.experiments.planning_tokens import (
    ALL_WORDS,
    DIGITS,
    FULL,
    IN_BAND,
    ONLY,
    PLANNING,
    RANDOM,
    SAME_CALLS,
    claims,
    strategies,
)


def judged(quick=False, **changes):
    found = {
        RANDOM: made_up(7, correct=0.1),
        PLANNING: made_up(7, correct=0.5),
        ONLY: made_up(9),
        SAME_CALLS: made_up(9, correct=0.4),
        FULL: made_up(8),
        ALL_WORDS: made_up(8, correct=0),
        DIGITS: made_up(8, correct=0.5),
    }
    return by_name(claims({IN_BAND: found | changes}, quick=quick))


def test_claims_follow_what_was_measured():
    good = judged()
    assert all(claim.holds for claim in good.values())
    assert good["planning_beats_random"].measured == pytest.approx(40)
    assert good["fallback_harms"].measured == pytest.approx(50)


@pytest.mark.parametrize(
    ("changes", "fails"),
    [
        ({PLANNING: made_up(7, correct=0.2)}, {"planning_beats_random"}),
        # Better, but in a tenth more calls.
        ({PLANNING: made_up(7.7, correct=0.5)}, {"planning_beats_random"}),
        ({SAME_CALLS: made_up(9, correct=0.9)}, {"planning_beats_random_in_the_same_calls"}),
        ({DIGITS: made_up(8)}, {"digits_planning"}),
        ({ALL_WORDS: made_up(8)}, {"everything_planning"}),
    ],
)
def test_claims_fail_where_they_should(changes, fails):
    assert {name for name, claim in judged(**changes).items() if claim.holds is False} == fails


def test_a_random_token_comes_in_the_calls_with_a_planning_token():
    tasks = draw_ledgers(0, 0.55, 0, 4)
    made = strategies(tasks)
    prompts = [list(task.prompt) for task in tasks]
    words = set(tasks[0].style_ids)
    committed = {}
    for name in (ONLY, SAME_CALLS):
        out = generate(
            model_of(tasks),
            prompts,
            strategy=made[name],
            gen_length=48,
            block_length=24,
            eos_early_stop=False,
            return_trace=True,
        )
        committed[name] = [
            token
            for trace in out.trace
            for event in trace
            for token, confidence, reason in zip(
                event.tokens, event.confidences, event.reasons, strict=True
            )
            if confidence < 0.6 and reason != "X"
        ]
    assert committed[ONLY] and set(committed[ONLY]) <= words
    assert set(committed[SAME_CALLS]) - words


def test_a_run_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(planning_tokens, "QUICK_TASKS", 2)
    result = planning_tokens.run(context(planning_tokens, tmp_path, seed=2))
    assert by_name(result.claims)["everything_planning"].measured < 0
    for table in result.tables:
        rows = {row[0]: row for row in table.rows}
        assert rows[ONLY][1] == rows[FULL][1] == 100
        assert rows[ONLY][5] < rows["threshold 0.9"][5]
    assert len(result.tables) == 3 and len(result.figures) == 1
