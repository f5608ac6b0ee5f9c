import math

import numpy as np
import pytest

from modicum.core.device import numpy_generator
from modicum.testtime.bounds import round_robin_success
from modicum.testtime.estimate import share_interval
from modicum.testtime.planner import compare, hard_instances, plan
from modicum.testtime.plurality import plurality_success
from modicum.testtime.verifier_models import (
    DiscreteVerifier,
    GaussianVerifier,
    VerifierModel,
    best_of_n_success,
    verified_majority_success,
)


@pytest.mark.parametrize(
    ("p", "null", "tail", "delta"),
    [
        ([0.5, 0.3, 0.2], 0, 0, 0.05),
        ([0.55, 0.45], 0, 0, 0.1),
        ([0.4, 0.3], 0.3, 0, 0.2),
        ([0.2, 0.1], 0.2, 0.5, 0.01),
        ([0.3, 0.2, 0.2, 0.2, 0.1], 0, 0, 0.3),
        ([1.0], 0, 0, 0.05),
    ],
)
def test_vote_plan_is_the_least_n(p, null, tail, delta):
    result = plan("self_consistency", p=p, null=null, tail=tail, delta=delta)
    assert result.feasible and result.limit == 1
    success = [plurality_success(p, n, null=null, tail=tail) for n in range(1, result.n + 1)]
    assert success[-1] >= 1 - delta and max(success[:-1], default=0) < 1 - delta
    assert result.achieved == pytest.approx(success[-1])
    for name, bound in result.bounds.items():
        assert bound >= result.n, name


def test_published_numbers():
    # Two answers at success 0.9; 41 there, 163 at half the gap.
    for gap, n in ((0.4, 9), (0.2, 41), (0.1, 163), (0.05, 657), (0.025, 2627), (0.0125, 10511)):
        assert plan("self_consistency", p=[(1 + gap) / 2, (1 - gap) / 2], delta=0.1).n == n
    for gap, n in ((0.4, 5), (0.2, 11), (0.1, 22), (0.05, 45), (0.025, 91), (0.0125, 184)):
        assert plan("best_of_n", p_correct=gap, delta=0.1).n == n
    refused = plan("best_of_n", p_correct=0.2, delta=0.05, verifier=VerifierModel(0.9, 0.02))
    assert not refused.feasible and refused.n is None
    assert refused.limit == pytest.approx(0.918, abs=5e-4)
    assert "0.9184" in refused.note and "0.95" in refused.note


def test_wrong_mode_and_tie_are_refused():
    behind = plan("self_consistency", p=[0.3, 0.45, 0.25], delta=0.1)
    assert (behind.feasible, behind.n, behind.limit) == (False, None, 0.0)
    assert "behind the most frequent answer" in behind.note
    tied = plan("self_consistency", p=[0.4, 0.4, 0.2], delta=0.1)
    assert (tied.feasible, tied.limit) == (False, 0.5)
    three = plan("self_consistency", p=[0.3, 0.3, 0.3, 0.1], delta=0.1)
    assert three.limit == pytest.approx(1 / 3)
    # Half is what a tie gives, so half can be asked for.
    assert plan("self_consistency", p=[0.5, 0.5], delta=0.5).n == 1
    assert plan("self_consistency", p=[0.0, 1.0], delta=0.5).limit == 0


def test_out_of_reach_is_said():
    result = plan("self_consistency", p=[0.51, 0.49], delta=0.05, max_n=1000)
    assert not result.feasible and "max_n = 1000" in result.note
    assert result.limit == 1.0
    assert not plan("best_of_n", p_correct=1e-6, delta=0.05, max_n=100).feasible
    assert not plan("best_of_n", p_correct=0.0, delta=0.05).feasible


def test_large_numbers_with_many_answers():
    p = [0.26, 0.24, *[0.05] * 10]
    result = plan("self_consistency", p=p, delta=0.05)
    # Normal approximation of the two leaders: z^2 (p1 + p2 - gap^2) / gap^2.
    assert result.n == pytest.approx(1.6449**2 * (0.5 - 0.02**2) / 0.02**2, rel=0.01)


@pytest.mark.parametrize("delta", [0.05, 0.3])
@pytest.mark.parametrize(("gap", "answers"), [(0.3, 2), (0.3, 5), (0.15, 8)])
def test_worst_case_at_a_gap(gap, answers, delta):
    result = plan("self_consistency", gap=gap, answers=answers, delta=delta)
    assert result.bounds["hoeffding"] >= result.n
    for law in hard_instances(gap, answers):
        assert law.sum() == pytest.approx(1) and law[0] - law[1:].max() == pytest.approx(gap)
    # Laws with this gap that are not among those looked at: none needs more.
    rng = numpy_generator(6, answers)
    for _ in range(25):
        rivals = rng.dirichlet(np.full(answers - 1, rng.choice([0.2, 1, 5])))
        # Scale so that the largest rival is `gap` behind.
        top = rivals.max()
        scale = (1 - gap) / (1 + top)
        law = np.concatenate([[gap + scale * top], scale * rivals])
        assert law.sum() == pytest.approx(1)
        assert plurality_success(law, result.n) >= 1 - delta - 1e-9


