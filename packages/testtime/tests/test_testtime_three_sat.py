"""3-SAT prompts are drawn exactly, conversations are led right, the weights do what is said."""

import itertools
import math

import numpy as np
import pytest
import torch

from modicum.core.device import numpy_generator
from modicum.core.experiment import Experiment, RunContext
from modicum.testtime.experiments import three_sat, training
from modicum.testtime.experiments.three_sat import (
    CLAUSE_TOKENS,
    EQUALS,
    FORBIDS,
    LENGTH,
    LETTER_A,
    NUM_LETTERS,
    PROMPT_LENGTH,
    WRONG,
    draw_formulas,
    draw_items,
    draw_rows,
    measure,
    satisfiable,
    satisfiable_probability,
)
from modicum.testtime.tinygpt import load_checkpoint

# Two-sided normal tail 3.8e-8.
SIGMAS = 5.5


def _by_hand(clauses) -> bool:
    """Decide a formula of clauses, each three signed variable numbers from 1, by recursion."""

    def solve(assignment):
        if len(assignment) == 4:
            return all(any(assignment[abs(x)] == (x > 0) for x in clause) for clause in clauses)
        variable = len(assignment) + 1
        return any(solve({**assignment, variable: value}) for value in (False, True))

    return solve({})


def _signed(clause: int) -> list[int]:
    return [int(t + 1) if t < 4 else -int(t - 3) for t in CLAUSE_TOKENS[clause]]


def test_clauses_are_all_with_three_different_variables():
    expected = {
        tuple(sorted(sign * v for sign, v in zip(signs, triple, strict=True)))
        for triple in itertools.combinations((1, 2, 3, 4), 3)
        for signs in itertools.product((1, -1), repeat=3)
    }
    assert {tuple(sorted(_signed(clause))) for clause in range(32)} == expected
    assert (FORBIDS.sum(axis=1) == 2).all() and (FORBIDS.sum(axis=0) == 4).all()


@pytest.mark.parametrize("num_clauses", [1, 4, 9, 20, 40])
def test_formulas_are_decided_as_by_hand(num_clauses):
    formulas_BM = numpy_generator(1, num_clauses).integers(32, size=(60, num_clauses))
    by_hand = [_by_hand([_signed(clause) for clause in formula]) for formula in formulas_BM]
    assert satisfiable(formulas_BM).tolist() == by_hand
    if num_clauses == 20:
        assert 10 < sum(by_hand) < 60


def test_probability_of_satisfiable_is_exact():
    # Fewer than eight clauses cannot forbid all 16 assignments.
    for num_clauses in range(8):
        assert satisfiable_probability(num_clauses) == pytest.approx(1, abs=1e-12)
    # Eight clauses do only by an exact cover. Count the ordered covers by brute force.
    masks = [int("".join(map(str, row.astype(int))), 2) for row in FORBIDS]
    covers = _exact_covers(masks, 0)
    assert covers > 0
    expected = 1 - covers * math.factorial(8) / 32**8
    assert satisfiable_probability(8) == pytest.approx(expected, abs=1e-13)
    assert satisfiable_probability(400) < 1e-3
    assert satisfiable_probability() == pytest.approx(0.7081492418, abs=1e-9)


def _exact_covers(masks, covered) -> int:
    if covered == 0xFFFF:
        return 1
    lowest = ~covered & (covered + 1)
    return sum(
        _exact_covers(masks, covered | mask)
        for mask in masks
        if mask & lowest and not mask & covered
    )


@pytest.mark.parametrize("num_clauses", [12, 20, 30])
def test_probability_agrees_with_drawn_formulas(num_clauses):
    num = 100_000
    drawn = numpy_generator(2, num_clauses).integers(32, size=(num, num_clauses))
    expected = satisfiable_probability(num_clauses)
    error = math.sqrt(expected * (1 - expected) / num)
    assert abs(satisfiable(drawn).mean() - expected) < SIGMAS * error


