"""Sizes of model and Q*: what is minimised, growth by closed forms, and claims that can fail."""

import copy
from math import comb, log2

import numpy as np
import pytest

from modicum.core.experiment import Experiment, RunContext
from modicum.repcomplexity.circuits.arithmetic import (
    expand_thresholds,
    majority_adders_size,
    majority_gate,
)
from modicum.repcomplexity.circuits.builders import pointer_bit, reward_circuit, transition_bit
from modicum.repcomplexity.experiments import separation as experiment
from modicum.repcomplexity.families import MajorityMDP, ParityMDP
from modicum.repcomplexity.solver import solve

TINY = experiment.Plan((4,), (), (2, 4), (2, 4, 8), (2, 4), (2, 4), (2, 4), 20.0)


def context(path, **settings):
    made = Experiment("separation", "modicum-repcomplexity", "title", "summary", experiment.run)
    return RunContext(made, path, **settings)


@pytest.fixture(scope="module")
def majority():
    return experiment.sizes_of(MajorityMDP(4), ("transition", "reward", "q"), 20.0, False)


def test_a_small_run_has_every_claim_and_goes_on_where_it_was_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "QUICK", TINY)
    first = experiment.run(context(tmp_path))
    assert [claim.name for claim in first.claims] == [
        "model_terms_n4", "q_terms_n4", "q_total_n4", "growth", "exponential", "influence",
        "parity_terms", "parity_model", "not_separated", "two_inputs", "diagrams",
    ]  # fmt: skip
    # 22 terms of Q* are no more than the 22 of the whole model.
    assert [claim.name for claim in first.claims if not claim.holds] == ["q_total_n4"]

    def no_more(*_):
        raise AssertionError("minimised again")

    monkeypatch.setattr(experiment, "sizes_of", no_more)
    again = experiment.run(context(tmp_path))
    assert again.claims == first.claims and again.tables == first.tables


def test_sizes_are_the_known_ones(majority):
    assert majority["next bit 2"] == {"dnf": [4, 4], "cnf": [4, 4]}
    assert [majority[f"next bit {n}"]["dnf"] for n in (4, 5)] == [[2, 2], [3, 3]]
    assert majority["reward >= 1"] == {"dnf": [1, 1], "cnf": [4, 4]}
    assert majority["Q* >= 1"] == {"dnf": [22, 22], "cnf": [22, 22]}
    assert "Q* bit 0" not in majority


@pytest.mark.slow
def test_the_larger_process_has_the_known_sizes():
    sizes = experiment.sizes_of(MajorityMDP(8), ("q",), 300.0, False)
    assert sizes["Q* >= 1"] == {"dnf": [456, 456], "cnf": [490, 490]}


def test_a_size_that_is_off_or_not_proved_fails(majority):
    def judged(**changes):
        sizes = copy.deepcopy(majority)
        for name, dnf in changes.items():
            sizes[name.replace("_", " ").replace("Q ", "Q* >= ")]["dnf"] = dnf
        return [claim.holds for claim in experiment.exact_claims(4, sizes)]

    assert judged() == [True, True, False]
    assert judged(next_bit_3=[5, 5]) == [False, True, False]
    assert judged(next_bit_3=[3, 4]) == [False, True, False]
    assert judged(next_bit_5=[4, 4]) == [False, True, False]
    assert judged(next_bit_5=[2, 22]) == [False, False, False]
    assert judged(Q_1=[4, 30]) == [True, False, False]
    assert judged(Q_1=[5, 30]) == [True, True, False]


def test_six_bits_need_more_than_the_whole_model():
    sizes = experiment.sizes_of(MajorityMDP(6), ("transition", "reward", "q"), 60.0, False)
    assert sizes["Q* >= 1"] == {"dnf": [125, 125], "cnf": [131, 131]}

    def judged(form, least):
        changed = copy.deepcopy(sizes)
        changed["Q* >= 1"][form][0] = least
        return experiment.exact_claims(6, changed)[2].holds

    # 40 terms and 45 clauses; each form counts.
    assert judged("dnf", 41) is True and judged("dnf", 40) is False
    assert judged("cnf", 46) is True and judged("cnf", 45) is False


