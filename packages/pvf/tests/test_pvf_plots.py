"""Pictures of decodings: what is drawn is what was given."""

import pytest

pytest.importorskip("matplotlib")

from matplotlib.backends.backend_agg import FigureCanvasAgg

from modicum.pvf import plots
from modicum.pvf.advice import fit_roofline
from modicum.pvf.events import Commit, Rejected

TRACE = [
    Commit(0, 1, "cold", 1, (4, 5, 9), (1, 2, 3), (0.9, 0.95, 0.99), ("H", "H", "H")),
    Commit(0, 2, "plan", 3, (6,), (7,), (0.5,), ("P",), (Rejected(8, 5, 0.4),)),
    Commit(0, 3, "fill", 2, (7, 8), (7, 8), (0.5, 0.6), ("F", "X")),
    Commit(0, 3, "cold", 1, (10, 11), (0, 0), (1.0, 1.0), ("E", "E")),
]


def drawn(figure):
    """Draw a figure for real, and give its axes with the texts of its legend."""
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    return axes, [text.get_text() for text in axes.get_legend().get_texts()]


def test_the_order_map_has_a_mark_for_every_token_and_rejected_draft():
    axes, names = drawn(plots.order_map(TRACE, start=4))
    assert names == ["confident", "planned", "filled", "forced", "behind the end", "rejected"]
    points = [tuple(map(int, xy)) for marks in axes.collections for xy in marks.get_offsets()]
    expected = [(0, 1), (1, 1), (5, 1), (2, 2), (3, 3), (4, 3), (6, 3), (7, 3), (4, 2)]
    assert sorted(points) == sorted(expected)
    # The first call is at the top.
    assert axes.get_ylim()[0] > axes.get_ylim()[1]


def test_tokens_by_call_leave_out_what_is_behind_the_end():
    axes, names = drawn(plots.tokens_per_call({"pvf": TRACE, "again": TRACE[:1]}))
    assert names == ["pvf", "again"]
    first, second = axes.get_lines()
    assert list(first.get_ydata()) == [0, 3, 4, 6, 6]
    assert list(second.get_xdata()) == [0, 1]


def test_commits_of_each_call_are_stacked_by_reason():
    axes, names = drawn(plots.commits_per_call(TRACE))
    assert names == ["confident", "planned", "filled", "forced"]
    heights = {}
    for bar in axes.patches:
        call = round(bar.get_x() + bar.get_width() / 2)
        heights[call] = heights.get(call, 0) + bar.get_height()
    assert heights == {1: 3, 2: 1, 3: 2}


def test_decoders_stand_at_their_calls_and_the_undominated_are_joined():
    points = {
        "slow": (50.0, 90.0, 85.0, 95.0),
        "fast": (10.0, 80.0, 75.0, 85.0),
        "worse": (20.0, 70.0, 65.0, 75.0),
    }
    axes, names = drawn(plots.quality_against_calls(points, ylabel="correct, %"))
    assert {"slow", "fast", "worse"} <= set(names)
    (front,) = [line for line in axes.get_lines() if line.get_label() == "not dominated"]
    assert list(zip(front.get_xdata(), front.get_ydata(), strict=True)) == [(10, 80), (50, 90)]
    assert axes.get_ylabel() == "correct, %"


def test_the_roofline_is_drawn_through_what_was_measured():
    columns, seconds = [50, 100, 200, 400], [0.01, 0.01, 0.02, 0.04]
    axes, names = drawn(plots.roofline(columns, seconds, fit_roofline(columns, seconds)))
    assert names[0] == "measured"
    measured, fitted = axes.get_lines()[:2]
    assert list(measured.get_ydata()) == pytest.approx([10, 10, 20, 40])
    assert max(fitted.get_ydata()) == pytest.approx(40, rel=0.01)
    assert "ms" in axes.get_ylabel()


def test_rows_begin_with_one():
    axes, names = drawn(plots.seconds_of_rows({"a": ([1, 2, 4], [2.0, 2.0, 6.0])}, break_even=2.5))
    assert names == ["a", "break-even"]
    assert list(axes.get_lines()[0].get_ydata()) == [1, 1, 3]
    with pytest.raises(ValueError, match="must begin with 1 row"):
        plots.seconds_of_rows({"a": ([2, 4], [2.0, 6.0])})


def test_settings_are_curves_of_calls():
    axes, names = drawn(plots.calls_by_setting({"pvf": ([8, 16], [9.0, 6.0])}, xlabel="block"))
    assert (names, axes.get_xlabel()) == (["pvf"], "block")


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.order_map([]),
        lambda: plots.commits_per_call([]),
        lambda: plots.tokens_per_call({}),
        lambda: plots.quality_against_calls({}),
        lambda: plots.calls_by_setting({}, xlabel="x"),
        lambda: plots.seconds_of_rows({}),
    ],
)
def test_there_must_be_something_to_draw(draw):
    with pytest.raises(ValueError, match="there is no"):
        draw()