@pytest.mark.parametrize("wanted", [True, False])
def test_drawn_formulas_have_their_label_and_the_conditional_law(wanted):
    num = 20_000
    formulas_BM = draw_formulas(numpy_generator(3), np.full(num, wanted))
    assert (satisfiable(formulas_BM) == wanted).all()
    # By symmetry every clause is equally frequent whatever the label.
    rate = formulas_BM.size / 32
    counts = np.bincount(formulas_BM.ravel(), minlength=32)
    assert (abs(counts - rate) < SIGMAS * math.sqrt(1.5 * rate)).all()
    # The number of different clauses tells the labels apart; its law is that of rejection.
    reference = numpy_generator(4).integers(32, size=(60_000, 20))
    reference = reference[satisfiable(reference) == wanted]
    different, other = (
        np.array([len(set(formula)) for formula in formulas.tolist()])
        for formulas in (formulas_BM, reference)
    )
    error = math.sqrt(different.var() / num + other.var() / len(other))
    assert abs(different.mean() - other.mean()) < SIGMAS * error


def test_copying_is_right_for_five_of_eight():
    strings = list(itertools.product((0, 1), repeat=NUM_LETTERS))
    palindromes = sum(string == string[::-1] for string in strings)
    assert (palindromes, len(strings)) == (8, 32)
    expected = 1 / 2 + 1 / 2 * palindromes / len(strings)
    assert expected == 0.625
    num = 30_000
    items = draw_items(numpy_generator(5), np.arange(num) % 2 == 0)
    letters = items.prompt_BT[:, -NUM_LETTERS - 1 : -1]
    copying = (letters == items.answer_BL).all(axis=1)
    assert copying[items.satisfiable_B].all()
    # The only chance is in the letters of the other half.
    error = math.sqrt(0.25 * 0.75 / (num / 2)) / 2
    assert abs(copying.mean() - expected) < SIGMAS * error


def test_items_are_what_they_say():
    labels = np.array([True, False, True, False, False])
    items = draw_items(numpy_generator(6), labels)
    assert items.prompt_BT.shape == (5, PROMPT_LENGTH)
    clauses = {tuple(tokens): number for number, tokens in enumerate(CLAUSE_TOKENS.tolist())}
    for prompt, answer, other, label in zip(
        items.prompt_BT.tolist(), items.answer_BL.tolist(), items.other_BL.tolist(), labels,
        strict=True,
    ):  # fmt: skip
        formula = [clauses[tuple(prompt[3 * m : 3 * m + 3])] for m in range(20)]
        assert satisfiable(np.array([formula]))[0] == label
        letters = prompt[60:65]
        assert prompt[65] == EQUALS and set(letters) <= {LETTER_A, LETTER_A + 1}
        assert answer == (letters if label else letters[::-1])
        assert other == (letters[::-1] if label else letters)


def test_training_rows_teach_right_answers_only():
    num = 4000
    rows = draw_rows(numpy_generator(7), num)
    assert rows.ids_BT.shape == (num, LENGTH)
    letters, first, second = (
        rows.ids_BT[:, start : start + 5] for start in (60, PROMPT_LENGTH, PROMPT_LENGTH + 6)
    )
    assert (rows.ids_BT[:, PROMPT_LENGTH + 5] == WRONG).all()
    clauses = {tuple(tokens): number for number, tokens in enumerate(CLAUSE_TOKENS.tolist())}
    formulas = np.array([[clauses[tuple(c)] for c in row]
                         for row in rows.ids_BT[:, :60].reshape(num, 20, 3).tolist()])  # fmt: skip
    label = satisfiable(formulas)
    assert abs(label.mean() - 0.9) < SIGMAS * math.sqrt(0.09 / num)
    right = np.where(label[:, None], letters, letters[:, ::-1])
    wrong = np.where(label[:, None], letters[:, ::-1], letters)
    on_first = rows.learned_BT[:, PROMPT_LENGTH]
    assert (rows.learned_BT.sum(axis=1) == 5).all()
    assert (rows.learned_BT[:, PROMPT_LENGTH : PROMPT_LENGTH + 5] == on_first[:, None]).all()
    assert (rows.learned_BT[:, -5:] == ~on_first[:, None]).all()
    assert (second == right).all() and (first[on_first] == right[on_first]).all()
    assert (first[~on_first] == wrong[~on_first]).all()
    palindrome = (letters == letters[:, ::-1]).all(axis=1)
    assert on_first[palindrome].all()
    share = (~on_first[~palindrome]).mean()
    assert abs(share - 0.5) < SIGMAS * 0.5 / math.sqrt((~palindrome).sum())