def test_best_of_n_with_noisy_verifiers_is_the_least_n():
    for verifier in (VerifierModel(0.7, 0.05), GaussianVerifier(1.5)):
        result = plan("best_of_n", p_correct=0.3, delta=0.2, verifier=verifier)
        assert result.feasible
        assert best_of_n_success(0.3, result.n, verifier) >= 0.8
        assert best_of_n_success(0.3, result.n - 1, verifier) < 0.8
    # A verifier that likes wrong answers: one sample is the best there is.
    assert plan("best_of_n", p_correct=0.9, delta=0.2, verifier=VerifierModel(0.1, 0.9)).n == 1


def test_verified_majority_plan():
    verifier = VerifierModel(0.9, 0.3)
    result = plan("verified_majority", p=[0.3, 0.5, 0.2], verifier=verifier, delta=0.1)
    assert verified_majority_success([0.3, 0.5, 0.2], result.n, verifier) >= 0.9
    assert verified_majority_success([0.3, 0.5, 0.2], result.n - 1, verifier) < 0.9
    refused = plan(
        "verified_majority", p=[0.3, 0.5, 0.2], verifier=VerifierModel(0.5, 0.4), delta=0.1
    )
    assert not refused.feasible and refused.limit == 0


def test_self_correction_plans():
    deterministic = plan("self_correction", experts=8, delta=0.05)
    assert deterministic.n == 8 and deterministic.bounds["independent attempts"] == 23
    stochastic = plan("self_correction", success=[0.5, 0.1, 0.0], delta=0.1)
    assert stochastic.feasible
    # Two full turns fail with (.5 * .9)^2 = .2025, four with .041, the order in a turn is random.
    success = [round_robin_success([0.5, 0.1, 0.0], rounds) for rounds in (8, 9, stochastic.n)]
    assert stochastic.n > 6 and success[-1] >= 0.9 and min(success) < 0.91
    assert round_robin_success([0.5, 0.1, 0.0], stochastic.n - 1) < 0.9
    assert not plan("self_correction", success=[0.0, 0.0], delta=0.1).feasible


def test_plans_from_counts():
    counts = [40, 25, 5]
    with pytest.warns(UserWarning, match="optimistic"):
        plugin = plan("self_consistency", counts=counts, method="plugin", delta=0.05)
    lower = plan("self_consistency", counts=counts, method="lower", delta=0.05)
    posterior = plan("self_consistency", counts=counts, delta=0.05, seed=1)
    assert plugin.n == plan("self_consistency", p=np.array(counts) / 70, delta=0.05).n
    assert not lower.feasible and "too few samples" in lower.note
    low, high = posterior.interval
    assert low < plugin.n < high
    assert posterior.limit < 1
    again = plan("self_consistency", counts=counts, delta=0.05, seed=1)
    assert again.n == posterior.n and again.interval == posterior.interval
    many = [4000, 2500, 500]
    bounded = plan("self_consistency", counts=many, method="lower", delta=0.05)
    with pytest.warns(UserWarning, match="optimistic"):
        optimistic = plan("self_consistency", counts=many, method="plugin", delta=0.05)
    assert optimistic.n < bounded.n < 2 * optimistic.n
    hard = plan("self_consistency", counts=many, delta=0.05)
    assert hard.feasible and hard.limit == 1
    # Samples without an answer make it dearer, by about the share that is lost.
    half = plan("self_consistency", counts=many, method="lower", delta=0.05, null=0.5)
    assert half.n == pytest.approx(2 * bounded.n, rel=0.1)


def test_comparison_reports_the_instance():
    p = [0.3, 0.2, *[0.05] * 10]
    table = compare(p, delta=0.1)
    rows = {row.strategy: row for row in table.rows}
    assert table.gap == pytest.approx(0.1)
    assert rows["best_of_n"].n == math.ceil(math.log(0.1) / math.log(0.7))
    assert table.ratio == rows["self_consistency"].n / rows["best_of_n"].n
    assert rows["self_consistency"].n == pytest.approx(
        rows["self_consistency"].approximation, rel=0.15
    )
    assert rows["first_accept"].approximation < rows["best_of_n"].n
    noisy = compare(p, delta=0.1, verifier=VerifierModel(0.9, 0.02))
    assert {row.strategy for row in noisy.rows} == {
        "self_consistency", "best_of_n", "verified_majority", "first_accept",
    }  # fmt: skip
    wrong = compare([0.2, 0.5, 0.3], delta=0.1)
    assert math.isnan(wrong.ratio) and wrong.gap < 0


