"""Sizes of model and Q*: what is minimised, growth by closed forms, and claims that can fail."""

import copy
from math import comb, log2

import pytest

from modicum.core.experiment import Experiment, RunContext
from modicum.repcomplexity.experiments import separation as experiment
from modicum.repcomplexity.families import MajorityMDP, ParityMDP

TINY = experiment.Plan((4,), False, (2, 4), (2, 4, 8), (2, 4), (2, 4), 20.0)


def context(path, **settings):
    made = Experiment("separation", "modicum-repcomplexity", "title", "summary", experiment.run)
    return RunContext(made, path, **settings)


@pytest.fixture(scope="module")
def majority():
    return experiment.sizes_of(MajorityMDP(4), ("transition", "reward", "q"), TINY)


def test_a_small_run_has_every_claim_and_goes_on_where_it_was_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "QUICK", TINY)
    first = experiment.run(context(tmp_path))
    assert [claim.name for claim in first.claims] == [
        "model_terms_n4", "q_terms_n4", "growth", "exponential", "influence", "parity_terms",
        "parity_model", "not_separated",
    ]  # fmt: skip
    assert all(claim.holds for claim in first.claims)

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
    plan = experiment.Plan((8,), False, (), (), (), (), 300.0)
    sizes = experiment.sizes_of(MajorityMDP(8), ("q",), plan)
    assert sizes["Q* >= 1"] == {"dnf": [456, 456], "cnf": [490, 490]}


def test_a_size_that_is_off_or_not_proved_fails(majority):
    def judged(**changes):
        sizes = copy.deepcopy(majority)
        for name, dnf in changes.items():
            sizes[name.replace("_", " ").replace("Q ", "Q* >= ")]["dnf"] = dnf
        return [claim.holds for claim in experiment.exact_claims(4, sizes)]

    assert judged() == [True, True]
    assert judged(next_bit_3=[5, 5]) == [False, True]
    assert judged(next_bit_3=[3, 4]) == [False, True]
    assert judged(next_bit_5=[4, 4]) == [False, True]
    assert judged(Q_1=[21, 30]) == [True, False]


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
    sizes = experiment.sizes_of(ParityMDP(n), ("value",), TINY)
    assert sizes["V* >= 1"] == {"dnf": [2 ** (n - 1)] * 2, "cnf": [2 ** (n - 1)] * 2}
    assert experiment.parity_claim({n: sizes}).holds is True
    sizes["V* >= 1"]["cnf"] = [2 ** (n - 1) - 1] * 2
    assert experiment.parity_claim({n: sizes}).holds is False


def test_models_and_circuits_that_grow_too_fast_fail():
    def model(terms):
        return {"next bit 0": {"dnf": [1, terms]}, "V* >= 1": {"dnf": [999, 999]}}

    assert experiment.parity_model_claim({4: model(64)}).holds is True
    assert experiment.parity_model_claim({4: model(65)}).holds is False
    assert experiment.threshold_claim({4: (80, 8), 8: (320, 8)}).holds is True
    assert experiment.threshold_claim({4: (80, 8), 8: (321, 8)}).holds is False
    assert experiment.threshold_claim({4: (80, 8), 8: (320, 9)}).holds is False


def test_an_interval_is_written_as_one():
    assert experiment.spelled([5, 5]) == "5" and experiment.spelled([5, 7]) == "5 to 7"