def test_lower_bound_is_the_majority_that_is_left(majority):
    for n in (2, 4, 8, 64):
        assert experiment.lower_bound(n) == pytest.approx(log2(comb(n - 1, n // 2)))
    assert 2 ** experiment.lower_bound(4) <= majority["Q* >= 1"]["dnf"][0]


def test_growth_is_that_of_the_closed_forms():
    claim = experiment.growth_claim((4, 8))
    # 22 and 50 terms; C(3, 2) = 3 and C(7, 4) = 35.
    assert claim.measured == pytest.approx(log2(35 / 3) / log2(50 / 22))
    share = experiment.share_claim((4, 8, 16))
    assert share.holds and share.measured == pytest.approx(log2(6435) / 16)


def test_the_fit_returns_what_sizes_are_made_of():
    ns = (4, 8, 16, 32)
    logs = np.array([0.75 * n - 1.5 * log2(n) + 3 for n in ns])
    assert experiment.growth_fit(ns, logs) == pytest.approx((0.75, -1.5))


def test_growth_that_slows_down_fails(monkeypatch):
    monkeypatch.setattr(experiment, "lower_bound", lambda n: 3 * log2(n))
    assert experiment.growth_claim((4, 8, 16)).holds is False
    assert experiment.share_claim((4, 8, 16)).holds is False
    monkeypatch.undo()
    monkeypatch.setattr(experiment, "model_terms", lambda n: n**3)
    assert experiment.growth_claim((4, 8, 16)).holds is False


def test_influence_must_move_apart_at_every_step():
    def judged(model, q):
        spectra = {
            n: {"next bit 0": (a, 0.0), "Q* >= 1": (b, 0.0)}
            for n, a, b in zip((4, 8, 16), model, q, strict=True)
        }
        return experiment.influence_claim(spectra).holds

    assert judged((3, 2, 1), (1, 2, 3)) is True
    assert judged((3, 2, 2), (1, 2, 3)) is False
    assert judged((3, 2, 1), (1, 3, 2)) is False


def test_spectra_are_exact():
    found = experiment.spectra_of(8)
    assert found["next bit 0"][0] == 1.5 and found["Q* >= 1"][0] == pytest.approx(3.3203125)
    assert found["errors"] == pytest.approx([0.514, 0.358, 0.225, 0.094], abs=5e-4)


@pytest.mark.parametrize("n", [2, 4, 6])
def test_values_of_the_parity_process_need_half_of_all_states(n):
    sizes = experiment.sizes_of(ParityMDP(n), ("value",), 20.0, False)
    assert sizes["V* >= 1"] == {"dnf": [2 ** (n - 1)] * 2, "cnf": [2 ** (n - 1)] * 2}
    assert experiment.parity_claim({n: sizes}).holds is True
    sizes["V* >= 1"]["cnf"] = [2 ** (n - 1) - 1] * 2
    assert experiment.parity_claim({n: sizes}).holds is False


def test_models_and_circuits_that_grow_too_fast_fail():
    def model(terms):
        return {"next bit 0": {"dnf": [1, terms]}, "V* >= 1": {"dnf": [999, 999]}}

    assert experiment.parity_model_claim({4: model(64)}).holds is True
    assert experiment.parity_model_claim({4: model(65)}).holds is False

    def gates(thresholds, depth, two_input):
        return experiment.Gates(thresholds, depth, two_input, 0)

    for thresholds, depth, holds in ((320, 8, True), (321, 8, False), (320, 9, False)):
        found = {4: gates(80, 8, 100), 8: gates(thresholds, depth, 100)}
        assert experiment.threshold_claim(found).holds is holds
    for two_input, holds in ((799, True), (800, False)):
        found = {4: gates(80, 8, 100), 8: gates(80, 8, two_input)}
        assert experiment.two_input_claim(found).holds is holds
    assert experiment.diagram_claim({4: (10, 10), 8: (160, 999)}).holds is True
    assert experiment.diagram_claim({4: (10, 10), 8: (161, 20)}).holds is False


@pytest.mark.parametrize("n", [3, 5, 8])
def test_gates_are_split_into_those_of_two_inputs(n):
    assert experiment.two_input_gates(reward_circuit(n)) == n - 1
    adders = expand_thresholds(majority_gate(n))
    assert experiment.two_input_gates(adders) == majority_adders_size(n)
    # One term of b + 2 literals and b + 1 terms of two, joined.
    b = (n - 1).bit_length()
    assert experiment.two_input_gates(transition_bit(n, 0)) == (b + 1) + (b + 1) + (b + 1)


def test_two_input_gates_of_the_model_are_those_of_its_outputs():
    parts = [transition_bit(4, i) for i in range(4)] + [pointer_bit(4, k) for k in range(2)]
    parts.append(reward_circuit(4))
    found = experiment.gates_of(4)
    assert found.model_two_input == sum(map(experiment.two_input_gates, parts))
    assert (found.thresholds, found.depth) == (80, 8)


def nodes_by_definition(table, order):
    """Count the distinct subfunctions that depend on the input that is asked for next."""
    m = table.n_inputs
    # Axis 0 of the cube is the last input.
    cube = table.values.reshape((2,) * m).transpose([m - 1 - i for i in order])
    nodes = 0
    for level in range(m):
        rest = {part.tobytes(): part for part in cube.reshape(1 << level, -1)}.values()
        nodes += sum(not np.array_equal(*np.split(part, 2)) for part in rest)
    return nodes


@pytest.mark.parametrize("n", [2, 4, 8])
def test_the_order_decides_the_size_of_the_diagram(n):
    table = experiment.positive_q(MajorityMDP(n))
    m = table.n_inputs
    pointer_first = [*range(m - 1, n - 1, -1), *range(n)]
    expected = nodes_by_definition(table, pointer_first), nodes_by_definition(table, range(m))
    assert experiment.diagrams_of(n) == expected
    if n == 8:
        assert expected[0] < expected[1] == 485


def test_parity_is_small_by_other_rulers():
    for n, gates, nodes in experiment.parity_table((2, 4, 6)).rows:
        assert (gates, nodes) == (n - 1, 2 * n - 1)
        # The circuit that is counted is the function.
        even = [bin(code).count("1") % 2 == 0 for code in range(1 << n)]
        assert ((solve(ParityMDP(n)).V > 0) == even).all()


def test_an_interval_is_written_as_one():
    assert experiment.spelled([5, 5]) == "5" and experiment.spelled([5, 7]) == "5 to 7"