def test_slopes_of_instance_families_sum_to_two():
    # p1 ~ gap^alpha with the other answers never repeating but one rival: 2 - alpha and alpha.
    from modicum.core.stats import log_log_slope

    gaps = [0.08, 0.04, 0.02]
    for alpha in (0.5, 1.0):
        votes, verified = [], []
        for gap in gaps:
            lead = 0.5 * gap**alpha if alpha < 1 else gap
            rival = max(0.0, lead - gap)
            tail = 1 - lead - rival
            p = [lead, rival] if rival else [lead]
            votes.append(plan("self_consistency", p=p, tail=tail, delta=0.1).n)
            verified.append(plan("best_of_n", p_correct=lead, delta=0.1).n)
        slopes = [-log_log_slope(gaps, n).slope for n in (votes, verified)]
        assert slopes[1] == pytest.approx(alpha, abs=0.1)
        assert sum(slopes) == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strategy": "vote", "delta": 0.1}, "strategy must be one of"),
        ({"strategy": "self_consistency", "delta": 0.1}, "exactly one of p, gap and counts"),
        (
            {"strategy": "self_consistency", "delta": 0.1, "p": [1.0], "gap": 0.1},
            "given: .'p', 'gap'.",
        ),
        ({"strategy": "self_consistency", "delta": 0.0, "p": [1.0]}, "delta must be in"),
        ({"strategy": "self_consistency", "delta": 0.1, "p": [0.5, 0.3]}, "null=|tail="),
        ({"strategy": "self_consistency", "delta": 0.1, "p": [1.2, -0.2]}, "p"),
        ({"strategy": "self_consistency", "delta": 0.1, "p": []}, "p"),
        ({"strategy": "self_consistency", "delta": 0.1, "p": [0.5, 0.5], "target": 2}, "target"),
        ({"strategy": "self_consistency", "delta": 0.1, "gap": 0.1}, "answers"),
        (
            {"strategy": "self_consistency", "delta": 0.1, "gap": 0.1, "answers": 1},
            "answers must be an integer of at least 2",
        ),
        (
            {"strategy": "self_consistency", "delta": 0.1, "gap": 0.0, "answers": 3},
            "gap must be in",
        ),
        (
            {"strategy": "self_consistency", "delta": 0.1, "counts": [3, 1], "method": "x"},
            "method must be",
        ),
        (
            {"strategy": "self_consistency", "delta": 0.1, "counts": [3, 1], "null": 1.0},
            "null must be in",
        ),
        ({"strategy": "best_of_n", "delta": 0.1}, "needs p_correct"),
        ({"strategy": "best_of_n", "delta": 0.1, "p_correct": 2.0}, "p_correct must be in"),
        ({"strategy": "best_of_n", "delta": 0.1, "p": [1.0], "target": 1}, "target must be"),
        ({"strategy": "verified_majority", "delta": 0.1, "p": [1.0]}, "needs p and verifier"),
        ({"strategy": "self_correction", "delta": 0.1}, "either experts or success"),
        ({"strategy": "best_of_n", "delta": 0.1, "p_correct": 0.5, "max_n": 0}, "max_n"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        plan(**arguments)


@pytest.mark.parametrize("strategy", ["self_consistency", "best_of_n", "verified_majority"])
def test_error_below_rounding_was_taken_for_none(strategy):
    # p = 0.6 and no rival: n = 754 for 1e-300, but .4^119 is already nothing next to 1.
    values = {"p": [0.6], "null": 0.4, "verifier": VerifierModel(1.0, 0.0)}
    if strategy == "self_consistency":
        del values["verifier"]
    with pytest.raises(ValueError, match=r"delta must be at least 1e-10, not 1e-300.*chernoff_n"):
        plan(strategy, delta=1e-300, **values)
    values.pop("verifier", None)
    assert plan("best_of_n", delta=1e-300, **values).n == math.ceil(-300 / math.log10(0.4))


def test_a_number_that_suffices_before_more_samples_do_worse():
    # Not the mode: a vote of one elects it with 0.45, more and more samples with 0.
    vote = plan("self_consistency", p=[0.45, 0.55], delta=0.6)
    assert (vote.n, vote.feasible, vote.limit) == (1, True, 0.0)
    assert vote.achieved == pytest.approx(0.45) and "more samples do worse" in vote.note
    # Most samples have no answer: one is not enough, and thousands elect the other.
    sparse = plan("self_consistency", p=[0.049, 0.051], null=0.9, delta=0.6)
    assert plurality_success([0.049, 0.051], sparse.n, null=0.9) >= 0.4
    assert plurality_success([0.049, 0.051], sparse.n - 1, null=0.9) < 0.4
    # The highest score is mostly wrong, the middle one right: three samples are the best number,
    # with .4067.
    peaked = DiscreteVerifier([0.1, 0.85, 0.05], [0.75, 0.0, 0.25])
    best = plan("best_of_n", p_correct=0.3, verifier=peaked, delta=0.62)
    assert best.n == 2 and best.achieved == pytest.approx(best_of_n_success(0.3, 2, peaked))
    assert not plan("best_of_n", p_correct=0.3, verifier=peaked, delta=0.59).feasible


@pytest.mark.parametrize("p", [[0.36, 0.33, 0.31], [0.3, 0.26, *[0.11] * 4]])
@pytest.mark.parametrize("delta", [0.3, 0.02])
def test_least_n_of_large_numbers(p, delta):
    from modicum.testtime.plurality import plurality_curve

    n = plan("self_consistency", p=p, delta=delta).n
    before = plurality_curve(p, np.arange(max(1, n - 40), n + 1))
    assert n > 90 and before[-1] >= 1 - delta and before[:-1].max() < 1 - delta


def test_max_n_next_to_the_number_needed():
    n = plan("self_consistency", p=[0.5, 0.3, 0.2], delta=0.05).n
    assert plan("self_consistency", p=[0.5, 0.3, 0.2], delta=0.05, max_n=n).n == n
    for max_n in (1, n - 1, n - 10):
        refused = plan("self_consistency", p=[0.5, 0.3, 0.2], delta=0.05, max_n=max_n)
        assert refused.n is None and f"max_n = {max_n}" in refused.note


def test_the_worst_case_is_the_most_that_any_of_the_laws_needs():
    for gap, answers, delta in ((0.2, 6, 0.05), (0.9, 4, 0.03), (0.1, 12, 0.6), (1.0, 3, 0.1)):
        each = [
            plan("self_consistency", p=law, delta=delta).n for law in hard_instances(gap, answers)
        ]
        assert plan("self_consistency", gap=gap, answers=answers, delta=delta).n == max(each)


def test_success_of_a_plan_from_counts_is_below_its_limit():
    # Of the law drawn last the leader may be no mode at all: 50 % of the draws here.
    result = plan("self_consistency", counts=[5, 4, 3], delta=0.05)
    assert not result.feasible and result.achieved < result.limit + 0.05 < 0.7


@pytest.mark.parametrize(
    ("source", "setting"),
    [
        ({"counts": [5, 3]}, {"target": 1}),
        ({"counts": [5, 3]}, {"tail": 0.1}),
        ({"gap": 0.1, "answers": 3}, {"null": 0.2}),
        ({"gap": 0.1, "answers": 3}, {"tie": "strict"}),
    ],
)
def test_settings_that_were_not_looked_at(source, setting):
    with pytest.raises(ValueError, match=rf"{next(iter(setting))}=.* goes with p, not with"):
        plan("self_consistency", delta=0.1, **source, **setting)


def test_strategies_with_hyphens_as_on_the_command_line():
    assert plan("best-of-n", p_correct=0.2, delta=0.05).strategy == "best_of_n"


def test_plan_for_very_many_experts_has_a_short_table():
    result = plan("self_correction", experts=10**6, delta=0.05)
    assert result.n == 950_000 and result.achieved == 0.95 and len(result.table) < 30


def test_lower_pays_for_every_pair_and_for_an_unseen_answer():
    # Three answers and one unseen are six pairs; the law has every rival at its upper end.
    delta, counts = 0.06, [4000, 2500, 500]
    result = plan("self_consistency", counts=counts, method="lower", delta=delta)
    ends = [share_interval(4000, rival, delta / 6)[0] for rival in (2500, 500, 0)]
    law = np.array([1.0, *((1 - end) / end for end in ends)])
    assert result.n == plan("self_consistency", p=law / law.sum(), delta=delta).n
    assert f"at least {ends[0]:.4g}" in result.note


def test_posterior_has_an_unseen_answer():
    # One vote: the share of its answer is Beta(3/2, 1/2), above one half with .818. 200 draws are
    # within .16 of it but for a chance below 1e-6.
    assert plan("self_consistency", counts=[1], delta=0.1).limit == pytest.approx(0.818, abs=0.16)
    assert plan("self_consistency", counts=[1], delta=0.1).limit < 1
