"""Reports: known sizes, verdicts of known cases, growth, files."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest

from modicum.repcomplexity import report as module
from modicum.repcomplexity.bits import ComplexityLimitError
from modicum.repcomplexity.boolean.dnf import minimum_cnf, minimum_dnf
from modicum.repcomplexity.boolean.truth_table import TruthTable
from modicum.repcomplexity.explicit import DEPTH_TWO_TERMS, known_sizes, majority_q_dnf_terms
from modicum.repcomplexity.families import (
    IrrelevantParityMDP,
    MajorityMDP,
    ParityMDP,
    RandomMDP,
)
from modicum.repcomplexity.functions import target_of
from modicum.repcomplexity.mdp import BitMDP
from modicum.repcomplexity.report import (
    ComplexityReport,
    ScalingPoint,
    ScalingReport,
    complexity_report,
    measure_function,
    scaling_report,
)
from modicum.repcomplexity.solver import solve


@pytest.fixture(scope="module")
def small():
    return complexity_report(MajorityMDP(4), ("transition", "reward", "q", "value", "policy"))


def by_name(report):
    return {(item.target, item.name): item for item in report.functions}


def test_sizes_of_the_majority_process_are_the_known_ones(small):
    found = by_name(small)
    for bit in range(4):
        assert found["transition", f"next bit {bit}"].dnf == (4, 4)
        assert found["transition", f"next bit {bit}"].influence == 1.75
    assert found["transition", "next bit 4"].dnf == found["transition", "next bit 4"].cnf == (2, 2)
    assert found["transition", "next bit 5"].dnf == (3, 3)
    reward = found["reward", "reward >= 1"]
    assert (reward.dnf, reward.cnf, reward.influence) == ((1, 1), (4, 4), 0.5)
    assert (reward.certificate_ones, reward.certificate_zeros) == (4, 1)
    positive = found["q", "Q* >= 1"]
    assert (positive.dnf, positive.cnf, positive.influence) == ((22, 22), (22, 22), 2.75)
    assert [found["q", f"Q* bit {bit}"].dnf[0] for bit in range(3)] == [19, 14, 8]
    assert positive.tail(0) == pytest.approx(1 - (1 - 2 * positive.probability) ** 2)


def test_tables_are_the_process_row_by_row():
    mdp, horizon = RandomMDP(3, n_actions=3, horizon=2, seed=4), 2
    solution = solve(mdp)
    following = target_of(mdp, solution, "transition").columns
    values = target_of(mdp, solution, "q").columns[0]
    best = target_of(mdp, solution, "policy").columns
    for action_code, state in itertools.product(range(4), range(8)):
        action = action_code if action_code < 3 else 0
        row = action_code * 8 + state
        after = int(mdp.next_codes(np.array([state]), action)[0])
        assert [int(column[row]) for column in following] == [after >> b & 1 for b in range(3)]
        paid = mdp.rewards(np.array([state, after]), action)[0]
        later = max(mdp.rewards(np.array([after]), a)[0] for a in range(3))
        assert values[row] == paid + later
    for state in range(8):
        action = sum(int(column[state]) << bit for bit, column in enumerate(best))
        assert values[action * 8 + state] == max(values[a * 8 + state] for a in range(3))
    assert horizon == mdp.horizon


def test_unused_codes_stay_and_are_worth_nothing():
    mdp = BitMDP.from_tables([[1, 2], [2, 0], [0, 1]], [[0.5, 0], [0, 1], [2, 2]], horizon=1)
    solution = solve(mdp)
    columns = target_of(mdp, solution, "transition").columns
    assert [bool(column[3]) for column in columns] == [True, True]
    assert [bool(column[7]) for column in columns] == [True, True]
    reward = target_of(mdp, solution, "reward")
    assert reward.columns[0].tolist() == [0.5, 0, 2, 0, 0, 1, 2, 0]
    assert [f.name for f in reward.functions] == ["reward >= 0.5", "reward >= 1", "reward >= 2"]
    assert reward.functions[1].table.values.tolist() == [0, 0, 1, 0, 0, 1, 1, 0]
    assert "25.0%" in " ".join(complexity_report(mdp).notes)


def test_chance_is_cut_into_levels_of_probability():
    mdp = MajorityMDP(2, slip=0.25)
    target = target_of(mdp, solve(mdp), "transition")
    # Bit 0 is kept, flips with probability 3/4, or is flipped back: 0, 1/4, 3/4, 1.
    assert [f.name for f in target.functions[:3]] == [
        "P[next bit 0] >= 0.25",
        "P[next bit 0] >= 0.75",
        "P[next bit 0] >= 1",
    ]
    assert complexity_report(mdp, ["transition"]).deterministic is False


def test_the_model_of_the_majority_process_is_easier(small):
    verdict = small.verdict()
    assert verdict.answer == "model easier"
    answers = {one.ruler: one.answer for one in verdict.comparisons}
    assert answers[DEPTH_TWO_TERMS] == answers["OBDD nodes"] == "model easier"
    assert answers["degree-2 error"] == "no difference"
    # What stronger circuits do belongs to the verdict.
    assert "threshold gates" in verdict.text and "growth" in verdict.text


def test_controls_have_the_other_verdicts():
    assert complexity_report(IrrelevantParityMDP(6)).verdict().answer == "Q easier"
    assert complexity_report(RandomMDP(8), time_limit=2).verdict().answer == "no difference"
    assert complexity_report(ParityMDP(4), time_limit=5).verdict().answer == "model easier"


def test_one_ruler_alone_decides_nothing(small):
    only = [item for item in small.functions if item.target in ("transition", "reward", "q")]
    blind = [
        dataclasses.replace(
            item, certificate_ones=None, tree_leaves=None, obdd=7, influence=1.0, gates=None
        )
        for item in only
    ]
    report = dataclasses.replace(small, functions=tuple(blind))
    assert [one.answer for one in report.verdict().comparisons] == [
        "model easier",
        "no difference",
        "no difference",
        "no difference",
    ]
    assert report.verdict().answer == "inconclusive"
    assert complexity_report(MajorityMDP(2), ["q"]).verdict().answer == "inconclusive"


def test_rulers_that_disagree_are_named():
    report = complexity_report(MajorityMDP(4))
    errors = {**report.errors, "reward": (1.0, 0.9, 0.9, 0.9, 0.9)}
    verdict = dataclasses.replace(report, errors=errors).verdict()
    assert verdict.answer == "depends on the ruler"
    assert "Q* is easier by degree-2 error (of the reward)." in verdict.text


def test_intervals_that_overlap_are_not_decided(small):
    loose = [
        dataclasses.replace(item, dnf=(1, 40), cnf=(1, 40)) if item.target == "q" else item
        for item in small.functions
    ]
    comparisons = dataclasses.replace(small, functions=tuple(loose)).verdict().comparisons
    assert comparisons[0].answer == "undecided" and comparisons[0].q == (1, 40)


def test_error_by_degree_is_that_of_least_squares(small):
    mdp = MajorityMDP(4)
    values = target_of(mdp, solve(mdp), "q").columns[0]
    bits = (np.arange(128)[:, None] >> np.arange(7)) & 1
    for degree in range(5):
        subsets = [s for k in range(degree + 1) for s in itertools.combinations(range(7), k)]
        design = np.stack([bits[:, list(s)].prod(1) for s in subsets], 1).astype(float)
        fitted = design @ np.linalg.lstsq(design, values, rcond=None)[0]
        share = ((values - fitted) ** 2).mean() / values.var()
        assert small.errors["q"][degree] == pytest.approx(share, abs=1e-9)


def test_a_time_limit_gives_intervals():
    rng = np.random.default_rng(0)
    table = TruthTable(rng.random(1 << 11) < 0.5)
    item = measure_function("q", "f", table, time_limit=0.02)
    assert item.dnf[0] < item.dnf[1]
    with pytest.raises(ValueError, match="time_limit must be positive, not 0"):
        complexity_report(MajorityMDP(2), time_limit=0)


def test_a_report_comes_back_from_its_file(small, tmp_path):
    path = small.save(tmp_path / "new" / "report.json")
    assert ComplexityReport.load(path) == small
    whole = json.loads(path.read_text())
    assert whole["verdict"]["answer"] == "model easier"
    path.write_text("{}")
    with pytest.raises(ValueError, match="is not a complexity report"):
        ComplexityReport.load(path)
    path.write_text('{"format": 1, "points": 3}')
    with pytest.raises(ValueError, match="is not a complexity report"):
        ComplexityReport.load(path)


def test_tables_for_people(small):
    frame = pytest.importorskip("pandas").DataFrame(small.rows())
    assert small.to_frame().equals(frame)
    text = small.to_markdown()
    assert "**Model easier.**" in text
    assert "| q | Q* >= 1 | 7 | 0.5 | 22 | 22 | 22 | 22 |" in text
    assert "| transition | depth-2 terms | at most 4 | explicit sums of products |" in text


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="targets must be some of transition"):
        complexity_report(MajorityMDP(2), ["model"])
    with pytest.raises(ComplexityLimitError, match="state and action bits is 38"):
        complexity_report(MajorityMDP(32))
    with pytest.raises(ValueError, match="ns must hold"):
        scaling_report(MajorityMDP, [])


def test_progress_counts_every_function():
    told = []
    report = complexity_report(MajorityMDP(2), progress=lambda *args: told.append(args))
    assert [done for done, _, _ in told] == list(range(len(report.functions) + 1))
    assert told[0] == (0, len(report.functions), "transition: next bit 0")


@pytest.mark.parametrize("n", [4, 8])
def test_proved_bounds_of_the_majority_process_hold(n):
    mdp = MajorityMDP(n)
    solution = solve(mdp)
    q = TruthTable((solution.Q.T > 0).reshape(-1))
    # Fix action 0, the pointer at 0, and the last bit it comes to after its move to "wrong".
    last = 0
    fixed = {n + mdp.n_control_bits: 0, last: 0}
    fixed |= {n + k: 0 for k in range(mdp.n_control_bits)}
    clauses = minimum_cnf(q.restrict(fixed)).upper
    assert clauses == majority_q_dnf_terms(n) == math.comb(n - 1, n // 2)
    # Without the action, which a DNF can leave out of every term, a value is left.
    value = q.cofactor(n + mdp.n_control_bits, 0) | q.cofactor(n + mdp.n_control_bits, 1)
    assert np.array_equal(value.values, solution.V > 0)
    fixed = {n - 1: 0} | {n + k: 0 for k in range(mdp.n_control_bits)}
    assert minimum_dnf(value.restrict(fixed)).upper == majority_q_dnf_terms(n)


@pytest.mark.parametrize(
    "mdp", [MajorityMDP(4), MajorityMDP(3), ParityMDP(2), ParityMDP(4)], ids=str
)
def test_what_is_proved_agrees_with_what_is_measured(mdp):
    report = complexity_report(mdp, ("transition", "reward", "q", "value"), time_limit=10)
    for one in known_sizes(mdp):
        if one.measure == DEPTH_TWO_TERMS:
            low, high = report.by_ruler(one.target)[DEPTH_TWO_TERMS]
            assert one.lower is None or one.lower <= high
            assert one.upper is None or low <= one.upper


def test_variants_without_proofs_have_none():
    assert known_sizes(MajorityMDP(4, slip=0.1)) == []
    assert known_sizes(MajorityMDP(4, flip_advances=True)) == []
    assert known_sizes(RandomMDP(3)) == []


def test_scaling_tells_polynomial_from_exponential():
    found = scaling_report(MajorityMDP, [4, 8, 16, 32], max_inputs=11, time_limit=10)
    answers = {(g.target, g.measure, g.end): g for g in found.growth()}
    assert answers["transition", DEPTH_TWO_TERMS, "upper"].answer == "polynomial"
    assert answers["q", DEPTH_TWO_TERMS, "lower"].answer == "exponential"
    assert answers["q", "circuit gates", "upper"].answer == "polynomial"
    assert found.series("q", DEPTH_TWO_TERMS, "lower")[4] == 22
    assert found.series("q", DEPTH_TWO_TERMS, "lower")[32] == math.comb(31, 16)
    assert found.series("q", DEPTH_TWO_TERMS, "upper") == {4: 22}
    assert "Depth-2 terms of Q* grow at least like 2^(" in found.verdict()
    assert "n = 8, 16, 32" in found.notes[0]


@pytest.mark.parametrize(
    ("law", "answer"),
    [
        (lambda n: 3 * n**2, "polynomial"),
        (lambda n: 5 * 2**n, "exponential"),
    ],
)
def test_fits_find_the_law_that_made_the_sizes(law, answer, tmp_path):
    ns = (2, 4, 6, 9)
    points = tuple(ScalingPoint(n, "q", "tree leaves", law(n), law(n), "exact") for n in ns)
    report = ScalingReport("made", ns, points)
    (fit,) = report.growth()
    assert (fit.answer, fit.end, fit.ns) == (answer, "both", ns)
    expected = {"polynomial": ("degree", 2), "exponential": ("rate", 1)}[answer]
    assert getattr(fit, expected[0]) == pytest.approx(expected[1], abs=1e-6)
    assert ScalingReport.load(report.save(tmp_path / "s.json")) == report
    three = ScalingReport("made", ns[:3], points[:3])
    assert three.growth()[0].answer == "undecided"
    assert ScalingReport("made", ns[:2], points[:2]).verdict().startswith("Nothing can be said")
    assert "| q | tree leaves | both |" in report.to_markdown()


def test_rulers_are_those_that_are_documented(small):
    assert set(small.by_ruler("transition")) <= set(module.RULERS)
    with pytest.raises(ValueError, match="targets must be some of"):
        small.by_ruler("nothing")


def test_a_process_of_one_state_has_a_report():
    """A bandit: no next bits, rewards and values that are functions of the action."""
    rewards = np.array([[0, 1, 1, 0]])
    bandit = BitMDP.from_tables(np.zeros((1, 4), int), rewards, horizon=1)
    report = complexity_report(bandit, ("transition", "reward", "q", "value", "policy"))
    assert report.by_ruler("reward")["depth-2 terms"] == (2, 2)
    assert report.by_ruler("q") == report.by_ruler("reward")
    assert report.by_ruler("transition") == {"degree-2 error": (0.0, 0.0)}
    assert report.verdict().answer == "inconclusive"
    assert report.to_markdown().startswith("# tables")


def test_sizes_beyond_the_codes_are_left_out_of_a_scaling_report():
    found = scaling_report(MajorityMDP, [4, 64], targets=("reward",), time_limit=5)
    assert found.ns == (4,) and {point.n for point in found.points} == {4}
    assert found.notes[0].startswith("Left out: n = 64, the number of state bits is 70")
    with pytest.raises(ComplexityLimitError, match="70"):
        scaling_report(MajorityMDP, [64])
