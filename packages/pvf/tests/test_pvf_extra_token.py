"""Threshold decoding with one extra token, column by column on a table of predictions."""

import pytest

from modicum.pvf import ExtraToken, infill
from modicum.pvf.testing import TablePredictor

MASK = 9


def commits(default, table=None, **settings):
    """Give the columns of each commit."""
    model = TablePredictor(default, table or {}, MASK, 10)
    canvas = [MASK] * len(default)
    out = infill(model, canvas, strategy=ExtraToken(**settings), return_trace=True)
    return [(commit.positions, commit.reasons) for commit in out.trace[0]]


def test_the_band_is_half_open():
    default = [(1, 0.95), (2, 0.5)]
    assert commits(default, low=0.5, high=0.7)[0] == ((0, 1), ("H", "H"))
    assert commits(default, low=0.3, high=0.5)[0] == ((0,), ("H",))
    assert commits(default, low=0.6, high=0.7)[0] == ((0,), ("H",))


def test_a_token_is_forced_only_where_there_is_no_other():
    assert commits([(1, 0.7), (2, 0.4)]) == [((1,), ("H",)), ((0,), ("X",))]
    assert commits([(1, 0.7), (2, 0.75)]) == [((1,), ("X",)), ((0,), ("X",))]


@pytest.mark.parametrize("seed", range(8))
def test_a_planning_token_comes_first_and_others_only_if_allowed(seed):
    default = [(1, 0.4), (2, 0.4), (3, 0.4), (4, 0.4)]
    for planning_only in (False, True):
        model = TablePredictor(default, {}, MASK, 10)
        strategy = ExtraToken(plan_vocab=[3], planning_only=planning_only)
        out = infill(model, [MASK] * 4, strategy=strategy, return_trace=True, seed=seed)
        first, *rest = out.trace[0]
        assert first.positions == (2,) and first.reasons == ("H",)
        assert {commit.reasons for commit in rest} == {("X",) if planning_only else ("H",)}


def test_the_extra_token_is_drawn_evenly():
    default = [(1, 0.4), (2, 0.5), (3, 0.3), (4, 0.95)]
    model = TablePredictor(default, {}, MASK, 10)
    counts = [0, 0, 0]
    for seed in range(300):
        out = infill(model, [MASK] * 4, strategy=ExtraToken(), return_trace=True, seed=seed)
        counts[out.trace[0][0].positions[0]] += 1
    # Binomial with n = 300 and p = 1/3: outside [52, 148] with probability below 1e-8.
    assert all(52 <= count <= 148 for count in counts)