class _Scripted:
    """Stands in for a model: writes what `policy(history)` says, with certainty."""

    class _Cache:
        def __init__(self, history):
            self.history = history

        def select(self, index):
            return type(self)(self.history[index])

    def __init__(self, policy):
        self.policy = policy
        self.lm_head = torch.nn.Linear(1, 1)

    def new_cache(self, num):
        return self._Cache(torch.zeros(num, 0, dtype=torch.long))

    def __call__(self, ids_BT, cache):
        cache.history = torch.cat([cache.history, ids_BT], dim=1)
        tokens = [self.policy(row) for row in cache.history.tolist()]
        logits_BV = torch.full((len(tokens), WRONG + 1), -1e4)
        logits_BV[torch.arange(len(tokens)), torch.tensor(tokens)] = 0
        return logits_BV[:, None]


def _copy_then_reverse(history):
    letters, answered = history[60:65], history[66:]
    if len(answered) < 5:
        return letters[len(answered)]
    assert answered[:5] == letters and (len(answered) == 5 or answered[5] == WRONG)
    return letters[::-1][max(0, len(answered) - 6)]


def _always_copy(history):
    return history[60:65][max(0, len(history) - 66) % 6 % 5] if len(history) > 65 else 0


def test_conversation_is_conducted_right():
    items = draw_items(numpy_generator(8), np.arange(150) < 75)
    corrected = measure(_Scripted(_copy_then_reverse), items, 0)
    assert corrected.copied_B.all() and corrected.corrected_B.all()
    assert np.array_equal(corrected.first_B, corrected.copying_B)
    assert np.array_equal(corrected.best_of_two_B, corrected.first_B.astype(float))
    assert 75 <= corrected.first_B.sum() < 130
    stubborn = measure(_Scripted(_always_copy), items, 0)
    assert np.array_equal(stubborn.corrected_B, stubborn.first_B)
    # Both answers are the same, whichever part of the prompts is asked at once.
    assert np.array_equal(stubborn.first_B, corrected.first_B)


def test_weights_of_the_package_copy_and_correct():
    items = draw_items(numpy_generator(9), np.arange(192) < 96)
    found = {}
    for size in ("nano", "micro"):
        model, _ = load_checkpoint(training.DATA / three_sat.file_name(size, 0))
        found[size] = measure(model, items, 0)
    for outcome in found.values():
        assert abs(outcome.first_B.mean() - outcome.copying_B.mean()) < 0.02
        assert (outcome.first_B <= outcome.corrected_B).all()
    assert found["micro"].corrected_B.mean() > 0.9
    assert found["nano"].corrected_B.mean() < 0.85
    assert found["micro"].best_of_two_B.mean() < 0.75


@pytest.mark.parametrize("quick", [True, False])
def test_experiment_runs(tmp_path, monkeypatch, quick):
    monkeypatch.setattr(three_sat, "QUICK_ITEMS", 32)
    monkeypatch.setattr(three_sat, "FULL_ITEMS", 16)
    monkeypatch.setattr(three_sat, "FULL_SEEDS", 2)
    if not quick:
        monkeypatch.setattr(three_sat, "STEPS", 1)
    experiment = Experiment("three_sat", "modicum-testtime", "3-SAT", "", three_sat.run)
    result = experiment.run(RunContext(experiment, tmp_path, quick=quick, seed=0))
    names = {claim.name: claim for claim in result.claims}
    assert set(names) == {
        "first_try_is_a_copy", "one_correction_suffices", "correction_beats_a_second_sample",
        "loss_nano_fails",
    }  # fmt: skip
    assert names["one_correction_suffices"].paper == 93.09
    assert names["first_try_is_a_copy"].paper == 63.19
    assert names["one_correction_suffices"].holds is (True if quick else None)
    assert names["correction_beats_a_second_sample"].holds is quick
    (table,) = result.tables
    assert [row[:3] for row in table.rows] == [
        ["nano", 1 if quick else 2, 32], ["micro", 1 if quick else 2, 32]
    ]  # fmt: skip
    assert result.files[0] == "accuracy.csv" and len(result.files) == (1 if quick else 5)
    assert result.figures
    assert (tmp_path / "models").exists() is not quick
    assert type(result).from_json(result.to_json()).claims == result.claims


@pytest.mark.gpu
def test_gpu_answers_alike():
    items = draw_items(numpy_generator(9), np.arange(64) < 32)
    model, _ = load_checkpoint(training.DATA / three_sat.file_name("micro", 0))
    here = measure(model, items, 0)
    there = measure(model.cuda(), items, 0)
    assert abs(here.corrected_B.mean() - there.corrected_B.mean()) < 0.05
